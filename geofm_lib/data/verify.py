"""Is this an image the model can be trained on? Decode it fully, and convert it if it has to be.

What goes into a data shard decodes, with the decoder that training uses, to 8-bit RGB or to the bands of a multi-band
TIFF (8 or 16 bits, as stored). JPEG, PNG and TIFF files that do so already keep their bytes. Everything else is written
again: as PNG if the source was lossless, as JPEG (quality 95) if it was not. Nothing here switches on Pillow's
LOAD_TRUNCATED_IMAGES: half an image is no image.
"""

import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from geofm_lib.data import decode, transforms
from geofm_lib.data.sources.item import Raster

LEAST_SIDE = 8  # pixels: one patch of the smallest models
# Segments of a JPEG, by the second byte of their mark (ITU-T T.81, table B.1).
APP, START_OF_SCAN = range(0xE0, 0xF0), 0xDA
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # sizes and colours; the three are tables and reserved
LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**29)  # more is what Pillow calls a bomb
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


class Refused(ValueError):
    """Why an image cannot be used, in a few words."""


def check(data: bytes | Raster, fit: Fit = AS_IT_IS) -> tuple[bytes, str, np.ndarray]:
    """Verify and, if need be, convert one image. Raises Refused with the reason, and nothing else.

    Returns bytes fit for a shard, what was converted ("" if they are the original ones), and what they decode to: uint8
    or uint16 [H, W, C].
    """
    try:
        if isinstance(data, Raster):
            raise Refused("pixels without a file")
        return _fit(data, fit.short_side, fit.quality)
    except Refused:
        raise
    except decode.Unsupported as error:
        raise Refused(str(error)) from None
    except Exception as error:  # decoders raise whatever the bytes lead them to: OSError, struct.error, SyntaxError ...
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Refused(f"damaged: {lines[0][:200]}") from None


def _fit(data: bytes, short_side: int, quality: int) -> tuple[bytes, str, np.ndarray]:
    if not data:
        raise Refused("the file is empty")
    if not quality and _is_plain(data, short_side):
        return data, "", decode.pixels(data)
    bands = decode.bands(data)
    if bands is not None:
        height, width, _ = bands.shape
        _check_side(width, height)
        if not 0 < short_side < min(height, width):
            return data, "", bands
        size = _sides((height, width), short_side)
        small = transforms.resize(torch.from_numpy(bands).permute(2, 0, 1), *size).permute(1, 2, 0).numpy()
        return decode.encode_bands(small), f"reduced to {short_side} pixels", small
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise Refused("not an image in a format that can be read") from None
    except Image.DecompressionBombError:
        raise Refused(f"too large: more than {MOST_PIXELS} pixels; cut it into tiles") from None
    _check_side(*image.size)
    what = _conversion(image)
    if image.format == "PNG":
        Image.open(io.BytesIO(data)).verify()  # the checksum of every chunk, which decoding leaves out
    reduced = 0 < short_side < min(image.size)
    if what or reduced or quality:
        fit = _convert(image)
        if reduced:
            fit = fit.resize(_sides(fit.size, short_side), Image.Resampling.BICUBIC)
        data = _encode(fit, "JPEG" if quality else _format(image), quality)
        steps = [what, f"reduced to {short_side} pixels" if reduced else "", f"JPEG {quality}" if quality else ""]
        what = ", ".join(filter(None, steps))
    return data, what, decode.pixels(data)


def _is_plain(data: bytes, short_side: int) -> bool:
    """Is this a JPEG that needs no more than to be decoded? Read from its segments in a fiftieth of Pillow's time."""
    width = height = colours = kind = 0
    at = 2
    try:
        while data[:3] == decode.JPEG and data[at] == 0xFF and kind != START_OF_SCAN:
            kind, length = data[at + 1], 256 * data[at + 2] + data[at + 3]
            if kind in APP and data.startswith((b"Exif\0", b"MPF\0"), at + 4):
                return False  # it may have to be turned, or hold several pictures
            if kind in FRAMES:
                height, width, colours = struct.unpack_from(">HHB", data, at + 5)
            at += 2 + length
    except (IndexError, struct.error):
        return False
    if kind != START_OF_SCAN or colours not in (1, 3) or not height or height * width > MOST_PIXELS:
        return False
    _check_side(width, height)
    return not 0 < short_side < min(height, width)


def _check_side(width: int, height: int) -> None:
    if min(width, height) < LEAST_SIDE:
        raise Refused(f"too small: {width} x {height} pixels, at least {LEAST_SIDE} a side are needed")


def _conversion(image: Image.Image) -> str:
    """What has to be changed before training can use the image, "" for nothing; only its header is read."""
    if image.mode.startswith("I;16"):
        return "16 bits to 8 bits"
    if image.mode in ("I", "F"):
        raise Refused("32-bit pixels, which have no fixed range to scale from; save it with 8 or 16 bits")
    if image.has_transparency_data:
        return "transparency to black"
    if image.mode not in ("RGB", "L"):
        return f"{image.mode} to RGB"
    if image.format in ("JPEG", "TIFF") and image.getexif().get(ORIENTATION, 1) != 1:
        return "turned upright"
    # A PNG with 16-bit colours opens as 8-bit RGB, by the high byte, here as in training: nothing to convert.
    return "" if image.format in ("JPEG", "PNG", "TIFF") else f"{image.format} to {_format(image)}"


def _convert(image: Image.Image) -> Image.Image:
    """8-bit RGB or grey."""
    if image.mode.startswith("I;16"):
        # By the full range, 0..65535 -> 0..255: no stretching, so images stay comparable. Pillow's own cuts at 255.
        return Image.fromarray(np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        # In imagery from above, transparent means: nothing was measured here. Black is what that looks like in RGB.
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)
    return image if image.mode == "L" else image.convert("RGB")


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
