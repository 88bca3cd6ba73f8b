"""What is measured of every image while its pixels are there: sums for mean and spread, a digest, and its look.

Two images with the same digest have the same pixels. Two with nearly the same look (a perceptual hash) show the same
picture, also when one was compressed harder, resized or brightened.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

GRID = 16  # the look is taken from 16 x 16 mean brightnesses
ROWS = 64  # the least that sums are taken from: rows side by side are nearly the same
FLAT = 2.0  # grey levels (of 255): a picture that varies less looks like any other flat one, and its hash is noise
AT_ONCE = 2**20  # bytes of images measured together: numpy's calls cost as much as their work; these fit a core's cache

# The lowest 8 of 16 frequencies of a cosine transform (type II, orthonormal), one a row: [8, 16].
_COSINE = np.cos(np.pi / GRID * np.outer(np.arange(8), np.arange(GRID) + 0.5)) * np.sqrt(2 / GRID)
_COSINE[0] = np.sqrt(1 / GRID)
_COSINE = _COSINE.astype(np.float32)


@dataclass
class Sample:
    """What is kept of an image until it is measured. rows: evenly spaced ones, [h, W, C]; digest: of all pixels."""

    rows: np.ndarray
    pixels: int
    digest: str


@dataclass
class Measures:
    """sums, squares: over the pixels of each channel, in 0..1 units, [C]; those of an image of 2 * ROWS rows or more
    are scaled up from evenly spaced ones. digest: 16 hexadecimal digits, of all pixels. look: 16 hexadecimal digits,
    "" for a flat picture."""

    sums: list[float]
    squares: list[float]
    digest: str
    look: str


def sample(image_HWC: np.ndarray) -> Sample:
    """Take from an image, uint8 or uint16 [H, W, C] of any number of channels, what `measure` needs."""
    image = np.ascontiguousarray(image_HWC)
    height, width, _ = image.shape
    digest = xxhash.xxh3_64_hexdigest(image, seed=(height << 32 | width) ^ image.itemsize - 1)
    rows = image[:: max(1, height // ROWS)].copy()
    while min(rows.shape[:2]) < GRID:
        rows = rows.repeat(2, 0).repeat(2, 1)  # each pixel as four: sums and means stay what they are
    return Sample(rows, height * width, digest)


def measure(samples: Sequence[Sample]) -> list[Measures]:
    """Measure some images, in their order; fastest where many of one size follow each other."""
    measured = []
    for _, alike in itertools.groupby(samples, lambda each: (each.rows.shape, each.rows.dtype)):
        alike = list(alike)
        some = max(1, AT_ONCE // (4 * alike[0].rows.nbytes))
        for k in range(0, len(alike), some):
            measured += _alike(alike[k : k + some])
    return measured


def _alike(samples: list[Sample]) -> list[Measures]:
    """Images whose rows have one shape and type."""
    rows, full = samples[0].rows, np.iinfo(samples[0].rows.dtype).max
    height, width, channels = rows.shape
    # float32 holds integers up to 2**24: 256 squared bytes fit, more than the 2 * ROWS - 1 rows there are at most.
    values = _space(len(samples), height, width * channels, np.float32 if rows.itemsize == 1 else np.float64)
    for value, each in zip(values, samples, strict=True):
        value[:] = each.rows.reshape(height, -1)
    lines, cells, channel = _weights(height, width, channels, values.dtype)
    even = height % GRID == 0  # then a sum takes half as long as a product
    bands = values.reshape(len(values), GRID, -1, width * channels).sum(2) if even else lines @ values
    np.multiply(values, values, out=values)
    share = np.array([each.pixels / (height * width) for each in samples])[:, None]
    sums = bands.sum(1) @ channel * (share / full)
    squares = np.ones(height, values.dtype) @ values @ channel * (share / full**2)
    grey = bands @ cells * (255 / full / lines.sum(1)[:, None])
    found = zip(sums.tolist(), squares.tolist(), samples, looks(grey), strict=True)
    return [Measures(one, square, each.digest, look) for one, square, each, look in found]


def looks(grey: np.ndarray) -> list[str]:
    """The perceptual hashes of pictures given as their mean brightnesses in 0..255, [n, GRID, GRID]; "" if flat.

    64 bits: which of the 8 x 8 lowest frequencies of a cosine transform lie above their median (without the mean).
    """
    low = (_COSINE @ grey @ _COSINE.T).reshape(len(grey), -1)
    varied = np.square(low[:, 1:]).sum(1) >= (FLAT * GRID) ** 2
    bits = np.packbits(low > np.sort(low[:, 1:])[:, 31:32], axis=1)
    return [each.tobytes().hex() if vary else "" for each, vary in zip(bits, varied.tolist(), strict=True)]


@functools.lru_cache(maxsize=2)
def _space(*shape_and_type) -> np.ndarray:
    """An array to write to, the same each time: fresh memory costs more than all that is done in it."""
    *shape, kind = shape_and_type
    return np.empty(shape, kind)


@functools.lru_cache(maxsize=64)
def _weights(height: int, width: int, channels: int, kind: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sums over GRID bands of rows [GRID, H], means over bands of columns [W*C, GRID], channels [W*C, C])."""
    lines, columns = _bands(height), _bands(width)
    cells = (columns / columns.sum(1, keepdims=True) / channels).T
    return lines.astype(kind), cells.repeat(channels, 0).astype(kind), np.tile(np.eye(channels), (width, 1))


def _bands(side: int) -> np.ndarray:
    """Which of `side` places belong to which of GRID bands: [GRID, side] of 0 and 1."""
    edges = np.arange(GRID + 1) * side // GRID
    return (np.searchsorted(edges, np.arange(side), side="right") - 1 == np.arange(GRID)[:, None]).astype(float)
