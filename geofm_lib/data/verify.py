"""Is this an image the model can be trained on? Decode it fully, and convert it if it has to be.

What goes into a data shard decodes, with the decoder that training uses, to what was measured: pictures of 8 bits to
RGB, rasters (TIFF, JPEG 2000, pictures of 16 bits) to their bands and their type. Files that do so already keep their
bytes. Other pictures are written again as PNG if they were lossless, as JPEG (quality 95) if they were not; other
rasters, and all with pixels that were not measured, as the TIFF of `decode.encode`. Nothing here switches on Pillow's
LOAD_TRUNCATED_IMAGES: half an image is no image.
"""

import io
import math
import struct
import warnings
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from geofm_lib.data import decode, transforms
from geofm_lib.data.sources import raster, tiff
from geofm_lib.data.sources.item import Geo, Raster, Refused

LEAST_SIDE = 8  # pixels: one patch of the smallest models
# Segments of a JPEG, by the second byte of their mark (ITU-T T.81, table B.1).
APP, START_OF_SCAN = range(0xE0, 0xF0), 0xDA
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # sizes and colours; the three are tables and reserved
LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
MOST_PIXELS = raster.MOST_PIXELS
ORIENTATION = 0x0112  # the EXIF tag of cameras that were held sideways
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large, but not yet refused


class Fit(NamedTuple):
    """What an image must be made to fit.

    short_side: pixels to which a larger short side is reduced, 0: as it is. quality: of the JPEG that every image is
    written as again, 0: bytes stay; a JPEG holds no bands, so rasters stay what they are. nodata: the value that means
    not measured, "none", or "" for what the file declares and obvious fill. alpha: "auto", "keep" or "mask". valid_min:
    the least share of measured pixels.
    """

    short_side: int = 0
    quality: int = 0
    nodata: str = ""
    alpha: str = "auto"
    valid_min: float = 0.1


AS_IT_IS = Fit()


class Checked(NamedTuple):
    """An image that is fit for a shard.

    data: its bytes there. converted: what was done to its numbers, "" for nothing. values: uint8, uint16, int16 or
    float32 [H, W, C], what the bytes decode to. valid: bool [H, W], where they were measured, None for everywhere.
    """

    data: bytes
    converted: str
    values: np.ndarray
    valid: np.ndarray | None = None
    geo: Geo | None = None


def check(data: bytes | Raster, fit: Fit = AS_IT_IS) -> Checked:
    """Verify and, if need be, convert one image. Raises Refused with the reason.

    ValueError where no image of this kind can be read here, because rasterio is not installed.
    """
    try:
        if isinstance(data, Raster):
            return _raster(data, b"", fit)
        if not data:
            raise Refused("the file is empty")
        if not fit.quality and fit.nodata in ("", "none") and (colours := _plain_colours(data, fit.short_side)):
            return Checked(data, raster.GREY if colours == 1 else "", decode.read(data)[0])
        if raster.driver(data):
            plain = _plain(data)
            return _raster(raster.read(data, fit.nodata, fit.alpha, plain), data, fit, plain)
        return _picture(data, fit)
    except Refused:
        raise
    except ImportError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # decoders raise whatever the bytes lead them to: OSError, struct.error, SyntaxError ...
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(f"damaged: {lines[0][:200]}") from None


def _raster(found: Raster, original: bytes, fit: Fit, plain: np.ndarray | None = None) -> Checked:
    """Pixels as they go into a shard: by the original bytes if these decode to the very same numbers."""
    values, valid, geo, converted = found.values, found.valid, found.geo, list(found.converted)
    height, width, count = values.shape
    if not found.series:
        _check_side(width, height)
    share = 1.0 if valid is None else float(valid.mean())
    if valid is not None:
        if share < fit.valid_min or not share:
            measured, least = (math.floor(1000 * each) / 10 for each in (share, fit.valid_min))
            words = f"only {measured:g} % of its {'dates' if found.series else 'pixels'} were measured"
            raise Refused(f"{words}; at least {least:g} % are needed (valid_min)" if least else words)
        values = _filled(values, valid)
    if 0 < fit.short_side < min(height, width):
        values, valid = _smaller(values, valid, fit.short_side)
        converted.append(f"reduced to {fit.short_side} pixels")
    if fit.quality and values.dtype == np.uint8 and count == 3 and valid is None:
        data = _encode(Image.fromarray(values), "JPEG", fit.quality)
        return Checked(data, ", ".join([*converted, f"JPEG {fit.quality}"]), decode.read(data)[0], None, geo)
    kept = original and valid is None and (_is_same(values, plain) or _decodes_to(values, original))
    if not kept:
        original = decode.encode(values, valid, found.compressed)
    return Checked(original, ", ".join(converted), values, valid, geo)


def _plain(data: bytes) -> np.ndarray | None:
    """Values of a TIFF that all read alike; None for others, and where the decoder fails: GDAL knows the reason."""
    try:
        return decode.plain(data) if data[:4] in tiff.SIGNS else None
    except Exception:
        return None


def _is_same(values: np.ndarray, plain: np.ndarray | None) -> bool:
    """Are these the decoder's own values, unchanged in memory?"""
    return plain is not None and values.shape == plain.shape and np.may_share_memory(values, plain)


def _decodes_to(values: np.ndarray, data: bytes) -> bool:
    """Does the decoder of shards read these bytes as these very numbers, all of them measured?"""
    if data[:4] not in tiff.SIGNS:
        return False
    try:
        read, valid = decode.read(data)
    except Exception:  # whatever the decoder makes of what only GDAL reads
        return False
    return valid is None and read.dtype == values.dtype and np.array_equal(read, values)


