"""Encoded bytes to pixels: the same as Pillow's, every band of a multi-band TIFF, and no half images."""

import io
import re

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from geofm_lib.data import decode
from tests.support.pictures import encode, noise

BANDS_HWC = np.random.default_rng(0).integers(0, 3000, (40, 24, 5), dtype=np.uint16)
BANDS_CHW = np.ascontiguousarray(np.moveaxis(BANDS_HWC, 2, 0))
GREY = {"photometric": "minisblack"}
LAYOUTS = {
    "pixel by pixel": (BANDS_HWC, {"planarconfig": "contig"}),
    "in strips": (BANDS_HWC, {"planarconfig": "contig", "rowsperstrip": 8}),
    "band by band": (BANDS_CHW, {"planarconfig": "separate"}),
    "a page a band": (BANDS_CHW, {"metadata": None}),
    "tiles": (BANDS_HWC, {"planarconfig": "contig", "tile": (16, 16)}),
    "deflate with differences": (BANDS_HWC, {"planarconfig": "contig", "compression": "zlib", "predictor": True}),
    "BigTIFF, other byte order": (BANDS_HWC, {"planarconfig": "contig", "bigtiff": True, "byteorder": ">"}),
}


def tiff(array, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 2, "progressive": True}])
def test_jpegs_are_the_pixels_of_pillow(mode, options):
    data = encode(noise(3, (61, 47)).convert(mode), "JPEG", quality=85, **options)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode.decode(data).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_of_bands(layout):
    array, options = LAYOUTS[layout]
    data = tiff(array, **GREY, **options)
    pixels = decode.decode(data)
    assert pixels.dtype == torch.uint16
    assert np.array_equal(pixels.numpy(), BANDS_CHW)
    for tenth in range(10):
        with pytest.raises(Exception):  # noqa: B017 (whatever its decoder makes of it)
            decode.decode(data[: len(data) * tenth // 10])


@pytest.mark.parametrize("tenth", range(10))
def test_a_jpeg_cut_short_is_refused(tenth):
    data = encode(noise(1, (200, 160)), "JPEG", quality=90)
    with pytest.raises((ValueError, OSError)):
        decode.decode(data[: len(data) * tenth // 10])


def test_what_is_a_picture_and_what_are_bands():
    eight = (BANDS_HWC // 12).astype(np.uint8)
    pictures = [
        (eight[..., 0], GREY),
        (BANDS_HWC[..., 0], GREY),
        (eight[..., :3], {"photometric": "rgb"}),
        (eight[..., :4], {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    ]
    for array, options in pictures:
        assert decode.bands(tiff(array, **options)) is None
    bands = [
        (eight[..., :4], {"photometric": "rgb", "extrasamples": ["unspecified"]}),  # red, green, blue, near infrared
        (eight[..., :2], GREY | {"planarconfig": "contig"}),
        (BANDS_HWC[..., :3], {"photometric": "rgb"}),  # sixteen bits are not cut to eight
    ]
    for array, options in bands:
        assert np.array_equal(decode.bands(tiff(array, **options)), array)
    assert decode.bands(encode(noise())) is None


def test_what_cannot_be_read_says_why():
    chunked = GREY | {"planarconfig": "contig"}
    lzw = tiff(BANDS_HWC, **chunked, rowsperstrip=40)
    at = lzw.index(b"\x03\x01\x03\x00\x01\x00\x00\x00") + 8  # the tag Compression, a short: 1 is none, 5 is LZW
    cases = {
        "bands of float32; save them as uint8 or uint16": tiff(BANDS_HWC.astype(np.float32), **chunked),
        "bands of int16; save": tiff(BANDS_HWC.astype(np.int16), **chunked),
        "compressed by LZW, for which 'pip install imagecodecs' is needed": lzw[:at] + b"\x05" + lzw[at + 1 :],
    }
    for words, data in cases.items():
        with pytest.raises(decode.Unsupported, match=re.escape(words)):
            decode.decode(data)


def test_a_header_cannot_ask_for_any_amount_of_memory():
    data = bytearray(tiff(BANDS_HWC, **GREY, planarconfig="contig", rowsperstrip=40))
    at = data.index(b"\x01\x01\x04\x00\x01\x00\x00\x00") + 8  # the tag ImageLength, a long
    data[at : at + 2] = b"\xff\xff"
    with pytest.raises(OSError, match="cannot hold|cut short"):
        decode.decode(bytes(data))
