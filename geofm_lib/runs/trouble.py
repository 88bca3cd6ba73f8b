"""Which file of a run cannot be believed, and the one way out, the same for every command that meets it."""

import os
from pathlib import Path

from geofm_lib import files
from geofm_lib.settings import JOBS, stored
from geofm_lib.settings.stored import SETTINGS

SMALL_FILES = {  # the small files of a run that every reader believes -> what it means to delete one
    SETTINGS: "",  # `stored.way_out`
    "summary.json": " and start that run again: it goes on from what it has saved",
    "environment.json": ": only where the run was made is lost",
}


def of(folder: Path) -> str:
    """One sentence with the way out; '' if all is well.

    Settings, summary and environment are read, and of a sealed run what was written after its seal is proved.
    """
    try:
        sealed = files.sums(folder)
        there = [name for name in SMALL_FILES if os.path.lexists(folder / name) or name in sealed]
        for name in dict.fromkeys([SETTINGS, *there]) if there else ():
            if fault := _fault(folder / name, sealed):
                return fault
        files.prove(folder, dict.fromkeys([*(there if sealed else ()), *files.written_since(folder)]))
    except files.Damaged as fault:
        return str(fault)
    return ""


def _fault(file: Path, sealed: dict[str, str]) -> str:
    """Why one of SMALL_FILES cannot be read, or is not that of the run's checkpoints; ''."""
    try:
        files.read_json(file)
        if file.name == SETTINGS and not (sealed and sealed.get(SETTINGS) == files.digest(file)):
            stored.check(file.parent, JOBS)
        return ""
    except files.Private as error:
        return str(error)
    except FileNotFoundError:
        fault = f"{file} is missing"
    except files.Damaged as error:
        fault = str(error)
    if file.name == SETTINGS:
        return f"{fault}; {stored.way_out(file.parent)}"
    return f"{fault}; restore it from a copy, or delete {files.to_delete(file)}{SMALL_FILES[file.name]}"
