"""Notebooks that tests execute as `geofm run` does, and disturb from outside."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

REPO = Path(__file__).parents[2]
PRETRAIN = REPO / "notebooks" / "02_pretrain.ipynb"


def slow(seconds: float) -> str:
    """A sitecustomize.py: in ranks every checkpoint takes so many seconds more, as long as it is half written."""
    return f"""
import os, sys, time
if "GEOFM_LAUNCH" in os.environ:
    from geofm_lib.distributed import manifest
    commit = manifest.commit
    def slowly(*given):
        time.sleep({seconds})
        return commit(*given)
    manifest.commit = slowly
"""


def customised(folder: Path, text: str) -> dict[str, str]:
    """The variables that give every Python below `folder / "sitecustomize.py"` with this text."""
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPO)])}


class Execution:
    """`geofm run` of a notebook in a folder of its own, watched from outside."""

    def __init__(
        self, folder: Path, notebook: Path, parameters: dict, streams: str = "pipe", custom: str | None = None
    ):
        self.folder, self.run = folder, Run(folder / "run")
        typed = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
        env = {**os.environ, "GEOFM_RUNS": str(folder), "GEOFM_STOP_GRACE_S": "1"}
        env |= customised(folder, slow(1) if custom is None else custom)
        command = [sys.executable, "-m", "geofm_lib", "run", str(notebook), *typed]
        full = open("/dev/full", "w") if streams == "full" else None
        self.process = subprocess.Popen(
            command, cwd=REPO, env=env, text=True, stdout=full or subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @property
    def work(self) -> Path | None:
        return next(self.folder.glob(".*/execute/*"), None)

    @property
    def page(self) -> str:
        found = [*self.folder.glob("run/report.html"), *self.folder.glob(".*/execute/*/report.html")]
        return found[0].read_text() if found else ""

    @property
    def says(self) -> str:
        """The page's own status; none without a page."""
        facts = [*self.folder.glob("run/page.json"), *self.folder.glob(".*/execute/*/page.json")]
        return json.loads(facts[0].read_text())["status"] if facts and self.page else "none"

    def end(self, seconds: float = 90) -> int:
        """Its exit code."""
        self.output = ""
        with contextlib.suppress(ValueError):
            self.output = self.process.communicate(timeout=scaled(seconds))[0] or ""
        code = self.process.wait(scaled(seconds))
        wait_for(lambda: not ranks_of(self.folder), 30)
        assert not [each for each in psutil.process_iter(["cmdline"]) if str(self.folder) in str(each.info["cmdline"])]
        return code


def pretraining() -> dict:
    """Parameters of a pretraining of a thousand steps on 2 ranks, with a checkpoint every 20; its data are prepared."""
    data = launch(PrepareSettings(images_per_class=6, scene_size=32)).folder
    return {"data": data, "model": "ViT-Atto", "image_size": 32, "epochs": 300, "warmup_epochs": 1, "global_batch": 16,
            "ranks": 2, "checkpoint_every": 20, "log_every": 1}  # fmt: skip
