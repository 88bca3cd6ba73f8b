"""A plain list of paths, one a line, as the data set: the images that it names and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

from geofm_lib.data.sources import tables

PATHS = "write whole paths, or paths from the list's folder on"
SUFFIXES = (".txt", ".lst", ".csv", ".tsv")


def read(path: Path, is_image: Callable[[str], bool]) -> tuple[Path, tuple[str, ...]] | None:
    """(the folder that holds all images of the list, their sorted names in it); None for what is no plain list.

    Raises ValueError, one sentence, where none of the first images is there, or names have no suffix.
    """
    if not path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return None
    cells: list[str] = []
    try:
        with tables.reading(tables.File(path.name, path)) as rows:
            for _, row in rows:
                if len(row) != 1 or not is_image(row[0]) and len(row[0].split()) > 1:  # a label may stand behind
                    return None
                cells.append(row[0].strip())
    except ValueError:
        return None
    cells = cells[is_image(cells[-1]) and not is_image(cells[0]) :]  # without a header
    if odd := next((cell for cell in cells if not is_image(cell)), ""):
        raise ValueError(f"dataset: '{path}' lists '{odd}', which is no image by its suffix; {PATHS}")
    files = list(dict.fromkeys(os.path.normpath(path.parent.resolve() / cell) for cell in cells))
    if not any(map(os.path.isfile, files[: tables.SAMPLE])):
        raise ValueError(f"dataset: the images that '{path}' lists, such as '{cells[0]}', are not there; {PATHS}")
    top = os.path.commonpath([os.path.dirname(file) for file in files])
    return Path(top), tuple(sorted(os.path.relpath(file, top) for file in files))
