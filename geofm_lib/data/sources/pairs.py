"""Pairs of images, such as one place on two dates: a table of the data set, and pairs.csv of a prepared folder.

`pairs.csv` alone is enough where its columns have usual names. Else `pairs.csv:first=before,second=after`, and
`place=` and `group=` (what stays on one side of the split, such as a cell of a grid).
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geofm_lib import files
from geofm_lib.catalog.metrics import counted
from geofm_lib.data.sources import columns, given, guards, listing, prepared, tables
from geofm_lib.data.sources.finder import NONE, SEVERAL, Finder

FILE = prepared.PAIRS
COLUMNS = ("place", "group", "side", "first", "second")  # the last two: numbers of images within their side
# Usual names of the columns of a table, small letters without signs, the most telling first.
NAMES = {
    "first": "first before pre image1 img1 path1 file1 a t1 date1 prepath imagea firstimage".split(),
    "second": "second after post image2 img2 path2 file2 b t2 date2 postpath imageb secondimage".split(),
    "place": "place placeid location locationid site siteid id key name".split(),
    "group": "group groupid cell cellid block blockid scene sceneid region tile cluster".split(),
}
NEEDED = ("first", "second")
_OPTIONS = re.compile(rf"^(.*?):\s*((?:{'|'.join(NAMES)})\s*=.*)$")


class Pair(NamedTuple):
    """A row: places of two images in the order of a preparation, and the names of their place and group."""

    first: int
    second: int
    place: str
    group: str


@dataclass
class Pairs:
    """What a table says. left_out: reason -> rows, examples: reason -> what the first of them names. file: its name.

    by: the column that the groups are from, "" for none.
    """

    file: str = ""
    by: str = ""
    rows: list[Pair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, example: str) -> None:
        """Count a row that is no pair."""
        self.left_out[reason] += 1
        self.examples.setdefault(reason, example)

    def told(self) -> list[str]:
        """One sentence on the rows that are no pairs, [] for none."""
        if not self.left_out:
            return []
        parts = [f"{count} {reason} (such as '{self.examples[reason]}')" for reason, count in self.left_out.items()]
        return [f"{counted(self.left_out.total(), 'row')} of '{self.file}' make no pair: {', '.join(parts)}"]

    def groups(self, names: Sequence[str]) -> list[str]:
        """What each image belongs to: the group that the table gives, else the images that pairs join; "" outside."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        first, second = (np.array([row[k] for row in self.rows], np.int64) for k in (0, 1))
        edges = [np.stack([first, second])]
        number: dict[str, int] = {}
        if self.by:  # a group is one node more, which all of its images are joined to
            nodes = np.array([number.setdefault(row.group, len(names) + len(number)) for row in self.rows], np.int64)
            edges += [np.stack([first, nodes])]
        whole = np.concatenate(edges, axis=1)
        size = len(names) + len(number)
        graph = coo_array((np.ones(whole.shape[1], np.int8), tuple(whole)), shape=(size, size))
        _, part = connected_components(graph)
        known = np.zeros(size, bool)
        known[whole.ravel()] = True
        title = {int(part[node]): group for group, node in reversed(number.items())}
        return [
            (title.get(int(k)) or f"pairs {k}") if there else ""
            for k, there in zip(part[: len(names)], known, strict=False)
        ]


def parse(setting: str) -> tuple[str, dict[str, list[str]]]:
    """(the table's file, its columns by role) of the setting. Raises ValueError, one sentence.

    >>> parse("pairs.csv:first=before,second=after")
    ('pairs.csv', {'first': ['before'], 'second': ['after']})
    """
    found = _OPTIONS.match(setting.strip())
    if not found:
        if "=" in setting:
            raise ValueError(f"pairs: '{setting}' names none of {', '.join(NAMES)}; write pairs='table.csv:first=...'")
        return setting.strip(), {}
    asked: dict[str, list[str]] = {}
    for piece in found[2].split(","):
        role, _, column = (part.strip() for part in piece.partition("="))
        if role not in NAMES or not column:
            raise ValueError(f"pairs: '{piece.strip()}' must be {', '.join(f'{role}=COLUMN' for role in NAMES)}")
        if role in asked:
            raise ValueError(f"pairs: {role} is given twice")
        asked[role] = [column]
    return found[1].strip(), asked


def glance(setting: str, source: listing.Source) -> None:
    """Raise ValueError, one sentence, for a table that is missing or lacks a column. A tar is not searched for it."""
    file, asked = parse(setting)
    for table, _ in _locate(file, source, closed=source.kind not in ("folder", "zip")):
        with _reading(table) as rows:
            _columns(table.name, next(rows)[1], asked)


def called(setting: str, source: listing.Source) -> str:
    """The path of the table within the data set, "" where it is none of its files."""
    if not setting or source.kind not in ("folder", "zip", "tar"):
        return ""
    file, inside = _locate(parse(setting)[0], source)[0]
    return f"{inside}/{file.name}".lstrip("/")


