"""Boxes of objects in prepared images: kept beside them, and moved with their pixels.

boxes/index.csv has a row a box, boxes/classes.csv the names of classes by number. An image of the folder without a row
has no object. A set without boxes has no such folder.

Boxes are left, top, right and bottom in pixels; G of an image, K classes.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from geofm_lib.data.sources.prepared import BOXES
from geofm_lib.data.transforms import View
from geofm_lib.files import prove

INDEX, CLASSES = BOXES
COLUMNS = ("name", "class", "x1", "y1", "x2", "y2", "crowd")
CLASS_COLUMNS = ("number", "class")
SHOWN = 0.25  # of a box must lie in a crop, else the crop does not have it
NONE = -1  # in place of a class: no box, or one of a crowd, which no loss looks at


class Known(NamedTuple):
    """boxes float32 [G, 4], their classes int64 [G], and which of them hold crowds of such objects, bool [G]."""

    boxes: torch.Tensor
    classes: torch.Tensor
    crowd: torch.Tensor


class Boxes:
    """The boxes of a prepared folder, by the names of its images. classes: their names, by number."""

    def __init__(self, folder: str | Path) -> None:
        prove(Path(folder), list(BOXES))
        with open(Path(folder) / CLASSES, encoding="utf-8", newline="") as file:
            self.classes = [row["class"] for row in csv.DictReader(file)]
        found: dict[str, list[list[float]]] = {}
        with open(Path(folder) / INDEX, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["name"], []).append([float(row[name]) for name in COLUMNS[1:]])
        self._of = {name: torch.tensor(rows) for name, rows in found.items()}

    def of(self, name: str) -> Known:
        """What is in an image."""
        rows = self._of.get(name, torch.zeros(0, 6))
        return Known(rows[:, 1:5], rows[:, 0].to(torch.int64), rows[:, 5] > 0)

    def seen(self, name: str, view: View, height: int, width: int, size: int) -> torch.Tensor:
        """What a view of an image [height, width], `size` pixels a side, shows: [G, 5], the last its class, or NONE."""
        known = self.of(name)
        boxes, shown = move(known.boxes, view, height, width, size)
        kinds = torch.where(known.crowd, NONE, known.classes)
        return torch.cat([boxes, kinds[:, None]], 1)[shown]


def move(boxes_G4: torch.Tensor, view: View, height: int, width: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(boxes where a view's pixels go, clipped; bool [G], which of them the view shows enough of)."""
    from torchvision.transforms.v2 import functional  # seconds, which whoever loads images without boxes does not need
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

    whole = BoundingBoxes(boxes_G4, format=BoundingBoxFormat.XYXY, canvas_size=(height, width))
    found = functional.crop(whole, view.top, view.left, view.height, view.width)
    shown = _areas(found) >= SHOWN * _areas(whole).clamp(min=1e-6)
    found = functional.resize(found, [size, size])
    if view.flip:
        found = functional.horizontal_flip(found)
    if view.turns:
        found = functional.rotate(found, 90.0 * view.turns)
    return found.as_subclass(torch.Tensor), shown


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    left, top, right, bottom = boxes.as_subclass(torch.Tensor).unbind(1)
    return (right - left) * (bottom - top)


def padded(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """[G, 5] of each image as one [B, most G, 5], NONE where there is none."""
    return pad_sequence(list(images), batch_first=True, padding_value=NONE)
