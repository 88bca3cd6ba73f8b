"""Scenes cut into tiles: windows of files that are too large to be one image, read in bounded memory by many processes.

GDAL reads them, so that a tile costs no more than its part of the scene. Tiles that share blocks of the file (strips,
or tiles of its own) form a group, which is decoded once and whose tiles go to the same process.
"""

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from geofm_lib.data.sources import archives, listing, raster, stack, validity
from geofm_lib.data.sources.item import Item, Raster, Refused

GROUP_BYTES = 2**23  # of a group where the file has blocks to end at
MOST_GROUP = 3 * 2**24  # wherever it ends: a row of tiles of a striped scene of 10,980 x 4 x 16 bits takes 45 MB
MOST_BLOCK = 2**28  # of a file's block, which GDAL decodes in one piece
MOST_TILE = 2**28  # bytes of a tile
SAMPLES, SAMPLE = 4, 64  # parts along each side of a scene that are looked at first, and their pixels a side
CACHE_MB = 8  # of GDAL's own cache, a process
NAME = re.compile(r"(.*)/r(\d{5,})_c(\d{5,})\.tif", re.DOTALL)  # scene, first row, first column
RASTERS = ("GTiff", "JP2OpenJPEG", "VRT")  # GDAL's names of formats whose single band stays one
# Unlike an image of a set, a scene may have its georeference or nodata in a file beside it.
OPTIONS = raster.OPTIONS | {
    "GDAL_CACHEMAX": CACHE_MB,
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_PAM_ENABLED": "YES",
}


class Box(NamedTuple):
    """A part of a scene, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Scene(NamedTuple):
    """What is known of a scene before its tiles are read. block: rows and columns that are decoded at once.

    alpha, fills: what its fourth band is, and which values mean that nothing was measured: the same for all tiles.
    """

    item: Item
    place: str  # for GDAL
    told: tuple[str, ...]
    height: int
    width: int
    pixel: int  # bytes
    block: tuple[int, int]
    alpha: str = "auto"
    fills: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """Reads a tile, in whichever process. group: the part of the scene that is decoded for it and its neighbours."""

    place: str
    group: Box
    box: Box
    nbytes: int
    nodata: str = ""
    alpha: str = "auto"
    told: tuple[str, ...] = ()  # of the scene
    fills: tuple[float, ...] = ()  # that the scene has, though it declares none

    @property
    def together(self) -> tuple[str, Box]:
        """Tiles with the same one should be read one after the other, in one process."""
        return self.place, self.group

    def __call__(self) -> Raster:
        """The tile's pixels. Raises OSError with the reason when they cannot be read."""
        return _read(self)


class Cut(NamedTuple):
    """tiles: in the order of the scenes, by groups. total: how many. left_out: share of pixels that lie in no tile."""

    tiles: Iterator[Item]
    total: int
    left_out: float


def check(source: listing.Source) -> None:
    """Raise ValueError, one sentence, for a source whose scenes cannot be read in parts."""
    if source.path is not None and source.kind != "prepared" and archives.is_stream(source):
        raise ValueError(f"tile: '{source.path}' is compressed, so no parts of a scene can be read from it; unpack it")


def cut(items: Iterable[Item], tile: int, stride: int = 0, nodata: str = "", alpha: str = "auto") -> Cut:
    """Every image of a source as tiles of `tile` x `tile` pixels, every `stride` pixels (0: as tile).

    What is left at the right and bottom edge gets a tile that is moved inwards, so that nothing is lost, except where
    stride is larger than tile. A scene that cannot be cut comes as one item that raises the reason. Opens every scene
    here, and reads none.
    """
    stride = stride or tile
    found = [_scene(item, tile, nodata, alpha) for item in items]
    scenes = [scene for scene in found if isinstance(scene, Scene)]
    sides = [[len(starts(side, tile, stride)) for side in (scene.height, scene.width)] for scene in scenes]
    count = sum(rows * columns for rows, columns in sides) + len(found) - len(scenes)
    seen = sum(covered(scene.height, tile, stride) * covered(scene.width, tile, stride) for scene in scenes)
    every = sum(scene.height * scene.width for scene in scenes)

    def tiles() -> Iterator[Item]:
        for each in found:
            if isinstance(each, Scene):
                yield from _tiles(each, tile, stride, nodata)
            else:
                yield each

    return Cut(tiles(), count, 1 - seen / every if every else 0.0)


def starts(side: int, tile: int, stride: int) -> list[int]:
    """The first pixel of each tile along a side.

    >>> starts(1200, 512, 512), starts(1200, 512, 600)
    ([0, 512, 688], [0, 600])
    """
    found = list(range(0, side - tile + 1, stride))
    rest = side - tile - found[-1] if found else 0
    return [*found, side - tile] if rest and stride <= tile else found


