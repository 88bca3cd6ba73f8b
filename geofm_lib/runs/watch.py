"""Watch the ranks of a run until they end: observe, decide (`runs/endings`), act; then say how it ended.

What ends a run from here, and its bound in seconds, is the table `FORCE_AFTER` there. A rank without a heartbeat for
GEOFM_HEARTBEAT_TIMEOUT_S (60) counts as silent.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.advice import memory
from geofm_lib.jobs import owner, run_folder
from geofm_lib.jobs.run_folder import LAUNCHER, STOP, WAITING, heartbeat_timeout_s, request
from geofm_lib.runs import live, overview, slurm
from geofm_lib.runs.endings import WITHOUT_STOP, Do, Event, Observations, decide
from geofm_lib.runs.heartbeats import Heartbeats, heartbeat_s
from geofm_lib.runs.picture import Picture
from geofm_lib.runs.run import Run, shown

POLL_S = 0.5
WATCHED = ".watched"  # beside the runner's request
STOP_S = 240.0  # ranks get this long to write a checkpoint after a stop request; in a job, what its limit leaves
FULL_BYTES = 4 * 2**20  # a disk with less free than this is full
TASK = r"\S+: tasks? .*"  # srun's words on a task that ended badly
NODE = r"Node failure on .*"  # and on a node
REFUSALS = ("ValueError", "SettingsError", "Refused", "Damaged", "Private")  # of ranks: about what they were given
NOBODY_LISTENS = {Event.FOLDER_LOST, Event.RANK_FAILED, Event.RANK_SILENT, Event.SUMMARY_WRITTEN}


class RunFailed(RuntimeError):
    """A rank failed: its own error, and the end of the log where that is no sentence of a check."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class RunRefused(RunFailed):
    """A check of the ranks' refused what the run was given."""

    exit_code = 2  # of a command


class RunStopped(RunFailed):
    """The run stopped as asked, with a checkpoint."""

    exit_code = os.EX_TEMPFAIL  # of a command


def save_s() -> float:
    """How long ranks may take to save after a stop request: a job keeps up to 45 s for its page and its way back."""
    left = slurm.seconds_left()
    return STOP_S if left is None else left - min(45.0, left / 3)


def stop_asked() -> bool:
    """Has the runner been asked to stop? (It leaves a file: it may not know yet which run this notebook is about.)"""
    return _request() is not None


