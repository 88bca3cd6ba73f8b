"""Mean and spread of each band over the measured pixels of some images, but for images that cannot be true."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geofm_lib.data.sample import Block
from geofm_lib.data.sources.item import FULL

DIGITS = {
    "uint8": 6,
    "uint16": 9,
    "int16": 9,
}  # written of mean and std, by the type of a value; float: significant ones
SIGNIFICANT = 9
FAR = 10  # interquartile ranges of the set's images by which an image may lie from the median image
# How much of a type's range the numbers of an image that lies so far must need: fill is there, reflectances are not.
# Eight bits are never so far that it matters. float32 has no range: a multiple of the median image's root mean square.
END = {"uint8": np.inf, "uint16": 0.5, "int16": 0.5}
END_OF_FLOATS = 1e4
LEFT_OUT = (
    "mean and spread leave out {} images, whose numbers lie absurdly far from the others' (the first is {}): name the "
    "value that means not measured by nodata, or take these images away"
)
GAP, FEW = 1.5, 0.05  # decades between the levels of images of two scales; the least share of images in each
OTHER_SCALE = (
    "{} images, such as '{}', hold numbers about {} times as {} as those of the rest ({:.3g} instead of {:.3g} in the "
    "middle): they look stored at another scale; bring all to one, or take these away"
)
CONSTANT = 1e-6  # of the mean: a spread of floats below it is rounding


class Statistics:
    """Sums over the images added. Everything is in units of the range of a value."""

    def __init__(self) -> None:
        self.dtype = "uint8"
        self.masked_images = 0  # of all that were seen, with pixels that are not measured
        self._pixels = self._measured = 0  # likewise
        self._blocks: list[np.ndarray] = []  # [n, 1 + 2 C]: measured pixels, sums and squares of each chosen image

    def add(self, block: Block, chosen: list[bool]) -> None:
        """Take in the chosen rows of some."""
        if not block["valid"]:
            return  # thousands of refused files in a row leave a block without an image
        valid, pixels = _numbers(block["valid"])[:, 0], (_numbers(block["width"]) * _numbers(block["height"]))[:, 0]
        self.masked_images += int((valid < pixels).sum())
        self._measured, self._pixels = self._measured + int(valid.sum()), self._pixels + int(pixels.sum())
        if any(chosen):
            self.dtype = block["dtype"][0]
            names = ("valid", "sums", "squares")
            columns = [_numbers(list(itertools.compress(block[name], chosen))) for name in names]
            self._blocks.append(np.hstack(columns))

    def result(self) -> dict[str, Any]:
        """What statistics.json holds.

        channels, images, dtype, full (the stored value that is 1), and the lists mean and std, rounded; mean_stored and
        std_stored are the same in the numbers of the files. left_out: images whose numbers mean and std do not count.
        masked_images: those that are not measured everywhere, of all. Raises ValueError where nothing is measured.
        """
        rows = np.concatenate(self._blocks) if self._blocks else np.zeros((0, 3))
        out = far(rows, self.dtype)
        if not rows[~out, 0].any():
            raise ValueError("dataset: no image of the train side has numbers of which mean and spread could be taken")
        kept = np.split(~out, np.cumsum([len(block) for block in self._blocks])[:-1])
        total = sum((block[keep].sum(0) for block, keep in zip(self._blocks, kept, strict=True)), start=np.zeros(1))
        pixels, sums, squares = total[0], *np.split(total[1:], 2)
        mean = sums / pixels
        std = _at_least(np.sqrt(np.maximum(squares / pixels - mean**2, 0)), mean, self.dtype)
        full = FULL[self.dtype]
        return {
            "channels": len(mean),
            "images": int(sum(map(len, self._blocks))),
            "dtype": self.dtype,
            "full": full,
            "mean": [_rounded(value, self.dtype) for value in mean.tolist()],
            "std": [_rounded(value, self.dtype) for value in std.tolist()],
            "mean_stored": [_rounded(value * full) for value in mean.tolist()],
            "std_stored": [_rounded(value * full) for value in std.tolist()],
            "left_out": int(out.sum()),
            "masked_images": self.masked_images,
        }

    def summary(self, names: list[str]) -> dict[str, Any]:
        """What the run's summary says of it, given the names of the chosen images."""
        rows = np.concatenate(self._blocks)
        out = [names[place] for place in np.flatnonzero(far(rows, self.dtype)).tolist()]
        return {
            "masked_images": self.masked_images,
            "masked_share": round(1 - self._measured / self._pixels, 6),
            "left_out_of_statistics": len(out),
            "warnings": [LEFT_OUT.format(len(out), out[0]) for _ in out[:1]]
            + other_scale(rows, names, FULL[self.dtype]),
        }


