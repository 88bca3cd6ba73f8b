"""Encoded bytes to pixels: one decoder for each kind of file, the same when images are checked and when they train.

simplejpeg (libjpeg-turbo) reads JPEG: the very pixels of Pillow in 0.6 of its time (reports/LOG.md), and strictly, so
that a file cut short is never filled up with grey. tifffile reads the bands of multi-band TIFFs, Pillow the rest.
"""

import io
import struct

import numpy as np
import simplejpeg
import tifffile
import torch
from PIL import Image

FULL = {torch.uint8: 255, torch.uint16: 65535}  # the value that is 1 in the units of mean and std
JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_VALUES = 2**30  # of a multi-band TIFF
UNFOLDS = 1032  # bytes that a byte of DEFLATE can become; a damaged header may ask for any amount of memory


class Unsupported(ValueError):
    """Why an image that may well be intact cannot be read, in a few words."""


def decode(data: bytes) -> torch.Tensor:
    """Encoded image -> uint8 [3, H, W] (grey is repeated); a multi-band TIFF -> uint8 or uint16 [C, H, W].

    Raises Unsupported, or what its decoder makes of a broken file (OSError, ValueError, SyntaxError ...).
    """
    # Tensors keep their HWC memory under a CHW shape, in which resizing is faster.
    return torch.from_numpy(pixels(data)).permute(2, 0, 1)


def pixels(data: bytes) -> np.ndarray:
    """The same as an array [H, W, C]."""
    if data[:3] == JPEG:
        return simplejpeg.decode_jpeg(data)
    found = bands(data)
    if found is not None:
        return found
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def encode_bands(pixels_HWC: np.ndarray) -> bytes:
    """uint8 or uint16 [H, W, C] -> a multi-band TIFF that `bands` reads."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels_HWC, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


def bands(data: bytes) -> np.ndarray | None:
    """The bands of a multi-band TIFF as stored, uint8 or uint16 [H, W, C]; None for any file that is a picture.

    A TIFF is multi-band when it has 16 bits and several samples a pixel, samples that are neither colour nor alpha,
    or several grey pages of one size. Raises Unsupported for other numbers than uint8 and uint16, for a compression
    that needs a package that is not here, and for more than MOST_VALUES numbers.
    """
    if data[:4] not in TIFF:
        return None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        _check_last_page(file, data)
        series = file.series[0]
        if series.ndim != 3 or _is_picture(series.keyframe):
            return None
        if series.dtype not in (np.uint8, np.uint16):
            raise Unsupported(f"bands of {series.dtype}; save them as uint8 or uint16")
        if series.size > MOST_VALUES:
            raise Unsupported(f"too large: {series.size} numbers; cut it into tiles")
        if series.nbytes > UNFOLDS * len(data):
            raise OSError(f"{len(data)} bytes cannot hold {series.size} numbers")
        _check_complete(series, len(data))
        try:
            array = series.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            name = tifffile.COMPRESSION(series.keyframe.compression).name
            raise Unsupported(f"compressed by {name}, for which 'pip install imagecodecs' is needed") from None
    return array if series.axes[-1] != "X" else np.moveaxis(array, 0, -1)  # samples last, as in memory of most


def _is_picture(page: tifffile.TiffPage) -> bool:
    """Colours, perhaps with alpha, in 8 bits: what Pillow opens as such."""
    unspecified = tifffile.EXTRASAMPLE.UNSPECIFIED in page.extrasamples
    return page.dtype == np.uint8 and 1 < page.samplesperpixel <= 4 and not unspecified


def _check_last_page(file: tifffile.TiffFile, data: bytes) -> None:
    """Raise OSError when the chain of pages points to one that is not there: tifffile leaves it out without a word."""
    kind, at = file.tiff, file.pages[-1].offset
    (tags,) = struct.unpack_from(kind.tagnoformat, data, at)
    (following,) = struct.unpack_from(kind.offsetformat, data, at + kind.tagnosize + tags * kind.tagsize)
    if following:
        raise OSError("the file is cut short")


def _check_complete(series: tifffile.TiffPageSeries, size: int) -> None:
    """Raise OSError for a file cut short, which tifffile fills up with zeros in some compressions."""
    for page in series.pages:
        if page is not None and np.add(page.dataoffsets, page.databytecounts).max(initial=0) > size:
            raise OSError("the file is cut short")
