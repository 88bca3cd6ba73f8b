"""The rank's side of the run folder: metrics, small files, its heartbeat, and the requests it follows.

Launcher and ranks know of each other by these files, and by nothing else:

| file                  | written by                 | says                                                         |
|-----------------------|----------------------------|--------------------------------------------------------------|
| `heartbeats/<rank>`   | this rank, all the time    | it lives: its node, its last step, memory, what it waits in  |
| `heartbeats/launcher` | the launcher, all the time | it lives; ranks that no longer see it change end             |
| `requests/stop`       | anybody                    | save a checkpoint and end                                    |
| `requests/waiting`    | the launcher               | say in your heartbeat which collective you wait in           |
| `requests/end`        | a rank without a launcher  | the ranks end one by one; a partner that is lost is no fault |
| `owners/<number>`     | a launch (`jobs/owner`)    | the folder is its own, until there is a higher number        |

Only the change of a heartbeat's time counts, since clocks differ between machines. A rank whose launch is no longer the
folder's owner ends without another word in it.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.jobs import owner
from geofm_lib.settings import Resolved

UNKNOWN = Resolved()
HEARTBEATS, REQUESTS = "heartbeats", "requests"
ANCESTORS = "ancestors.jsonl"  # a branch's rows of metrics until it began, of the runs that it comes from
LAUNCHER = f"{HEARTBEATS}/launcher"
STOP, WAITING, END = (f"{REQUESTS}/{name}" for name in ("stop", "waiting", "end"))
HEARTBEAT_S = 2.0  # unless the launcher says otherwise (GEOFM_HEARTBEAT_S: many ranks write theirs less often)
LAUNCHER_GONE_S = 12.0  # the launcher touches its file every second; this long without it, it is gone
LAUNCHER_GONE = 70  # what a rank ends with then
LIVE = "live.html"  # the launcher's page of a run that goes (`runs/live`)
PAGE = (
    "notebook.ipynb",
    "report.html",
    LIVE,
    "page.json",
    "execution.json",
    "slices",
)  # made anew whenever somebody asks
KERNELS = "kernels.json"  # how the blocks of each stack compute, and what was measured for it
ALONG = "probe_along.csv"  # of a pretraining: a row a probe (`probe_every`)
KEPT = "kept"  # what a job that is under way needs to go on, besides checkpoints
PROVED = ("checkpoint", "not-finite", "download", KEPT)  # have digests of their own
UNSEALED = {files.SUMS, "log.txt", HEARTBEATS, REQUESTS, owner.OWNERS, *PAGE, *PROVED}


class Stopped(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


class Folder:
    """One run folder, written by its ranks. Only rank 0 writes the shared files."""

    def __init__(
        self, path: str | Path, is_main: bool = True, heartbeat: "Heartbeat | None" = None, resolved: Resolved = UNKNOWN
    ):
        self.path, self.is_main, self.resolved, self._heartbeat = Path(path), is_main, resolved, heartbeat
        # Line-buffered, so that a reader sees whole rows and a crash loses at most one.
        self._metrics = open(self.path / "metrics.jsonl", "a", buffering=1) if is_main else None

    def log_metrics(self, **row: Any) -> None:
        """Append one row to metrics.jsonl (rank 0; elsewhere nothing)."""
        if self._metrics:
            self._metrics.write(json.dumps({**row, "time": round(time.time(), 3)}) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows of steps that will be done again after a resume, so that each step has one row."""
        self.end_if_taken()
        if not self._metrics:
            return
        self._metrics.close()
        file = self.path / "metrics.jsonl"
        kept = [line for line in file.read_text().splitlines() if 0 <= _step(line) <= step]
        files.write_text(file, "".join(line + "\n" for line in kept))
        self._metrics = open(file, "a", buffering=1)

    def sync(self) -> None:
        """Bring the rows to the disk, so that a checkpoint never knows more steps than they do."""
        self.end_if_taken()
        if self._metrics:
            os.fsync(self._metrics.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The rows so far (rank 0; elsewhere none): a run that goes on has those of its earlier starts."""
        return list(map(json.loads, (self.path / "metrics.jsonl").read_text().splitlines())) if self._metrics else []

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all (rank 0; elsewhere nothing)."""
        self.end_if_taken()
        if self.is_main:
            files.write_json(self.path / name, value)

    def at(self, step: int) -> None:
        """This rank has done `step` steps: its next heartbeat says so. Costs nothing; call it on every rank."""
        if self._heartbeat:
            self._heartbeat.step = step

    def end_if_taken(self) -> None:
        """End this rank if the run folder belongs to another launch: called before what is lasting is written."""
        if self._heartbeat:
            self._heartbeat.end_if_taken()

    def stop_requested(self) -> bool:
        """Has somebody asked this run to stop? Ask on one rank and tell the others in a reduction."""
        return (self.path / STOP).exists()


def rows(file: Path) -> list[dict[str, Any]]:
    """The whole rows of a file of JSON lines, [] if it is not there."""
    with suppress(OSError):
        return list(whole_rows(file.read_text(errors="replace").splitlines()))
    return []


def whole_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Those that are JSON: one is half written when a run is killed, or is being written now."""
    for line in lines:
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                yield found


def seal(folder: Path) -> None:
    """Seal a finished run: the digests of all its results. Packed images have a checksum each in index.csv."""
    tops = [each for each in folder.iterdir() if each.name not in UNSEALED and not each.name.startswith(".")]
    found = [each for top in tops for each in (top, *top.rglob("*")) if each.is_file() and each.suffix != ".tar"]
    files.seal(folder, (each.relative_to(folder).as_posix() for each in found))


def stop_signals(*more: signal.Signals) -> list[signal.Signals]:
    """What asks a process of a run to save and stop: TERM and USR1 (Slurm), HUP (a lost terminal) and `more`.

    Not what whoever started it ignores, HUP under nohup or INT in a script's background; batch/run.sh ignores the
    first two only until somebody listens.
    """
    both = [each for each in (signal.SIGHUP, *more) if signal.getsignal(each) != signal.SIG_IGN]
    return [signal.SIGTERM, signal.SIGUSR1, *both]


@contextmanager
def handling(numbers: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While this block runs, these signals come to `handler`."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)


def request(folder: Path, name: str, text: str = "") -> None:
    """Leave the request STOP, WAITING or END in a run folder."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def heartbeat_timeout_s() -> float:
    """Silence after which a rank, or the file system under the run, is given up."""
    return seconds("GEOFM_HEARTBEAT_TIMEOUT_S", 60)


def seconds(variable: str, usual: float) -> float:
    """The seconds that an environment variable gives; ValueError when it gives none."""
    text = os.environ.get(variable, str(usual))
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{variable}: '{text}' is no number of seconds") from None


class Heartbeat:
    """A thread that writes this rank's heartbeat, and ends the rank when its launcher or its folder is gone.

    A killed kernel cannot stop its ranks, so they watch its heartbeat. `launch` is the id of their launch, '' of ranks
    that nobody watches.
    """

    def __init__(self, folder: Path, rank: int, launch: str):
        self.folder, self.rank, self.launch = folder, rank, launch
        self.process = owner.this_process()
        self.end_if_taken()
        self.step = 0
        # The worker puts torch's answers here, once torch is there.
        self.waiting: Callable[[], str] = lambda: ""
        self.memory: Callable[[], float] = lambda: 0.0
        self.every = float(os.environ.get("GEOFM_HEARTBEAT_S", HEARTBEAT_S))
        # In a job Slurm ends what is left, and a shared file system that pauses must not cost the run.
        self.gone = max(LAUNCHER_GONE_S, heartbeat_timeout_s() if "SLURM_JOB_ID" in os.environ else 0.0)
        (folder / HEARTBEATS).mkdir(exist_ok=True)
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        seen, changed = None, time.monotonic()
        while True:
            began = time.monotonic()
            # A full disk or a lost folder is reported by whoever writes there next; this thread must go on watching.
            with suppress(OSError):
                self._write()
            self.end_if_taken()
            if self.launch:
                now = files.changed(self.folder / LAUNCHER)
                if now != seen or time.monotonic() - began > self.every:  # it stood still for the launcher too
                    seen, changed = now, time.monotonic()
                elif time.monotonic() - changed > self.gone:
                    with suppress(OSError):
                        request(self.folder, END)
                    os._exit(LAUNCHER_GONE)
            time.sleep(self.every)

    def end_if_taken(self) -> None:
        """End this rank if the folder belongs to another launch by now, which will write the same files."""
        if owner.taken(self.folder, self.launch):
            os._exit(owner.TAKEN)

    def _write(self) -> None:
        waiting = self.waiting() if (self.folder / WAITING).exists() else ""
        said = {"node": owner.node(), "step": self.step, "waiting": waiting, "process": self.process}
        text = json.dumps(said | {"memory_gib": round(self.memory(), 3)})
        (self.folder / HEARTBEATS / str(self.rank)).write_text(text)


def _step(line: str) -> int:
    """The step of a row of metrics; -1 of a line that is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return -1
