"""Images out of a folder, a tar (also compressed) or a zip, without unpacking it."""

import functools
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from geofm_lib.catalog import datasets
from geofm_lib.catalog.datasets import Source

# What a member that cannot be read may raise (zipfile: RuntimeError when it is encrypted).
READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)


def items(source: Source) -> Iterator[tuple[str, bytes | Callable[[], bytes], str]]:
    """(name, bytes or a function that reads them, label) for each image.

    Folders and zips give functions, so that many processes can read at once; a tar is read in its own order, once,
    because a compressed one cannot be entered in the middle. The label is the parent folder's name, "" at the top;
    `labels` decides in the end whether the folders are classes. Raises ValueError when the archive is damaged.
    """
    if source.kind == "tar":
        yield from _tar(source.path)
        return
    load = {"folder": _read_file, "zip": _read_zip}[source.kind]
    for name in filter(datasets.is_image_name, datasets.names(source.path, source.kind)):
        yield clean(name), functools.partial(load, source.path, name), parent(name)


def read(source: Source) -> Iterator[tuple[str, bytes, str]]:
    """(name, bytes, label) for each image. A file that cannot be read raises what reading it raised."""
    for name, load, label in items(source):
        yield name, load() if callable(load) else load, label


def count(source: Source) -> int | None:
    """How many images there are, or None if only reading a compressed tar through would tell."""
    if source.kind == "tar" and not _is_plain_tar(source.path):
        return None
    return sum(map(datasets.is_image_name, datasets.names(source.path, source.kind)))


def clean(name: str) -> str:
    """A name that is safe and can be written down: relative, no "..", and bytes that are no text shown as \\xNN.

    >>> clean("/tmp/../été 1.jpg")
    'tmp/été 1.jpg'
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".", "//")]
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def parent(name: str) -> str:
    """The name of the folder an image lies in, "" at the top: its class.

    >>> parent("ucm/river/river01.jpg"), parent("a.jpg")
    ('river', '')
    """
    return PurePosixPath(clean(name)).parent.name


def labels(names: list[str]) -> list[str]:
    """The class of each image, given all names: its parent folder.

    "" (no label) for images lying beside or above class folders, and for all when they lie in one single folder,
    since one class tells nothing.

    >>> labels(["set/a/1.jpg", "set/b/2.jpg", "set/3.jpg"]), labels(["photos/1.jpg", "photos/2.jpg"])
    (['a', 'b', ''], ['', ''])
    """
    folders = [PurePosixPath(name).parent for name in names]
    distinct = set(folders)
    above = {ancestor for folder in distinct for ancestor in folder.parents}
    given = ["" if folder in above else folder.name for folder in folders]
    return given if len(set(given) - {""}) > 1 else [""] * len(names)


def _tar(path: Path) -> Iterator[tuple[str, bytes, str]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and datasets.is_image_name(member.name):
                    yield clean(member.name), archive.extractfile(member).read(), parent(member.name)
    except datasets.DAMAGE as error:
        raise ValueError(datasets.damaged(path, error)) from None


def _is_plain_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return False
    return True


def _read_file(root: Path, name: str) -> bytes:
    return (root / name).read_bytes()


@functools.lru_cache(maxsize=2)
def _zip(path: Path, process: int) -> zipfile.ZipFile:
    """One open archive a process: its list of members is read once, and its file position is never shared."""
    return zipfile.ZipFile(path)


def _read_zip(path: Path, name: str) -> bytes:
    return _zip(path, os.getpid()).read(name)
