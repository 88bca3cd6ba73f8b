"""What is measured of every image while its pixels are there: sums for mean and spread, a digest, and its look.

Two images with the same digest have the same pixels. Two with nearly the same look (a perceptual hash) show the same
picture, also when one was compressed harder, resized or brightened.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import xxhash

GRID = 16  # the look is taken from 16 x 16 mean brightnesses
FLAT = 2.0  # grey levels (of 255): a picture that varies less looks like any other flat one, and its hash is noise
FULL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}  # what counts as 1

# The lowest 8 of 16 frequencies of a cosine transform (type II), one a row: [8, 16].
_COSINE = np.cos(np.pi / GRID * np.outer(np.arange(8), np.arange(GRID) + 0.5)).astype(np.float32)


@dataclass
class Measures:
    """sums, squares: over the pixels of each channel, in 0..1 units, [C]; digest: 16 hexadecimal digits of the pixels;
    look: 16 hexadecimal digits, "" for a flat picture."""

    sums: list[float]
    squares: list[float]
    digest: str
    look: str


def measure(image_HWC: np.ndarray) -> Measures:
    """Measure an image, uint8 or uint16 [H, W, C], of any number of channels."""
    image = np.ascontiguousarray(image_HWC)
    digest = xxhash.xxh3_64(f"{image.dtype} {image.shape}".encode())
    digest.update(image)
    sums, squares, grey = _sums(image)
    full = FULL[image.dtype]
    return Measures((sums / full).tolist(), (squares / full**2).tolist(), digest.hexdigest(), look(grey * (255 / full)))


def look(grey: np.ndarray) -> str:
    """The perceptual hash of a picture given as its GRID x GRID mean brightnesses in 0..255; "" if it is flat.

    64 bits: which of the 8 x 8 lowest frequencies of a cosine transform lie above their median (without the mean).
    """
    if grey.std() < FLAT:
        return ""
    low = (_COSINE @ grey @ _COSINE.T).ravel()
    bits = low > np.sort(low[1:])[31]
    return np.packbits(bits).tobytes().hex()


def _sums(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sums [C], sums of squares [C], mean brightness [GRID, GRID]), exact but for the last digits of large images."""
    height, width, channels = image.shape
    if min(height, width) < GRID:
        sums, squares, grey = _sums(image.repeat(2, 0).repeat(2, 1))
        return sums / 4, squares / 4, grey
    # float32 holds integers up to 2**24: a row of 256 squared bytes fits. BLAS sums several times faster than numpy.
    kind = np.float32 if image.dtype == np.uint8 else np.float64
    rows = image.reshape(height, width * channels).astype(kind)
    ones = np.ones(height, kind)
    edges = np.arange(GRID + 1) * height // GRID
    bands = np.stack([ones[a:b] @ rows[a:b] for a, b in itertools.pairwise(edges.tolist())])
    np.multiply(rows, rows, out=rows)
    squares = sum((ones[: len(part)] @ part).astype(np.float64) for part in np.split(rows, range(256, height, 256)))
    columns = np.arange(GRID) * width // GRID
    cells = np.add.reduceat(bands.reshape(GRID, width, channels).sum(2), columns, axis=1)
    area = np.diff(edges)[:, None] * np.diff(columns, append=width) * channels
    sums = bands.sum(0, dtype=np.float64).reshape(width, channels).sum(0)
    return sums, squares.reshape(width, channels).sum(0), (cells / area).astype(np.float32)
