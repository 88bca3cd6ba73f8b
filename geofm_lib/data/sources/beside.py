"""Tables and lists beside the images: what alone says labels or sides is used unasked, everything else is told."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from geofm_lib.data.sources import archives, cells, given, listing, sides, tables
from geofm_lib.data.sources.columns import choose
from geofm_lib.data.sources.finder import Finder

COVER = 0.95  # of the images must be in what is used unasked
HITS = 0.5  # of the first rows must name an image
MOST_BYTES = 2**26  # of a table that nobody named


class Beside(NamedTuple):
    """setting: the setting `labels` that takes what was found, "" for nothing. warnings: what was not used."""

    setting: str
    warnings: list[str]


def look(source: listing.Source, names: Sequence[str], candidates: Sequence[str], known: set[str]) -> Beside:
    """Look into some files of a source by their names. known: of "label" and "side", what is given otherwise."""
    if not candidates or source.path is None or source.kind == "tar" and archives.is_compressed(source.path):
        return Beside("", [])
    warnings: list[str] = []
    alone: dict[str, str] = {}  # folder -> what is told of its only list
    by_folder: dict[str, dict[str, str]] = {}  # folder -> {list: its side}
    new: dict[str, str] = {}  # table that says what is not known -> what is told of it
    objects: dict[str, list[str]] = defaultdict(list)  # what they hold -> JSON files that are no tables
    wanted, find = set(candidates), Finder(names)
    for name, load in archives.entries(source, wanted.__contains__, [], apart=True):
        data = load() if callable(load) else load
        if name.lower().endswith(".json") and (what := tables.objects(data[:4096])):
            objects[what].append(archives.clean(name))
        read = _roles(name, data, find)
        if read is None:
            continue
        roles, options = read
        name = archives.clean(name)
        folder, _, file = name.rpartition("/")
        what = f"'{name}' beside the images has their {' and '.join(roles)}"
        told = f"{what}, and is not used: labels='{name}{options}' does"
        side = sides.mentioned(file)
        if side and "side" not in roles:
            by_folder.setdefault(folder, {})[name] = side
            alone[folder] = told if roles else ""
        elif roles:
            warnings.append(told)
            if {"label", "side"} & set(roles) - known and not options:
                new[name] = told
    for what, files in objects.items():
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        told = f"'{files[0]}'{more} beside the images: {what}, not a label for each image, and not used"
        warnings.append(f"{told}; labels='table.csv' takes labels from a table of path,label")
    found = ""
    for folder, lists in by_folder.items():
        setting = ",".join(sorted(lists))
        if not found and "side" not in known and _is_split(setting, lists, source, names):
            found = setting
        elif len(set(lists.values())) > 1:
            warnings.append(f"lists of a split beside the images are not used: labels='{setting}' takes them")
        elif alone[folder]:
            warnings.append(alone[folder])
    if not found and len(new) == 1 and _covers(next(iter(new)), source, names):
        found, told = new.popitem()
        warnings.remove(told)
    return Beside(found, warnings)


def _roles(name: str, data: bytes, find: Finder) -> tuple[list[str], str] | None:
    """(what the columns of a table say of the images, what must stand behind its name); None if it is none of them."""
    if len(data) > MOST_BYTES:
        return None
    find.inside = archives.clean(name).rpartition("/")[0]
    try:
        with tables.reading(tables.File(name, data)) as rows:
            head = [row for _, row in itertools.islice(rows, tables.SAMPLE)]
        if all(len(row) == 1 for row in head):
            words = cells.words([row[0] for row in head], find)
            head = [cells.cut(row[0], words) for row in head]
        columns = choose(
            name, head, {}, find, several_groups=True, sided=bool(sides.mentioned(name.rpartition("/")[2]))
        )
    except ValueError:
        return None
    told = head[1:] if columns.header else head
    hits = sum(find(row[k]) >= 0 for row in told for k in columns.path)
    if hits < HITS * len(told) * len(columns.path) or not told:
        return None
    roles = [role for role in ("label", "side", "group") if getattr(columns, role) or role == "side" and columns.flags]
    return roles, f":group={columns.header[columns.group[-1]]}" if len(columns.group) > 1 else columns.options


def _is_split(setting: str, lists: dict[str, str], source: listing.Source, names: Sequence[str]) -> bool:
    """Do lists of two sides or more cover the images, without contradiction?"""
    return len(set(lists.values())) > 1 and sides.TRAIN in lists.values() and _covers(setting, source, names)


def _covers(setting: str, source: listing.Source, names: Sequence[str]) -> bool:
    """Does what would be read name nearly all of the images, without contradiction?"""
    try:
        return sum(given.read(setting, source, names).listed) >= COVER * len(names)
    except ValueError:
        return False
