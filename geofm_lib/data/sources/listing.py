"""Where images come from: what the user typed as `dataset`, and the names of the files in it.

`find` takes the name of the built-in set or of one that torchvision fetches, or the path of a folder, a tar (also
compressed) or a zip. It looks at names only and stops at the first image, so it is quick enough to run at every launch.
No torch but where a set is fetched: the notebook's side uses this module too.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from geofm_lib.catalog.datasets import DATASETS, DOWNLOADS, DRAWN
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.data.sources import path_list, prepared, tables, walk
from geofm_lib.data.sources.sides import side_of
from geofm_lib.data.sources.walk import Listed
from geofm_lib.settings.base import naming
from geofm_lib.settings.places import expanded, unset

# What counts as an image by its name; anything else in a folder or archive is passed over (text, masks in .npy ...).
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .avif .ppm .pgm .pnm "
    ".tif .tiff .gtif .gtiff .geotiff .cog .jp2 .j2k .j2c .jpf .jpx".split()
)

ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
SHARD = re.compile(r"[-_.]?\d{2,}(-of-\d+)?$")  # at the end of a name without suffix: the number of a shard

# What opening or listing a damaged archive may raise.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


@dataclass(frozen=True)
class Source:
    """Where the images are.

    kind: "scenes", "seasons" (both drawn), "download", "prepared" (these four: path None), "folder", "tar", "zip",
    "archives" or "series". "archives": a folder whose images all lie in tars and zips. They are read as if unpacked
    there. "series": a table with a series a row.
    only: of a list of paths, the images that it names, all there is of the folder; () for everything.
    """

    name: str
    path: Path | None
    kind: str
    only: tuple[str, ...] = ()

    @functools.cached_property
    def listed(self) -> Listed:
        """The names of its files, as in `names`, which are listed once however often they are asked for."""
        assert self.path is not None, "drawn and downloaded images have no path"
        return Listed(functools.partial(names, self.path, self.kind) if not self.only else lambda *_: iter(self.only))


def is_image_name(name: str) -> bool:
    """Is this member an image, by its name? Hidden files and macOS's shadow copies (._x.jpg) are not.

    >>> [is_image_name(n) for n in ("a/b.JPG", "a/._b.jpg", "__MACOSX/a/b.jpg", "README.txt")]
    [True, False, False, False]
    """
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Does the name or one of its folders begin with a dot, or is it macOS's?"""
    folder, _, file = name.replace("\\", "/").rpartition("/")
    return file.startswith(".") or _is_hidden(folder)


@functools.lru_cache(maxsize=1024)
def _is_hidden(folder: str) -> bool:
    parts = folder.split("/")
    return any(part == "__MACOSX" or part.startswith(".") and part not in (".", "..") for part in parts)


def find(dataset: str | os.PathLike) -> Source:
    """What `dataset` means. Raises ValueError, one sentence, if it is nothing, missing, empty or without images."""
    text = os.fspath(dataset).strip()
    if not text:
        raise ValueError("dataset is empty: use 'scenes' or the path of a folder, tar or zip of images")
    path = expanded(text)
    if prepared.is_list(text) or prepared.is_prepared(prepared.whole(path)):
        with naming("dataset"):
            return Source("+".join(member.name for member in prepared.find(text)), None, "prepared")
    if text in DRAWN:
        return Source(text, None, text)
    if text in DOWNLOADS and not path.exists():
        return Source(text, None, "download")
    if not path.exists():
        raise ValueError(_unknown(text))
    if not os.access(path, os.R_OK):
        raise ValueError(f"dataset: '{text}' may not be read by this user; change its permissions")
    name = path.name.split(".")[0] or path.name
    from geofm_lib.data.sources import series  # it imports this module

    if path.is_file() and series.is_one(path):
        return Source(name, path.resolve(), "series")
    listed = path_list.read(path, is_image_name)
    found = Source(name, listed[0], "folder", listed[1]) if listed else Source(name, path.resolve(), _kind(path))
    if found.kind == "folder" and not _has_images(found) and next(archives(path, []), None):
        found = dataclasses.replace(found, kind="archives")
    if not _has_images(found):
        from geofm_lib.data.sources.unused import instead  # it imports this module

        looked = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"dataset: '{text}' holds no images (looked for {looked}){instead(path, found.kind)}")
    return found


