"""A plain list of paths, one a line, as the data set: the images that it names and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

from geofm_lib.data.sources import tables

SUFFIXES = (".txt", ".lst", ".csv", ".tsv")


def read(path: Path, is_image: Callable[[str], bool]) -> tuple[Path, tuple[str, ...]] | None:
    """(the folder that holds all images of the list, their sorted names in it); None for what is no plain list.

    Raises ValueError, one sentence, where none of the first images is there.
    """
    if not path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return None
    cells: list[str] = []
    try:
        with tables.reading(tables.File(path.name, path)) as rows:
            for number, (_, row) in enumerate(rows):
                if len(row) == 1 and is_image(row[0]):
                    cells.append(row[0].strip())
                elif number or len(row) != 1:  # the first may be a header
                    return None
    except ValueError:
        return None
    if not cells:
        return None
    files = [os.path.normpath(path.parent.resolve() / cell) for cell in dict.fromkeys(cells)]
    if not any(map(os.path.isfile, files[: tables.SAMPLE])):
        raise ValueError(
            f"dataset: the images that '{path}' lists, such as '{cells[0]}', are not there; write paths that are "
            "absolute, or relative to the list's folder"
        )
    top = os.path.commonpath([os.path.dirname(file) for file in files])
    return Path(top), tuple(sorted(os.path.relpath(file, top) for file in files))
