"""Files that are there whole or not at all: written beside their place, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(file: str | Path, durable: bool = False) -> Iterator[Path]:
    """The path to write to; it becomes `file` when the block ends, and is removed when the block fails.

    Args:
        durable: bring it to the disk before it gets its name, so that a power cut cannot leave half of it.
    """
    file = Path(file)
    fresh = file.with_name(f".{file.name}.new")
    try:
        yield fresh
        if durable:
            with open(fresh, "rb") as stream:
                os.fsync(stream.fileno())
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def write_text(file: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with whole(file) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(file: str | Path, value: Any) -> None:
    """Write a JSON file, indented, with a line end."""
    write_text(file, json.dumps(value, indent=1) + "\n")
