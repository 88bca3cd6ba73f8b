"""Watch the ranks of a run until they end; end them when they cannot go on; say why.

What ends a run from here, each with its bound in seconds: ranks fall silent (GEOFM_HUNG_S, 60), a partner has died
(PARTNERS_S), a stop was asked for and is not followed (`stop_s`), ranks do not end though all is done (GEOFM_HUNG_S),
the run folder cannot be written (at once).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from geofm_lib import files
from geofm_lib.runs import failures, progress, slurm
from geofm_lib.runs.run import Run, shown

POLL_S = 0.5
STOP_S = 240.0  # ranks get this long to write a checkpoint after a stop request; in a job, what its limit leaves
PARTNERS_S = 5.0  # and this long to end by themselves after one of them has failed
KILL_S = 30.0  # srun gets this long to end its ranks, then it is ended itself
STARTING_S = 600.0  # before the first step a rank may be silent this long: it imports, compiles, reads a busy disk
FULL_BYTES = 4 * 2**20  # a disk with less free than this is full
WITHOUT_STOP = ("throughput",)  # does not look for the stop file and is simply ended
TASK = r"\S+: tasks? .*"  # srun's word on a task that ended badly
LAUNCHER_GONE = 70  # what a rank ends with then (jobs/folder)
ECHOES = ("RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError", "TimeoutError")


class RunFailed(RuntimeError):
    """A rank failed: its own error and the end of the log."""

    def _render_traceback_(self):
        return str(self).splitlines()


class RunStopped(RunFailed):
    """The run stopped as asked, with a checkpoint."""


def hung_s() -> float:
    """Silence after which a rank, or the file system under the run, is given up."""
    return float(os.environ.get("GEOFM_HUNG_S", 60))


def beat_s(ranks: int) -> float:
    """Seconds between two beats of a rank: a thousand ranks must not keep a shared file system busy."""
    return max(2.0, min(ranks / 100, hung_s() / 6))


def stop_s() -> float:
    """How long ranks may take to save after a stop request: a job keeps up to 45 s for its page and its way back."""
    left = slurm.seconds_left()
    return STOP_S if left is None else left - min(45.0, left / 3)


def stop_asked() -> bool:
    """Has the runner been asked to stop? (It leaves a file: it may not know yet which run this notebook is about.)"""
    return "GEOFM_STOP" in os.environ and Path(os.environ["GEOFM_STOP"]).exists()


def watch(run: Run, processes: list[subprocess.Popen], ranks: int, log_from: int = 0) -> None:
    """Show progress until the ranks end; returns if the run finished, raises RunStopped or RunFailed otherwise.

    Args:
        processes: one of them for each rank, or one srun for all.
        log_from: where this launch begins in log.txt.
    """
    line, beats, end = progress.Line(), _Beats(run.folder, ranks, processes), _End(log_from)
    with _terminated_is_stopped(run):
        while True:
            try:
                while any(p.poll() is None for p in processes):
                    _look(run, processes, beats, end)
                    with contextlib.suppress(OSError):  # only to show; what matters is written, and watched, above
                        line.show(progress.line(run))
                    time.sleep(POLL_S)
                break
            except KeyboardInterrupt:
                end.interrupts += 1
                if end.interrupts == 1 and run.job not in WITHOUT_STOP:
                    (run.folder / "stop").touch()
                    _say("stopping: the ranks save a checkpoint (interrupt again to end them at once)")
                end.by(0 if end.interrupts > 1 or run.job in WITHOUT_STOP else stop_s())
            except BaseException:
                _kill(processes, hard=True)
                raise
    with contextlib.suppress(OSError):
        line.show(progress.line(run), last=True)
    _conclude(run, processes, end)


@dataclass
class _End:
    """How a run is coming to its end: when its ranks are ended by force, and why."""

    log_from: int  # where this launch begins in log.txt
    fault: str = ""
    silent: tuple[int, ...] = ()
    interrupts: int = 0
    stopping: bool = False
    closing: bool = False
    at: float | None = None  # monotonic
    told: float | None = None
    first: dict[int, int] | None = None  # exit codes of the processes that had ended when the first fault was seen

    def by(self, seconds: float) -> None:
        """End the ranks by force in so many seconds, or when that was due before."""
        due = time.monotonic() + seconds
        self.at = due if self.at is None else min(self.at, due)


def _look(run: Run, processes: list[subprocess.Popen], beats: "_Beats", end: _End) -> None:
    """One look at the run: is there a reason to end it, and is it time to?"""
    try:
        (run.folder / "launcher").touch()
        if stop_asked() and not end.stopping:
            (run.folder / "stop").touch()
        asked = (run.folder / "stop").exists() and not end.stopping
    except OSError as error:
        end.fault = end.fault or _lost(run.folder, error)
        end.by(0)
        asked = False
    # When a task dies, srun ends the others with SIGTERM, which they too take for a request to stop.
    if asked and not _srun_says(run.folder, end.log_from, TASK):
        end.stopping = True
        end.by(0 if run.job in WITHOUT_STOP else stop_s())
    if not end.closing and (run.folder / "summary.json").exists():
        end.closing = True
        end.by(hung_s())  # all is said; a rank that does not end now hangs in some library's farewell
    if end.first is None and any(p.poll() not in (None, 0) for p in processes):
        end.first = {i: p.poll() for i, p in enumerate(processes) if p.poll() not in (None, 0)}
        end.by(PARTNERS_S)
    if not end.fault and not end.first and (silent := beats.silent()):
        end.silent, end.fault = silent, beats.sentence(silent)
        (run.folder / "hung").write_text(json.dumps(silent))  # the others answer with what they wait for
        end.by(3.5 * beat_s(beats.ranks))
    if end.at is not None and time.monotonic() > end.at:
        if end.silent and end.told is None:
            end.fault = beats.sentence(end.silent)
        hard = end.told is not None and time.monotonic() > end.told + KILL_S
        if end.told is None or hard:
            _kill(processes, hard)
            end.told = end.told or time.monotonic()


class _Beats:
    """When each rank was last heard, by the change of its file: clocks of machines differ."""

    def __init__(self, folder: Path, ranks: int, processes: list[subprocess.Popen]):
        self.folder, self.ranks, self.processes = folder, ranks, processes
        self.seen = {rank: (0, time.monotonic()) for rank in range(ranks)}
        self.due = 0.0

    def silent(self) -> tuple[int, ...]:
        """The ranks that have been silent for too long; looked for a few times within that bound."""
        now = time.monotonic()
        if now < self.due or (self.folder / "summary.json").exists():
            return ()
        self.due = now + hung_s() / 6
        for rank, (before, _) in self.seen.items():
            with contextlib.suppress(FileNotFoundError):
                changed = (self.folder / "beats" / str(rank)).stat().st_mtime_ns
                if changed != before:
                    self.seen[rank] = (changed, now)
        late = [rank for rank, (_, since) in self.seen.items() if now - since > hung_s() and not self._ended(rank)]
        if late and not any(self.last(rank).get("step") for rank in self.seen):
            late = [rank for rank in late if now - self.seen[rank][1] > STARTING_S]
        return tuple(late)

    def _ended(self, rank: int) -> bool:
        return len(self.processes) == self.ranks and self.processes[rank].poll() is not None

    def last(self, rank: int) -> dict:
        """A rank's last beat: {"node", "step"}, with "waiting" once it was asked; {} if it was never heard."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / "beats" / str(rank)).read_text())
        return {}

    def sentence(self, silent: tuple[int, ...]) -> str:
        """Which ranks fell silent, where, at which step, and what the others wait in."""
        where = {}
        for rank in silent:
            beat = self.last(rank)
            where.setdefault((beat.get("node"), beat.get("step")), []).append(rank)
        parts = []
        for (node, step), ranks in where.items():
            named = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
            parts.append(f"{named} on {node} (last step {step})" if node else f"{named} (never heard)")
        waiting = {self.last(rank).get("waiting") for rank in range(self.ranks) if rank not in silent} - {None, ""}
        text = f"no sign of life for {hung_s():.0f} s from {'; '.join(parts)}"
        return text + (f"; the others wait in {', '.join(sorted(waiting))}" if waiting else "")


