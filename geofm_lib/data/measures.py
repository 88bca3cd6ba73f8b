"""What is measured of every image while its pixels are there: sums for mean and spread, a digest, and its look.

Two images with the same digest have the same pixels. Two with nearly the same look (a perceptual hash) show the same
picture, also when one was compressed harder, resized or brightened.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import xxhash

GRID = 16  # the look is taken from 16 x 16 mean brightnesses
ROWS = 64  # the least that sums are taken from: rows side by side are nearly the same
FLAT = 2.0  # grey levels (of 255): a picture that varies less looks like any other flat one, and its hash is noise

# The lowest 8 of 16 frequencies of a cosine transform (type II, orthonormal), one a row: [8, 16].
_COSINE = np.cos(np.pi / GRID * np.outer(np.arange(8), np.arange(GRID) + 0.5)) * np.sqrt(2 / GRID)
_COSINE[0] = np.sqrt(1 / GRID)
_COSINE = _COSINE.astype(np.float32)


@dataclass
class Measures:
    """sums, squares: over the pixels of each channel, in 0..1 units, [C]; those of an image of 2 * ROWS rows or more
    are scaled up from evenly spaced ones. digest: 16 hexadecimal digits, of all pixels. look: 16 hexadecimal digits,
    "" for a flat picture."""

    sums: list[float]
    squares: list[float]
    digest: str
    look: str


def measure(image_HWC: np.ndarray) -> Measures:
    """Measure an image, uint8 or uint16 [H, W, C], of any number of channels."""
    image = np.ascontiguousarray(image_HWC)
    digest = xxhash.xxh3_64(f"{image.dtype} {image.shape}".encode())
    digest.update(image)
    step = max(1, len(image) // ROWS)
    sums, squares, grey = _sums(image[::step])
    full, share = np.iinfo(image.dtype).max, len(image) / len(image[::step])
    sums, squares = sums * (share / full), squares * (share / full**2)
    return Measures(sums.tolist(), squares.tolist(), digest.hexdigest(), look(grey * (255 / full)))


def look(grey: np.ndarray) -> str:
    """The perceptual hash of a picture given as its GRID x GRID mean brightnesses in 0..255; "" if it is flat.

    64 bits: which of the 8 x 8 lowest frequencies of a cosine transform lie above their median (without the mean).
    """
    low = (_COSINE @ grey @ _COSINE.T).ravel()
    if low[1:] @ low[1:] < (FLAT * GRID) ** 2:
        return ""
    bits = low > np.sort(low[1:])[31]
    return np.packbits(bits).tobytes().hex()


def _sums(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sums [C], sums of squares [C], mean brightness [GRID, GRID]), exact but for the last digits of large images."""
    height, width, channels = image.shape
    if min(height, width) < GRID:
        sums, squares, grey = _sums(image.repeat(2, 0).repeat(2, 1))
        return sums / 4, squares / 4, grey
    # BLAS sums several times faster than numpy, and few calls matter: each costs as much as thousands of pixels.
    # float32 holds integers up to 2**24: 256 squared bytes fit, more than the 2 * ROWS - 1 there are at most.
    kind = np.float32 if image.dtype == np.uint8 else np.float64
    edges, ones, cells, channel = _weights(height, width, channels, kind)
    rows = image.reshape(height, width * channels).astype(kind)
    if height % GRID == 0:
        bands = ones[: height // GRID] @ rows.reshape(GRID, height // GRID, -1)
    else:
        bands = np.stack([ones[a:b] @ rows[a:b] for a, b in itertools.pairwise(edges)])
    both = np.empty((2, width * channels))
    both[0] = ones[:GRID] @ bands
    np.multiply(rows, rows, out=rows)
    both[1] = ones @ rows
    sums, squares = both @ channel
    grey = bands @ cells if height % GRID == 0 else bands @ cells * (height / GRID / np.diff(edges)[:, None])
    return sums, squares, grey


@functools.lru_cache(maxsize=64)
def _weights(height: int, width: int, channels: int, kind: type) -> tuple:
    """(edges of the GRID bands of rows, ones [H], means over bands of columns [W*C, GRID], channels [W*C, C])."""
    columns = np.arange(GRID + 1) * width // GRID
    band = np.searchsorted(columns, np.arange(width), side="right") - 1
    cells = (band[:, None] == np.arange(GRID)) / (np.diff(columns) * channels * (height / GRID))
    edges = (np.arange(GRID + 1) * height // GRID).tolist()
    return edges, np.ones(height, kind), cells.repeat(channels, 0).astype(kind), np.tile(np.eye(channels), (width, 1))
