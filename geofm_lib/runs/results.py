"""What a result says of its origin, and the CSV files under reports/: results that outlive their run folders."""

import csv
import json
import os
import platform
import re
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
CODE = ("geofm_lib", "notebooks", "batch", ":!batch/grids", "pyproject.toml", "constraints*.txt", "environment.yml")
SETTING_TAGS = {"parameters", "injected-parameters"}  # of cells
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
    """The short commit of this checkout, `+changes` if code differs from it; 'unknown' outside a git checkout.

    Code is the library and what installs and starts it. Of notebooks, which people run with settings of their own, it
    is all but the settings and what an execution puts in.
    """
    try:
        head = _git("rev-parse", "--short=10", "HEAD").strip()
        changed = _git("diff", "--name-only", "--relative", "--no-renames", "-z", "HEAD", "--", *CODE).split("\0")
        code = [name for name in changed if name and not (name.endswith(".ipynb") and _same_cells(name))]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if code else "")


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def _same_cells(notebook: str) -> bool:
    """Has a notebook of this clone the cells of the commit, but for settings, outputs, and empty cells?"""
    try:
        return _cells(_git("show", f"HEAD:./{notebook}")) == _cells((ROOT / notebook).read_text(encoding="utf-8"))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):  # new, gone, or no notebook any more
        return False


def _cells(notebook: str) -> list[tuple[str, str]]:
    """(kind, text) of the cells that are code or words of the project's."""
    cells = [each for each in json.loads(notebook)["cells"] if not SETTING_TAGS & {*each["metadata"].get("tags", [])}]
    found = [(each["cell_type"], "".join(each["source"]).strip()) for each in cells]
    return [each for each in found if each[1]]


def origin() -> str:
    """The web address of the repository that this checkout came from, '' if it came from none."""
    words = ["git", "remote", "get-url", "origin"]
    try:
        said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    address = re.sub(r"^(ssh://)?git@([^:/]+)[:/]", r"https://\2/", said).removesuffix(".git")
    return address if re.fullmatch(r"https?://[\w.-]+(/[\w.~-]+)+", address) else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
