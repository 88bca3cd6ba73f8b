"""Images out of a folder, a tar (also compressed) or a zip, without unpacking it."""

import functools
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from geofm_lib.data import sources

# What a member that cannot be read may raise (zipfile: RuntimeError when it is encrypted).
READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)
MOST_BYTES = 2**29  # of one image file: more is no image, or a bomb
SIDES = {"train", "test", "val", "valid", "validation"}  # folders that name a side of a split, not a class

Item = tuple[str, bytes | Callable[[], bytes]]  # name, bytes or a function that reads them


def items(source: sources.Source) -> Iterator[Item]:
    """Name and bytes of each image.

    Folders and zips give functions, so that many processes can read at once; a tar, which may be compressed, is read
    in its own order. What cannot be listed comes last, under its own name, with a function that raises the reason.
    """
    assert source.path is not None, "drawn and downloaded images have no path"
    troubles: list[tuple[str, str]] = []
    if source.kind == "tar":
        yield from _tar(source.path, troubles)
    else:
        load, path = _read_zip if source.kind == "zip" else _read_file, os.fspath(source.path)
        for name in sources.names(source.path, source.kind, troubles):
            if sources.is_image_name(name):
                yield clean(name), functools.partial(load, path, name)
    for name, reason in troubles:
        yield clean(name), functools.partial(_fail, reason)


def count(source: sources.Source) -> int | None:
    """How many images can be listed, or None if only reading a compressed tar through would tell."""
    assert source.path is not None, "drawn and downloaded images have no path"
    if source.kind == "tar":
        try:
            tarfile.open(source.path, "r:").close()
        except tarfile.TarError:
            return None
    return sum(map(sources.is_image_name, sources.names(source.path, source.kind, [])))


def clean(name: str) -> str:
    """A name that is safe and can be written down: relative, no "..", and bytes that are no text shown as \\xNN.

    >>> clean("/tmp/../été 1.jpg")
    'tmp/été 1.jpg'
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", "..", ".")]
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def labels(names: list[str]) -> list[str]:
    """The class of each image, given all names: its parent folder.

    "" (no label) for images lying beside or above class folders, and for all when they lie in one single folder. Also
    for those in folders named train, test or val with no other folder beside them, such as Million-AID's test half.
    The strings are shared, so a million labels are a million references.

    >>> labels(["set/a/1.jpg", "set/b/2.jpg", "set/3.jpg"]), labels(["photos/1.jpg", "photos/2.jpg"])
    (['a', 'b', ''], ['', ''])
    >>> labels(["train/water/lake/1.jpg", "train/water/river/2.jpg", "test/3.jpg"])
    ['lake', 'river', '']
    """
    folders = {os.path.dirname(name): "" for name in names}
    above = {folder[:end] for folder in folders for end, letter in enumerate(folder) if letter == "/"} | {""}
    beside: dict[str, set[str]] = {}  # folder -> the names of the folders directly in it
    for folder in above | set(folders):
        up, _, last = folder.rpartition("/")
        beside.setdefault(up, set()).add(last)
    for folder in folders:
        up, _, last = folder.rpartition("/")
        no_class = folder in above or last.lower() in SIDES and {each.lower() for each in beside[up] if each} <= SIDES
        folders[folder] = "" if no_class else last
    if len(set(folders.values()) - {""}) < 2:
        return [""] * len(names)
    return [folders[os.path.dirname(name)] for name in names]


def _tar(path: Path, troubles: list[tuple[str, str]]) -> Iterator[Item]:
    try:
        for archive, member in sources.members(path):
            if sources.is_image_name(member.name):
                if member.size > MOST_BYTES:
                    yield clean(member.name), functools.partial(_fail, _too_large(member.size))
                elif file := archive.extractfile(member):
                    yield clean(member.name), file.read()
    except sources.DAMAGE as error:
        troubles.append((path.name, sources.rest_lost(error)))


def _fail(reason: str) -> bytes:
    raise OSError(reason)


def _too_large(size: int) -> str:
    return f"it has {size} bytes, more than the {MOST_BYTES} that an image may have; cut it into tiles"


def _read_file(root: str, name: str) -> bytes:
    file = os.open(f"{root}/{name}", os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for ever
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is no ordinary file")
        if state.st_size > MOST_BYTES:
            raise OSError(_too_large(state.st_size))
        data = os.read(file, state.st_size)
        if len(data) < state.st_size:
            raise OSError(f"only {len(data)} of its {state.st_size} bytes can be read")
        return data
    finally:
        os.close(file)


@functools.lru_cache(maxsize=2)
def _zip(path: str, process: int) -> zipfile.ZipFile:
    """One open archive a process: its list of members is read once, and its file position is never shared."""
    return zipfile.ZipFile(path)


def _read_zip(path: str, name: str) -> bytes:
    archive = _zip(path, os.getpid())
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise OSError(_too_large(size))
    return archive.read(name)
