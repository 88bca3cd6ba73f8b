"""Segmentation masks of prepared images: one byte a pixel, the number of its class, NONE where there is none.

They are packed like images, in `masks/` of the prepared folder: masks/shards/*.tar hold a PNG of ids each,
masks/index.csv says where, masks/classes.csv which id is which class. A set without masks has no such folder.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from geofm_lib.data.shards import KEEP_BYTES, Shards
from geofm_lib.data.sources.item import Refused
from geofm_lib.data.sources.mask_pairs import MOST_IDS
from geofm_lib.data.sources.prepared import MASKS
from geofm_lib.files import prove

FOLDER = "masks"
INDEX, CLASSES = MASKS
CLASS_COLUMNS = ("id", "class", "counts")  # counts: yes, or no for what has no label
NONE = 255  # in place of a class: not looked at by loss and metric


class Masks(Shards):
    """The masks of a prepared folder, by the names of its images. classes: names of those that count, by their ids."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / FOLDER
        prove(Path(folder), [INDEX, CLASSES])
        self._read_index(None, False)
        self._files: dict[int, int] = {}
        self._at = {name: place for place, name in enumerate(self.names)}
        self._ids: dict[int, np.ndarray] | None = {} if int(self.sizes.prod(axis=1).sum()) <= KEEP_BYTES else None
        with open(Path(folder) / CLASSES, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        counted = [row for row in rows if row["counts"] == "yes"]
        self.classes = [row["class"] for row in counted]
        self._number = np.full(256, NONE, np.uint8)
        self._number[[int(row["id"]) for row in counted]] = np.arange(len(counted))

    def of(self, name: str) -> torch.Tensor:
        """The classes of an image's pixels, int64 [1, H, W]; ValueError, with its name, when they cannot be read."""
        place = self._at[name]
        ids = self._ids.get(place) if self._ids is not None else None
        if ids is None:
            ids = self._number[np.asarray(Image.open(io.BytesIO(self.read(place, verify=True))))]
            if self._ids is not None:
                self._ids[place] = ids
        return torch.from_numpy(ids.astype(np.int64))[None]


def check(data: bytes, width: int, height: int, known: Sequence[int]) -> tuple[bytes, list[int]]:
    """(a mask as it is packed, the ids in it). Raises Refused with the reason.

    width, height: of its image. known: ids that there are, none of them for any.
    """
    if not data:
        raise Refused("its mask is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
        ids = np.asarray(image)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise Refused("its mask is no image in a format that can be read") from None
    except Exception as error:  # decoders raise whatever the bytes lead them to
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(f"its mask is damaged: {lines[0][:200]}") from None
    if ids.ndim == 3 and (ids == ids[..., :1]).all():  # one band, stored as a picture
        ids = ids[..., 0]
    if ids.ndim != 2:
        raise Refused(f"its mask has {ids.shape[-1]} bands of colours; one band of class ids is needed")
    if ids.shape != (height, width):
        raise Refused(f"its mask has {ids.shape[1]} x {ids.shape[0]} pixels, the image {width} x {height}")
    found = np.unique(ids).tolist()
    odd = [each for each in found if (each not in known if known else not 0 <= each <= MOST_IDS)]
    if odd:
        listed = ", ".join(map(str, known)) if known else f"0 to {MOST_IDS}"
        raise Refused(f"its mask has the unknown class id {odd[0]:g}; known are {listed}")
    stream = io.BytesIO()
    Image.fromarray(ids.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue(), [int(each) for each in found]
