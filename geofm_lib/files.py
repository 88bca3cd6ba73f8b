"""Files that are there whole or not at all, and that can be proved to be what was written.

A file is written beside its place, brought to the disk, then renamed. A finished folder is sealed by SHA256SUMS, a
digest of each of its files, which `sha256sum -c SHA256SUMS` reads too.
"""

import csv
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geofm_lib import rights

SUMS = "SHA256SUMS"
SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")  # a line of it


class Damaged(ValueError):
    """A file that cannot be read or is not what was written: one sentence with the way out."""

    def _render_traceback_(self) -> list[str]:  # IPython shows these lines instead of a stack trace
        return [f"{type(self).__name__}: {self}"]


class Private(Damaged):
    """A file that this user may not read: whose it is, and what they can do."""


@contextmanager
def whole(file: str | Path, replace: bool = True, shared: bool = False) -> Iterator[Path]:
    """The path to write to; it becomes `file` when the block ends, and is removed when the block fails.

    It gets to the disk before it gets its name, so that a power cut cannot leave half of it. With `replace` it takes
    the place of a file that is there; else the first writer's stays. `shared`: several processes may write it at once.
    """
    file = Path(file)
    own = f"-{uuid.uuid4().hex[:8]}" if shared or not replace else ""  # else what a crash left is written over
    fresh = file.with_name(f".{file.name}{own}.new")
    try:
        yield fresh
        with open(fresh, "rb") as stream:
            os.fsync(stream.fileno())
        if replace:
            fresh.replace(file)
        else:
            with suppress(FileExistsError):
                os.link(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


def write_text(file: str | Path, text: str, replace: bool = True) -> None:
    """Write a text file in UTF-8."""
    with whole(file, replace=replace, shared=True) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(file: str | Path, value: Any, replace: bool = True) -> None:
    """Write a JSON file, indented, with a line end."""
    write_text(file, json.dumps(value, indent=1) + "\n", replace)


def write_csv(file: str | Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV. Other keys of a row are left out; a column that a row lacks stays empty."""
    columns = list(columns)
    write_table(file, columns, ([row.get(column, "") for column in columns] for row in rows))


def write_table(file: str | Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV of rows that have their values in the order of the columns."""
    with whole(file) as fresh, open(fresh, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_csv(file: str | Path) -> list[dict[str, str]]:
    """All rows of a CSV."""
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_json(file: str | Path) -> dict[str, Any]:
    """The object in a JSON file. FileNotFoundError where there is none, Damaged where it cannot be read."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except PermissionError:
        raise Private(rights.denied(file)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is no JSON: {error}"
        raise Damaged(f"{file} cannot be read ({why})") from None
    if not isinstance(found, dict):
        raise Damaged(f"{file} cannot be read (it holds a {type(found).__name__}, no object)")
    return found


def changed(file: str | Path) -> int | None:
    """A file's time of change in ns, None if it is not there. It is opened: NFS tells an old time to who only asks."""
    try:
        with open(file, "rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def digest(file: str | Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: str | Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS of these files of the folder; digests of a folder in it that is sealed are taken over."""
    folder, found = Path(folder), dict[str, str]()
    for name in sorted(names):
        inner = sums((folder / name).parent) if "/" in name else {}
        found[name] = inner.get(Path(name).name) or digest(folder / name)
    write_text(folder / SUMS, "".join(f"{each}  {name}\n" for name, each in found.items()))


def sums(folder: str | Path) -> dict[str, str]:
    """{name: digest} of a sealed folder, {} of one that is not. Damaged when SHA256SUMS cannot be read."""
    file = Path(folder) / SUMS
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise Private(rights.denied(file)) from None
    except (OSError, ValueError) as error:
        raise Damaged(f"{file} cannot be read ({error}); {_accept(file)}") from None
    found = [SUM.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(found):
        raise Damaged(f"{file} is damaged: not every line is a digest and a name; {_accept(file)}")
    return {each[2]: each[1] for each in found if each}


def prove(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Raise Damaged unless these files of a sealed folder (all that are listed) are what was written.

    Nothing is asked of a folder without SHA256SUMS: older ones, and other people's, have none.
    """
    known = sums(folder)
    for name in (known if names is None else names) if known else ():
        file = Path(folder) / name
        try:
            good = known.get(name) == digest(file)
        except FileNotFoundError:
            raise Damaged(f"{file} is missing, and {SUMS} lists it; {_accept(file)}") from None
        except PermissionError:
            raise Private(rights.denied(file)) from None
        except OSError as error:
            raise Damaged(f"{file} cannot be read ({error.strerror})") from None
        if name not in known:
            raise Damaged(f"{file} is not listed in {SUMS}; {_accept(file)}")
        if not good:
            raise Damaged(f"{file} is not what was written: its digest differs from that in {SUMS}; {_accept(file)}")


def written_since(folder: str | Path) -> list[str]:
    """The files of a sealed folder that are not there or were written after the seal: the only ones to look at."""
    known = sums(folder)
    sealed = os.stat(Path(folder) / SUMS).st_mtime_ns if known else 0
    found = []
    for name in known:
        try:
            new = os.stat(Path(folder) / name).st_mtime_ns > sealed
        except OSError as error:
            new = isinstance(error, FileNotFoundError)
        found += [name] if new else []
    return found


def seals(file: str | Path) -> list[Path]:
    """Every SHA256SUMS that lists a file, of its folder and of those around it; itself, if the file is one."""
    file = Path(os.path.abspath(file))
    found = [file] if file.name == SUMS else []
    for folder in (each for each in file.parents if each / SUMS != file):
        with suppress(Damaged):  # then it lists nothing, and who reads that folder is told
            if file.relative_to(folder).as_posix() in sums(folder):
                found.append(folder / SUMS)
    return found


def to_delete(file: str | Path) -> str:
    """A damaged file, if it is there, and its seals: what has to go so that the folder is read without it."""
    there = [Path(file)] if os.path.lexists(file) else []
    return " and ".join(map(str, dict.fromkeys([*there, *seals(file)])))


def _accept(file: str | Path) -> str:
    listed = " and ".join(map(str, seals(file)))
    return f"restore it from a copy, or delete {listed} to take the folder as it is"
