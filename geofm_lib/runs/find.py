"""Which run a name means, and which file a grid: as typed in a shell, as in a setting, or in the folder of runs."""

import os
from pathlib import Path

from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.runs.run import SMALL_FILES, closed, find_runs
from geofm_lib.settings import at_step, expanded, runs_root


def run_folder(name: str) -> Path:
    """A run folder: a path from here, or its name in the runs folder. ValueError, one sentence, where there is none."""
    path, step = at_step(name)
    if step is not None:
        raise ValueError(f"'{name}' is a checkpoint, and this is of a whole run: '{path}'")
    for folder in (Path(name).absolute(), expanded(name), runs_root() / name):
        if any(os.path.isfile(folder / file) for file in SMALL_FILES) or closed(folder):
            return folder
    near = did_you_mean(Path(name).name, [run.folder.name for run in find_runs(runs_root())])
    raise ValueError(f"there is no run '{name}'{near or '; geofm status lists the runs'}")


def is_grid(name: str | None) -> bool:
    """Is this the name of a grid rather than of a run?"""
    return bool(name) and str(name).endswith(".csv")


def typed(path: str | Path) -> Path:
    """The absolute path that was typed: as in a shell where that exists, else as in a setting."""
    return Path(path).absolute() if os.path.exists(path) else expanded(path)
