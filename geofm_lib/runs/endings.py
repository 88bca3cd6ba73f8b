"""How a run ends: what the launcher does next, given what it sees, and the table of the ways in which a run can end.

`decide` is a pure function: `runs/watch` observes, asks it, and acts. Two tables are all there is to it. `FORCE_AFTER`
says after which sights the ranks are ended by force, and how long they get to end by themselves. `WAYS` says what the
run's summary is in the end: that of the first row that applies.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

from geofm_lib.jobs.run_folder import LAUNCHER_GONE

PARTNERS_S = 5.0  # ranks get this long to end by themselves after one of them has failed
KILL_S = 30.0  # srun gets this long to end its ranks, then it is ended itself
WITHOUT_STOP = ("throughput",)  # does not look for the stop request and is simply ended
# Of a command, by how the run ended. 75 is EX_TEMPFAIL: stopped with a checkpoint, run again to go on (batch/run.sh
# requeues on it); 137 as a shell says SIGKILL.
EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 75, "killed": 137}
ECHOES = ("RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError", "TimeoutError")


class Event(Enum):
    """What makes the ranks end; the launcher keeps when it first saw each."""

    FOLDER_LOST = auto()  # the run folder cannot be written
    INTERRUPTED_TWICE = auto()
    STOP_ASKED = auto()
    SUMMARY_WRITTEN = auto()  # by a rank: all is said
    RANK_FAILED = auto()  # a process ended with an exit code other than 0
    RANK_SILENT = auto()


class Do(Enum):
    """What the launcher can do next."""

    WAIT = auto()
    LEAVE_STOP = auto()  # leave the stop request in the run folder
    ASK_WAITING = auto()  # ask the ranks that live what they wait in
    END = auto()  # end the ranks: through their srun, which must live to do it, or directly
    KILL = auto()  # srun too
    ASK_SLURM = auto()  # which nodes of this job are down
    CONCLUDE = auto()  # with a summary


@dataclass
class Observations:
    """What the launcher sees of a run; times are seconds of one monotonic clock. The watch keeps it up to date."""

    exit_codes: Sequence[int | None]  # of the processes: one a rank, or one srun for all; None while it lives
    now: float = 0.0
    job: str = "pretrain"
    folder: str = ""
    since: dict[Event, float] = field(default_factory=dict)  # when each was first seen
    ended_at: float | None = None  # when the ranks were ended by force
    stop_wanted: bool = False  # by an interrupt, a signal or the runner
    stop_left: bool = False  # the request lies in the run folder
    waiting_asked: bool = False
    silent: tuple[int, ...] = ()  # ranks
    silence: str = ""  # the same as a sentence
    lost: str = ""  # why the run folder could not be written from here
    first_failed: Mapping[int, int] = field(default_factory=dict)  # process -> exit code, when the first had failed
    save_s: float = 240.0  # how long ranks may take to save after a stop request
    timeout_s: float = 60.0  # of heartbeats
    heartbeat_s: float = 2.0
    # Looked for when all processes have ended:
    summary: Mapping[str, Any] = field(default_factory=dict)  # the ranks' own
    by_srun: bool = False
    task: str = ""  # srun's words on a task that ended badly
    down: str | None = None  # the nodes of this job that are down, in words; None: not asked
    disk: str = ""  # why a rank could not write there
    saved_step: int = 0


@dataclass(frozen=True)
class Action:
    """What to do, and the summary to conclude with."""

    do: Do
    summary: dict[str, Any] = field(default_factory=dict)


# What was seen -> how many seconds later the ranks are ended by force.
FORCE_AFTER: dict[Event, Callable[[Observations], float]] = {
    Event.FOLDER_LOST: lambda seen: 0.0,
    Event.INTERRUPTED_TWICE: lambda seen: 0.0,
    Event.STOP_ASKED: lambda seen: 0.0 if seen.job in WITHOUT_STOP else seen.save_s,
    Event.SUMMARY_WRITTEN: lambda seen: seen.timeout_s,  # a rank that lives on hangs in some library's farewell
    Event.RANK_FAILED: lambda seen: PARTNERS_S,
    Event.RANK_SILENT: lambda seen: 3.5 * seen.heartbeat_s,  # the others answer with what they wait in
}


def decide(seen: Observations) -> Action:
    """What the launcher does next."""
    if all(code is not None for code in seen.exit_codes):
        if seen.down is None and seen.summary.get("status") != "finished" and (not seen.summary or _echo(seen)):
            return Action(Do.ASK_SLURM)  # only where it may be the cause: a node may be slow to answer and yet be well
        return Action(Do.CONCLUDE, way(seen).summary(seen))
    if seen.ended_at is not None:
        return Action(Do.KILL if seen.now > seen.ended_at + KILL_S else Do.WAIT)
    if any(seen.now >= since + FORCE_AFTER[event](seen) for event, since in seen.since.items()):
        return Action(Do.END)
    if seen.silent and not seen.waiting_asked:
        return Action(Do.ASK_WAITING)
    if seen.stop_wanted and not seen.stop_left:
        return Action(Do.LEAVE_STOP)
    return Action(Do.WAIT)


class Way(NamedTuple):
    """A way to end: does it apply to what was seen, and the summary it leaves."""

    name: str
    applies: Callable[[Observations], bool]
    summary: Callable[[Observations], dict[str, Any]]


def way(seen: Observations) -> Way:
    """The way in which a run has ended, all of whose processes have."""
    return next(each for each in WAYS if each.applies(seen))


def _failed(error: str, **more: Any) -> dict[str, Any]:
    return {"status": "failed", "error": error, **more}


def _node_down(seen: Observations) -> dict[str, Any]:
    """With a save if Slurm left the other nodes the time for it."""
    return {**seen.summary, **_failed(f"{seen.down}; the run goes on from step {seen.saved_step}")}


def _unfollowed(seen: Observations) -> dict[str, Any]:
    kept = "it keeps nothing" if seen.job in WITHOUT_STOP else "it goes on from its last checkpoint"
    reason = f"a stop was asked for and the ranks ended before they could save; {kept}"
    return {"status": "stopped", "reason": reason}


def _echo(seen: Observations) -> bool:
    """Does the ranks' own summary tell only that a partner was lost?"""
    return seen.summary.get("kind") in ECHOES


