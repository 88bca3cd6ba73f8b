"""The rank's side of the run folder: metrics, small files, the heartbeat and the stop request."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.settings import Resolved

NOTHING_RESOLVED = Resolved()

BEAT_S = 2.0  # unless the launcher says otherwise (GEOFM_BEAT_S: many ranks beat more slowly)
LAUNCHER_GONE_S = 12.0  # the launcher touches its file every second; this long without it, it is gone
LAUNCHER_GONE = 70  # what a rank ends with then


class Stopped(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


class Folder:
    """One run folder, written by its ranks. Only rank 0 writes the shared files."""

    def __init__(
        self,
        path: str | Path,
        is_main: bool = True,
        pulse: "Pulse | None" = None,
        resolved: Resolved = NOTHING_RESOLVED,
    ):
        self.path = Path(path)
        self.is_main = is_main
        self.resolved = resolved
        self._pulse = pulse
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
        files.write_text(file, "".join(line + "\n" for line in kept))
        self._metrics = open(file, "a", buffering=1)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all (rank 0; elsewhere nothing)."""
        if self.is_main:
            files.write_json(self.path / name, value)

    def at(self, step: int) -> None:
        """This rank has done `step` steps: its next beat says so. Costs nothing; call it on every rank."""
        if self._pulse:
            self._pulse.step = step

    def stop_requested(self) -> bool:
        """Has somebody asked this run to stop? Ask on one rank and tell the others in a reduction."""
        return (self.path / "stop").exists()


class Pulse:
    """This rank's sign of life: a thread that writes `beats/<rank>` and ends the rank when its launcher is gone.

    A beat is one line of JSON: the node, the last step done, and, once the launcher has written `hung`, the
    collective this rank waits in. The launcher looks only at the change of the files' times, as does this side at
    `launcher`, since clocks differ between machines. A killed kernel cannot stop its ranks, so they watch that file.
    """

    def __init__(self, path: Path, rank: int, launcher: bool):
        self.path, self.rank, self.launcher = path, rank, launcher
        self.step = 0
        self.waiting: Callable[[], str] = lambda: ""  # the worker puts torch's answer here, once torch is there
        self.every = float(os.environ.get("GEOFM_BEAT_S", BEAT_S))
        # In a job Slurm ends what is left, and a shared file system that pauses must not cost the run.
        hung = float(os.environ.get("GEOFM_HUNG_S", 60)) if "SLURM_JOB_ID" in os.environ else 0.0
        self.gone = max(LAUNCHER_GONE_S, hung)
        (path / "beats").mkdir(exist_ok=True)
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        seen, changed = None, time.monotonic()
        while True:
            began = time.monotonic()
            # A full disk or a lost folder is told by whoever writes there next; this thread must go on watching.
            with suppress(OSError):
                self._beat()
            if self.launcher:
                try:
                    now = (self.path / "launcher").stat().st_mtime_ns
                except OSError:
                    now = None
                if now != seen or time.monotonic() - began > self.every:  # it stood still for the launcher too
                    seen, changed = now, time.monotonic()
                elif time.monotonic() - changed > self.gone:
                    with suppress(OSError):
                        (self.path / "orphaned").touch()  # a rank that loses its partners now is no failure
                    os._exit(LAUNCHER_GONE)
            time.sleep(self.every)

    def _beat(self) -> None:
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        beat = {"node": node, "step": self.step}
        if (self.path / "hung").exists():
            beat["waiting"] = self.waiting()
        (self.path / "beats" / str(self.rank)).write_text(json.dumps(beat))
        if self.rank == 0:
            (self.path / "heartbeat").touch()


def _step(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return None