def _has_images(source: Source) -> bool:
    """Looks no further than the first; ValueError where an archive is damaged before it."""
    assert source.path is not None
    listed = source.listed.names([]) if source.kind == "folder" else names(source.path, source.kind)
    return any(map(is_image_name, listed))


def names(
    path: Path,
    kind: str,
    troubles: list[tuple[str, str]] | None = None,
    repeated: list[tuple[str, str]] | None = None,
) -> Iterator[str]:
    """Relative names of all files in a folder (sorted) or members of an archive (as stored), with "/" between parts.

    What cannot be listed (a folder without permission, the rest of a damaged archive) is appended to `troubles` as
    (name, reason); without that list a damaged archive is a ValueError, and such folders are passed over.
    repeated: gets the folders that are read under another name already.
    """
    if kind == "folder":
        yield from walk.folder(path, [] if troubles is None else troubles, [] if repeated is None else repeated)
        return
    if kind == "archives":
        for inside, inner, below in archives(path, [] if troubles is None else troubles):
            yield from map(below, names(inside, inner, troubles))
        return
    try:
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                yield from (info.filename for info in archive.infolist() if not info.is_dir())
        else:
            yield from (member.name for _, member in members(path))
    except DAMAGE as error:
        if troubles is None:
            raise ValueError(_damaged(path, error)) from None
        troubles.append((path.name, rest_lost(error)))


def archives(path: Path, troubles: list[tuple[str, str]]) -> Iterator[tuple[Path, str, Callable[[str], str]]]:
    """The tars and zips in a folder: (path, kind, function from a name inside to the name it would have unpacked).

    Unpacked, an archive is a folder of its own name (water.zip: water/). Shards of one set, which differ in a number
    only, are no folders of their own, unless their names say a side (train-000000.tar: train/).
    """
    found = [name for name in walk.folder(path, troubles, []) if ARCHIVE.search(name) and not _is_hidden(f"{name}/")]
    stems = {name: ARCHIVE.sub("", name) for name in found}
    heads = {stem: SHARD.sub("", stem.rpartition("/")[2]) for stem in stems.values()}
    numbered = len(heads) > 1 and all(SHARD.search(stem) for stem in heads) and len(set(heads.values())) < len(heads)
    for name, stem in stems.items():
        try:
            kind = _kind(path / name)
        except (ValueError, OSError):
            troubles.append((name, "the archive is damaged; fetch it again"))
            continue
        above, _, last = stem.rpartition("/")
        words = next(filter(None, map(side_of, re.split("[-_.]", heads[stem]))), "") if numbered else last
        yield path / name, kind, functools.partial(_unpacked, "/".join(filter(None, (above, words))))


def _unpacked(folder: str, name: str) -> str:
    name = name.removeprefix("./")
    top = folder.rpartition("/")[2]
    return name if not folder else f"{folder}/{name.removeprefix(top + '/')}"


def fetch(name: str, folder: Path) -> Path:
    """The folder with the images of a data set of `DOWNLOADS`, below `folder`; downloaded once.

    Raises ValueError, one sentence, when it cannot be fetched.
    """
    if folder.is_dir():
        return folder
    from torchvision.datasets import EuroSAT

    beside = folder.with_name(folder.name + ".part")  # an archive that was half unpacked must not look complete
    try:
        EuroSAT(beside, download=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or a checksum that differs
        raise ValueError(_get_it_yourself(name, f"cannot be downloaded ({error})")) from None
    for archive in beside.glob("*/*.zip"):
        archive.unlink()
    os.replace(beside, folder)
    return folder


def members(path: Path, links: bool = False) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """(archive, member) for each file of a tar, and each link if asked for, without keeping a list of them.

    Raises what DAMAGE names, also where tarfile would call the place of the damage the end of the archive.
    """
    with tarfile.open(path) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # a million of them would be a gigabyte
            if member.isfile() or links and (member.issym() or member.islnk()):
                yield archive, member
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(512)
        if not end:
            raise tarfile.ReadError("the blocks that end an archive are missing")
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"no member begins at byte {archive.offset}, where one should")


