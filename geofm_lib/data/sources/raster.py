"""Rasters as GDAL reads them (through rasterio): every number as stored, and which pixels were measured.

TIFF, JPEG 2000 and pictures of 16 bits come through here. `read` takes the bytes of a file, `read_window` a part of an
open one; `understand` has the rules for both. rasterio is imported when it is first needed.
"""

import functools
import logging
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from geofm_lib.data.sources import tiff, validity
from geofm_lib.data.sources.item import Geo, Raster, Refused

JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # in a box, and the bare code stream
PNG, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # where a PNG says how many bits a sample has
NETPBM = re.compile(rb"P([56])\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s")  # of a PGM or PPM; last the largest value
MOST_VALUES, MOST_PIXELS = 2**30, 2 * (Image.MAX_IMAGE_PIXELS or 2**29)  # of one image; more is a scene, or a bomb
UNFOLDS, ALWAYS = 1032, 2**26  # bytes that a byte of DEFLATE can become; bytes that any file may become
MOST_BYTES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float64": 8, "complex64": 8, "complex128": 16}
# Formats whose files hold their own pixels: a VRT, or a service's description, would lead to others.
FORMATS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "GIF", "BMP", "WEBP", "PNM")
# No file beside the one that is read, no network, no half images, and no word on the screen.
OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_NUM_THREADS": "1",
    "GTIFF_SRS_SOURCE": "GEOKEYS",  # not looked up again by its code: half the time of opening a chip
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{noext}",
}
# Of GDAL's words: what means nothing to a reader, and how it says that bytes are missing.
NAME_IN_MEMORY = r"'?(/vsimem/)?[0-9a-f/-]{36,}(\.\w*)?[:,' ]*| at scanline 4294967295;?| at row 4294967295, col \d+;?"
CUT = r"(?i)read error|io error|segment too long|not enough data|premature|too short|got \d+ bytes|VSIFReadL"
MERGED = 0.01  # of an image's different numbers: if more become equal, it is said
GREY = "grey to RGB"  # of a picture; a raster of one band stays one
UNSCALED = "stored numbers kept:"  # begins what is told of a file's own scale and offset
WHITE = "white is 0 (MINISWHITE): numbers as stored"
# Numbers that training does not know -> those that they become: always the same, so that a set stays of one kind.
BECOMES = {"int8": "int16"} | dict.fromkeys(("uint32", "int32", "uint64", "int64", "float16", "float64"), "float32")


