"""The bytes in a data shard to pixels: one decoder for each kind of file, and none that a rank might lack.

simplejpeg (libjpeg-turbo) reads JPEG: the very pixels of Pillow in 0.6 of its time (reports/LOG.md), and strictly, so
that a file cut short is never filled up with grey. tifffile, without imagecodecs, reads TIFF, Pillow the rest. What
these do not read as it was measured is packed as the TIFF that `encode` writes (see `verify`).
"""

import io
import logging
import warnings

import numpy as np
import simplejpeg
import tifffile
import torch
from PIL import Image

from geofm_lib.data.sources import item, raster, tiff
from geofm_lib.data.sources.item import Refused

# The value that is 1 in the units of mean and std, by a type of torch, of numpy, or its name.
FULL = {kind: full for name, full in item.FULL.items() for kind in (name, np.dtype(name), getattr(torch, name))}
JPEG = b"\xff\xd8\xff"
# Compressions (none, LZW, two numbers of DEFLATE, PackBits) that every reader unpacks to the same numbers, and colours
# up to CMYK that are numbers as stored. Pillow, without more than its own libtiff, reads two of them in 8 bits.
PLAIN, PHOTOMETRIC, BY_PILLOW = {1, 5, 8, 32946, 32773}, tifffile.PHOTOMETRIC.SEPARATED, {5, 32773}
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised as well
warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")


def decode(data: bytes) -> torch.Tensor:
    """Encoded image -> its values [C, H, W], of a type in FULL. Raises as `read`."""
    # Tensors keep their HWC memory under a CHW shape, in which resizing is faster.
    return torch.from_numpy(read(data)[0]).permute(2, 0, 1)


def read(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Encoded image -> values [H, W, C], and where they were measured: bool [H, W], None for everywhere.

    Pictures are uint8 and RGB (grey is repeated); a TIFF has the bands and the type that it stores. Raises Refused, or
    what its decoder makes of a broken file (OSError, ValueError, SyntaxError ...).
    """
    if data[:3] == JPEG:
        return simplejpeg.decode_jpeg(data), None
    if data[:4] in tiff.SIGNS:
        return _tiff(data)
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image if image.mode == "RGB" else image.convert("RGB")), None


def encode(values: np.ndarray, valid: np.ndarray | None = None, compressed: bool = False) -> bytes:
    """Values [H, W, C], and where they were measured, as the TIFF that `read` reads: validity is its alpha sample."""
    count = values.shape[-1]
    samples = values
    if valid is not None:
        alpha = np.where(valid, values.dtype.type(FULL[values.dtype]), values.dtype.type(0))
        samples = np.concatenate([values, alpha[..., None]], axis=-1)
    colour = 3 if values.dtype == np.uint8 and count >= 3 else 1
    extra = ["unspecified"] * (count - colour) + ["unassalpha"] * (valid is not None)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        samples if samples.shape[-1] > 1 else samples[..., 0],
        photometric="rgb" if colour == 3 else "minisblack",
        planarconfig="contig" if samples.shape[-1] > 1 else None,
        extrasamples=extra or None,
        compression="zlib" if compressed else None,
        compressionargs={"level": 1} if compressed else None,  # level 6 takes three times as long for 2 % less
        predictor=2 if compressed and values.dtype.kind in "iu" else None,  # differences of neighbours: 15 % less
        metadata=None,
    )
    return file.getvalue()


def plain(data: bytes) -> np.ndarray | None:
    """The values of a TIFF [H, W, C] that all readers read alike; None for any other.

    It has one page, whole bytes in the usual order, a usual compression, no alpha, and colours that need no
    arithmetic. Raises as `read` for a file that is damaged.
    """
    if len(tiff.pages(data)) != 1:
        return None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        whole = page.dtype in FULL and page.bitspersample == 8 * page.dtype.itemsize and page.fillorder == 1
        if not whole or page.compression not in PLAIN or page.photometric > PHOTOMETRIC or any(page.extrasamples):
            return None
        return _samples(file, data)


def _tiff(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    tiff.pages(data)  # tifffile leaves out a page that is not there without a word
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        array = _samples(file, data)
        if tifffile.EXTRASAMPLE.UNASSALPHA not in file.pages.first.extrasamples[-1:]:
            return array, None
    valid = array[..., -1] != 0
    return np.ascontiguousarray(array[..., :-1]), None if valid.all() else valid


def _samples(file: tifffile.TiffFile, data: bytes) -> np.ndarray:
    """Everything that a TIFF stores for its pixels, [H, W, samples]."""
    series = file.series[0]
    if series.dtype not in FULL or series.ndim not in (2, 3):
        raise Refused(f"a TIFF of {series.dtype} {series.shape}")
    raster.check_size(series.size, series.nbytes, len(data))
    _check_complete(series, len(data))
    try:
        array = series.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        found = _by_pillow(series.keyframe, data)
        if found is None:
            name = tifffile.COMPRESSION(series.keyframe.compression).name
            raise Refused(f"compressed by {name}, which data shards do not hold") from None
        return found
    if array.ndim == 2:
        return array[..., None]
    return array if series.axes[-1] != "X" else np.moveaxis(array, 0, -1)  # samples last, as in memory of most


def _by_pillow(page: tifffile.TiffPage, data: bytes) -> np.ndarray | None:
    """Grey or RGB of 8 bits; None for the rest, and for what Pillow would turn upright or make white of black."""
    mode = {(1, 1): "L", (2, 3): "RGB"}.get((page.photometric, page.samplesperpixel))
    turned = page.tags.get("Orientation")
    if not mode or page.compression not in BY_PILLOW or page.dtype != np.uint8 or turned and turned.value != 1:
        return None
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image).reshape(image.height, image.width, -1) if image.mode == mode else None


def _check_complete(series: tifffile.TiffPageSeries, size: int) -> None:
    """Raise OSError for a file cut short, which tifffile fills up with zeros in some compressions."""
    for page in series.pages:
        if page is not None and np.add(page.dataoffsets, page.databytecounts).max(initial=0) > size:
            raise OSError("the file is cut short")
