"""The images that a path pattern chooses, one file each or with bands from several (see `pattern` and `stack`)."""

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from geofm_lib.catalog.datasets import DRAWN
from geofm_lib.data.sources import archives, bands, json_labels, listing, pattern, stack
from geofm_lib.data.sources.item import Item, Raster, Refused
from geofm_lib.data.sources.pattern import Match, Pattern
from geofm_lib.data.sources.sides import WORDS, side_of

MOST_BANDS = 512
MOST_OTHERS = 64  # folders of which an image that is not taken is remembered
AT_LAUNCH = 100_000  # files that are held against a pattern before a run is started
LOOKED_AT = 10_000  # paths that are compared with a pattern that matches none


@dataclass
class Survey:
    """What a pattern finds in a source, by names alone.

    top: the folder below which it is held against paths. files: how many it matches; not_chosen: other images by
    suffix; others: one of each folder, of a few. samples: for bands, sample -> the numbers of its bands as bits.
    bands: their names. beside: folder -> the one JSON file in it, "" for several. homes: folder -> the one sample in
    it, () for several.
    cut_short: were there more files than should be looked at?
    """

    top: str = ""
    files: int = 0
    not_chosen: Counter[str] = field(default_factory=Counter)
    others: dict[str, str] = field(default_factory=dict)
    samples: dict[tuple[str, ...], int] = field(default_factory=dict)
    bands: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    homes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cut_short: bool = False

    def described(self) -> dict[str, str]:
        """folder -> the one JSON file beside the one sample in it."""
        return {folder: path for folder, path in self.beside.items() if path and self.homes.get(folder)}

    def counts(self) -> dict[str, int]:
        """band -> samples that have it."""
        masks = Counter(self.samples.values())
        return {name: sum(n for mask, n in masks.items() if mask >> k & 1) for k, name in enumerate(self.bands)}

    def choose(self, which: str = "") -> tuple[list[str], list[str]]:
        """As `bands.choose`, which raises; which: setting `bands`."""
        return bands.choose(self.counts(), len(self.samples), which)


def check(text: str, chosen: str, source: listing.Source) -> Survey | None:
    """Raise ValueError, one sentence, for settings `pattern` and `bands` that the first files show to be wrong.

    Returns what the pattern finds among these files, None where they were not looked at.
    """
    names = bands.order(chosen)
    if names and (not text or "band" not in pattern.parse(text).fields):
        raise ValueError(f"bands: '{chosen}' needs a pattern with {{band}}, such as pattern='{{patch}}/*_{{band}}.tif'")
    if text and source.kind in DRAWN:
        raise ValueError(
            f"pattern: '{text}' chooses files, and the drawn '{source.kind}' have none; leave pattern empty"
        )
    if text and source.kind in ("folder", "zip"):
        found = survey(source, text, AT_LAUNCH)
        if found.samples and not found.cut_short:
            found.choose(chosen)
        return found
    if text:
        pattern.parse(text)
    return None


def survey(source: listing.Source, text: str, most: int | None = None) -> Survey:
    """What the pattern finds. Raises ValueError, one sentence, when that cannot be meant.

    most: files to look at; when none of so many fits, that is no fault yet.
    """
    template = pattern.parse(text)
    if "band" in template.fields and archives.is_stream(source):
        raise ValueError(
            f"dataset: '{source.path}' is a compressed tar, out of which the bands of a sample cannot be put together; "
            "unpack it, or pack it again as a plain tar or a zip"
        )
    top: str | None = ""
    while top is not None:
        found, below = _survey(source, template, top, most)
        if found.files or found.cut_short:
            return found
        top = below
    raise ValueError(_nothing(source, template))


def items(
    source: listing.Source,
    text: str,
    found: Survey,
    which: str = "",
    nodata: str = "",
    alpha: str = "auto",
    apart: bool = False,
) -> Iterator[Item]:
    """The images, in an order that never changes. which: setting `bands`. nodata, alpha: as in `verify.Fit`.

    apart: see `archives.entries`.

    Raises ValueError, one sentence, where it is not clear which bands are meant.
    """
    template = pattern.parse(text)
    if "band" not in template.fields:
        return _files(source, template, found, apart)
    chosen, others = found.choose(which)
    return _stacks(source, template, found, chosen, [] if which else others, (nodata, alpha))


def _files(source: listing.Source, template: Pattern, found: Survey, apart: bool) -> Iterator[Item]:
    troubles: list[tuple[str, str]] = []
    for name, load in archives.entries(source, functools.partial(is_chosen, template, top=found.top), troubles, apart):
        match = _match(template, found.top, name)
        yield Item(archives.clean(name), load, *_says(match.fields if match else {}))
    yield from archives.lost(troubles)


def is_chosen(template: Pattern, name: str, top: str = "") -> bool:
    """Is this an image whose path below `top` reads like the pattern?"""
    return _match(template, top, name) is not None


def _match(template: Pattern, top: str, name: str) -> Match | None:
    path = archives.clean(name)
    if not path.startswith(top) or not listing.is_image_name(path):
        return None
    return template.match(path.removeprefix(top))


def _says(fields: dict[str, str]) -> tuple[str, str, str]:
    """Label, side and scene."""
    scene = next((fields[name] for name in pattern.KEPT_TOGETHER if name in fields), "")
    return fields.get("label", ""), side_of(fields.get("side", "")), scene