def _request() -> str | None:
    """The runner's request: None, '' to save and stop, 'now' to end the ranks at once."""
    with contextlib.suppress(OSError, KeyError):
        return Path(os.environ["GEOFM_STOP"]).read_text()
    return None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While this block runs, a file tells the runner that a launcher follows requests to stop."""
    mark = Path(os.environ["GEOFM_STOP"] + WATCHED) if "GEOFM_STOP" in os.environ else None
    with contextlib.suppress(OSError):
        if mark:
            mark.touch()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if mark:
                mark.unlink()


def watch(run: Run, processes: list[subprocess.Popen[bytes]], ranks: int, log_from: int = 0, launch: str = "") -> None:
    """Show progress until the ranks end; returns if the run finished, raises RunStopped or RunFailed otherwise.

    `processes` are one for each rank, or one srun for all; `log_from` is where this launch begins in log.txt, `launch`
    its id as the folder's owner.
    """
    watcher, line, picture = Watcher(run, processes, ranks, log_from, launch), overview.Line(), Picture(run)
    with watched(), watcher.signals_are_a_stop(), live.kept(run, launch):
        while True:
            try:
                while (action := decide(watcher.observe())).do is not Do.CONCLUDE:
                    watcher.act(action.do)
                    with contextlib.suppress(OSError):  # only to show; what matters is written, and watched, above
                        line.show(overview.progress(run))
                        picture.show()
                    if action.do is not Do.ASK_SLURM:
                        _pause(processes)
                break
            except KeyboardInterrupt:
                watcher.interrupted()
            except BaseException:
                watcher.end(hard=True)
                raise
    with contextlib.suppress(OSError):
        line.show(overview.progress(run, ended=True), last=True)
        picture.end(action.summary.get("status") == "finished")
    _conclude(run, action.summary)


def _pause(processes: list[subprocess.Popen[bytes]]) -> None:
    """Until the next look: POLL_S, or the end of the first rank that lives."""
    living = next((process for process in processes if process.returncode is None), None)
    if living is None:
        time.sleep(POLL_S)
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        living.wait(POLL_S)


class Watcher:
    """What the launcher has seen of its ranks so far, and what it can do to them."""

    def __init__(self, run: Run, processes: list[subprocess.Popen[bytes]], ranks: int, log_from: int, launch: str):
        self.run, self.processes, self.log_from, self.interrupts = run, processes, log_from, 0
        self.launch = launch
        self.heartbeats, self.one_a_rank = Heartbeats(run.folder, ranks), len(processes) == ranks
        self.seen = Observations((), job=run.job, folder=str(run.folder), save_s=STOP_S)
        self.seen.timeout_s, self.seen.heartbeat_s = heartbeat_timeout_s(), heartbeat_s(ranks)
        command = processes[0].args
        self.seen.by_srun = isinstance(command, list) and "srun" in command[0]

    def observe(self) -> Observations:
        """Look at the processes, the run folder and the heartbeats; touch the launcher's own.

        RunFailed when the folder has another owner: nothing in it is ours to write any more, not even how this ended.
        """
        seen = self.seen
        if owner.taken(self.run.folder, self.launch):
            other = owner.newest(self.run.folder)
            raise RunFailed(
                f"{shown(self.run.folder)} is now being run by {other.who if other else 'another launch'}, since "
                "this one was not heard for too long; its ranks were ended. Run this cell again to follow the other"
            )
        request = _request()
        if request is not None or seen.stop_wanted:  # before the ranks are looked at: the same signal may end them
            seen.stop_wanted = True
            if Event.RANK_FAILED not in seen.since:
                self._stop_seen()
        if request == "now":
            self._note(Event.INTERRUPTED_TWICE)
        seen.exit_codes = codes = [process.poll() for process in self.processes]
        seen.stop_left = True  # none can be left in a lost folder
        with self._folder_lost():
            (self.run.folder / LAUNCHER).touch()
            seen.stop_left = (self.run.folder / STOP).exists()
            if (self.run.folder / "summary.json").exists():
                self._note(Event.SUMMARY_WRITTEN)
            # When a task dies, srun ends the others with SIGTERM, which they too take for a request to stop.
            if seen.stop_left and Event.STOP_ASKED not in seen.since and not self._srun_says(TASK):
                self._stop_seen()
        failed = {i: code for i, code in enumerate(codes) if code}
        if failed and Event.RANK_FAILED not in seen.since:
            seen.first_failed = failed
            self._note(Event.RANK_FAILED)
        if not seen.since.keys() & NOBODY_LISTENS:
            ended = {i for i, code in enumerate(codes) if code is not None} if self.one_a_rank else set()
            if silent := self.heartbeats.silent(ended):
                seen.silent, seen.silence = silent, self.heartbeats.sentence(silent)
                self._note(Event.RANK_SILENT)
        if None not in codes:
            seen.summary, seen.saved_step = self.run.summary, self.run.saved_step
            seen.task = self._srun_says(TASK) if seen.by_srun else ""
            seen.down = self._srun_says(NODE) or seen.down
            seen.disk = lost(self.run.folder) if os.EX_IOERR in codes else ""
        seen.now = time.monotonic()
        return seen

    def act(self, do: Do) -> None:
        """Do what was decided, but for waiting and concluding."""
        if do is Do.LEAVE_STOP:
            with self._folder_lost():
                request(self.run.folder, STOP)
        elif do is Do.ASK_WAITING:
            self.seen.waiting_asked = True
            with self._folder_lost():
                request(self.run.folder, WAITING, json.dumps(self.seen.silent))
        elif do is Do.END:
            if self.seen.silent:
                self.seen.silence = self.heartbeats.sentence(self.seen.silent)  # with the others' answers
            self.seen.ended_at = time.monotonic()
            self.end()
        elif do is Do.KILL:
            self.end(hard=True)
        elif do is Do.ASK_SLURM:
            self.seen.down = slurm.down_nodes()

    def interrupted(self) -> None:
        """Once: the ranks may save. Again: they are ended."""
        if self.interrupts:
            self._note(Event.INTERRUPTED_TWICE)
        elif self.seen.job not in WITHOUT_STOP:
            with contextlib.suppress(OSError):
                print("stopping: the ranks save a checkpoint (interrupt again to end them at once)", flush=True)
        self.interrupts += 1
        self.seen.stop_wanted = True
        self._stop_seen()

    def end(self, hard: bool = False) -> None:
        """End the ranks: directly, or through their srun, which must live to do it unless `hard`."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM if self.seen.by_srun and not hard else signal.SIGKILL)

    @contextlib.contextmanager
    def signals_are_a_stop(self) -> Iterator[None]:
        """What Slurm or a lost terminal may send to every process asks the ranks to save; the watch goes on."""
        heard = run_folder.stop_signals() if threading.current_thread() is threading.main_thread() else []
        with run_folder.handling(heard, lambda *_: setattr(self.seen, "stop_wanted", True)):
            yield

    def _note(self, event: Event) -> None:
        self.seen.since.setdefault(event, time.monotonic())

    def _stop_seen(self) -> None:
        if Event.STOP_ASKED not in self.seen.since:
            self.seen.save_s = save_s()
            self._note(Event.STOP_ASKED)

    @contextlib.contextmanager
    def _folder_lost(self) -> Iterator[None]:
        """A fault of the file system in this block is seen as the loss of the run folder."""
        try:
            yield
        except OSError as error:
            self.seen.lost = self.seen.lost or lost(self.run.folder, error)
            self._note(Event.FOLDER_LOST)

    def _srun_says(self, pattern: str) -> str:
        """srun's first error of this kind, such as 'node2: task 3: Killed': only srun sees tasks of other nodes."""
        with contextlib.suppress(OSError), open(self.run.folder / "log.txt", "rb") as stream:
            stream.seek(self.log_from)
            found = re.search(rf"^srun: error: ({pattern})$", stream.read().decode(errors="replace"), re.MULTILINE)
            return found[1] if found else ""
        return ""


