"""The rank's side of the run folder: metrics, small files, the heartbeat and the stop request."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

HEARTBEAT_S = 2.0
LAUNCHER_GONE_S = 12.0  # the launcher touches its file every second; this long without it, it is gone


class Stopped(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


class Folder:
    """One run folder, written by its ranks. Only rank 0 writes the shared files."""

    def __init__(self, path: str | Path, is_main: bool = True):
        self.path = Path(path)
        self.is_main = is_main
        # Line-buffered, so that a reader sees whole rows and a crash loses at most one.
        self._metrics = open(self.path / "metrics.jsonl", "a", buffering=1) if is_main else None

    def log_metrics(self, **row: Any) -> None:
        """Append one row to metrics.jsonl (rank 0; elsewhere nothing)."""
        if self._metrics:
            self._metrics.write(json.dumps({**row, "time": round(time.time(), 3)}) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows of steps that will be done again after a resume, so that each step has one row."""
        if not self._metrics:
            return
        self._metrics.close()
        file = self.path / "metrics.jsonl"
        kept = [line for line in file.read_text().splitlines() if _step(line) is not None and _step(line) <= step]
        write_text(file, "".join(line + "\n" for line in kept))
        self._metrics = open(file, "a", buffering=1)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all (rank 0; elsewhere nothing)."""
        if self.is_main:
            write_text(self.path / name, json.dumps(value, indent=1) + "\n")

    def stop_requested(self) -> bool:
        """Has somebody asked this run to stop? Ask on one rank and tell the others in a reduction."""
        return (self.path / "stop").exists()


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)


def keep_alive(path: Path, is_main: bool, launcher: bool) -> None:
    """A thread that touches `heartbeat` (rank 0) and ends this rank when its launcher is gone.

    A killed kernel cannot stop its ranks, so they watch the file it touches; only the change of the file's time is
    looked at, since clocks differ between machines.
    """
    threading.Thread(target=_watch, args=(path, is_main, launcher), daemon=True).start()


def _watch(path: Path, is_main: bool, launcher: bool) -> None:
    seen, changed = None, time.monotonic()
    while True:
        if is_main:
            (path / "heartbeat").touch()
        if launcher:
            try:
                now = (path / "launcher").stat().st_mtime_ns
            except OSError:
                now = None
            if now != seen:
                seen, changed = now, time.monotonic()
            elif time.monotonic() - changed > LAUNCHER_GONE_S:
                (path / "orphaned").touch()  # so that a rank which loses its partners does not call that a failure
                os._exit(70)
        time.sleep(HEARTBEAT_S)


def _step(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return None
