"""One image of a source before it is checked: where its bytes or pixels are, and what the source says of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# The types that values may have, and the value of each that is 1 in the units of mean and std.
FULL = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float32": 1.0}


class Refused(ValueError):
    """Why an image cannot be used, in a few words."""


class Geo(NamedTuple):
    """Where an image lies: the reference system as text (EPSG code or WKT) and its affine transform.

    transform: (a, b, c, d, e, f) as rasterio's: x = a column + b row + c, y = d column + e row + f.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(slots=True)
class Raster:
    """Pixels as measured. values: uint8, uint16, int16 or float32 [H, W, C]. valid: bool [H, W], None where all are.

    converted: what had to be done to the file's numbers, each in a few words that do not differ from image to image.
    compressed: did the file store them so? series: is it one of values over dates, a single row of pixels?
    """

    values: np.ndarray
    valid: np.ndarray | None = None
    geo: Geo | None = None
    converted: list[str] = field(default_factory=list)
    compressed: bool = False
    series: bool = False


class Item(NamedTuple):
    """An image on its way to the checks.

    load: its bytes, or a function that gives bytes or pixels. label (several with "|" between them), side ("train",
    "val" or "test") and scene are given by sources that know them, "" where they do not. Images of one scene stay on
    one side of the split.
    """

    name: str
    load: bytes | Callable[[], bytes | Raster]
    label: str = ""
    side: str = ""
    scene: str = ""
