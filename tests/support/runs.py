"""Runs that tests start and disturb: who their rank processes are."""

import contextlib
import os
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


def age_heartbeats(folder: Path) -> None:
    """Make them look as they will in a minute."""
    old = time.time() - 60
    for file in (folder / "heartbeats").iterdir():
        os.utime(file, (old, old))
