"""Rows of a table or list in a file: CSV in its many forms, Parquet, JSON lines, or one path a line.

Every row is a list of texts. Nothing is held in memory but a row.
"""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".parquet", ".jsonl", ".ndjson", ".json")
DELIMITERS = ",\t;|"
SAMPLE = 200  # rows by which the form is found
MOST_WHOLE = 2**23  # bytes of a JSON file, which is read as a whole
MOST_CELL = 131_072  # letters, as csv has it
# What a JSON file begins with that is about objects in images, or shapes on a map.
_COCO = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|videos)"\s*:\s*[\[{]')
_GEOJSON = re.compile(rb'\s*\{\s*"type"\s*:\s*"FeatureCollection"')
# First bytes of what is no table, and what to do with it.
_OTHERS = {
    b"PK\3\4": "an Excel workbook or a zip; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x1f\x8b": "compressed; unpack it",
    b"\x93NUMPY": "a numpy array; write it as CSV",
    b"\x89HDF": "an HDF5 file; write it as CSV",
    b"SQLite": "a database; write the table as CSV",
    b"%PDF": "a PDF; write it as CSV",
}


class File(NamedTuple):
    """A file that holds a table. name: for sentences. content: its path, or its bytes where it is in an archive.

    typed: how the setting `labels` names it, "" where that is its name.
    """

    name: str
    content: Path | bytes
    typed: str = ""

    def open(self) -> BinaryIO:
        """Its bytes from the beginning."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else open(self.content, "rb")

    def glance(self) -> bool:
        """May its first rows be read without the rest? ValueError for what is no table by its first bytes."""
        with self.open() as stream:
            start = stream.read(4096)
            size = stream.seek(0, io.SEEK_END)
        if self.name.lower().endswith(".json"):
            _refuse_objects(self.name, start)
        return size <= MOST_WHOLE or not self.name.lower().endswith(".json")


@contextmanager
def reading(file: File) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """(number, cells) of each row that is not blank, the first being the header if there is one.

    Raises ValueError, one sentence, for what is no table or damaged.
    """
    try:
        with file.open() as stream:
            yield _rows(file, stream)
    except OSError as error:
        raise ValueError(f"labels: '{file.name}' cannot be read: {error.strerror or error}") from None


def _rows(file: File, stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    start = stream.read(4096)
    if not start.strip():
        raise ValueError(f"labels: '{file.name}' is empty")
    if start.startswith(b"PAR1"):
        yield from _parquet(file)
        return
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise ValueError(f"labels: '{file.name}' is {what}")
    encoding = _encoding(file, start, stream)
    stream.seek(0)
    text = io.TextIOWrapper(stream, encoding, newline="")
    if file.name.lower().endswith((".jsonl", ".ndjson", ".json")):
        _refuse_objects(file.name, start)
        yield from _json(file, text)
        return
    head = text.read(65_536)
    delimiter = _delimiter(head)
    text.seek(0)
    yield from _csv(file, text, delimiter)


def _encoding(file: File, start: bytes, stream: BinaryIO) -> str:
    """utf-8, utf-16 where the first bytes say so, else Windows' western letters; ValueError for what is no text."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        raise ValueError(f"labels: '{file.name}' is no text: it has bytes of 0; write it as CSV in UTF-8")
    decoder = codecs.getincrementaldecoder("utf-8")()
    stream.seek(0)
    try:
        while piece := stream.read(2**20):
            decoder.decode(piece)
            if b"\0" in piece:
                raise ValueError(f"labels: '{file.name}' is damaged: it has bytes of 0 among its text")
    except UnicodeDecodeError:
        return "cp1252" if _is_text(start, "cp1252") else "latin-1"
    return "utf-8-sig"


def _is_text(start: bytes, encoding: str) -> bool:
    try:
        start.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(head: str) -> str:
    """What separates the cells: that which gives the first rows the same number of cells, and most; "" for a list."""
    lines = [line for line in head.splitlines()[: SAMPLE + 1] if line.strip()]
    if len(head) >= 65_536 and len(lines) > 1:
        lines = lines[: max(1, len(lines) - 1)]  # the last one may be cut
    best, most = "", 1
    for delimiter in DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if widths and min(widths) > most and max(widths) - min(widths) <= (1 if len(set(widths[1:])) == 1 else 0):
            best, most = delimiter, min(widths)
    if not best:  # a damaged table is one all the same: its header tells
        counts = {each: lines[0].count(each) for each in DELIMITERS if lines[0].count(each)}
        in_most = {each: n for each, n in counts.items() if sum(each in line for line in lines) > 0.7 * len(lines)}
        best = max(in_most, key=lambda each: in_most[each], default="")
    return best