def covered(side: int, tile: int, stride: int) -> int:
    """Pixels along a side that lie in a tile."""
    return side if stride <= tile else tile * len(starts(side, tile, stride))


def origin(name: str) -> tuple[str, int, int] | None:
    """(name of the scene's file, first row, first column) of a tile by its name; None for other names.

    >>> origin("forest/a.tif/r00512_c01024.tif")
    ('forest/a.tif', 512, 1024)
    """
    found = NAME.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found else None


def scene_of(name: str) -> str:
    """The name of the file an image comes from: a tile's scene, any other image's own name."""
    found = origin(name)
    return found[0] if found else name


# Without sizes rasterio takes the blocks of the old file for tiles.
TILED = "rio convert old.tif new.tif --co tiled=yes --co blockxsize=512 --co blockysize=512"


def _scene(item: Item, tile: int, nodata: str, alpha: str) -> Scene | Item:
    """The scene that an item is, or the item with the reason why it cannot be cut."""
    try:
        place, told = item.load.virtual() if isinstance(item.load, stack.Stack) else (archives.place(item.load), [])
        if not place:
            return item  # it raises its own reason
        with _open(place) as file:
            if not file.count:
                return _refuse(
                    item, "it holds no bands, only other images: save one of them as a TIFF, by 'rio convert'"
                )
            raster.check_kind(file.dtypes[0])
            pixel = file.count * np.dtype(file.dtypes[0]).itemsize
            kind = _look(file, nodata, alpha)
            scene = Scene(item, place, tuple(told), file.height, file.width, pixel, file.block_shapes[0], *kind)
    except Refused as error:
        return _refuse(item, str(error))
    except _errors() as error:
        return _refuse(item, why(error))
    height, width = scene.height, scene.width
    if min(height, width) < tile:
        return _refuse(item, f"{width} x {height} pixels are less than a tile; set tile={min(height, width)} or less")
    if tile * tile * pixel > MOST_TILE:
        return _refuse(item, f"a tile of it would have {tile * tile * pixel} bytes, more than {MOST_TILE}; lower tile")
    if (block := scene.block[0] * scene.block[1] * pixel) > MOST_BLOCK:
        fix = f"write it again with '{TILED}'"
        return _refuse(item, f"it is stored in blocks of {block} bytes, too large to be read in parts; {fix}")
    return scene


def _look(file: Any, nodata: str, alpha: str) -> tuple[str, tuple[float, ...]]:
    """(what the fourth band is, fill that nothing declares) by samples from all over the scene.

    A tile alone could not tell: near infrared over water is 0 like a mask, and a corner of fill is too little to see.
    """
    colours = [each.name for each in file.colorinterp]
    fills = validity.FILLS.get(file.dtypes[0], ()) if nodata == "" else ()
    if file.driver not in RASTERS or not fills and "alpha" not in colours:
        return alpha, ()
    side, parts = min(SAMPLE, file.height, file.width), []
    for y, x in itertools.product(range(SAMPLES), repeat=2):
        top, left = (int((length - side) * k / (SAMPLES - 1)) for length, k in ((file.height, y), (file.width, x)))
        with contextlib.suppress(*_errors()):  # its tile will say so
            parts.append(file.read(window=_window(Box(top, left, side, side))).reshape(file.count, -1).T)
    pixels = np.concatenate(parts) if parts else np.zeros((0, file.count))
    if len(pixels) and "alpha" in colours and alpha == "auto":
        at = colours.index("alpha")
        clear, others = pixels[:, None, at], np.delete(pixels, at, 1)[:, None]
        alpha = "mask" if validity.looks_like_mask(clear, others) else "keep"
    bands = [k for k, name in enumerate(colours) if name != "alpha" or alpha == "keep"]
    usual = [fill for fill in fills if fill != 0 or len(bands) > 1]
    seen = (
        fill for fill in usual if len(pixels) and validity.filled(pixels[:, bands], fill).mean() >= validity.LEAST_FILL
    )
    return alpha, tuple(seen)


def _refuse(item: Item, reason: str) -> Item:
    return item._replace(load=functools.partial(_raise, reason))


def _raise(reason: str) -> Raster:
    raise Refused(reason)


def _tiles(scene: Scene, tile: int, stride: int, nodata: str) -> Iterator[Item]:
    item, digits = scene.item, max(5, len(str(max(scene.height, scene.width))))
    for group, boxes in _groups(scene, tile, stride):
        for box in boxes:
            name = f"{item.name}/r{box.top:0{digits}d}_c{box.left:0{digits}d}.tif"
            size, kind = tile * tile * scene.pixel, (nodata, scene.alpha, scene.told, scene.fills)
            load = Tile(scene.place, group, box, size, *kind)
            yield item._replace(name=name, load=load, scene=item.scene or item.name)


