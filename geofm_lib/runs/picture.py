"""The curve of a run in the notebook that waits for it: one output, updated in place, gone when the run has finished.

A browser that was closed and opened again hears nothing more of a cell that runs. So the output, which JupyterLab has
saved, reads the launcher's live page by itself as soon as the kernel no longer updates it.
"""

import base64
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from geofm_lib import files
from geofm_lib.jobs.run_folder import LIVE
from geofm_lib.runs.curve import curve, templates
from geofm_lib.runs.run import Run

EMPTY = {"text/html": "", "text/plain": ""}  # an output that shows nothing, and is no loss to a page
EVERY_S = 4.0  # between two updates
ALONE_S = 6.0  # a browser that has got none for so long reads the live page, and then as often


class Picture:
    """The output: nothing outside of a notebook, and nothing in one without a curve or a live page to read."""

    def __init__(self, run: Run):
        self.run, self.shown = run, -math.inf
        self.handle: Any = None
        self.address = address(run.folder) if "ipykernel" in sys.modules else ""

    def show(self) -> None:
        """Draw it anew, at most every EVERY_S. A picture never ends a run: what goes wrong here is no fault of it."""
        now = time.monotonic()
        if "ipykernel" not in sys.modules or now - self.shown < EVERY_S:
            return
        self.shown = now
        with suppress(Exception):
            found = curve(self.run)
            if found or self.address:
                svg = base64.b64encode(found.svg.encode()).decode() if found else ""
                sentence = found.sentence if found else "no curve yet"
                it = {"svg": svg, "sentence": sentence, "address": self.address, "alone_ms": round(1000 * ALONE_S)}
                html = templates().get_template("notebook.html.j2").render(**it)
                self._put({"text/html": html, "text/plain": sentence})

    def end(self, finished: bool) -> None:
        """The run has ended. Of one that has finished the notebook draws figures; else the curve stays, as an image."""
        with suppress(Exception):
            if self.handle is not None:
                found = None if finished else curve(self.run)
                self._put({"image/svg+xml": found.svg, "text/plain": found.sentence} if found else EMPTY)

    def _put(self, content: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def address(folder: Path) -> str:
    """Where the browser that shows this notebook finds a run's live page on its Jupyter server; '' if nowhere."""
    with suppress(OSError, ValueError, KeyError, RuntimeError):
        from ipykernel.connect import get_connection_file

        runtime = Path(get_connection_file()).parent
        server = files.read_json(runtime / f"jpserver-{os.environ['JPY_PARENT_PID']}.json")
        inside = Path(os.path.realpath(folder)).relative_to(os.path.realpath(server["root_dir"]))
        return quote(f"{server['base_url']}files/{inside.as_posix()}/{LIVE}")
    return ""