def _damaged(path: Path, error: Exception | str) -> str:
    return f"dataset: the archive '{path}' is damaged ({error}); fetch it again"


def rest_lost(error: Exception) -> str:
    """The reason listed for an archive that could be read up to some point."""
    return f"the archive is damaged here ({error}), what follows is lost; fetch it again"


def _kind(path: Path) -> str:
    """The kind of a source, by content, not by suffix. Raises ValueError for what is none."""
    if path.is_dir():
        with os.scandir(path) as inside:
            empty = next(inside, None) is None
        if empty:
            raise ValueError(f"dataset: the folder '{path}' is empty")
        return "folder"
    if not path.is_file() or path.stat().st_size == 0:
        raise ValueError(f"dataset: the file '{path}' is empty")
    if tarfile.is_tarfile(path):
        return "tar"
    if zipfile.is_zipfile(path):
        return "zip"
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            raise ValueError(_damaged(path, "a zip whose list of members, at its end, is missing"))
    if path.suffix.lower() in tables.SUFFIXES:
        raise ValueError(
            f"dataset: '{path}' is a table or list, not images; set dataset='{_images_of(path)}' and labels='{path}'"
        )
    if is_image_name(path.name):
        raise ValueError(f"dataset: '{path}' is one image; set dataset='{path.parent}' and pattern='{path.name}'")
    raise ValueError(f"dataset: '{path}' is neither a folder nor a tar or zip archive that can be read")


def _images_of(path: Path) -> str:
    """The folder of the images that a table or list names first, its own where none of them is there."""
    files: list[Path] = []
    with contextlib.suppress(ValueError), tables.reading(tables.File(path.name, path)) as rows:
        cells = [cell for _, row in itertools.islice(rows, tables.SAMPLE) for cell in row if cell]
        names = (cell.rsplit(None, words)[0] for cell in cells for words in range(3))  # up to two words stand behind
        files = [file for name in names if is_image_name(name) and (file := path.parent / name).is_file()]
    return os.path.commonpath([file.resolve().parent for file in files]) if files else os.fspath(path.parent)


def _unknown(text: str) -> str:
    """Why a name that is no path cannot be used, and what to do."""
    if text.lower() in DATASETS and text.lower() != "scenes":
        return _get_it_yourself(text.lower(), "is not shipped with geofm")
    hint = did_you_mean(text, [*DRAWN, *DOWNLOADS]) or "; use 'scenes' or the path of a folder, tar or zip of images"
    hint = f"{gone}; set it where you start" if (gone := unset(text)) else hint
    return f"dataset: there is no folder or file '{text}'{hint}"


def _get_it_yourself(name: str, why: str) -> str:
    card = DATASETS[name]
    return f"dataset: {card.title} {why}; get it from {card.where} and give the path of its folder, tar or zip"


def signature(dataset: str | os.PathLike, source: Source | None = None) -> str:
    """A short text that changes when the source changes: names and sizes of a folder, size and time of an archive.

    source: what `find` says of `dataset`, where that is known.
    """
    source = source or find(dataset)
    if source.kind == "prepared":
        return prepared.signature(os.fspath(dataset))
    if source.path is None:
        return source.name
    if source.kind not in ("folder", "archives"):
        state = source.path.stat()
        return f"{source.path}|{state.st_size}|{state.st_mtime_ns}"
    digest = hashlib.sha256()
    for name in source.listed.names([]):
        try:
            size = os.stat(f"{source.path}/{name}").st_size
        except OSError:  # a broken link, a loop of links, a folder without permission: it is refused with its reason
            size = -1
        digest.update(f"{name}|{size}\n".encode("utf-8", "surrogateescape"))
    return f"{source.path}|{digest.hexdigest()[:16]}"
