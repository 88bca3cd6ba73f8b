"""Wait for a run folder: while another launch has it, show its progress; take it over when that launch has ended."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from geofm_lib import rights
from geofm_lib.jobs import owner
from geofm_lib.jobs.owner import Owner
from geofm_lib.jobs.run_folder import STOP, request
from geofm_lib.runs import life, overview, watch
from geofm_lib.runs.picture import Picture
from geofm_lib.runs.run import SETTINGS, Run, shown

SILENT_S = 5.0  # silence of the owner that is told


@dataclass
class Turn:
    """A launch that wants a run folder: it knows the last owner, and what it has seen of that one's life."""

    run: Run
    last: Owner | None = field(init=False)
    signs: life.Life = field(init=False)

    def __post_init__(self) -> None:
        self.last, self.signs = owner.newest(self.run.folder), life.Life(self.run.folder)

    @property
    def number(self) -> int:
        """Of the last owner's claim, 0 if there is none."""
        return self.last.number if self.last else 0

    def free(self) -> bool:
        """May the folder be taken now? Its last owner has ended, or was silent for too long."""
        if self.last is None and (self.run.summary or self.run.last_heartbeat is None):
            return True
        return bool(self.last and self.last.ended) or life.gone(self.signs, self.last)

    def take(self) -> Owner | None:
        """The folder's new owner, this launch; None if another one was faster, or the last one is heard again."""
        return owner.take(self.run.folder, self.number) if self.free() else None

    def stale(self) -> bool:
        """Has somebody taken the folder since?"""
        now = owner.newest(self.run.folder)
        return (now.number if now else 0) != self.number


def turn(run: Run, check: Callable[[], None], needed: bool) -> Turn:
    """Wait until this launch may take the run folder, or the run has finished; gives what `take` needs.

    While another launch has the folder, says whose it is and shows its progress. `check` is called whenever the run's
    settings have changed, and raises where it is not the run that is wanted. `needed`: the run is wanted by another
    one, so that it goes on here when the launch that made it was stopped.

    Raises:
        RunFailed, RunStopped: the launch that was waited for ended so, or this one was asked to stop.
    """
    with watch.watched():
        return _turn(run, check, needed)


def _turn(run: Run, check: Callable[[], None], needed: bool) -> Turn:
    mine, line, picture, known = Turn(run), overview.Line(), Picture(run), run.read_json(SETTINGS)
    followed, interrupts = "", 0
    while True:
        try:
            if mine.free():
                break
            if watch.stop_asked():
                raise watch.RunStopped(f"a stop was asked for while this launch waited for {shown(run.folder)}; "
                                       "run this cell again to go on")  # fmt: skip
            if not followed:
                followed = _who(mine)
                print(f"{run.job or 'the run'}: {followed}", flush=True)
            if (now := run.read_json(SETTINGS)) != known:
                known = now
                check()
            silent = mine.signs.silent
            wait = f"; silent for {silent:.0f} s, and taken over after {life.silence_s():.0f} s"
            line.show(overview.followed(run) + (wait if silent > SILENT_S else ""))
            picture.show()
            time.sleep(watch.POLL_S)
            if mine.stale():
                mine, followed = Turn(run), ""
        except KeyboardInterrupt:
            interrupts += 1
            _interrupted(mine, needed or interrupts > 1)
    if followed:
        line.show(overview.progress(run, ended=True), last=True)
        picture.end(run.finished)
        if interrupts and not (mine.last and mine.last.ended):
            raise watch.RunStopped(f"interrupted, and the launch that had {shown(run.folder)} is gone; run this cell "
                                   "again to go on")  # fmt: skip
        _concluded(run, mine, needed)
    return mine


def _interrupted(mine: Turn, leave: bool) -> None:
    """An interrupt here is one of the run, if it is this user's: its ranks save and end. `leave`: follow no longer."""
    folder = shown(mine.run.folder)
    if not leave and mine.last and mine.last.user == rights.user():
        with suppress(OSError):
            request(mine.run.folder, STOP)
            print(
                f"stopping: the ranks of {folder} save a checkpoint (interrupt again to leave them to it)", flush=True
            )
            return
    raise watch.RunStopped(
        f"interrupted while this launch followed {folder}, which goes on; run this cell again to follow"
    )


def _who(mine: Turn) -> str:
    if mine.last and owner.is_dead(mine.last.process):
        return "the ranks of an earlier kernel are ending; this launch waits for them"
    who = mine.last.who if mine.last else "another process"
    return f"{shown(mine.run.folder)} is being run by {who}; this launch follows it and starts no ranks of its own"


def _concluded(run: Run, mine: Turn, needed: bool) -> None:
    """Say how the launch that was followed has ended; raises if the run is not to be gone on with here."""
    if not (mine.last and mine.last.ended):
        print(f"that launch is gone; this one goes on from step {run.saved_step}", flush=True)
    elif not (needed and run.status == "stopped"):
        watch.ended(run, run.summary)
