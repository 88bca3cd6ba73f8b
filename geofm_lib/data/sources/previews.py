"""Data sets whose images are only previews of arrays, which are not read."""

import os
from collections import Counter

from geofm_lib.data.sources import archives, listing, unused

ARRAYS = tuple(unused.ARRAYS.split())
_ZARR = ".zarr/"  # within a path: a folder that is one array


def count(source: listing.Source) -> int | None:
    """How many images can be listed, None if only reading a compressed tar through would tell.

    Raises ValueError, one sentence, where more arrays than images lie in their folders or have their names.
    """
    if archives.is_stream(source):
        return None
    images, arrays = 0, set[str]()
    for name in archives.every(source):
        image = listing.is_image_name(name)
        images += image
        if not image or _ZARR in name.lower():
            arrays.add(_array(name))
    arrays.discard("")
    folders, stems, example = set[str](), set[str](), ""
    if len(arrays) <= images:
        return images
    for name in filter(listing.is_image_name, archives.every(source)):
        example = example or name
        folders.add(os.path.dirname(name))
        stems.add(_stem(name))
    beside = Counter(
        os.path.splitext(name)[1].lower() for name in arrays if os.path.dirname(name) in folders or _stem(name) in stems
    )
    if beside.total() > images:
        raise ValueError(
            f"dataset: beside {images} images, such as '{example}', lie {beside.total()} arrays "
            f"({' '.join(sorted(beside))}), which are not read: write them as TIFF, as in {unused.WRITE}, or set "
            f"pattern='*{os.path.splitext(example)[1]}' to take the images alone"
        )
    return images


def _array(name: str) -> str:
    """The name of the array that a file is, or is a part of; "" for other files."""
    lower = name.lower()
    at = lower.find(_ZARR)
    if at < 0 and not lower.endswith(ARRAYS):
        return ""
    whole = name[: at + 5] if at >= 0 else name
    return "" if listing.is_hidden(whole) else whole


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]