def driver(data: bytes) -> str:
    """GDAL's name of the format, "" for what is no raster (8-bit pictures, VRTs and everything else)."""
    if data[:4] in tiff.SIGNS:
        return "GTiff"
    if data.startswith(JPEG_2000):
        return "JP2OpenJPEG"
    if data.startswith(PNG) and data[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10":
        return "PNG"
    head = NETPBM.match(data[:1000])
    return "PNM" if head and int(head[4]) > 255 else ""


@functools.cache
def gdal() -> Any:
    """rasterio, and with it GDAL. Raises ImportError, one sentence, where it is not installed."""
    try:
        import rasterio
    except ImportError as error:
        words = f"TIFF and JPEG 2000 are read by rasterio, which cannot be imported here ({error})"
        raise ImportError(f"{words}: pip install rasterio, then start again ('geofm doctor' shows it)") from None
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what matters is raised as well
    return rasterio


def read(data: bytes, nodata: str = "", alpha: str = "auto", plain: np.ndarray | None = None) -> Raster:
    """The raster in the bytes of a file; nodata and alpha as in `verify.Fit`.

    plain: its values [H, W, C] as another reader gives them (`decode.plain`): GDAL then says only what they mean.
    Several grey pages of one size are bands; of other files with several pages the first is read, which is told.
    Raises Refused for what is intact and of no use, OSError for what is damaged.
    """
    rasterio = gdal()
    count = len(tiff.pages(data)) if data[:4] in tiff.SIGNS else 1
    head = NETPBM.match(data[:1000])
    if head and len(data) - head.end() < 2 * int(head[2]) * int(head[3]) * {b"5": 1, b"6": 3}[head[1]]:
        raise OSError("the file is cut short")  # GDAL fills it up with zeros
    try:
        with rasterio.Env(**OPTIONS), rasterio.MemoryFile(data) as file, opened(file.name, driver(data)) as first:
            if first.height * first.width > MOST_PIXELS:
                raise Refused(f"too large: {first.width} x {first.height} pixels; set tile=512 to cut it into tiles")
            values = first.count * first.height * first.width * count
            check_size(values, values * MOST_BYTES.get(first.dtypes[0], 4), len(data))
            found = _pages(first, nodata, alpha) if count > 1 else None
            if found is None:
                found = read_window(first, None, nodata, alpha, plain)
                if count > 1:
                    found.converted.append(f"first of {count} pages")
            return found
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        raise OSError(words(error)) from None


def opened(path: str, driver: str | None = "GTiff") -> Any:
    """The open data set of a file, within `rasterio.Env(**OPTIONS)`; driver None: any of FORMATS. CMYK stays CMYK."""
    rasterio = gdal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        dataset = rasterio.io.DatasetReader(path, driver=[driver] if driver else [*FORMATS])
        if dataset.driver == "GTiff" and dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK":
            dataset.close()
            dataset = rasterio.open(f"GTIFF_RAW:{path}", driver="GTiff")
    return dataset


def read_window(
    dataset: Any, window: Any, nodata: str = "", alpha: str = "auto", plain: np.ndarray | None = None
) -> Raster:
    """A part (None: all) of an open rasterio data set; plain as for `read`."""
    kind = dataset.dtypes[0]
    check_kind(kind)
    colours = [each.name for each in dataset.colorinterp]
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    mask = dataset.read_masks(1, window=window) > 0 if "per_dataset" in flags and "alpha" not in flags else None
    palette = colours_of(dataset)
    same = plain is not None and (plain.shape, plain.dtype.name) == ((*dataset.shape, dataset.count), kind)
    values = plain.transpose(2, 0, 1) if plain is not None and same else dataset.read(window=window)
    found = understand(values, dataset.nodatavals, mask, colours, palette, nodata, alpha)
    found.converted += scaling(dataset)
    found.geo = geo(dataset, window)
    found.compressed = dataset.driver != "GTiff" or dataset.compression is not None
    return found


def scaling(dataset: Any) -> list[str]:
    """What is told of a file's scale, offset and white: they make other units of its numbers, and are not applied."""
    told = [
        f"{name} {' '.join(f'{value:.9g}' for value in sorted({*values}))}"
        for name, values, none in (("scale", dataset.scales, 1), ("offset", dataset.offsets, 0))
        if {*values} != {none}
    ]
    unscaled = [f"{UNSCALED} {' and '.join(told)} not applied"] if told else []
    return unscaled + [WHITE] * white_is_zero(dataset)


def check_kind(kind: str) -> None:
    """Refuse a type of numbers that has no order."""
    if "complex" in kind:
        raise Refused(f"complex numbers ({kind}); save their magnitude, or real and imaginary part as two bands")


def colours_of(dataset: Any) -> dict[int, tuple[int, ...]] | None:
    """The palette of a data set; None where it has none, or only a grey that GDAL gives single bits and MINISWHITE."""
    if dataset.colorinterp[0].name != "palette" or dataset.count > 1 or white_is_zero(dataset):
        return None
    palette: dict[int, tuple[int, ...]] = dataset.colormap(1)
    return None if {*palette.values()} <= {(0, 0, 0, 255), (255, 255, 255, 255)} else palette


def white_is_zero(dataset: Any) -> bool:
    """Is 0 white in it? Numbers stay as they are stored, which is told."""
    return bool(dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" and dataset.dtypes[0] != "bool")


def understand(
    values_CHW: np.ndarray,
    declared: Sequence[float | None],
    mask: np.ndarray | None,
    colours: Sequence[str],
    palette: dict[int, tuple[int, ...]] | None = None,
    nodata: str = "",
    alpha: str = "auto",
) -> Raster:
    """Pixels as GDAL gives them -> a Raster: alpha taken apart, what was not measured masked, types that are known.

    declared: the nodata value of each band, None for none. mask: bool [H, W], of the file. colours: GDAL's names of
    what the bands are ("red", "alpha", "undefined" ...). palette: {value: (red, green, blue, alpha)}.
    """
    converted: list[str] = []
    bands, by_alpha, note = validity.split_alpha(np.moveaxis(values_CHW, 0, -1), colours, alpha)
    converted += filter(None, [note])
    valid, notes = validity.measured(bands, declared[: bands.shape[-1]], mask, by_alpha, nodata)
    converted += notes
    bands, note = _known_type(bands, valid)
    converted += filter(None, [note])
    if palette is not None:
        bands, valid = _through(palette, bands, valid)
        converted.append("palette to RGB")
    return Raster(np.ascontiguousarray(bands), valid, None, converted)


def _pages(first: Any, nodata: str, alpha: str) -> Raster | None:
    """Grey pages of one size and type as bands; None if they are anything else."""
    names = sorted(first.subdatasets, key=lambda name: int(name.split(":")[1]))  # GDAL: 1, 10, 2 ...
    with_open: list[Any] = []
    try:
        with_open += map(opened, names)
        kinds = {(each.count, each.shape, each.dtypes[0], each.colorinterp[0].name) for each in with_open}
        if len(names) < 2 or len(kinds) != 1 or first.count != 1 or first.colorinterp[0].name == "palette":
            return None
        check_kind(first.dtypes[0])
        values = np.concatenate([each.read() for each in with_open])
        declared = [value for each in with_open for value in each.nodatavals]
        found = understand(values, declared, None, ["undefined"] * len(values), None, nodata, alpha)
        found.converted += scaling(first)
        found.geo, found.compressed = geo(first, None), first.compression is not None
        return found
    finally:
        for each in with_open:
            each.close()


def _known_type(bands: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, str]:
    """The bands in a type that training knows, and what was done."""
    kind = bands.dtype.name
    if kind not in BECOMES:
        return bands, ""
    if valid is not None:  # what is not measured has no say, and stays to be seen where it is asked again (stacks)
        end = np.finfo(np.float32).max
        unseen = bands.clip(-end, end) if bands.dtype.kind == "f" else bands.dtype.type(0)
        bands = np.where(valid[..., None], bands, unseen)
    with np.errstate(over="ignore"):
        known = bands.astype(BECOMES[kind])
    if not np.isfinite(known if valid is None else known[valid]).all():
        raise Refused(f"numbers of {kind} beyond the range of float32; save it in other units")
    return known, f"{kind} to {known.dtype}{_rounded(bands, known)}"


def _rounded(bands: np.ndarray, known: np.ndarray) -> str:
    """What a type with fewer digits does to numbers: any change of whole ones, of others only what merges many."""
    if bands.dtype.kind in "iu":
        return "" if np.array_equal(known.astype(np.float64), bands.astype(np.float64)) else " (rounded)"
    seen = np.isfinite(bands)
    many, left = (np.unique(each[seen]).size for each in (bands, known))
    return " (rounded: different numbers become equal)" if left < (1 - MERGED) * many else ""


def _through(
    palette: dict[int, tuple[int, ...]], bands: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers of colours -> red, green, blue; those whose colour is clear are not measured."""
    table = np.zeros((int(np.iinfo(bands.dtype).max) + 1, 4), np.uint8)
    table[list(palette)] = list(palette.values())
    pixels = table[bands[..., 0]]
    seen = pixels[..., 3] > 0
    valid = seen if valid is None else valid & seen
    return pixels[..., :3], None if valid.all() else valid


def check_size(values: int, needed: int, size: int) -> None:
    """Refuse what needs more memory than its bytes can fill, before any is asked for. needed, size: bytes."""
    if values > MOST_VALUES:
        raise Refused(f"too large: {values} numbers; set tile=512 to cut it into tiles")
    if needed > max(ALWAYS, UNFOLDS * size):
        raise OSError(f"{size} bytes cannot hold {values} numbers")


def geo(dataset: Any, window: Any) -> Geo | None:
    """Where a part (None: all) of an open data set lies; None where the file does not say."""
    transform = dataset.transform if window is None else dataset.window_transform(window)
    system = dataset.crs
    if not system and _of_pixels(dataset):
        return None
    return Geo(_system(system.to_wkt()) if system else "", tuple(transform)[:6])


def _of_pixels(dataset: Any) -> bool:
    """Does a file only count its pixels, from its top or its bottom? Writers put that where they know no place."""
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    return (abs(a), b, c, d, abs(e)) == (1, 0, 0, 0, 1) and abs(f) in (0, dataset.height)


@functools.lru_cache(maxsize=64)
def _system(wkt: str) -> str:
    """EPSG code of a reference system where it has one."""
    try:
        code = gdal().crs.CRS.from_wkt(wkt).to_epsg()
    except gdal().errors.CRSError:
        code = None
    return f"EPSG:{code}" if code else wkt


def words(error: BaseException) -> str:
    """What GDAL found wrong, in one line: the first cause, without the name that the file has in memory."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    words = re.sub(NAME_IN_MEMORY, "", " ".join(str(error).split()))
    return f"the file is cut short or changed ({words})" if re.search(CUT, words) else words or type(error).__name__