def _conclude(run: Run, processes: list[subprocess.Popen], end: _End) -> None:
    """Return if the run finished; otherwise make sure summary.json says why, and raise."""
    summary = failures.explained(run, _summary(run, processes, end))
    for part in run.folder.glob("checkpoint/*.part"):
        shutil.rmtree(part, ignore_errors=True)  # of no use, and on a full disk the room for the words that follow
    for file in run.folder.glob(".rendezvous-*"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if summary != run.summary:
            files.write_json(run.folder / "summary.json", summary)
    where = shown(run.folder)
    if summary["status"] == "stopped":
        raise RunStopped(f"The run stopped: {summary['reason']}. Run this cell again to go on. ({where})")
    if summary["status"] == "failed":
        of = f"rank {summary['rank']} failed: " if summary.get("rank") is not None else ""
        tail = "\n".join(f"    {text}" for text in run.log_tail().splitlines())
        raise RunFailed(f"{of}{summary['error']}\nRun folder: {where}\nEnd of log.txt:\n{tail}")


def _summary(run: Run, processes: list[subprocess.Popen], end: _End) -> dict:
    """The ranks' own summary, unless they could write none or tell only of a partner's death."""
    summary = run.summary
    if summary.get("status") == "finished":
        return summary
    down = _srun_says(run.folder, end.log_from, "Node failure on .*")
    if not down and (not summary or summary.get("kind") in ECHOES):  # a node may be slow to answer and yet be well
        down = slurm.down_nodes()
    if down:
        # With a save if Slurm left the other nodes the time for it.
        return {
            **summary,
            "status": "failed",
            "error": f"{down}; the run goes on from step {run.saved_step}",
        }
    if summary.get("status") == "stopped":
        return summary
    if end.fault:
        return {"status": "failed", "error": end.fault, "hung": list(end.silent)}
    died, by_force = _death(run.folder, processes, end)
    if summary and not (by_force and summary.get("kind") in ECHOES):
        return summary
    if end.stopping or end.interrupts:
        kept = "it keeps nothing" if run.job in WITHOUT_STOP else "it goes on from its last checkpoint"
        return {
            "status": "stopped",
            "reason": f"a stop was asked for and the ranks ended before they could save; {kept}",
        }
    return died


def _death(folder: Path, processes: list[subprocess.Popen], end: _End) -> tuple[dict, bool]:
    """(a summary for ranks that ended without a word of their own, was the first of them ended by force?)"""
    codes = end.first or {i: p.returncode for i, p in enumerate(processes)}
    # A partner that lost its connection may be seen to end together with the rank that was killed.
    rank, code = min(codes.items(), key=lambda each: each[1] >= 0)
    told = ""
    if "srun" in processes[0].args[0]:
        told = _srun_says(folder, end.log_from, TASK)
        found, exited = re.search(r"tasks? (\d+)", told), re.search(r"exit code (\d+)", told)
        rank = int(found.group(1)) if found else None
        code = int(exited.group(1)) if exited else 128 - code if code > 128 else code
    seen = f" ({told})" if told else ""
    if code == os.EX_IOERR:
        return {"status": "failed", "error": _lost(folder), "rank": rank}, True
    if "out of memory" in told.lower():
        text = f"out of host memory{seen}; give the job more memory, or the ranks fewer workers"
        return {"status": "failed", "error": text, "rank": rank}, True
    if code == LAUNCHER_GONE:
        text = f"the ranks lost sight of their launcher: {folder} did not answer, or the launcher stood still"
        return {"status": "failed", "error": text, "rank": rank}, True
    if code < 0:
        known = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        text = f"killed by signal {-code} ({known}){seen}"
        text += "; if nobody did, the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return {"status": "failed", "error": text, "rank": rank}, True
    text = f"the ranks ended with exit codes {[p.returncode for p in processes]} and left no summary{seen}"
    return {"status": "failed", "error": text, "rank": None}, False


def _srun_says(folder: Path, start: int, pattern: str) -> str:
    """srun's first error of this kind, such as 'node2: task 3: Killed': only srun sees the tasks of other nodes."""
    with contextlib.suppress(OSError):
        with open(folder / "log.txt", "rb") as stream:
            stream.seek(start)
            text = stream.read().decode(errors="replace")
        if found := re.search(rf"^srun: error: ({pattern})$", text, re.MULTILINE):
            return found.group(1)
    return ""


def _lost(folder: Path, error: OSError | None = None) -> str:
    """Why a run folder cannot be written, as far as can be told from here."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"the run folder {folder} is gone: its file system is lost, or somebody moved or deleted it"
    if free < FULL_BYTES:
        return f"the disk of {folder} is full ({free / 2**20:.1f} MiB free); make room and start again"
    why = f"{error.strerror}" if error else "over quota, or a fault of the disk"
    return f"the run folder {folder} cannot be written ({why})"


@contextlib.contextmanager
def _terminated_is_stopped(run: Run):
    """SIGTERM to this process (Slurm may send it to all of a job) asks the ranks to save and does not end the watch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_):
        with contextlib.suppress(OSError):
            (run.folder / "stop").touch()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kill(processes: list[subprocess.Popen], hard: bool = False) -> None:
    """End the ranks: directly, or through their srun, which must live to do it unless `hard`."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                gently = "srun" in process.args[0] and not hard
                os.killpg(process.pid, signal.SIGTERM if gently else signal.SIGKILL)


def _say(text: str) -> None:
    print(text, flush=True)
