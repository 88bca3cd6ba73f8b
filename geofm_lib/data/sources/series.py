"""A table of series as the data set: one a row, of a pixel or parcel over its dates. No torch.

A series is an image one pixel high, [1, dates, bands]. So split, data shards, statistics, missing values, encoders and
probes are those of images. Columns are known by the usual names of 01's tables; without a header the first one is the
label, as in the UCR archive. All others are values: of the first date every band, then of the next.
"""

import csv
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geofm_lib.catalog.metrics import counted
from geofm_lib.data.sources import listing
from geofm_lib.data.sources.archives import READ_ERRORS
from geofm_lib.data.sources.columns import NAMES
from geofm_lib.data.sources.item import Item, Raster, Refused
from geofm_lib.data.sources.raster import read as read_raster
from geofm_lib.data.sources.sides import side_of
from geofm_lib.settings import PrepareSettings

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = "\t,;| "
LEAST = 3  # values, with fewer a row is no series
LOOKED_AT = 200  # rows by which a table is known
MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-"}
MAJORITY = 0.5  # of the rows have as many values as most; else nothing says which are meant
BLOCK = 32  # pixels a side of the ground that stays on one side, of rasters whose pixels are series
IMAGES_ONLY = "pattern bands pairs tile stride short_side quality alpha channels block_size".split()


class Table(NamedTuple):
    """How a table is read. header: its names, () without one. roles: {"label": its column ...}."""

    path: Path
    delimiter: str
    header: tuple[str, ...]
    roles: dict[str, int]

    def values(self, row: list[str]) -> list[str]:
        """The cells of a row that are values."""
        own = set(self.roles.values())
        return [cell for k, cell in enumerate(row) if k not in own]

    def cell(self, row: list[str], role: str) -> str:
        """What a row says, "" where no column has that role."""
        return row[self.roles[role]] if role in self.roles and self.roles[role] < len(row) else ""


