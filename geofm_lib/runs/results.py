"""The CSV files under reports/: results that outlive their run folders, each row with how and when it was made."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

from geofm_lib.files import whole
from geofm_lib.runs import provenance

ROOT = Path(__file__).resolve().parents[2]
"""The folder of this clone: README.md, notebooks, batch, reports."""
REPORTS = ROOT / "reports"


def file(name: str) -> Path:
    """Where the results called ``name`` stand, written or not."""
    return REPORTS / f"{name}.csv"


@cache
def read(name: str) -> list[dict[str, str]]:
    """The rows as text, [] where they were never made."""
    if not file(name).is_file():
        return []
    with open(file(name), newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the rows, each with the commit, date, machine and torch they were made with."""
    marks = provenance.stamp()
    REPORTS.mkdir(exist_ok=True)
    with whole(file(name)) as fresh, open(fresh, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=[*rows[0], *marks])
        writer.writeheader()
        writer.writerows({**row, **marks} for row in rows)
    return file(name)
