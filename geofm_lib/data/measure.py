"""What is measured of every image while its pixels are there: sums for mean and spread, a digest, and its look.

`Statistics` adds the sums up: mean and standard deviation of each band over all pixels of some images.

Two images with the same digest have the same pixels. Two with nearly the same look (a perceptual hash) show the same
picture, also when one was compressed harder, resized or brightened.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import xxhash

from geofm_lib.data.sample import Block

GRID = 16  # the look is taken from 16 x 16 mean brightnesses
ROWS = 64  # the least that sums are taken from: rows side by side are nearly the same
FLAT = 2.0  # grey levels (of 255): a picture that varies less looks like any other flat one, and its hash is noise
DIGITS = {"uint8": 6, "uint16": 9, "int16": 9, "float32": 9}  # written of mean and std, by the type of a value
LEVEL = {"uint8": 1 / 255, "uint16": 1 / 65535, "int16": 1 / 32767, "float32": 1e-6}  # the least std, by type

# The lowest 8 of 16 frequencies of a cosine transform (type II, orthonormal), one a row: [8, 16].
_COSINE = np.cos(np.pi / GRID * np.outer(np.arange(8), np.arange(GRID) + 0.5)) * np.sqrt(2 / GRID)
_COSINE[0] = np.sqrt(1 / GRID)
_COSINE = _COSINE.astype(np.float32)


@dataclass
class Measures:
    """sums, squares: over the pixels of each channel, in 0..1 units, [C]. Those of an image of 2 * ROWS rows or more
    are scaled up from evenly spaced ones. digest: 16 hexadecimal digits, of all pixels. look: likewise, "" for a flat
    picture."""

    sums: list[float]
    squares: list[float]
    digest: str
    look: str


def measure(images_HWC: Iterable[np.ndarray]) -> list[Measures]:
    """Measure images, uint8 or uint16 [H, W, C] of any number of channels, in their order."""
    digests, greys, sums = [], [], []
    for image in images_HWC:
        image = np.ascontiguousarray(image)
        height, width, channels = image.shape
        digests.append(xxhash.xxh3_64_hexdigest(image.data, seed=(height << 32 | width) ^ image.itemsize - 1))
        while min(image.shape[:2]) < GRID:
            image = image.repeat(2, 0).repeat(2, 1)  # each pixel as four: sums and means stay what they are
        # Whole numbers: 2 * ROWS - 1 squared bytes are below 2**32.
        lines = np.zeros((3, image.shape[1] * channels), np.uint32 if image.itemsize == 1 else np.uint64)
        greys.append(np.empty((GRID, GRID)))
        sums.append(np.empty((2, channels)))
        full = 2.0 ** (8 * image.itemsize) - 1
        _fold(image.reshape(len(image), -1), channels, float(height * width), full, lines, greys[-1], sums[-1])
    if not digests:
        return []
    found = zip(sums, digests, _looks(np.stack(greys)), strict=True)
    return [Measures(first.tolist(), second.tolist(), digest, look) for (first, second), digest, look in found]


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


def _looks(grey: np.ndarray) -> list[str]:
    """The perceptual hashes of pictures given as their mean brightnesses in 0..255, [n, GRID, GRID]; "" if flat.

    64 bits: which of the 8 x 8 lowest frequencies of a cosine transform lie above their median (without the mean).
    """
    low = (_COSINE @ grey @ _COSINE.T).reshape(len(grey), -1)
    varied = np.square(low[:, 1:]).sum(1) >= (FLAT * GRID) ** 2
    bits = np.packbits(low > np.sort(low[:, 1:])[:, 31:32], axis=1)
    return [each.tobytes().hex() if vary else "" for each, vary in zip(bits, varied.tolist(), strict=True)]


class Statistics:
    """Sums over the images added. Everything is in 0..1 units of the range of a value."""

    def __init__(self) -> None:
        self.images, self.pixels, self.dtype = 0, 0, "uint8"
        self.sums, self.squares = np.zeros(1), np.zeros(1)

    def add(self, block: Block, chosen: list[bool]) -> None:
        """Take in the chosen rows of some."""
        if not any(chosen):
            return
        names = ("width", "height", "sums", "squares")
        width, height, sums, squares = (_numbers(list(itertools.compress(block[name], chosen))) for name in names)
        self.images, self.dtype = self.images + len(width), block["dtype"][0]
        self.pixels += int((width * height).sum())
        self.sums, self.squares = self.sums + sums.sum(0), self.squares + squares.sum(0)

    def result(self) -> dict[str, Any]:
        """channels, images, and the lists mean and std, rounded."""
        mean, squares = self.sums / self.pixels, self.squares / self.pixels
        # One level at least: images of one colour must not be divided by zero.
        std = np.sqrt(np.maximum(squares - mean**2, 0)).clip(min=LEVEL[self.dtype])
        rounded = [[round(float(value), DIGITS[self.dtype]) for value in each] for each in (mean, std)]
        return {"channels": len(mean), "images": self.images, "mean": rounded[0], "std": rounded[1]}


def _numbers(rows: list[str]) -> np.ndarray:
    """Rows of numbers with spaces between them: [rows, numbers]."""
    return np.array(list(map(float, " ".join(rows).split()))).reshape(len(rows), -1)
