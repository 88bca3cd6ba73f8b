"""Whose files are in the way: what a user may not read or write is told with its owner's name and what they can do."""

import os
import pwd
import shlex
from contextlib import suppress
from pathlib import Path


def told(error: OSError) -> str:
    """The sentence of a fault of the file system; of missing rights, whose the file is."""
    if error.filename is None:
        return str(error)
    if isinstance(error, PermissionError):
        return denied(error.filename)
    return f"'{error.filename}' cannot be used: {error.strerror}"


def denied(path: str | Path) -> str:
    """Why this user may not use a path, as one sentence: whose it is, and what they can do."""
    path = Path(os.path.abspath(path))
    closed = next(
        (each for each in (*reversed(path.parents), path) if os.path.lexists(each) and not readable(each)), None
    )
    if closed is None:
        nearest = next(each for each in (path, *path.parents) if os.path.lexists(each) and not os.access(each, os.W_OK))
        whose = "you and cannot be written" if _mine(nearest) else f"{owner(nearest)} and cannot be written by others"
        return f"'{nearest}' belongs to {whose}: choose another folder"
    words = ("go+x" if _is_home(closed) else "-R go+rX", shlex.quote(str(closed)))
    if _mine(closed):
        return f"'{closed}' belongs to you and cannot be read: `chmod u+rwX {words[1]}`"
    return f"'{closed}' belongs to {owner(closed)} and cannot be read by others: they can `chmod {' '.join(words)}`"


def readable(path: str | Path) -> bool:
    """Can this user read the file, or what lies in the folder?"""
    return os.access(path, os.X_OK if os.path.isdir(path) else os.R_OK)


def owner(path: str | Path) -> str:
    """Whose a file is: a name, or the number of a user without one."""
    return _name(os.stat(path, follow_symlinks=False).st_uid, "user ")


def user() -> str:
    """This user's name, or number: of the process, whatever USER says."""
    return _name(os.geteuid())


def _name(number: int, before: str = "") -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"{before}{number}"


def _mine(path: Path) -> bool:
    return os.stat(path, follow_symlinks=False).st_uid == os.geteuid()


def _is_home(folder: Path) -> bool:
    with suppress(KeyError):
        return pwd.getpwuid(folder.stat().st_uid).pw_dir == str(folder)
    return False
