"""What is measured of every image while its pixels are there: sums for mean and spread, a digest, and its look.

All but the digest is of measured pixels alone. Two images with the same digest have the same pixels. Two with nearly
the same look (a perceptual hash) show the same picture, also when one was compressed harder, resized or brightened.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numba
import numpy as np
import xxhash

from geofm_lib.data.sources.item import FULL

GRID = 16  # the look is taken from 16 x 16 mean brightnesses
ROWS = 64  # the least that sums are taken from: rows side by side are nearly the same
# By the type of values: a number for the digest, what 1 stands for, and what values and squares are added up in. Whole
# numbers: 2 * ROWS - 1 squared bytes are below 2**32.
_WIDE = {"uint8": np.uint32, "uint16": np.uint64, "int16": np.int64, "float32": np.float64}
_TYPES = {np.dtype(kind): (number, FULL[kind], wide) for number, (kind, wide) in enumerate(_WIDE.items())}
_ROUNDING = 1e-12  # of the mean: a contrast below it is none

# The lowest 8 of 16 frequencies of a cosine transform (type II, orthonormal), one a row: [8, 16].
_COSINE = np.cos(np.pi / GRID * np.outer(np.arange(8), np.arange(GRID) + 0.5)) * np.sqrt(2 / GRID)
_COSINE[0] = np.sqrt(1 / GRID)
_COSINE = _COSINE.astype(np.float32)


@dataclass
class Measures:
    """valid: measured pixels. sums, squares: over those of each channel, in units of the type's range, [C]. Those of an
    image of 2 * ROWS rows or more that is measured everywhere are scaled up from evenly spaced ones. digest: 16
    hexadecimal digits, of all pixels and of which are measured. look: likewise. contrast: how much the brightnesses
    vary that the look is taken from, in units of the type's range; 0 where there is nothing to see. turned: the look
    that all eight orientations of the image have."""

    valid: int
    sums: list[float]
    squares: list[float]
    digest: str
    look: str
    contrast: float
    turned: str


def measure(images: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> list[Measures]:
    """Measure images in their order.

    Each is its pixels, uint8, uint16, int16 or float32 [H, W, C], and which of them were measured, bool [H, W], None
    where all were.
    """
    counts, digests, greys, sums = [], [], [], []
    for image, valid in images:
        image = np.ascontiguousarray(image)
        if valid is not None and valid.all():
            valid = None
        number, full, wide = _TYPES[image.dtype]
        digests.append(_digest(image, valid, number))
        counts.append(image.shape[0] * image.shape[1] if valid is None else int(np.count_nonzero(valid)))
        while min(image.shape[:2]) < GRID:  # each pixel as four: sums and means stay what they are
            image, valid = _twice(image), None if valid is None else _twice(valid)
        greys.append(np.empty((GRID, GRID)))
        sums.append(np.empty((2, image.shape[2])))
        if valid is None:
            lines = np.zeros((3, image.shape[1] * image.shape[2]), wide)
            _fold(image.reshape(len(image), -1), image.shape[2], float(counts[-1]), full, lines, greys[-1], sums[-1])
        else:
            _fold_valid(image, valid, counts[-1], full, greys[-1], sums[-1])
    if not digests:
        return []
    found = zip(counts, sums, digests, *_looks(np.stack(greys)), strict=True)
    return [Measures(n, first.tolist(), second.tolist(), *rest) for n, (first, second), *rest in found]  # type: ignore[arg-type]


def _digest(image: np.ndarray, valid: np.ndarray | None, number: int) -> str:
    height, width, _ = image.shape
    seed = (height << 32 | width) ^ number
    if valid is None:
        return xxhash.xxh3_64_hexdigest(image.data, seed=seed)
    found = xxhash.xxh3_64(image.data, seed=seed)
    found.update(np.packbits(valid).data)
    return found.hexdigest()


def _twice(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(2, 0).repeat(2, 1)


def _compiled(function: Callable) -> Callable:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither beside this file nor in a home can it be kept: compiled at every start, in a second
        return numba.njit(function)


@_compiled
def _fold(image, channels, pixels, full, lines, grey, sums):
    """Fill `grey` and `sums` from evenly spaced rows of an image [H, W*C] with values up to `full`.

    grey [GRID, GRID]: means of the image's cells, in 0..255. sums [2, C]: sums and sums of squares of each channel, in
    0..1 units, scaled up to `pixels`. lines: three rows of zeros to count in. Compiled, since numpy would write and
    read every value five times over.
    """
    step, length = max(1, len(image) // ROWS), image.shape[1]
    height, width = (len(image) + step - 1) // step, length // channels
    band, whole, square = lines[0], lines[1], lines[2]
    for g in range(GRID):
        top, bottom = g * height // GRID, (g + 1) * height // GRID
        band[:] = 0
        for i in range(top, bottom):
            row = image[i * step]
            for j in range(length):
                value = band.dtype.type(row[j])
                band[j] += value
                square[j] += value * value
        for k in range(GRID):
            left, right = k * width // GRID * channels, (k + 1) * width // GRID * channels
            grey[g, k] = band[left:right].sum() / ((bottom - top) * (right - left)) * (255 / full)
        whole += band
    share = pixels / (height * width)
    for c in range(channels):
        sums[0, c] = whole[c::channels].sum() * (share / full)
        sums[1, c] = square[c::channels].sum() * (share / full**2)


def _fold_valid(image, valid, pixels, full, grey, sums):
    """The same from all rows of an image [H, W, C] that is measured at some places only; empty cells get its mean."""
    wide = np.where(valid[..., None], image, image.dtype.type(0)).astype(np.float64) / full
    share = pixels / max(1, np.count_nonzero(valid))
    sums[0], sums[1] = wide.sum((0, 1)) * share, np.square(wide).sum((0, 1)) * share
    rows, columns = (np.arange(GRID) * side // GRID for side in valid.shape)
    bright, count = (
        np.add.reduceat(np.add.reduceat(each, rows, 0), columns, 1) for each in (wide.mean(2), valid.astype(np.float64))
    )
    grey[:] = 255 * np.where(count, bright / np.maximum(count, 1), bright.sum() / max(1.0, count.sum()))


def _looks(grey: np.ndarray) -> tuple[list[str], list[float], list[str]]:
    """Looks, contrasts and turned looks of pictures given as their mean brightnesses in 0..255, [n, GRID, GRID].

    64 bits: which of the 8 x 8 lowest frequencies of a cosine transform lie above their median (without the mean).
    """
    with np.errstate(invalid="ignore", over="ignore"):  # numbers without end have no look
        low = (_COSINE @ grey @ _COSINE.T).reshape(len(grey), -1)
        contrasts = np.sqrt(np.square(low[:, 1:]).sum(1)) / GRID
        turned = _bits(_turned(low.reshape(-1, 8, 8)).reshape(low.shape))
    seen = np.isfinite(contrasts) & (contrasts > _ROUNDING * np.abs(low[:, 0]))
    rounded = [float(f"{value:.6g}") for value in np.where(seen, contrasts / 255, 0).tolist()]
    return _bits(low), rounded, turned


def _bits(low: np.ndarray) -> list[str]:
    bits = np.packbits(low > np.sort(low[:, 1:])[:, 31:32], axis=1)
    return [each.tobytes().hex() for each in bits]


def _turned(low: np.ndarray) -> np.ndarray:
    """Frequencies [n, 8, 8] of a picture after it was turned and mirrored: the same for all its eight orientations.

    A mirrored picture has every odd frequency of that axis negated, a transposed one has the axes swapped. So the axis
    that varies more comes first, and of the odd frequencies along each axis the strongest is positive.
    """
    along, across = (np.square(axis[:, 1:]).sum(1) for axis in (low[:, 0], low[:, :, 0]))
    low = np.where((along < across)[:, None, None], low.transpose(0, 2, 1), low)
    odd, own = np.where(np.arange(8) % 2, -1.0, 1.0), np.arange(len(low))
    for axis, signs in ((low[:, 0, 1::2], odd), (low[:, 1::2, 0], odd[:, None])):
        strongest = axis[own, np.abs(axis).argmax(1)]
        low = np.where((strongest < 0)[:, None, None], low * signs, low)
    return low
