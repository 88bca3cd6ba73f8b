"""A run followed from outside, in a terminal or a pipe, until it ends. Nothing is started, asked for or written.

Every job's folder is read as the launcher's own line reads it (`overview`), and judged as by who waits for it (`life`).
"""

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

from geofm_lib.runs import life, overview, queue, slurm
from geofm_lib.runs.run import Run, shown
from geofm_lib.streams import Dropping

LOOK_S = 2.0  # between two looks
ASK_S = 15.0  # between two questions to Slurm, which are put while nothing is heard
LINES = 8  # of the log
GOING = ("running", "waiting")
NOT_BEGUN = "it has not begun, and no launch has it now; this goes on when one does"


class Watched:
    """What an observer has seen of a run so far."""

    def __init__(self, run: Run):
        self.run, self.signs, self.there = run, life.Life(run.folder), os.path.isdir(run.folder)
        self.job, self.asked = "", -math.inf

    def state(self) -> tuple[str, str]:
        """(status, what is to be said of it). The queue is asked whenever the folder shows no life.

        Raises:
            ValueError: a file cannot be read or believed; the sentence says whose it is or what to do.
        """
        silent, status, owner = self.signs.look(), self.run.status, self.run.owner
        if status in ("private", "damaged"):
            raise ValueError(self.run.trouble)
        if self.there and not os.path.isdir(self.run.folder):
            raise ValueError(f"'{self.run.folder}' is gone: somebody moved or deleted it, or its file system is lost")
        self.there = self.there or os.path.isdir(self.run.folder)
        heard = self.signs.heard and not life.all_dead(self.run.folder, owner)
        if status == "killed" and heard and silent < life.silence_s():
            return "running", f"silent for {silent:.0f} s; given up after {life.silence_s():.0f} s"
        if status == "running":
            return status, f"run by {owner.who}" if owner else ""
        if status != "finished" and (job := self._queued()):
            before = "" if status == "waiting" else f"{status}; "
            return "waiting", f"{before}{job}"
        return status, NOT_BEGUN if status == "waiting" else ""

    def _queued(self) -> str:
        """The run's own job in the queue, in words; '' where there is none or Slurm does not say."""
        if time.monotonic() - self.asked >= ASK_S:
            self.asked, self.job = time.monotonic(), in_queue(self.run.folder)
        return self.job


def in_queue(folder: Path) -> str:
    """This user's job of the run in this folder, in words: its number and what it waits for; '' if there is none."""
    try:
        found = next((job for job in slurm.queued() if job.folder == str(folder)), None)
    except RuntimeError:
        return ""
    if found is None or found.state not in queue.ACTIVE:
        return ""
    begun = found.state in ("RUNNING", "COMPLETING")
    return f"job {found.number} {'begins or ends' if begun else f'waits in the queue ({found.reason})'}"


def follow(run: Run, stream: TextIO | None = None) -> str:
    """Show the run until it has ended; returns its status, which the caller tells.

    In a terminal the lines are redrawn in place, else there is a line a change.
    """
    stream = sys.stdout if stream is None else stream
    watched, terminal, drawn, last = Watched(run), stream.isatty(), 0, ""
    while True:
        state, told = watched.state()
        parts = [f"{shown(run.folder)}: {state}" + (f" ({told})" if told else "")] if state in GOING else []
        if parts and (run.last_row or state == "running"):
            held = overview.memory(run)
            parts += [overview.progress(run) + (f", memory {held}" if held else "")]
        if terminal:
            drawn = _redraw(stream, [*parts, "", *overview.last_lines(run, LINES)], drawn)
        elif (line := "; ".join(parts)) not in ("", last):
            last = line
            print(line, file=stream, flush=True)
        if state not in GOING or Dropping.left:
            return state
        time.sleep(LOOK_S)


def _redraw(stream: TextIO, lines: list[str], drawn: int) -> int:
    """Put these lines in place of the `drawn` ones before; returns how many they are."""
    wide, high = shutil.get_terminal_size()
    kept = [line[: wide - 1] for line in lines][: high - 1]
    back = f"\x1b[{drawn}F\x1b[J" if drawn and os.environ.get("TERM") != "dumb" else ""
    stream.write(back + "".join(line + "\n" for line in kept))
    stream.flush()
    return len(kept)
