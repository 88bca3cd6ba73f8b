"""The manifest of a checkpoint: a digest of every file, without which the checkpoint does not count.

manifest.json holds `step`, `ranks` (how many wrote it), `state` (what the run is, and its settings.json), `files` (name
-> SHA-256) and `digest`, which is that of the manifest itself. No torch: the launcher reads them too.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geofm_lib import files

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

    from geofm_lib.distributed.context import Context

NAME = "manifest.json"
SMALL = 2**30  # bytes


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or used, in one sentence."""


def digests_of(part: Path, rank: int) -> dict[str, str]:
    """File name -> digest of the files that this rank wrote: `__<rank>_<part>.distcp`; the index is rank 0's."""
    return {file.name: files.digest(file) for file in sorted(part.iterdir()) if _writer(file.name) == rank}


def commit(part: Path, final: Path, content: dict[str, Any]) -> str:
    """Make a written checkpoint count: the manifest, then the rename. Returns '' or what went wrong."""
    try:
        files.write_json(part / NAME, {**content, "digest": _own_digest(content)})
        _sync(part)
        part.rename(final)
    except OSError as error:
        return reason(error)
    with contextlib.suppress(OSError):  # `latest` is for people; loading looks at the folders themselves
        files.write_text(final.with_name("latest"), final.name)
        _sync(final.parent)
    return ""


def verify(source: Path, context: "Context") -> tuple[str, dict[str, Any]]:
    """('' or what is wrong, manifest). Every rank calls this; the files are shared out over the ranks."""
    fault, found = content(source)
    if not fault:
        fault = changed(source, found, slice(context.rank, None, context.world_size))
    return context.broadcast(next((each for each in context.gather(fault) if each), "")), found


def content(source: Path) -> tuple[str, dict[str, Any]]:
    """('' or what is wrong, manifest): read and held against its own digest, and no file but it."""
    found: dict[str, Any] = {}
    try:
        found = json.loads((source / NAME).read_text())
        _ = found["state"], found["step"], found["ranks"], found["files"].keys()
        return ("" if found["digest"] == _own_digest(found) else f"{NAME} has changed"), found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {NAME} is missing or unreadable", found


def changed(source: Path, content: dict[str, Any], part: slice = slice(None)) -> str:
    """What is wrong with the first file, of this part of them all, that is not what was written; ''."""
    return first_fault(
        sorted({*content["files"], ".metadata"})[part], content, lambda name: files.digest(source / name)
    )


def small_fault(source: Path) -> str:
    """'' or what is wrong. Of a large checkpoint only the manifest and which files are there is looked at.

    Ranks share out the digests of a large one, which take one process minutes.
    """
    fault, found = content(source)
    if fault:
        return fault
    names = sorted({*found["files"], ".metadata"})
    if missing := next((name for name in names if not (source / name).is_file()), ""):
        return f"{missing} is missing"
    known = tuple((name, each.st_mtime_ns, each.st_size) for name in names for each in [(source / name).stat()])
    return _fault(source, found["digest"], known) if sum(size for _, _, size in known) <= SMALL else ""


@cache
def _fault(source: Path, digest: str, known: tuple[tuple[str, int, int], ...]) -> str:
    """`changed`, once for files of these times and sizes."""
    return changed(source, content(source)[1])


def first_fault(names: Iterable[str], content: dict[str, Any], digest: Callable[[str], str]) -> str:
    """What is wrong with the first of these files whose digest is not the manifest's; '' when all are right."""
    for name in names:
        try:
            if digest(name) != content["files"].get(name):
                return f"{name} has changed since it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def refuse_strays(source: Path, index: "Metadata", content: dict[str, Any]) -> None:
    """CheckpointError for an index that refers to files which the manifest does not list."""
    strays = {each.relative_path for each in index.storage_data.values()} - content["files"].keys()
    if strays:
        raise CheckpointError(f"{source} refers to {min(strays)}, which is none of its files, so it is not loaded")


def differing(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two states, each with both values.

    Of a value that is a dictionary (settings) only names that both have: a checkpoint may be older than a setting.
    """
    found = []
    for name, value in now.items():
        before = there.get(name)
        if isinstance(value, dict):
            both = {each: now for each, now in value.items() if each in (before or {})}
            found += differing(before or {}, both)
        elif before != value:
            found.append(f"{name}: {before!r} there, {value!r} now")
    return found


def reason(error: BaseException) -> str:
    """Why writing or reading failed, in a few words; torch hides each rank's own error in one of its own."""
    if failures := getattr(error, "failures", None):  # torch's CheckpointException
        rank, (first, _) = min(failures.items())
        return f"rank {rank}: {reason(first)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _own_digest(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _writer(name: str) -> int:
    return int(name.strip("_").split("_")[0]) if name.startswith("__") else 0


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
