"""What a result says of its origin, and the CSV files under reports/: results that outlive their run folders."""

import csv
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from geofm_lib.files import read_csv, whole

ROOT = Path(__file__).resolve().parents[2]
"""The folder of this clone: README.md, notebooks, batch, reports."""
REPORTS = ROOT / "reports"
PACKAGES = ("geofm", "torch", "torchvision", "timm", "pydantic", "papermill", "nbclient", "numpy", "pandas")


def file(name: str) -> Path:
    """Where the results called ``name`` stand, written or not."""
    return REPORTS / f"{name}.csv"


@cache
def read(name: str) -> list[dict[str, str]]:
    """The rows as text, [] where they were never made."""
    return read_csv(file(name)) if file(name).is_file() else []


def write(name: str, rows: list[dict[str, Any]], marked: bool = True) -> Path:
    """Write the rows; `marked`: each with the commit, date, machine and torch they were made with."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    marks = {"commit": commit(), "date": today, "machine": machine, "torch": _version("torch")} if marked else {}
    REPORTS.mkdir(exist_ok=True)
    with whole(file(name)) as fresh, open(fresh, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=[*rows[0], *marks])
        writer.writeheader()
        writer.writerows({**row, **marks} for row in rows)
    return file(name)


def environment() -> dict[str, object]:
    """The launcher's part of environment.json."""
    return {
        "commit": commit(),
        "launched": datetime.now(UTC).isoformat(timespec="seconds"),
        "launcher_host": socket.gethostname(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit() -> str:
    """The short commit of this checkout, `+changes` if files differ from it; 'unknown' outside a git checkout."""
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.strip() + ("+changes" if changed.strip() else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
