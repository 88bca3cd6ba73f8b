"""Who may write a run folder: numbered claims in `owners/`, of which the newest counts.

`owners/0001.json` names the first launch of the run, `owners/0002.json` the one after it. A claim is made by a hard
link, which fails where the name is taken: one launch wins, on NFS and Lustre too, also of two that replace a dead one.
Claims are never changed or removed, so that nobody can take an old one's place unseen. A launch whose ranks have ended
leaves `owners/0001.ended`. Where that is missing, `runs/life` says whether the owner lives.
"""

import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofm_lib import files, rights

OWNERS = "owners"
CLAIM = re.compile(r"(\d+)\.json")
TAKEN = 76  # what a rank ends with when its folder belongs to another launch


@dataclass(frozen=True)
class Owner:
    """A claim: the launch that has, or had, a run folder. Of one that cannot be read only the number is known."""

    folder: Path
    number: int
    id: str = ""
    user: str = ""
    host: str = ""
    job: str = ""  # of Slurm
    since: str = ""  # in its own machine's time, for people
    process: tuple[Any, ...] = ()
    execution: str = ""  # the runner that its notebook was started by

    @property
    def ended(self) -> bool:
        """Has it said that its ranks have ended?"""
        return os.path.exists(self._mark)

    @property
    def who(self) -> str:
        """'anna on node3 since 2026-11-26 07:50'; words where the claim cannot be read."""
        job = f" (job {self.job})" if self.job else ""
        return f"{self.user} on {self.host}{job} since {self.since}" if self.id else "somebody"

    @property
    def here(self) -> bool:
        """Is it a launch of this very process?"""
        return self.process == this_process() != ()

    @property
    def ours(self) -> bool:
        """Is it a launch of this process, or of the notebook that this process executes?"""
        return self.here or self.execution == execution() != ""

    def end(self) -> None:
        """Say that its ranks have ended. On a full or lost disk that is not said, and its silence tells."""
        with suppress(OSError):
            self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.folder / OWNERS / f"{self.number:04d}.ended"


def newest(folder: Path) -> Owner | None:
    """The owner of a run folder; None if nobody has claimed it (older runs have no claims)."""
    with suppress(OSError):
        numbers = [int(found[1]) for name in os.listdir(folder / OWNERS) if (found := CLAIM.fullmatch(name))]
        if numbers:
            return _read(folder, max(numbers))
    return None


def take(folder: Path, after: int) -> Owner | None:
    """Claim a run folder whose newest claim is number `after` (0: none); None if another launch was faster."""
    mine = f"{after + 1:04d}-{uuid.uuid4().hex[:8]}"
    claim = {
        "id": mine,
        "user": rights.user(),
        "host": node(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "since": time.strftime("%Y-%m-%d %H:%M"),
        "process": this_process(),
        "execution": execution(),
    }
    (folder / OWNERS).mkdir(parents=True, exist_ok=True)
    files.write_json(folder / OWNERS / f"{after + 1:04d}.json", claim, replace=False)
    won = _read(folder, after + 1)  # not whether the link was made: NFS may make it and answer that it was there
    return won if won.id == mine else None


def taken(folder: Path, launch: str) -> bool:
    """Does the folder belong to a launch that came after this one? One look at one name."""
    number = launch.partition("-")[0]
    return number.isdecimal() and os.path.exists(folder / OWNERS / f"{int(number) + 1:04d}.json")


def this_process() -> tuple[Any, ...]:
    """What tells this process from all others: boot, process namespace, number, start. () where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid"), os.getpid(), _state(os.getpid())[1]
    except OSError:
        return ()


def is_dead(process: tuple[Any, ...] | list[Any]) -> bool:
    """Is a process, as it named itself, known to have ended? Of other machines and containers nothing is known."""
    here = this_process()
    if not here or len(process) != len(here) or tuple(process[:2]) != here[:2]:
        return False
    try:
        with suppress(PermissionError):  # another user's
            os.kill(process[2], 0)
        state, started = _state(process[2])
    except ProcessLookupError:
        return True
    except (OSError, TypeError, OverflowError):  # hidden from us, ended just now, or no number: the next look tells
        return False
    return state in "ZX" or started != process[3]


def execution() -> str:
    """Which execution of a notebook this is: when its runner began; '' without a runner."""
    return os.environ.get("GEOFM_STARTED", "")


def node() -> str:
    """This machine's name, as Slurm calls it in an allocation."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _state(number: int) -> tuple[str, str]:
    """(letter of its state, when it started in ticks since the boot) of a process."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def _read(folder: Path, number: int) -> Owner:
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = files.read_json(folder / OWNERS / f"{number:04d}.json")
        words = {name: str(found[name]) for name in ("id", "user", "host", "job", "since", "execution")}
        return Owner(folder, number, **words, process=tuple(found["process"]))
    return Owner(folder, number)