def lost(folder: Path, error: OSError | None = None) -> str:
    """Why a run folder cannot be written, as far as it can be seen from here."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"the run folder {folder} is gone: its file system is lost, or somebody moved or deleted it"
    if free < FULL_BYTES:
        return f"the disk of {folder} is full ({free / 2**20:.1f} MiB free); make room and start again"
    why = f"{error.strerror}" if error else "over quota, or a fault of the disk"
    return f"the run folder {folder} cannot be written ({why})"


def _conclude(run: Run, summary: dict[str, Any]) -> None:
    """Return if the run finished; otherwise make sure summary.json says why, and raise."""
    ranks = run.resolved.get("ranks", 1)
    summary = memory.explained(summary, run.job, run.settings, ranks, run.environment)
    for part in run.folder.glob("checkpoint/*.part"):
        shutil.rmtree(part, ignore_errors=True)  # of no use, and on a full disk the room for the words that follow
    for file in run.folder.glob(".rendezvous-*"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if summary != run.summary:
            files.write_json(run.folder / "summary.json", summary)
    live.write(run)
    ended(run, summary)


def ended(run: Run, summary: dict[str, Any]) -> None:
    """Raise how a run ended: RunStopped, RunRefused, RunFailed, or nothing."""
    where = shown(run.folder)
    if summary.get("status") == "stopped":
        raise RunStopped(f"The run stopped: {summary['reason']}. Run this cell again to go on. ({where})")
    if summary.get("status") == "failed" and summary.get("told"):
        raised = RunRefused if summary.get("kind") in REFUSALS else RunFailed
        raise raised(f"{summary['error']}\nRun folder: {where}")
    if summary.get("status") == "failed":
        of = f"rank {summary['rank']} failed: " if summary.get("rank") is not None else ""
        tail = "\n".join(f"    {text}" for text in run.log_tail().splitlines())
        raise RunFailed(f"{of}{summary['error']}\nRun folder: {where}\nEnd of log.txt:\n{tail}")