def _csv(file: File, text: io.TextIOWrapper, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if not delimiter:
        for number, line in enumerate(text, start=1):
            if len(line) > MOST_CELL:
                raise ValueError(f"labels: '{file.name}' has a line of more than {MOST_CELL} letters, line {number}")
            if line.strip():
                yield number, [line.strip().strip('"')]
        return
    table = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
    width = 0
    try:
        for row in table:
            if not any(map(str.strip, row)):
                continue
            width = width or len(row)
            if len(row) != width:
                if len(row) > width and not any(map(str.strip, row[width:])):
                    row = row[:width]
                else:
                    raise ValueError(
                        f"labels: '{file.name}' has {len(row)} cells in line {table.line_num}, but {width} in its "
                        "first row; mend that line (a cell with a comma needs quotes)"
                    )
            yield table.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        what = f"a quote is not closed, or a cell has more than {MOST_CELL} letters" if "limit" in str(error) else error
        if "end of data" in str(error) or "expected after" in str(error):
            what = "a quote is not closed or not doubled"
        raise ValueError(f"labels: '{file.name}' is damaged near line {table.line_num}: {what}") from None
    except UnicodeDecodeError:
        raise ValueError(f"labels: '{file.name}' mixes encodings; write it in UTF-8") from None


def _parquet(file: File) -> Iterator[tuple[int, list[str]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"labels: '{file.name}' is Parquet, which needs pyarrow: pip install 'geofm[parquet]'"
        ) from None
    try:
        with file.open() as stream, parquet.ParquetFile(stream) as table:
            yield 0, list(table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(65_536):
                columns = [map(_text, column.to_pylist()) for column in batch.columns]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, list(row)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"labels: '{file.name}' is damaged: {str(error).splitlines()[0]}") from None


def _json(file: File, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """One object a line, or a list of objects; or one object of {path: label}."""
    try:
        first = text.read(1)
        text.seek(0)
        if first == "[" or file.name.lower().endswith(".json"):
            whole = json.load(text)
            if isinstance(whole, dict) and {"images", "annotations"} <= set(whole):
                raise ValueError(_no_labels(file.name, "boxes of objects (COCO)"))
            if isinstance(whole, dict):
                whole = [{"path": path, "label": label} for path, label in whole.items()]
            records: Iterator = iter(enumerate(whole, start=1))
        else:
            records = ((n, json.loads(line)) for n, line in enumerate(text, start=1) if line.strip())
        first_row = next(records, (0, None))
        if not isinstance(first_row[1], dict):
            raise ValueError(
                f'labels: \'{file.name}\' must hold objects such as {{"path": "a.png", "label": "forest"}}'
            )
        header = list(first_row[1])
        yield 0, header
        for number, record in itertools.chain([first_row], records):
            if not isinstance(record, dict):
                raise ValueError(f"labels: '{file.name}' has no object in row {number}")
            yield number, [_text(record.get(name)) for name in header]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"labels: '{file.name}' is no JSON that can be read: {error}") from None


def _refuse_objects(name: str, start: bytes) -> None:
    """Raise ValueError, one sentence, for JSON whose first bytes say that it is about objects or shapes."""
    if what := objects(start):
        raise ValueError(_no_labels(name, what))


def objects(start: bytes) -> str:
    """What JSON is about by its first bytes, where that is objects in images or shapes; "" for anything else."""
    forms = (_COCO, "boxes of objects (COCO)"), (_GEOJSON, "shapes on a map (GeoJSON)")
    return next((what for form, what in forms if form.match(start.removeprefix(codecs.BOM_UTF8))), "")


def _no_labels(name: str, what: str) -> str:
    how = "write them as a table of path,label (several labels as a|b), or use labels='none'"
    return f"labels: '{name}' holds {what}, not a label for each image; {how}"


def _text(value: object) -> str:
    """A value as the cell of a table: several as "a|b"."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "|".join(map(str, value))
    if isinstance(value, bool):
        return str(int(value))
    return str(value).strip()
