"""The images of a source, whichever way it is to be read."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from geofm_lib.data.sources import archives, chosen, listing, pattern, webdataset
from geofm_lib.data.sources.item import Item


@dataclass
class Reading:
    """items: the images, in an order that never changes. total: how many, None where only reading would tell.

    labels_from: what gives labels and sides, in words, "" where folders may. not_chosen: suffix -> images that the
    pattern leaves out; example: one of them. warnings: sentences for the page.
    """

    items: Iterator[Item]
    total: int | None
    labels_from: str = ""
    not_chosen: dict[str, int] = field(default_factory=dict)
    example: str = ""
    warnings: list[str] = field(default_factory=list)


def read(
    source: listing.Source,
    text: str = "",
    bands: str = "",
    nodata: str = "",
    alpha: str = "auto",
    apart: bool = False,
) -> Reading:
    """How to read a source by the settings `pattern` and `bands`. nodata, alpha: as in `verify.Fit`.

    apart: see `archives.entries`; only files that are images of their own are read so.

    Raises ValueError, one sentence, for settings that do not fit what is there.
    """
    fields = pattern.parse(text).fields if text else ()
    if not fields and not apart and webdataset.is_one(source):
        wanted = functools.partial(chosen.is_chosen, pattern.parse(text)) if text else listing.is_image_name
        return Reading(webdataset.items(source, wanted), None, "webdataset")
    if not text:
        return Reading(archives.items(source, apart), archives.count(source))
    found = chosen.survey(source, text)
    if apart and "band" in fields:
        raise ValueError(f"tile: the bands of '{text}' are stacked, and stacks cannot be cut into tiles; set tile=0")
    total = len(found.samples) if "band" in fields else found.files
    labels_from = "pattern" if fields else ""
    items = chosen.items(source, text, found, bands, nodata, alpha, apart)
    return Reading(items, total, labels_from, dict(found.not_chosen), found.example)
