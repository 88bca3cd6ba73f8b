"""What a result must say of its origin: commit, date, host and package versions."""

import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("geofm", "torch", "torchvision", "timm", "pydantic", "papermill", "nbclient", "numpy", "pandas")


def stamp() -> dict[str, str]:
    """The short form, for a row of a CSV: commit, date, machine and torch."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": _version("torch"),
    }


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
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=10", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
