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


def test_a_tiff_is_its_bands_and_a_picture_is_rgb():
    eight = (BANDS_HWC // 12).astype(np.uint8)
    stored = [
        (eight[..., 0], GREY),
        (BANDS_HWC[..., 0].astype(np.int16), GREY),
        (eight[..., :3], {"photometric": "rgb"}),
        (eight[..., :4], {"photometric": "rgb", "extrasamples": ["unspecified"]}),  # the last is near infrared
        (eight[..., :2], GREY | {"planarconfig": "contig"}),
        (BANDS_HWC[..., :3], {"photometric": "rgb"}),  # sixteen bits are not cut to eight
        (BANDS_HWC.astype(np.float32), GREY | {"planarconfig": "contig"}),
    ]
    for array, options in stored:
        values, valid = decode.read(tiff(array, **options))
        assert np.array_equal(values, array.reshape(*values.shape))
        assert values.dtype == array.dtype
        assert valid is None
    assert decode.read(encode(noise().convert("L")))[0].shape == (20, 24, 3)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("compressed", [False, True])
def test_values_and_validity_come_back_from_a_shard(kind, bands, compressed):
    random = np.random.default_rng(bands)
    values = random.normal(0, 100, (40, 24, bands)) if kind == "float32" else random.integers(0, 250, (40, 24, bands))
    values = values.astype(kind)
    valid = random.random((40, 24)) < 0.7
    for seen in (None, valid):
        read, found = decode.read(decode.encode(values, seen, compressed))
        assert np.array_equal(read, values)
        assert read.dtype == kind
        assert (found is None) if seen is None else np.array_equal(found, seen)
    assert decode.read(decode.encode(values, np.ones_like(valid), compressed))[1] is None


def test_what_shards_do_not_hold_says_so():
    chunked = GREY | {"planarconfig": "contig"}
    lzw = tiff(BANDS_HWC, **chunked, rowsperstrip=40)
    at = lzw.index(b"\x03\x01\x03\x00\x01\x00\x00\x00") + 8  # the tag Compression, a short: 1 is none, 5 is LZW
    cases = {
        "a TIFF of float64": tiff(BANDS_HWC.astype(np.float64), **chunked),
        "compressed by LZW, which data shards do not hold": lzw[:at] + b"\x05" + lzw[at + 1 :],
    }
    for words, data in cases.items():
        with pytest.raises(decode.Refused, match=re.escape(words)):
            decode.decode(data)


def test_a_header_cannot_ask_for_any_amount_of_memory():
    data = bytearray(tiff(BANDS_HWC, **GREY, planarconfig="contig", rowsperstrip=40))
    at = data.index(b"\x01\x01\x04\x00\x01\x00\x00\x00") + 8  # the tag ImageLength, a long
    data[at : at + 4] = b"\xff\xff\xff\x00"
    with pytest.raises((OSError, decode.Refused), match="cannot hold|cut short|too large"):
        decode.decode(bytes(data))
