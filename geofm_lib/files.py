"""Files that are there whole or not at all: written beside their place, then renamed."""

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole(file: str | Path, durable: bool = False, replace: bool = True) -> Iterator[Path]:
    """The path to write to; it becomes `file` when the block ends, and is removed when the block fails.

    Args:
        durable: bring it to the disk before it gets its name, so that a power cut cannot leave half of it.
        replace: take the place of a file that is there; else the first writer's stays.
    """
    file = Path(file)
    fresh = file.with_name(f".{file.name}.new" if replace else f".{file.name}-{uuid.uuid4().hex[:8]}.new")
    try:
        yield fresh
        if durable:
            with open(fresh, "rb") as stream:
                os.fsync(stream.fileno())
        if replace:
            fresh.replace(file)
        else:
            with suppress(FileExistsError):
                os.link(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


def write_text(file: str | Path, text: str, replace: bool = True) -> None:
    """Write a text file in UTF-8."""
    with whole(file, replace=replace) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(file: str | Path, value: Any, replace: bool = True) -> None:
    """Write a JSON file, indented, with a line end."""
    write_text(file, json.dumps(value, indent=1) + "\n", replace)


def write_csv(file: str | Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV. Other keys of a row are left out; a column that a row lacks stays empty."""
    columns = list(columns)
    write_table(file, columns, ([row.get(column, "") for column in columns] for row in rows))


def write_table(file: str | Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV of rows that have their values in the order of the columns."""
    with whole(file) as fresh, open(fresh, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_csv(file: str | Path) -> list[dict[str, str]]:
    """All rows of a CSV."""
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
