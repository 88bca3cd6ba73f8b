"""How much longer things take here and now than on a quiet machine: `scaled(seconds)` for the waits of tests.

A wait that is long enough on a quiet machine is too short on a busy one. The start of a fresh Python is timed once a
session, before any test runs, and every time-out of the tests is stretched by that factor. Bounds that are a promise
of the product are stretched by it as well, and by nothing else.
"""

import functools
import os
import subprocess
import sys
import time

USUAL_START_S = 0.45  # `import pandas` in a fresh Python on a quiet machine of two cores
MOST = 10.0  # a machine slower than that has another fault
VARIABLE = "GEOFM_TEST_SLOWNESS"  # xdist's workers inherit what their parent measured


@functools.cache
def slowness() -> float:
    """How many times longer a fresh Python takes to start than on a quiet machine: 1 to 10, measured once a session."""
    if VARIABLE not in os.environ:
        measured = min(_start_s(), _start_s()) / USUAL_START_S  # the first may still read from the disk
        os.environ[VARIABLE] = str(round(min(max(measured, 1.0), MOST), 2))
    return float(os.environ[VARIABLE])


def scaled(seconds: float) -> float:
    """These seconds of a quiet machine, on this one."""
    return seconds * slowness()


def _start_s() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import pandas"], check=True)
    return time.monotonic() - began


def wait_for(condition, seconds: float = 90, message: str = "what was waited for did not happen", story=str):
    """The condition's value once it is true; AssertionError with `story()` after so many seconds of a quiet machine."""
    end = time.monotonic() + scaled(seconds)
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{message} within {scaled(seconds):.0f} s\n{story()}")
        time.sleep(0.1)
    return found
