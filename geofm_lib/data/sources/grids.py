"""Files of several ground samplings that show the same ground, and GDAL's virtual file that puts them together."""

from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from geofm_lib.data.sources import raster
from geofm_lib.data.sources.bands import few
from geofm_lib.data.sources.item import Geo, Refused

# GDAL's names of types.
TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip


class Grid(NamedTuple):
    """The pixels of a file without their values."""

    name: str
    height: int
    width: int
    dtype: str
    geo: Geo | None


def together(grids: list[Grid]) -> tuple[Grid, list[str]]:
    """(the finest, what is to be told of the others). Raises Refused where they do not belong together."""
    kinds = {grid.dtype: [each.name for each in grids if each.dtype == grid.dtype] for grid in grids}
    if len(kinds) > 1:
        there = [f"{kind} ({few(names)})" for kind, names in kinds.items()]
        raise Refused(f"its bands have different types: {' and '.join(there)}; choose by bands")
    finest = max(grids, key=lambda grid: grid.height * grid.width)
    for grid in grids:
        _check_ground(grid, finest)
    coarser = [grid for grid in grids if (grid.height, grid.width) != (finest.height, finest.width)]
    return finest, [_resampled(coarser, finest)] if coarser else []


def virtual(places: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """(a virtual file of the bands at these places, as XML that GDAL opens, what is to be told).

    Raises Refused as `together`, OSError or rasterio's errors where a file cannot be opened.
    """
    grids, lines, block = list[Grid](), list[tuple[Grid, str, int, float | None]](), (0, 0)
    with raster.gdal().Env(**raster.OPTIONS):
        for name, place in places:
            with raster.opened(place, None) as file:
                grid = Grid(name, file.height, file.width, file.dtypes[0], raster.geo(file, None))
                block = file.block_shapes[0] if grid.height > max((each.height for each in grids), default=0) else block
                grids.append(grid)
                lines += [(grid, place, band, value) for band, value in zip(file.indexes, file.nodatavals, strict=True)]
    finest, told = together(grids)
    if finest.dtype not in TYPES:
        raise Refused(f"its bands are of {finest.dtype}, which cannot be cut into tiles")
    where = ""
    if finest.geo:
        a, b, c, d, e, f = finest.geo.transform
        where = f"<SRS>{escape(finest.geo.crs)}</SRS><GeoTransform>{c!r},{a!r},{b!r},{f!r},{d!r},{e!r}</GeoTransform>"
    bands = []
    for number, (grid, place, band, value) in enumerate(lines, start=1):
        nodata = "" if value is None else f"<NoDataValue>{value!r}</NoDataValue>"
        start = f'dataType="{TYPES[finest.dtype]}" band="{number}" blockXSize="{block[1]}" blockYSize="{block[0]}"'
        source = f'<SourceFilename relativeToVRT="0">{escape(place)}</SourceFilename><SourceBand>{band}</SourceBand>'
        part = f'<SrcRect xOff="0" yOff="0" xSize="{grid.width}" ySize="{grid.height}"/>'
        whole = f'<DstRect xOff="0" yOff="0" xSize="{finest.width}" ySize="{finest.height}"/>'
        inside = f'<SimpleSource resampling="bilinear">{source}{part}{whole}</SimpleSource>'
        bands.append(f"<VRTRasterBand {start}>{nodata}{inside}</VRTRasterBand>")
    size = f'rasterXSize="{finest.width}" rasterYSize="{finest.height}"'
    return f"<VRTDataset {size}>{where}{''.join(bands)}</VRTDataset>", told


def _check_ground(grid: Grid, finest: Grid) -> None:
    """Refuse a file that shows other ground than the finest, by its reference or else by its proportions."""
    h, w, height, width = grid.height, grid.width, finest.height, finest.width
    if abs(w * height - width * h) > max(width, height):  # one pixel of the coarser grid may be cut
        words = f"its bands of {width} x {height} and {w} x {h} pixels ({grid.name}) cannot show the same ground"
        raise Refused(words)
    if grid.geo and finest.geo:
        pixel = max(map(abs, grid.geo.transform[:2]))
        apart = np.abs(np.subtract(_bounds(grid), _bounds(finest))).max()
        if grid.geo.crs != finest.geo.crs or apart > 1.01 * pixel:
            raise Refused(f"its bands {finest.name} and {grid.name} lie on different ground")


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    assert grid.geo is not None
    a, b, c, d, e, f = grid.geo.transform
    return c, f, c + a * grid.width + b * grid.height, f + d * grid.width + e * grid.height


def _resampled(coarser: list[Grid], finest: Grid) -> str:
    """What is told of resampled bands, the same words for all samples of a set: metres where they are known."""
    sides = [_metres(grid) for grid in (*coarser, finest)]
    if all(sides):
        return f"{' and '.join(f'{side:g} m' for side in sorted(set(sides[:-1])))} bands resampled to {sides[-1]:g} m"
    times = sorted({round(finest.width / grid.width, 1) for grid in coarser})
    return f"bands {' and '.join(f'{each:g}' for each in times)} times coarser resampled to the finest"


def _metres(grid: Grid) -> float:
    """The side of a pixel, 0 where it is not known in metres."""
    if grid.geo is None or not grid.geo.crs:
        return 0.0
    units = raster.gdal().crs.CRS.from_user_input(grid.geo.crs).linear_units
    return round(abs(grid.geo.transform[0]), 2) if units in ("metre", "meter") else 0.0
