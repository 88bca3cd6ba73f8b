"""A run folder as a Workflow Run RO-Crate (profile 0.5): one zip file that says what ran, on what, and what came of it.

The notebook, without outputs, is the workflow; its parameters are what went in, the run's files what came out. Nobody
is named: `public` says what may leave the run folder.
"""

import os
import tempfile
from pathlib import Path

from geofm_lib import files, rights
from geofm_lib.report.public import Public
from geofm_lib.runs import check
from geofm_lib.runs.run import Run, shown
from geofm_lib.settings.places import unset

MISSING = (
    "--crate needs the package rocrate, which is not installed here: .venv/bin/pip install -e '.[crate]' "
    "-c constraints.txt"
)
ENDED = ("finished", "failed", "stopped", "killed", "unknown")


def write(run: Run, file: Path | None = None) -> Path:
    """Write the crate of an ended run; `file` is a new zip file, by default beside the run folder: RUN.crate.zip.

    ValueError, one sentence, for a run that has not ended or cannot be believed, and for a file that is there.
    """
    try:
        from geofm_lib.report.crate_entities import Described
    except ImportError:
        raise ValueError(MISSING) from None
    target = (file or run.folder.with_name(f"{run.folder.name}.crate.zip")).absolute()
    _refuse(run, target)
    notebook = _notebook(run)
    with tempfile.TemporaryDirectory() as place:
        crate = Described(run, Public(run), notebook, Path(place)).crate()
        try:
            with files.whole(target, replace=False) as fresh:
                crate.write_zip(fresh)
        except OSError as error:
            raise ValueError(f"The crate was not written: {rights.told(error)}") from None
    return target


def _refuse(run: Run, target: Path) -> None:
    """What stands in the way, before anything is read twice."""
    state = run.status
    if run.trouble:
        raise ValueError(run.trouble)
    if state not in ENDED:
        raise ValueError(f"{shown(run.folder)} is {state}: make its crate when it has ended (geofm watch RUN waits)")
    if target.is_dir():
        raise ValueError(f"'{target}' is a folder: name the file in it, --to {target / run.folder.name}.crate.zip")
    if target.suffix != ".zip":
        raise ValueError(f"A crate is one zip file: name it {shown(target)}.zip")
    if os.path.lexists(target):
        raise ValueError(f"{shown(target)} is there already: delete it, or name another file with --to")
    if not target.parent.is_dir():
        what = "is no folder" if os.path.lexists(target.parent) else f"is not there{unset(target)}: make that folder"
        raise ValueError(f"The crate has no place: '{target.parent}' {what}, or name another file with --to")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(rights.denied(target.parent))


def _notebook(run: Run) -> Path:
    """The run's own notebook, else the project's of its job."""
    own = run.folder / "notebook.ipynb"
    if own.is_file():
        return own
    for found in check.known().values():
        if (job := check.settings_class(found)) and getattr(job, "job", "") == run.job:
            return found
    raise ValueError(f"{shown(run.folder)} has no notebook: run it by `geofm run` for a crate of it")
