"""The images of a source, whichever way it is to be read."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from geofm_lib.data.sources import archives, chosen, listing, pattern, previews, webdataset
from geofm_lib.data.sources.item import Item
from geofm_lib.data.sources.unused import LEFT_OUT, Unused, look


@dataclass
class Reading:
    """items: the images, in an order that never changes. total: how many, None where only reading would tell.

    labels_from: what gives labels and sides, in words, "" where folders may. others: an image of each of a few folders
    that the pattern leaves out. warnings: sentences for the page. unused: counts files that are no images,
    while `items` is read. source: where they are from, None for drawn ones. bands: names of those that are stacked.
    """

    items: Iterator[Item]
    total: int | None
    labels_from: str = ""
    others: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unused: Unused = field(default_factory=Unused)
    source: listing.Source | None = None
    bands: list[str] = field(default_factory=list)


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
        unused = Unused()
        items = webdataset.items(source, wanted, unused)
        return Reading(items, None, "webdataset", unused=unused, source=source)
    if not text:
        unused = Unused()
        return Reading(archives.items(source, apart, unused), previews.count(source), unused=unused, source=source)
    found = chosen.survey(source, text)
    total = len(found.samples) if "band" in fields else found.files
    labels_from = "pattern" if fields else ""
    items = chosen.items(source, text, found, bands, nodata, alpha, apart)
    unused = Unused() if archives.is_stream(source) else look(source)
    others = list(found.others.values())
    for suffix, images in found.not_chosen.items():
        unused.add_all(suffix, LEFT_OUT, images, others[0])
    if "label" not in fields:
        unused.use(found.described().values())
    named = found.choose(bands)[0] if "band" in fields else []
    return Reading(items, total, labels_from, others, unused=unused, source=source, bands=named)
