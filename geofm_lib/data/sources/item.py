"""One image of a source before it is checked: where its bytes or pixels are, and what the source says of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Geo(NamedTuple):
    """Where an image lies: the reference system as text (EPSG code or WKT) and its affine transform.

    transform: (a, b, c, d, e, f) as rasterio's: x = a column + b row + c, y = d column + e row + f.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(slots=True)
class Raster:
    """Pixels as measured. values: uint8, uint16, int16 or float32 [H, W, C]. valid: bool [H, W], None where all are.

    converted: what had to be done to the file's numbers, in a few words, "" for nothing.
    """

    values: np.ndarray
    valid: np.ndarray | None = None
    geo: Geo | None = None
    converted: list[str] = field(default_factory=list)


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
