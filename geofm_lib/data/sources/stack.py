"""Bands that lie in a file each, put together on the grid of the finest."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geofm_lib.data.sources import archives, grids, raster, validity
from geofm_lib.data.sources.grids import Grid
from geofm_lib.data.sources.item import Raster, Refused

PICTURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}  # GDAL's name of a format and how it begins
Loads = tuple[tuple[str, Callable[[], bytes]], ...]  # name and file of each band


class Part(NamedTuple):
    """The file of one band, on its own grid. declared: nodata values; mask: where it was measured."""

    grid: Grid
    found: Raster
    declared: tuple[float | None, ...]
    mask: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Stack:
    """Reads the bands of a sample, in whichever process. left_out: others that it has."""

    loads: Loads
    left_out: tuple[str, ...] = ()
    nodata: str = ""
    alpha: str = "auto"

    def __call__(self) -> Raster:
        """The bands on the grid of the finest, see `read`."""
        found = read(self.loads, self.nodata, self.alpha)
        found.converted[:0] = self._told()
        return found

    def virtual(self) -> tuple[str, list[str]]:
        """(the stack as a file for GDAL, which reads parts of it, what is to be told). Raises as `grids.virtual`."""
        place, told = grids.virtual([(name, archives.place(load)) for name, load in self.loads])
        return place, [*self._told(), *told]

    def _told(self) -> list[str]:
        left_out = [f"{' and '.join(self.left_out)} left out"] if self.left_out else []
        return [f"{len(self.loads)} files stacked", *left_out]


def read(loads: Iterable[tuple[str, Callable[[], bytes]]], nodata: str = "", alpha: str = "auto") -> Raster:
    """The bands of one sample on the grid of the finest, in the given order.

    Coarser bands are resampled bilinearly, centre of pixel to centre of pixel; beside a pixel that holds nodata or a
    usual fill, the nearest one is taken. Raises Refused where files do not belong together, and what reading raises.
    """
    try:
        parts = [_part(name, load()) for name, load in loads]
    except ImportError as error:
        raise ValueError(str(error)) from None
    finest, told = grids.together([part.grid for part in parts])
    values = np.concatenate([_grown(part, finest) for part in parts], axis=-1)
    masks = [_nearest(part.mask, finest) for part in parts if part.mask is not None]
    mask = np.logical_and.reduce(masks) if masks else None
    declared = [value for part in parts for value in part.declared]
    colours = ["undefined"] * len(declared)
    found = raster.understand(np.moveaxis(values, -1, 0), declared, mask, colours, None, nodata, alpha)
    found.geo, found.compressed = finest.geo, any(part.found.compressed for part in parts)
    scaled = (note for part in parts for note in part.found.converted if note.startswith(raster.UNSCALED))
    found.converted[:0] = [*told, *dict.fromkeys(scaled)]
    return found


def _part(name: str, data: bytes) -> Part:
    library = raster.gdal()
    kind = raster.driver(data) or next((kind for kind, begin in PICTURES.items() if data.startswith(begin)), "")
    if not kind:
        raise Refused(f"band {name} is {'empty' if not data else 'no image in a format that can be stacked'}")
    try:
        with library.Env(**raster.OPTIONS), library.MemoryFile(data) as file, raster.opened(file.name, kind) as dataset:
            size = dataset.count * dataset.height * dataset.width
            raster.check_size(size, size * raster.MOST_BYTES.get(dataset.dtypes[0], 4), len(data))
            found = raster.read_window(dataset, None, nodata="none", alpha="keep")
            masked = "per_dataset" in {flag.name for flag in dataset.mask_flag_enums[0]}
            mask = dataset.read_masks(1) > 0 if masked else None
            height, width, _ = found.values.shape
            grid = Grid(name, height, width, found.values.dtype.name, found.geo)
            return Part(grid, found, dataset.nodatavals, mask)
    except (library.errors.RasterioError, library._err.CPLE_BaseError) as error:
        raise OSError(f"band {name}: {raster.words(error)}") from None


def _grown(part: Part, finest: Grid) -> np.ndarray:
    """The values of a band on the finest grid, [height, width, C] of the same type."""
    values = part.found.values
    if values.shape[:2] == (finest.height, finest.width):
        return values
    special = validity.beyond(values)
    for value in (*part.declared, *validity.FILLS.get(values.dtype.name, ())):
        if value is not None:
            special |= values == value
    smooth = bilinear(np.where(special, 0, values).astype(np.float64), finest.height, finest.width)
    if values.dtype.kind != "f":
        smooth = np.rint(smooth)
    touched = bilinear(special.astype(np.float64), finest.height, finest.width) > 0
    return np.where(touched, _nearest(values, finest), smooth.astype(values.dtype))


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w, ...] -> float64 [height, width, ...]: the very numbers of GDAL's bilinear resampling to a finer grid."""
    for axis, size in ((0, height), (1, width)):
        length = values.shape[axis]
        at = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
        low = np.floor(at).astype(int)
        weight = (at - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        high = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


def _nearest(values: np.ndarray, finest: Grid) -> np.ndarray:
    rows, columns = (np.arange(n) * values.shape[k] // n for k, n in ((0, finest.height), (1, finest.width)))
    return values[rows][:, columns]