def _filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A copy that holds, where nothing was measured, the mean of what was, band by band."""
    mean = values[valid].mean(axis=0, dtype=np.float64)
    whole = mean if values.dtype.kind == "f" else np.rint(mean)
    return np.where(valid[..., None], values, whole.astype(values.dtype))


def _smaller(values: np.ndarray, valid: np.ndarray | None, short_side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reduced in size; measured is what comes from measured pixels alone."""
    size = _sides(values.shape[:2], short_side)
    small = transforms.resize(torch.from_numpy(values).permute(2, 0, 1), *size).permute(1, 2, 0).contiguous().numpy()
    if valid is not None:
        valid = transforms.resize(torch.from_numpy(valid)[None], *size)[0].numpy()
    return small, valid


def _picture(data: bytes, fit: Fit) -> Checked:
    """A picture of 8 bits: JPEG, PNG, GIF, BMP, WebP and what else Pillow reads."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise Refused("not an image in a format that can be read") from None
    except Image.DecompressionBombError:
        raise Refused(f"too large: more than {MOST_PIXELS} pixels; set tile=512 to cut it into tiles") from None
    _check_side(*image.size)
    if image.format == "PNG":
        Image.open(io.BytesIO(data)).verify()  # the checksum of every chunk, which decoding leaves out
    kind, grey = _format(image), image.mode == "L" and not image.has_transparency_data
    if image.has_transparency_data or fit.nodata not in ("", "none"):
        found = _bands(ImageOps.exif_transpose(image), fit)
        if found.valid is not None or found.values.shape[-1] != 3:
            return _raster(found, b"", fit)
    if image.has_transparency_data:
        image, what = Image.fromarray(found.values), ", ".join(found.converted)
    else:
        what = _conversion(image)
    reduced = 0 < fit.short_side < min(image.size)
    if what or reduced or fit.quality:
        image = ImageOps.exif_transpose(image)
        image = image if image.mode == "L" else image.convert("RGB")
        if reduced:
            image = image.resize(_sides(image.size, fit.short_side), Image.Resampling.BICUBIC)
        data = _encode(image, "JPEG" if fit.quality else kind, fit.quality)
        steps = [what, f"reduced to {fit.short_side} pixels" if reduced else ""]
        what = ", ".join(filter(None, [*steps, f"JPEG {fit.quality}" if fit.quality else ""]))
    what = ", ".join(filter(None, [raster.GREY if grey else "", what]))
    return Checked(data, what, decode.read(data)[0])


def _bands(image: Image.Image, fit: Fit) -> Raster:
    """A picture whose transparency or setting of nodata says where it was measured.

    Transparency that is stored as samples may be a band; clear colours of a palette are always a mask.
    """
    stored = not image.has_transparency_data or image.mode in ("RGBA", "LA")
    grey = image.mode in ("L", "LA")
    if not image.has_transparency_data:
        image = image.convert("RGB")
    elif not stored:
        image = image.convert("RGBA")
    pixels = np.array(image)
    colours = image.getbands()
    names = ["alpha" if name == "A" else name for name in colours]
    found = raster.understand(
        np.moveaxis(pixels, -1, 0), [None] * 4, None, names, nodata=fit.nodata, alpha=fit.alpha if stored else "mask"
    )
    found.compressed = True
    if found.values.shape[-1] == 1:
        found.values = found.values.repeat(3, axis=-1)
    if grey and found.values.shape[-1] == 3:
        found.converted.append(raster.GREY)
    return found


def _plain_colours(data: bytes, short_side: int) -> int:
    """Colours of a JPEG that needs no more than to be decoded, 0 for any other file.

    They are read from its segments, in a fiftieth of Pillow's time.
    """
    width = height = colours = kind = 0
    at = 2
    try:
        while data[:3] == decode.JPEG and data[at] == 0xFF and kind != START_OF_SCAN:
            kind, length = data[at + 1], 256 * data[at + 2] + data[at + 3]
            if kind in APP and data.startswith((b"Exif\0", b"MPF\0"), at + 4):
                return 0  # it may have to be turned, or hold several pictures
            if kind in FRAMES:
                height, width, colours = struct.unpack_from(">HHB", data, at + 5)
            at += 2 + length
    except (IndexError, struct.error):
        return 0
    if kind != START_OF_SCAN or colours not in (1, 3) or not height or height * width > MOST_PIXELS:
        return 0
    _check_side(width, height)
    return 0 if 0 < short_side < min(height, width) else colours


def _check_side(width: int, height: int) -> None:
    if min(width, height) < LEAST_SIDE:
        raise Refused(f"too small: {width} x {height} pixels, at least {LEAST_SIDE} a side are needed")


def _conversion(image: Image.Image) -> str:
    """What has to be changed before training can use a picture, "" for nothing; only its header is read."""
    if image.mode.startswith("I") or image.mode == "F":
        raise Refused(f"{image.format} with numbers of 32 bits; save it as TIFF")
    if image.mode not in ("RGB", "L"):
        return f"{image.mode} to RGB"
    if image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) != 1:
        return "turned upright"
    return "" if image.format in ("JPEG", "PNG") else f"{image.format} to {_format(image)}"


def _sides(sides: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Both sides in the same proportion, the shorter one `short_side` long."""
    one, other = (max(short_side, round(n * short_side / min(sides))) for n in sides)
    return one, other


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format in LOSSY else "PNG"


def _encode(image: Image.Image, kind: str, quality: int) -> bytes:
    file = io.BytesIO()
    options = {"quality": quality} if quality else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.info.clear()  # no colour key, profile or orientation of the source
    image.save(file, kind, **options)
    return file.getvalue()