def far(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Which images lie so far from the others that their numbers cannot be measurements, bool [n].

    rows [n, 1 + 2 C]: measured pixels, sums and squares. In some band, mean or root mean square is more than FAR
    interquartile ranges from the median image's, and the value that would have to be mixed into that one to make this
    one reaches for the END of the type's range. So rare bright ground stays in. Numbers without end are always out.
    """
    pixels, (sums, squares) = np.maximum(rows[:, :1], 1), np.split(rows[:, 1:], 2, axis=1)
    mean, square = sums / pixels, squares / pixels
    sound = np.isfinite(mean).all(1) & np.isfinite(square).all(1)
    usual = sound & (rows[:, 0] > 0)
    if not usual.any():
        return ~sound  # there is nothing to be far from
    level = np.sqrt(np.where(sound[:, None], square, 0))
    away = np.zeros(mean.shape, bool)
    for values in (np.where(sound[:, None], mean, 0), level):
        low, middle, high = np.quantile(values[usual], (0.25, 0.5, 0.75), axis=0)
        distance = np.abs(values - middle)
        # Most images may be the same in a band; then only rare ones can be far.
        spread = np.where(high > low, high - low, distance[usual].mean(0))
        away |= distance > FAR * spread
    middle, usual_square, usual_level = (np.median(each[usual], axis=0) for each in (mean, square, level))
    with np.errstate(invalid="ignore", divide="ignore"):
        mixed = np.abs((square - usual_square) / (mean - middle))
    end = END.get(dtype, np.where(usual_level > 0, END_OF_FLOATS * usual_level, np.inf))
    return (away & (mixed > end)).any(1) & (rows[:, 0] > 0) | ~sound


def other_scale(rows: np.ndarray, names: Sequence[str], full: float = 1.0) -> list[str]:
    """A sentence where images fall into two scales with nothing between them, as reflectances of 0..1 and 0..10000.

    rows: as for `far`. The level of an image is its root mean square. Dark ground or night lies on the way to bright
    ground: a GAP without any image, and FEW on both of its sides, is no ground.
    """
    pixels, (_, squares) = np.maximum(rows[:, 0], 1), np.split(rows[:, 1:], 2, axis=1)
    square = squares.mean(1) / pixels
    known = np.flatnonzero(np.isfinite(square) & (square > 0))
    if len(known) < 2:
        return []
    order = known[np.argsort(square[known], kind="stable")]
    level = np.sqrt(square[order])
    least = max(1, math.ceil(FEW * len(order)))
    gaps = np.diff(np.log10(level))[least - 1 : len(order) - least]
    if not len(gaps) or gaps.max() <= GAP:
        return []
    low, high = np.split(order, [int(gaps.argmax()) + least])
    fewer, rest = sorted((low, high), key=len)
    low_level, high_level, one, other = (float(np.sqrt(np.median(square[each]))) for each in (low, high, fewer, rest))
    times, how = f"{float(f'{high_level / low_level:.1g}'):,.0f}", "large" if one > other else "small"
    words = OTHER_SCALE.format(len(fewer), names[fewer.min()], times, how, one * full, other * full)
    return [words]


def _at_least(std: np.ndarray, mean: np.ndarray, dtype: str) -> np.ndarray:
    """Images of one colour must not be divided by zero: one level at least, and 1 where floats do not vary."""
    if dtype == "float32":
        return np.where(std > CONSTANT * np.abs(mean), std, 1.0)
    return std.clip(min=1 / FULL[dtype])


def _rounded(value: float, dtype: str = "") -> float:
    return round(value, DIGITS[dtype]) if dtype in DIGITS else float(f"{value:.{SIGNIFICANT}g}")


def _numbers(rows: Sequence[str]) -> np.ndarray:
    """Rows of numbers with spaces between them: [rows, numbers]."""
    return np.array(list(map(float, " ".join(rows).split()))).reshape(len(rows), -1)
