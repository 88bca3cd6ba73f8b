"""Two small files for the page: a contact sheet of the images, and what a model sees of some of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from geofm_lib.catalog.models import visible_patches
from geofm_lib.data import sampler
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.decode import decode, read
from geofm_lib.data.sample import Block
from geofm_lib.data.transforms import USUAL_SCALE, augment, mask_noise, resize, to_rgb
from geofm_lib.settings import PretrainSettings

SHEET, SHEET_SIDE = 32, 96  # images of the contact sheet, and pixels a side
VIEWS = 8  # images shown as a model sees them
GREY = 128  # where a patch is masked


class Preview:
    """Chooses images by their place in the index, and writes their previews once it is given their rows."""

    def __init__(self, labels: list[str], sides: list[str]):
        train = np.flatnonzero(np.array(sides) == "train")
        self.sheet = {i: labels[i] for i in _examples(labels)}
        self.views: list[int] = train[np.unique(np.linspace(0, len(train) - 1, VIEWS).astype(int))].tolist()
        self.rows: dict[int, dict[str, str]] = {}  # place in the index -> row beside the shard

    def take(self, block: Block, start: int) -> None:
        """Keep the rows that were chosen of some that begin at place `start` of the index, given as columns."""
        for i in {*self.sheet, *self.views}.intersection(range(start, start + len(block["name"]))):
            self.rows[i] = {name: column[i - start] for name, column in block.items()}

    def write(self, folder: Path, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        """contact_sheet.npz (images [K, S, S, 3], labels [K]) and model_view.npz (original, cropped, masked)."""

        def pixels(i: int) -> torch.Tensor:
            return decode(_read(folder, self.rows[i]))  # one at a time: all forty may be large

        if all(row["height"] == "1" for row in self.rows.values()):
            self._write_series(folder)
            return
        sheet = np.stack([_fit(pixels(i), SHEET_SIDE, mean, std) for i in self.sheet])
        write_arrays(folder / "contact_sheet.npz", {"images": sheet, "labels": np.array(list(self.sheet.values()))})
        usual = PretrainSettings()  # what a model sees by default
        size, patch = usual.image_size, usual.patch()
        original = np.stack([_fit(pixels(i), size, mean, std) for i in self.views])
        crops = [augment(pixels(i), size, sampler.generator(seed, 0, i, "crop"), USUAL_SCALE) for i in self.views]
        cropped = to_rgb(torch.stack(crops), mean, std)
        side = size // patch
        noise = mask_noise(seed, 0, self.views, side**2)
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
        masked = (rank >= visible_patches(side**2, usual.mask_ratio)).view(-1, 1, side, side)
        masked = masked.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        greyed = torch.where(masked, GREY, cropped).to(torch.uint8)
        shown, seen = (view.permute(0, 2, 3, 1).numpy() for view in (cropped, greyed))
        write_arrays(folder / "model_view.npz", {"original": original, "cropped": shown, "masked": seen})

    def _write_series(self, folder: Path) -> None:
        """contact_sheet.npz of series: values [K, dates, bands] as stored, NaN where not measured, and labels [K]."""
        found = []
        for i in self.sheet:
            values, valid = read(_read(folder, self.rows[i]))
            found.append((values if valid is None else np.where(valid[..., None], values, np.nan))[0])
        labels = np.array(list(self.sheet.values()))
        write_arrays(folder / "contact_sheet.npz", {"series": np.stack(found), "labels": labels})


def _examples(labels: list[str]) -> list[int]:
    """A few images of each class, or of all if there are no classes."""
    kinds = sorted(set(labels))
    kinds = [kinds[k] for k in np.unique(np.linspace(0, len(kinds) - 1, SHEET).astype(int))]
    places: dict[str, list[int]] = {kind: [] for kind in kinds}
    for i, label in enumerate(labels):
        if label in places and len(places[label]) < SHEET // len(kinds):
            places[label].append(i)
    return [i for kind in kinds for i in places[kind]]


def _read(folder: Path, row: dict[str, str]) -> bytes:
    with open(folder / "shards" / row["shard"], "rb") as file:
        file.seek(int(row["offset"]))
        return file.read(int(row["size"]))


def _fit(image: torch.Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """An image for the eye, uint8 [side, side, 3]: the long side fills the square, the rest is white."""
    image = to_rgb(image[None], mean, std)[0]
    height, width = (max(1, round(n * side / max(image.shape[-2:]))) for n in image.shape[-2:])
    square = np.full((side, side, image.shape[0]), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = resize(image, height, width).permute(1, 2, 0).numpy()
    return square
