"""Does the launch that has a run folder live? Judged by change alone, seen by the observer's own clock.

The times of two machines are never compared: their clocks differ, by seconds or by hours. Who has just begun to look
knows nothing yet, so a reader looks for up to LOOK_S, at all runs at once. Who wants to take the folder looks for
`silence_s()`. Neither waits where a claim or a process of this machine says that all has ended.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from geofm_lib import files
from geofm_lib.jobs import owner
from geofm_lib.jobs.owner import Owner
from geofm_lib.jobs.run_folder import HEARTBEAT_S, HEARTBEATS, LAUNCHER, LAUNCHER_GONE_S, heartbeat_timeout_s

LOOK_S = 5.0  # a living launcher changes its file twice a second, its ranks theirs every 2 s
OLD_S = 30.0  # a reader that has seen a run change calls it running for so long after its last change
STEP_S = LOOK_S  # two looks further apart count as that far: the observer or its file system stood still meanwhile
POLL_S = 0.2


class Life:
    """The signs of life of one run folder since the first look of this observer."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.heard = False  # has anything changed since the first look?
        self.silent = 0.0  # seconds that this observer has looked and seen no change
        self.looked = self.changed = time.monotonic()
        self.marks: dict[str, int | None] = {}
        self._changed()

    def look(self) -> float:
        """Look again; the seconds of silence so far."""
        changed, now = self._changed(), time.monotonic()
        self.silent = 0.0 if changed else self.silent + min(now - self.looked, STEP_S)
        self.looked = now
        if changed:
            self.heard, self.changed = True, now
        return self.silent

    def _changed(self) -> bool:
        """Has one of the heartbeats changed? The first that has ends the look: thousands of ranks have one each."""
        for name in _heartbeats(self.folder):
            mark = files.changed(self.folder / name)
            before = self.marks.setdefault(name, mark)
            if mark != before:
                self.marks[name] = mark
                return True
        return False


def silence_s() -> float:
    """The silence bound: a launch that changed nothing for so long is gone. Its ranks have ended by then, too."""
    return max(heartbeat_timeout_s(), LAUNCHER_GONE_S + HEARTBEAT_S)


def gone(life: Life, last: Owner | None) -> bool:
    """May the folder be taken from its last owner, though that has not said that it ended?"""
    bound = LOOK_S if last and last.here else silence_s()  # this kernel asks, so its own cell has ended
    return all_dead(life.folder, last) or life.look() >= bound


def all_dead(folder: Path, last: Owner | None) -> bool:
    """Are the owner and all its ranks processes of this machine that are known to have ended?"""
    if last is None or not owner.is_dead(last.process):
        return False
    for name in _heartbeats(folder):
        try:
            known = name == LAUNCHER or owner.is_dead(json.loads((folder / name).read_text())["process"])
        except (OSError, ValueError, KeyError, TypeError):  # being written, or of an older version
            known = False
        if not known:
            return False
    return True


_SEEN: dict[Path, Life] = {}


def first_look(folders: Iterable[Path]) -> None:
    """Begin to look at all of these, so that asking one after the other waits for LOOK_S once, not each time."""
    for folder in folders:
        if not os.path.exists(folder / "summary.json"):
            _life(folder)


def lives(folder: Path) -> bool:
    """Does anything change in this run folder? A reader's answer, after LOOK_S at the latest.

    Nothing hangs on it: who takes a folder over asks `gone`.
    """
    last = owner.newest(folder)
    if (last and last.ended) or all_dead(folder, last):
        return False
    life = _life(folder)
    life.look()
    while not life.heard and life.silent < LOOK_S:
        time.sleep(POLL_S)
        life.look()
    return life.heard and time.monotonic() - life.changed < OLD_S


def _life(folder: Path) -> Life:
    """What this process has seen of the folder; a change that it may have missed by minutes says nothing."""
    known = _SEEN.get(folder)
    if known is None or time.monotonic() - known.looked > OLD_S:
        _SEEN[folder] = known = Life(folder)
    return known


def _heartbeats(folder: Path) -> Iterator[str]:
    yield LAUNCHER
    with suppress(OSError):
        yield from (f"{HEARTBEATS}/{each}" for each in os.listdir(folder / HEARTBEATS) if each != "launcher")
