"""Images out of a folder, a tar (also compressed) or a zip, without unpacking it."""

import functools
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from geofm_lib.data.sources import listing
from geofm_lib.data.sources.item import Item
from geofm_lib.data.sources.unused import Unused

# What a member that cannot be read may raise (zipfile: RuntimeError when it is encrypted).
READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)
MOST_BYTES = 2**29  # of one image file: more is no image, or a bomb
_SAFE = re.compile(r"[^./\\][^/\\]*(?:/[^./\\][^/\\]*)*")  # no part is empty or begins with a dot


def items(source: listing.Source, apart: bool = False, unused: Unused | None = None) -> Iterator[Item]:
    """Name and bytes of each image; what is none is counted in `unused`.

    Folders and zips give functions, so that many processes can read at once; a tar, which may be compressed, is read
    in its own order. What cannot be listed comes last, under its own name, with a function that raises the reason.
    apart: see `entries`.
    """
    troubles: list[tuple[str, str]] = []
    for name, load in entries(source, listing.is_image_name, troubles, apart, unused):
        yield Item(clean(name), load)
    yield from lost(troubles)


def lost(troubles: list[tuple[str, str]]) -> Iterator[Item]:
    """What could not be listed, as items that raise the reason."""
    for name, reason in troubles:
        yield Item(clean(name), functools.partial(fail, reason))


def entries(
    source: listing.Source,
    wanted: Callable[[str], bool],
    troubles: list[tuple[str, str]],
    apart: bool = False,
    unused: Unused | None = None,
) -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    """(name as stored, its bytes or a function that gives them) of the wanted files, in an order that never changes.

    troubles: see `listing.names`. apart: files of a tar give functions too, where it is not compressed. unused: what is
    not wanted is counted there.
    """
    assert source.path is not None, "drawn and downloaded images have no path"
    if source.kind == "archives":
        for archive, kind, below in listing.archives(source.path, troubles):
            inside = listing.Source(source.name, archive, kind)
            for name, load in entries(inside, lambda name, below=below: wanted(below(name)), troubles, apart, unused):  # type: ignore[misc]
                yield below(name), load
    elif source.kind == "tar":
        yield from _tar(source.path, wanted, troubles, apart and not is_compressed(source.path), unused)
    else:
        read, path = _read_zip if source.kind == "zip" else _read_file, os.fspath(source.path)
        if unused is not None:
            wanted = unused.watch(wanted, source.path if source.kind == "folder" else None)
        for name in filter(wanted, source.listed.names(troubles)):
            yield name, functools.partial(read, path, name)
        if unused is not None:
            unused.add_folders(source.listed.repeated)


def is_compressed(path: Path) -> bool:
    """Is this tar compressed, so that it can only be read from its beginning?"""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return True
    return False


def names(source: listing.Source) -> Iterator[str] | None:
    """The names of the images as `items` gives them, None if only reading a compressed tar through would tell."""
    if source.path is None or is_stream(source):
        return None
    return map(clean, filter(listing.is_image_name, source.listed.names([])))


def every(source: listing.Source) -> Iterator[str]:
    """The names of all files, images or not, as `items` gives them."""
    assert source.path is not None, "drawn and downloaded images have no path"
    return map(clean, source.listed.names([]))


def is_stream(source: listing.Source) -> bool:
    """Must it be read from its beginning, since a tar in it is compressed?"""
    assert source.path is not None, "drawn and downloaded images have no path"
    tars = [source.path] if source.kind == "tar" else []
    if source.kind == "archives":
        tars = [path for path, kind, _ in listing.archives(source.path, []) if kind == "tar"]
    return any(map(is_compressed, tars))


def clean(name: str) -> str:
    """A name that is safe and can be written down: relative, no "..", and bytes that are no text shown as \\xNN.

    >>> clean("/tmp/../été 1.jpg")
    'tmp/été 1.jpg'
    """
    if name.isascii() and _SAFE.fullmatch(name):
        return name  # as nearly all are, in a third of the time
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", "..", ".")]
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tar(
    path: Path,
    wanted: Callable[[str], bool],
    troubles: list[tuple[str, str]],
    apart: bool,
    unused: Unused | None = None,
) -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    try:
        if unused is not None:
            wanted = unused.watch(wanted)
        for archive, member in listing.members(path, links=unused is not None):
            if unused is not None and not member.isfile():
                unused.add(member.name, "a link inside an archive, which is not followed")
                continue
            if not wanted(member.name):
                continue
            if apart and not member.issparse():
                yield member.name, functools.partial(_read_part, os.fspath(path), member.offset_data, member.size)
            elif member.size > MOST_BYTES:
                yield member.name, functools.partial(fail, too_large(member.size))
            elif file := archive.extractfile(member):
                yield member.name, file.read()
    except listing.DAMAGE as error:
        troubles.append((path.name, listing.rest_lost(error)))


def fail(reason: str) -> bytes:
    """Raise the reason why an image has no bytes."""
    raise OSError(reason)


def place(load: object) -> str:
    """Where GDAL finds a file that one of the items' functions reads; "" where it cannot.

    >>> place(functools.partial(_read_zip, "/a/b.zip", "c/d.tif"))
    '/vsizip/{/a/b.zip}/c/d.tif'
    """
    form = PLACES.get(load.func, "") if isinstance(load, functools.partial) else ""
    return form.format(*load.args) if isinstance(load, functools.partial) else ""


def too_large(size: int) -> str:
    """Why a file of so many bytes is refused."""
    return f"it has {size} bytes, more than the {MOST_BYTES} that an image may have; set tile=512 to cut it into tiles"


def _read_file(root: str, name: str) -> bytes:
    file = os.open(f"{root}/{name}", os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for ever
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is no ordinary file")
        if state.st_size > MOST_BYTES:
            raise OSError(too_large(state.st_size))
        data = os.read(file, state.st_size)
        if len(data) < state.st_size:
            raise OSError(f"only {len(data)} of its {state.st_size} bytes can be read")
        return data
    finally:
        os.close(file)


def _read_part(path: str, start: int, size: int) -> bytes:
    if size > MOST_BYTES:
        raise OSError(too_large(size))
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) < size:
        raise OSError(f"only {len(data)} of its {size} bytes can be read")
    return data


@functools.lru_cache(maxsize=2)
def _zip(path: str, process: int) -> zipfile.ZipFile:
    """One open archive a process: its list of members is read once, and its file position is never shared."""
    return zipfile.ZipFile(path)


def _read_zip(path: str, name: str) -> bytes:
    archive = _zip(path, os.getpid())
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise OSError(too_large(size))
    return archive.read(name)


PLACES = {_read_file: "{}/{}", _read_zip: "/vsizip/{{{}}}/{}", _read_part: "/vsisubfile/{1}_{2},{0}"}