def read(setting: str, source: listing.Source, names: Sequence[str]) -> Pairs:
    """The pairs among the images called `names`. Raises ValueError, one sentence, for a table that has none."""
    text, asked = parse(setting)
    file, inside = _locate(text, source)[0]
    found, seen = Pairs(file.name), set[frozenset[int]]()
    find = Finder(names, inside)
    with _reading(file) as rows:
        header = next(rows)[1]
        place = _columns(file.name, header, asked)
        found.by = header[place["group"]] if "group" in place else ""
        for number, cells in rows:
            texts = [cells[place[role]] for role in NEEDED]
            ends = [find(text) for text in texts]
            lost = next((t for t, end in zip(texts, ends, strict=True) if end in (NONE, SEVERAL)), None)
            said = {role: cells[place[role]] if role in place else "" for role in ("place", "group")}
            if lost is not None:
                many = SEVERAL in ends and NONE not in ends
                found.leave_out("could mean several images" if many else "name an image that is not there", lost)
            elif ends[0] == ends[1]:
                found.leave_out("name one image twice", texts[0])
            elif frozenset(ends) in seen:
                found.leave_out("repeat a pair", f"{texts[0]} and {texts[1]}")
            elif found.by and not said["group"]:
                found.leave_out(f"have no {found.by}", f"line {number}")
            else:
                seen.add(frozenset(ends))
                found.rows.append(Pair(ends[0], ends[1], said["place"], said["group"]))
    if not found.rows:
        raise ValueError(f"pairs: no row of '{file.name}' is a pair of images that are there; {found.told()[0]}"
                         if found.left_out else f"pairs: '{file.name}' has no rows")  # fmt: skip
    return found


def one_side(pairs: Pairs, sides: list[str], names: Sequence[str]) -> list[Pair]:
    """Those whose images are on one side; the others are counted as left out."""
    kept = [row for row in pairs.rows if sides[row.first] == sides[row.second]]
    for row in pairs.rows:
        if sides[row.first] != sides[row.second]:
            pairs.leave_out("stand on two sides of the split", f"{names[row.first]} and {names[row.second]}")
    return kept


def table(rows: Sequence[Pair], sides: list[str]) -> Iterator[tuple[str, ...]]:
    """Rows of pairs.csv."""
    within, counts = [], Counter[str]()
    for side in sides:
        within.append(counts[side])
        counts[side] += 1
    for row in rows:
        yield (row.place, row.group, sides[row.first], str(within[row.first]), str(within[row.second]))


def of_side(folder: Path, side: str, drawn: np.ndarray | None = None) -> np.ndarray:
    """Int64 [P, 2]: the pairs of a side of a prepared folder, as numbers of its images (those `drawn`, None: all).

    ValueError, one sentence, for a folder without pairs, or a side without.
    """
    found, _ = grouped(folder, side)
    if drawn is None:
        return found
    place = np.searchsorted(drawn, found).clip(max=len(drawn) - 1)
    there = (drawn[place] == found).all(axis=1)
    return place[there].astype(np.int64)


def grouped(folder: Path, side: str) -> tuple[np.ndarray, list[str]]:
    """(int64 [P, 2], the group of each pair, else its place, else its number) of a side, as `of_side`."""
    check(folder, side)
    rows = [row for row in listed(folder) if row[2] == side]
    found = np.array([row[3:] for row in rows], np.int64).reshape(-1, 2)
    return found, [row[1] or row[0] or str(number) for number, row in enumerate(rows)]


def check(folder: Path, side: str) -> None:
    """Raise ValueError, one sentence, for a prepared folder without pairs on this side."""
    again = "prepare the images again with pairs=... (01_data), a table of the two images of each place"
    if not (folder / FILE).is_file():
        raise ValueError(f"'{folder}' has no pairs of dates (no {FILE}); {again}")
    if not any(row[2] == side for row in listed(folder)):
        raise ValueError(f"'{folder}' has no pairs of dates on its {side} side; {again}")


def listed(folder: Path) -> Iterator[list[str]]:
    """The rows of a prepared folder's pairs.csv. ValueError, one sentence, for a file that 01 did not write."""
    files.prove(folder, [FILE] if FILE in files.sums(folder) else [])
    with open(folder / FILE, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"{folder / FILE} is no list of pairs that 01_data wrote; prepare the images again")
        yield from rows


def _locate(text: str, source: listing.Source, closed: bool = False) -> list[tuple[tables.File, str]]:
    try:
        return given.locate(text, source, closed)
    except ValueError:
        where = f"neither here nor in '{source.path}'" if source.path else "since drawn scenes have none"
        raise ValueError(f"pairs: there is no table '{text}', {where}; give its path") from None


@contextmanager
def _reading(file: tables.File) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """`tables.reading`, whose sentences are about the setting `labels` elsewhere."""
    try:
        with tables.reading(file) as rows:
            yield rows
    except ValueError as error:
        raise ValueError(f"pairs: {str(error).removeprefix('labels: ').removeprefix('pairs: ')}") from None


def _columns(name: str, header: list[str], asked: dict[str, list[str]]) -> dict[str, int]:
    """The column of each role: as asked, else by its name. ValueError, one sentence, without both images."""
    try:
        found = {role: places[0] for role, places in columns.named(name, header, asked).items()}
    except ValueError as error:
        raise ValueError(f"pairs: {str(error).removeprefix('labels: ')}") from None
    plain = [guards.only_letters(cell) for cell in header]
    for role, usual in NAMES.items():
        named = sorted(
            (k for k, word in enumerate(plain) if _is(word, usual, role)), key=lambda k: _rank(plain[k], usual)
        )
        if role not in found and named:
            found[role] = named[0]
    lacking = [role for role in NEEDED if role not in found]
    if lacking:
        how = f"say pairs='{name}:first=COLUMN,second=COLUMN'"
        raise ValueError(f"pairs: no column of '{name}' names the {lacking[0]} image of a pair (it has "
                         f"{', '.join(header[:8])}); {how}")  # fmt: skip
    return found


def _is(word: str, usual: list[str], role: str) -> bool:
    return word in usual or role == "group" and word.startswith("cell")


def _rank(word: str, usual: list[str]) -> int:
    return usual.index(word) if word in usual else len(usual)
