"""Images out of a folder, a tar (also compressed) or a zip, without unpacking it."""

import functools
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from geofm_lib.data.sources import listing
from geofm_lib.data.sources.item import Item

# What a member that cannot be read may raise (zipfile: RuntimeError when it is encrypted).
READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)
MOST_BYTES = 2**29  # of one image file: more is no image, or a bomb


def items(source: listing.Source) -> Iterator[Item]:
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
        for name in listing.names(source.path, source.kind, troubles):
            if listing.is_image_name(name):
                yield Item(clean(name), functools.partial(load, path, name))
    for name, reason in troubles:
        yield Item(clean(name), functools.partial(_fail, reason))


def count(source: listing.Source) -> int | None:
    """How many images can be listed, or None if only reading a compressed tar through would tell."""
    assert source.path is not None, "drawn and downloaded images have no path"
    if source.kind == "tar":
        try:
            tarfile.open(source.path, "r:").close()
        except tarfile.TarError:
            return None
    return sum(map(listing.is_image_name, listing.names(source.path, source.kind, [])))


def clean(name: str) -> str:
    """A name that is safe and can be written down: relative, no "..", and bytes that are no text shown as \\xNN.

    >>> clean("/tmp/../été 1.jpg")
    'tmp/été 1.jpg'
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", "..", ".")]
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tar(path: Path, troubles: list[tuple[str, str]]) -> Iterator[Item]:
    try:
        for archive, member in listing.members(path):
            if listing.is_image_name(member.name):
                if member.size > MOST_BYTES:
                    yield Item(clean(member.name), functools.partial(_fail, _too_large(member.size)))
                elif file := archive.extractfile(member):
                    yield Item(clean(member.name), file.read())
    except listing.DAMAGE as error:
        troubles.append((path.name, listing.rest_lost(error)))


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
