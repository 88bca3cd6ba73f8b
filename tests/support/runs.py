"""Runs that tests start and disturb: who their rank processes are."""

import contextlib
import os
import threading
import time
from pathlib import Path

import psutil


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The rank processes that are alive of the runs in this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            ours = "geofm_lib.jobs.worker" in words and any(word.startswith(str(folder)) for word in words)
            if ours and process.name() != "srun" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def beating(folder: Path, name: str = "launcher", shift: float = 0.0):
    """A heartbeat that changes while the block runs, on a machine whose clock is `shift` seconds ahead."""
    file, over = folder / "heartbeats" / name, threading.Event()
    file.parent.mkdir(parents=True, exist_ok=True)

    def beat():
        while not over.is_set():
            file.touch()
            now = time.time() + shift
            os.utime(file, (now, now))
            over.wait(0.1)

    file.touch()  # before anybody looks: who has looked in vain for long enough looks once more, and no longer
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