def _first(seen: Observations) -> tuple[int | None, int]:
    """(rank, exit code) of the first that failed; rank None where it is not known."""
    codes = seen.first_failed or {i: code or 0 for i, code in enumerate(seen.exit_codes)}
    # A partner that lost its connection may be seen to end together with the rank that was killed.
    rank, code = min(codes.items(), key=lambda each: each[1] >= 0)
    if not seen.by_srun:
        return rank, code
    task, exited = re.search(r"tasks? (\d+)", seen.task), re.search(r"exit code (\d+)", seen.task)
    code = int(exited[1]) if exited else 128 - code if code > 128 else code
    return int(task[1]) if task else None, code


def _by_force(seen: Observations, text: str) -> dict[str, Any]:
    return _failed(text, rank=_first(seen)[0])


def _task(seen: Observations) -> str:
    return f" ({seen.task})" if seen.task else ""


def _killed(seen: Observations) -> dict[str, Any]:
    rank, code = _first(seen)
    known = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    text = f"killed by signal {-code} ({known}){_task(seen)}"
    text += "; if nobody did, the machine may have run out of memory" if code == -signal.SIGKILL else ""
    return _failed(text, rank=rank)


BY_FORCE = (  # a rank that ended so could write nothing, or only what its partners' loss looked like
    Way("a rank lost the disk", lambda seen: _first(seen)[1] == os.EX_IOERR,
        lambda seen: _by_force(seen, seen.disk)),
    Way("out of memory", lambda seen: "out of memory" in seen.task.lower(), lambda seen: _by_force(
        seen, f"out of host memory{_task(seen)}; give the job more memory, or the ranks fewer workers")),
    Way("launcher gone", lambda seen: _first(seen)[1] == LAUNCHER_GONE, lambda seen: _by_force(
        seen, f"the ranks lost sight of their launcher: {seen.folder} did not answer, or the launcher stood still")),
    Way("killed by a signal", lambda seen: _first(seen)[1] < 0, _killed),
)  # fmt: skip
WAYS = (
    Way("finished", lambda seen: seen.summary.get("status") == "finished", lambda seen: dict(seen.summary)),
    Way("node down", lambda seen: bool(seen.down), _node_down),
    Way("stopped as asked", lambda seen: seen.summary.get("status") == "stopped", lambda seen: dict(seen.summary)),
    Way("rank silent", lambda seen: bool(seen.silent), lambda seen: _failed(seen.silence, hung=list(seen.silent))),
    Way("folder lost", lambda seen: bool(seen.lost), lambda seen: _failed(seen.lost, hung=[])),
    Way("rank failed in its own words",
        lambda seen: bool(seen.summary) and not (_echo(seen) and any(each.applies(seen) for each in BY_FORCE)),
        lambda seen: dict(seen.summary)),
    Way("stop not followed", lambda seen: Event.STOP_ASKED in seen.since, _unfollowed),
    *BY_FORCE,
    Way("without a word", lambda seen: True, lambda seen: _failed(
        f"the ranks ended with exit codes {list(seen.exit_codes)} and left no summary{_task(seen)}", rank=None)),
)  # fmt: skip
"""In the order in which they are believed."""
