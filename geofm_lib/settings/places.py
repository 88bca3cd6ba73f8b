"""What a typed path means, and where runs go.

Relative paths count from the clone that the current folder lies in, however deep, so that one text means one place to
a shell, a notebook and a batch job; outside of a clone they count from the current folder.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geofm_lib import rights
from geofm_lib.catalog.datasets import DOWNLOADS, DRAWN

PATHS = (
    "dataset",
    "data",
    "encoder",
    "beside",
    "init",
    "branch",
)  # settings that may be a path, or several with commas
NO_PATHS = {"", *DRAWN, "random", *DOWNLOADS}  # what they may be besides
_shells: list[Path] = []  # where `in_clone` was entered


def clone() -> Path | None:
    """The clone of geofm that the current folder lies in, however deep; None outside of one."""
    here = Path.cwd()
    marks = ("geofm_lib", "notebooks")
    return next((each for each in (here, *here.parents) if all((each / mark).is_dir() for mark in marks)), None)


@contextmanager
def in_clone() -> Iterator[bool]:
    """Work in the clone's folder, as batch scripts and grids need it; gives whether the shell is in another one."""
    start = Path.cwd()
    _shells.append(start)
    os.chdir(clone() or start)
    try:
        yield Path.cwd() != start
    finally:
        os.chdir(_shells.pop())


def shell_folder() -> Path:
    """Where the user typed the command: what is printed is pasted there."""
    return _shells[-1] if _shells else Path.cwd()


def runs_root() -> Path:
    """Where run folders go: GEOFM_RUNS, else `runs/` of the clone that the current folder lies in, else `runs/` here.

    JupyterLab starts a kernel in the notebook's folder, papermill in the caller's; both mean the same runs.
    """
    return expanded(os.environ.get("GEOFM_RUNS") or "runs")


def own_folder(kind: str) -> Path:
    """Where this user's own files of a kind (`execute`, `queue`) go; made by whoever writes there.

    `.USER/KIND` of the runs folder, which several users may share whatever their umask; where that is somebody else's
    to write, a folder among the temporary files.
    """
    user = rights.user()
    shared = runs_root() / f".{user}" / kind
    nearest = next(folder for folder in (shared, *shared.parents) if os.path.exists(folder))
    return shared if os.access(nearest, os.W_OK) else Path(tempfile.gettempdir()) / f"geofm-{user}" / kind


def expanded(path: str | os.PathLike) -> Path:
    """The absolute path that a user means, with ~ and variables filled in. Links are not followed."""
    text = os.path.expandvars(os.fspath(path).strip())
    return Path(os.path.normpath((clone() or Path.cwd()) / Path(text).expanduser()))


def unset(text: str | os.PathLike) -> str:
    """What belongs behind a path that is not there: which of its variables are not set; '' where all are.

    >>> unset("$GEOFM_NO_SUCH/aid.tar"), unset("aid.tar")
    (' (GEOFM_NO_SUCH is not set)', '')
    """
    names = [a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", os.fspath(text))]
    gone = [name for name in dict.fromkeys(names) if name not in os.environ]
    return f" ({', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not set)" if gone else ""


def at_step(text: str) -> tuple[str, int | None]:
    """("runs/a", 1200) of "runs/a@1200", a run's checkpoint; (text, None) of any other path, or of one that is there.

    >>> at_step("runs/a@01200"), at_step("runs/a")
    (('runs/a', 1200), ('runs/a', None))
    """
    found = re.fullmatch(r"(.*[^/@])@(\d{1,8})", text.strip())
    return (found[1], int(found[2])) if found and not os.path.lexists(expanded(text)) else (text, None)


def instead(text: str) -> str:
    """The end of a sentence on a run that is not there: its step is no number, or it is in the runs folder; ''."""
    path, mark, step = text.rpartition("@")
    if mark and not step.isdigit() and expanded(path).is_dir():
        return f"; '@{step}' is no step: a checkpoint is named by its number, such as {path}@1200"
    if text and os.path.isdir(runs_root() / at_step(text)[0]):
        return f"; did you mean '{runs_root() / text}'?"
    return ""


def one_spelling(paths: str) -> str:
    """The one text for all spellings of a path (`imgs`, `./imgs`, `imgs/`, the absolute one, a link to it).

    Inside the clone it counts from the clone, so that runs keep their names when a clone moves. A list with commas is
    sorted. What is no path (`scenes`, `random`) stays.
    """
    if "," in paths:
        return ",".join(sorted(map(one_spelling, paths.split(","))))
    if paths.strip() in NO_PATHS:
        return paths.strip()
    run, step = at_step(paths)
    if step is not None:
        return f"{one_spelling(run)}@{step}"
    real, root = Path(os.path.realpath(expanded(paths))), Path(os.path.realpath(clone() or Path.cwd()))
    return real.relative_to(root).as_posix() if clone() and real.is_relative_to(root) else str(real)
