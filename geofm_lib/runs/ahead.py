"""What later cells import is imported while the ranks work: the notebook's kernel has nothing else to do then."""

import importlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

LAUNCH_S = 1.0  # after the run got its name: checks come first, then ranks are started
POLL_S = 0.1


def import_once_launched(*modules: str) -> None:
    """Begin, in a thread of the kernel that `geofm run` has started; `launch` leaves the mark that is waited for."""
    threading.Thread(target=_wait, args=modules, daemon=True).start()


def _wait(*modules: str) -> None:
    with suppress(Exception):  # the cell that needs a module says what is wrong with it
        named = Path(os.environ["GEOFM_EXECUTION"], "run")
        while not named.exists():
            time.sleep(POLL_S)
        time.sleep(LAUNCH_S)
        for name in modules:
            importlib.import_module(name)