def is_one(path: Path) -> bool:
    """Is a file a table of series? ValueError, one sentence, for a table of numbers that are too few for that."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        table = look(path)
        first = [row for _, row in itertools.islice(_rows(table), LOOKED_AT)]
    except ValueError:
        return False  # what is no text, or damaged, others say
    if any(listing.is_image_name(cell) for row in first for cell in row):
        return False
    rows = [table.values(row) for row in first]
    cells = [cell for row in rows for cell in row]
    numbers = [cell for cell in cells if _is_number(cell)]
    if len(numbers) <= len(cells) / 2 or set(map(str.lower, numbers)) <= MISSING:
        return False
    if (most := Counter(map(len, rows)).most_common(1)[0][0]) < LEAST:
        words = f"{counted(most, 'value')} a row beside the label"
        raise ValueError(f"dataset: '{path}' has {words}; a series needs at least {LEAST}")
    return True


def look(path: Path, labels: str = "") -> Table:
    """How a table is read, by its first row. labels: the setting; with "none" no column is taken for the label.

    ValueError, one sentence, for a file that is no text.
    """
    first = next((line for line in _lines(path) if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    row = next(_split([first], delimiter), [])
    plain = ["".join(filter(str.isalnum, cell.lower())) for cell in row]
    usual = {role: set(names.split()) for role, names in NAMES.items()}
    roles: dict[str, int] = {}
    header = not all(map(_is_number, row[1:])) or plain[:1] and plain[0] in set().union(*usual.values())
    if header:
        places = {
            role: next((k for k, name in enumerate(plain) if name in names), None) for role, names in usual.items()
        }
        roles = {role: place for role, place in places.items() if place is not None}
    if labels == "none":
        roles.pop("label", None)
    elif "label" not in roles:
        roles["label"] = next((k for k in range(len(row)) if k not in roles.values()), 0)
    return Table(path, delimiter, tuple(row) if header else (), roles)


def items(path: Path, labels: str = "", dates: int = 0, nodata: str = "") -> tuple[Iterator[Item], int]:
    """(the series, how many). dates: of each; 0: every value is one. nodata: a value that means not measured.

    Rows that cannot be series are items whose `load` refuses them. ValueError, one sentence, for a table in which
    most cannot.
    """
    table = look(path, labels)
    counts, kinds = Counter[int](), set[str]()
    for _, row in _rows(table):
        counts[len(table.values(row))] += 1
        kinds.add(table.cell(row, "label"))
    total = counts.total()
    if not total:
        raise ValueError(f"dataset: '{path}' has no row of values; a series a row is needed")
    (length, most), *_ = counts.most_common()
    if most < MAJORITY * total:
        raise ValueError(
            f"dataset: the rows of '{path}' have from {min(counts)} to {max(counts)} values, and no number of them is "
            "that of most; write series of one length"
        )
    if dates and length % dates:
        raise ValueError(f"dates: the {length} values of a row in '{path}' are no whole bands of {dates} dates")
    if len(kinds) > 0.5 * total > 10:
        named = table.header[table.roles["label"]] if table.header else "its first column"
        raise ValueError(
            f"labels: {named} of '{path}' says another label in {len(kinds)} of {total} rows, as a value would; name "
            "the label's column 'label' in a header, or set labels=none"
        )
    return _items(table, length, dates or length, nodata), total


def _items(table: Table, length: int, dates: int, nodata: str) -> Iterator[Item]:
    name = table.path.name.split(".")[0]
    for number, row in _rows(table):
        load = functools.partial(raster, table.values(row), length, dates, nodata)
        own = table.cell(row, "path") or f"{number:07d}"
        label, side, group = (table.cell(row, role) for role in ("label", "side", "group"))
        yield Item(f"{name}/{own}", load, label, side_of(side), group)


def raster(cells: list[str], length: int, dates: int, nodata: str = "") -> Raster:
    """The values of a row, float32 [1, dates, bands]; a date is measured where all of its bands are.

    Raises Refused for another number of them than `length`, and for what is no number.
    """
    if len(cells) != length:
        raise Refused(f"it has {len(cells)} values, not {length} as most")
    missing = np.array([cell.lower() in MISSING or _same(cell, nodata) for cell in cells])
    values = np.zeros(length, np.float32)
    for k, cell in enumerate(cells):
        if not missing[k]:
            try:
                values[k] = float(cell)
            except ValueError:
                raise Refused(f"value {k + 1} is '{cell[:40]}', which is no number") from None
            if not math.isfinite(values[k]):
                raise Refused(f"value {k + 1} is '{cell[:40]}', which is not finite")
    valid = np.asarray(~missing.reshape(1, dates, -1).any(axis=2))
    return Raster(values.reshape(1, dates, -1), None if valid.all() else valid, series=True)


def of_pixels(images: Iterator[Item], dates: int, nodata: str) -> Iterator[Item]:
    """Each pixel of rasters as a series of so many dates: bands are all of the first date, then of the next.

    Pixels of a block of ground are one scene. A raster that cannot be read, or has other bands, is one item that is
    refused.
    """
    for item in images:
        try:
            data = item.load() if callable(item.load) else item.load
            found = data if isinstance(data, Raster) else read_raster(data, nodata, "keep")
            height, width, bands = found.values.shape
            if bands % dates:
                raise Refused(f"its {bands} bands are not those of {dates} dates")
        except (*READ_ERRORS, ValueError) as error:
            yield item._replace(load=functools.partial(_refuse, str(error)))
            continue
        for y, x in itertools.product(range(height), range(width)):
            valid = None if found.valid is None else np.full((1, dates), found.valid[y, x])
            values = found.values[y, x].reshape(1, dates, -1)
            load = functools.partial(Raster, values, valid, series=True)
            scene = f"{item.scene or item.name} {y // BLOCK} {x // BLOCK}"
            yield Item(f"{item.name}/{y:05d}_{x:05d}", load, item.label, item.side, scene)


def _refuse(reason: str) -> Raster:
    raise Refused(reason)


def refuse_options(settings: PrepareSettings) -> None:
    """Raise ValueError for an option of images, and for another table of labels than the series' own."""
    fields = type(settings).model_fields
    for name in IMAGES_ONLY:
        if (value := getattr(settings, name)) != fields[name].default:
            raise ValueError(
                f"{name}: {value!r} is for images, and 'dataset' names a table of series; leave it as it is"
            )
    if settings.labels not in ("", "none"):
        raise ValueError(
            f"labels: '{settings.labels}' cannot be used, since a table of series has its labels in a column; leave it "
            "empty, or use 'none'"
        )


def _rows(table: Table) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank, without the header."""
    rows = enumerate(_split(_lines(table.path), table.delimiter), start=1)
    found = ((number, row) for number, row in rows if any(row))
    yield from itertools.islice(found, 1 if table.header else 0, None)


def _split(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each line; between spaces there may be several, as in older files of the UCR archive."""
    rows = map(str.split, lines) if delimiter == " " else csv.reader(lines, delimiter=delimiter)
    return ([cell.strip() for cell in row] for row in rows)


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"dataset: '{path}' is no text in UTF-8 ({error}); write it as CSV in UTF-8") from None


def _same(cell: str, nodata: str) -> bool:
    try:
        return nodata not in ("", "none") and float(cell) == float(nodata)
    except ValueError:
        return False


def _is_number(cell: str) -> bool:
    try:
        return cell.strip().lower() in MISSING or math.isfinite(float(cell))
    except ValueError:
        return False