def _survey(source: listing.Source, template: Pattern, top: str, most: int | None) -> tuple[Survey, str | None]:
    """(what is found below `top`, the single folder in it that holds everything or None)."""
    found, numbers, folders = Survey(top), dict[str, int](), set[str]()
    stacked = "band" in template.fields
    for number, path in enumerate(archives.every(source)):
        if number == most:
            found.cut_short = True
            break
        if not listing.is_image_name(path):
            if stacked and path.endswith(".json"):
                folder = os.path.dirname(path)
                found.beside[folder] = "" if folder in found.beside else path
            continue
        folders.add(path.removeprefix(top).partition("/")[0] if "/" in path.removeprefix(top) else "")
        match = _match(template, top, path)
        if match is None:
            found.not_chosen[os.path.splitext(path)[1].lower()] += 1
            if len(found.others) < MOST_OTHERS:
                found.others.setdefault(os.path.dirname(path), path)
            continue
        found.files += 1
        if (word := match.fields.get("side")) is not None and not side_of(word):
            raise ValueError(_unknown_side(template.text, word, path))
        if stacked:
            if len(numbers) > MOST_BANDS:
                raise ValueError(
                    f"pattern: '{template.text}' finds more than {MOST_BANDS} bands, such as "
                    f"{', '.join(islice(numbers, 3))}; {{band}} must be the text in which the files of a sample differ"
                )
            bit = 1 << numbers.setdefault(match.fields["band"], len(numbers))
            before = found.samples.get(sample := match.sample(), 0)
            if before & bit:
                raise ValueError(_twice(source, template, top, match, path))
            found.samples[sample] = before | bit
            folder = os.path.dirname(path)
            if found.homes.setdefault(folder, sample) != sample:
                found.homes[folder] = ()  # of several samples
    found.bands = list(numbers)
    inside = f"{top}{folders.pop()}/" if len(folders) == 1 and "" not in folders else None
    return found, inside


def _stacks(
    source: listing.Source,
    template: Pattern,
    found: Survey,
    chosen: list[str],
    others: list[str],
    how: tuple[str, str],
) -> Iterator[Item]:
    """Each sample as soon as its last file has come by."""
    troubles: list[tuple[str, str]] = []
    label_of = _beside(source, found) if "label" not in template.fields else lambda folder: ""
    waiting: dict[tuple[str, ...], dict[str, tuple[str, Match, Callable[[], bytes]]]] = {}
    wanted = functools.partial(is_chosen, template, top=found.top)
    for name, load in archives.entries(source, wanted, troubles, apart=True):
        match = _match(template, found.top, name)
        assert match is not None and callable(load)
        files = waiting.setdefault(sample := match.sample(), {})
        files[match.fields["band"]] = archives.clean(name), match, load
        if len(files) < found.samples[sample].bit_count():
            continue
        del waiting[sample]
        path, match, _ = files[min(files, key=bands.natural)]
        start, end = (len(found.top) + at for at in match.band)
        name = os.path.splitext(f"{path[:start]}bands{path[end:]}")[0] + ".tif"
        label, side, scene = _says(match.fields)
        missing = [band for band in chosen if band not in files]
        if missing:
            give: Callable[[], Raster] = functools.partial(_refuse, f"it has no band {', '.join(missing)}")
        else:
            loads = tuple((band, files[band][2]) for band in chosen)
            give = stack.Stack(loads, tuple(band for band in others if band in files), *how)
        yield Item(name, give, label or label_of(os.path.dirname(path)), side, scene)
    yield from archives.lost(troubles)


def _refuse(reason: str) -> Raster:
    raise Refused(reason)


def _beside(source: listing.Source, found: Survey) -> Callable[[str], str]:
    """A function from a folder to the label in the JSON file beside its one sample; read when it is asked for."""
    paths = {path: folder for folder, path in found.described().items()}
    loads: dict[str, bytes | Callable[[], bytes]] = {}
    if paths:
        for name, load in archives.entries(source, lambda name: archives.clean(name) in paths, [], apart=True):
            loads[paths[archives.clean(name)]] = load

    def label(folder: str) -> str:
        load = loads.pop(folder, b"")
        with contextlib.suppress(*archives.READ_ERRORS):
            return sys.intern(json_labels.label(load() if callable(load) else load))
        return ""

    return label


def _nothing(source: listing.Source, template: Pattern) -> str:
    """Why no image reads like the pattern: the path that is most like it, and what other files do."""
    near = pattern.nearest(template.text, islice(filter(listing.is_image_name, archives.every(source)), LOOKED_AT))
    others = (path for path in archives.every(source) if not listing.is_image_name(path))
    other = next(filter(template.match, others), "")
    more = f"; it matches '{other}', which is no image that can be read" if other else ""
    return f"pattern: '{template.text}' matches none of the images; the nearest path is '{near}'{more}"


def _unknown_side(text: str, word: str, path: str) -> str:
    known = ", ".join(WORDS)
    return f"pattern: '{text}' reads {{side}} as '{word}' in '{path}', which is no side; sides are {known} and the like"


def _twice(source: listing.Source, template: Pattern, top: str, match: Match, path: str) -> str:
    """Two files for one band of one sample; the earlier one is looked for again, since this happens once."""
    band = match.fields["band"]

    def same(other: Match | None) -> bool:
        return other is not None and other.sample() == match.sample() and other.fields["band"] == band

    first = next(other for other in archives.every(source) if same(_match(template, top, other)))
    return (
        f"pattern: '{template.text}' finds two files for band {band} of one sample, '{first}' and '{path}'; put what "
        "tells them apart into the pattern, as text or as a field such as {date}"
    )