def _groups(scene: Scene, tile: int, stride: int) -> Iterator[tuple[Box, list[Box]]]:
    """Boxes of tiles, and the box around those that share blocks of the file, by rows of blocks."""
    lines = _runs(starts(scene.height, tile, stride), scene.block[0], tile, scene.width * scene.pixel)
    for tops in lines:
        height = tops[-1] + tile - tops[0]
        for lefts in _runs(starts(scene.width, tile, stride), scene.block[1], tile, height * scene.pixel, GROUP_BYTES):
            boxes = [Box(top, left, tile, tile) for top in tops for left in lefts]
            yield Box(tops[0], lefts[0], height, lefts[-1] + tile - lefts[0]), boxes


def _runs(first: list[int], block: int, tile: int, line: int, enough: int = 0) -> Iterator[list[int]]:
    """Starts of tiles along a side, in runs that end where a block of the file does once they have `enough` bytes.

    line: bytes of one row or column. No run is larger than MOST_GROUP, but for a run of one.
    """
    run: list[int] = []
    for start in first:
        size = (start + tile - run[0]) * line if run else 0
        if run and (size > MOST_GROUP or size > enough and start // block != run[-1] // block):
            yield run
            run = []
        run.append(start)
    if run:
        yield run


def _read(tile: Tile) -> Raster:
    try:
        part = _group(tile.place, tile.group, os.getpid())
    except _errors() as error:
        _dataset.cache_clear()  # what a decoder gives after its first error is not the image
        raise OSError(why(error)) from None
    (top, left, height, width), file = tile.box, _dataset(tile.place, os.getpid())
    rows = slice(top - tile.group.top, top - tile.group.top + height)
    columns = slice(left - tile.group.left, left - tile.group.left + width)
    mask = None if part.mask is None else part.mask[rows, columns]
    values = part.values[rows, columns].transpose(2, 0, 1)
    found = raster.understand(values, part.declared, mask, part.colours, part.palette, tile.nodata, tile.alpha)
    if found.values.dtype == np.uint8 and found.values.shape[-1] == 1 and file.driver not in RASTERS:
        found.values = found.values.repeat(3, axis=-1)
        found.converted.append(raster.GREY)
    found.converted += raster.scaling(file)
    found.geo = raster.geo(file, _window(tile.box))
    found.converted[:0] = tile.told
    for fill in tile.fills:
        seen = ~validity.filled(found.values, fill)
        if not seen.all() and f"not measured: fill of {fill:g}" not in found.converted:
            found.valid = seen if found.valid is None else found.valid & seen
            found.converted.append(f"not measured: fill of {fill:g}")
    return found


class _Part(NamedTuple):
    """A part of a scene as GDAL gives it. values: [H, W, C]. The rest is as `raster.understand` takes it."""

    values: np.ndarray
    mask: np.ndarray | None
    declared: tuple[float | None, ...]
    colours: list[str]
    palette: dict[int, tuple[int, ...]] | None


@functools.lru_cache(maxsize=1)
def _group(place: str, group: Box, process: int) -> _Part:
    """The pixels of the group that this process reads."""
    file = _dataset(place, process)
    colours = [each.name for each in file.colorinterp]
    flags = {flag.name for flag in file.mask_flag_enums[0]}
    values = np.empty((group.height, group.width, file.count), file.dtypes[0])
    with raster.gdal().Env(**OPTIONS):
        file.read(window=_window(group), out=values.transpose(2, 0, 1))
        masked = "per_dataset" in flags and "alpha" not in flags
        mask = file.read_masks(1, window=_window(group)) > 0 if masked else None
    return _Part(values, mask, file.nodatavals, colours, raster.colours_of(file))


def _window(box: Box) -> Any:
    from rasterio.windows import Window

    return Window(box.left, box.top, box.width, box.height)


@functools.lru_cache(maxsize=1)
def _dataset(place: str, process: int) -> Any:
    """The one open scene of a process: its file position and decoder are never shared."""
    return _open(place)


def _open(place: str) -> Any:
    """A scene, open for reading by GDAL."""
    with raster.gdal().Env(**OPTIONS):
        return raster.opened(place, "VRT" if place.startswith("<VRTDataset") else None)  # of `stack`, no user's file


def _errors() -> tuple[type[Exception], ...]:
    return raster.gdal().errors.RasterioError, OSError


def why(error: BaseException) -> str:
    """GDAL's reason in a few words, without the file's place.

    >>> why(OSError("/tmp/a.jpg, band 1: IReadBlock failed at X offset 0, Y offset 7: libjpeg: Premature end"))
    'libjpeg: Premature end'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "not recognized as" in text or "No such file" in text:
        return "not an image in a format that can be read"
    return re.sub(r"^.*(Y offset \d+: |, band \d+: )", "", text)[:200]
