"""Lines of progress while a notebook runs, and the end of everything when its file system is lost."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from geofm_lib.jobs.run_folder import heartbeat_timeout_s
from geofm_lib.runs import progress
from geofm_lib.runs.run import Run

TERMINAL_LINE_S, LOG_LINE_S = 1.0, 15.0  # how often progress is shown


def run_of(work: Path) -> Run | None:
    """The run that the notebook executed in this folder has launched or read; None before that."""
    try:
        return Run(Path((work / "run").read_text()))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def shown(work: Path, name: str) -> Iterator[None]:
    """Show the progress of the notebook `name`, executed in the folder `work`, as long as the block runs."""
    over = threading.Event()
    watcher = threading.Thread(target=_show, args=(work, name, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(5)


def _show(work: Path, name: str, over: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    last, printed, answered = "", 0.0, [time.monotonic()]
    threading.Thread(target=_give_up_when_lost, args=(work, answered, over), daemon=True).start()
    while not over.wait(TERMINAL_LINE_S):
        line = last
        with contextlib.suppress(OSError):  # an answer too
            run = run_of(work)
            line = f"{name}: {progress.line(run)}" if run else last
        answered[0] = time.monotonic()
        if line != last and (terminal or answered[0] - printed > LOG_LINE_S):
            with contextlib.suppress(OSError):  # the job's output may lie on a disk that is full
                print(f"\r{line:<110}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
            last, printed = line, answered[0]
    if terminal and last:
        print(file=sys.stderr)


def _give_up_when_lost(work: Path, answered: list[float], over: threading.Event) -> None:
    """A read that never returns (a network file system is gone) would hold the job until its time limit."""
    while not over.wait(TERMINAL_LINE_S):
        if time.monotonic() - answered[0] > heartbeat_timeout_s():
            threading.Timer(5, os._exit, (os.EX_IOERR,)).start()  # if even the next line is not taken
            fault = f"the file system of {work.parent.parent} has not answered for {heartbeat_timeout_s():.0f} s"
            print(f"{fault}; giving up. The run goes on from its last checkpoint.", file=sys.stderr, flush=True)
            os._exit(os.EX_IOERR)
