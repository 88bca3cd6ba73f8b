"""The data sets: a card each, and the one door through which images come in.

`find` takes what the user typed as `dataset`: the name of the built-in set, or the path of a folder, a tar (also
compressed) or a zip. It looks at names only and stops at the first image, so it is quick enough to run whenever
settings are checked.
"""

import difflib
import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# What counts as an image by its name; anything else in a folder or archive is passed over (text, masks in .npy ...).
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .png .tif .tiff .bmp .gif .webp .jp2 .ppm .pgm".split())

# What opening or listing a damaged archive may raise.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


@dataclass(frozen=True)
class Dataset:
    """A card. `size` is pixels a side, as text where it varies; `train` is the share the paper's lineage trains on."""

    name: str
    title: str
    classes: int
    images: int
    size: str
    train: float | None
    terms: str
    citation: str
    where: str


@dataclass(frozen=True)
class Source:
    """Where the images are. kind: "scenes" (drawn, path None), "folder", "tar" or "zip"."""

    name: str
    path: Path | None
    kind: str


_ROWS = [
    Dataset(
        name="scenes",
        title="Built-in scenes: land use from above, drawn by our own code",
        classes=16,
        images=3200,  # at the default images_per_class=200
        size="96",
        train=0.5,
        terms="BSD-3-Clause, like the code that draws them",
        citation="this repository, geofm_lib/data/scenes.py",
        where="built in",
    ),
    Dataset(
        name="millionaid",
        title="Million-AID",
        classes=51,
        images=1_000_848,  # 990,848 of them without public labels: the paper pretrains on these
        size="110 to 31,672",
        train=None,
        terms="Google Earth imagery, academic use",
        citation="Long et al. 2021, IEEE JSTARS 14:4205-4230",
        where="https://captain-whu.github.io/DiRS/",
    ),
    Dataset(
        name="ucm",
        title="UC Merced Land Use",
        classes=21,
        images=2_100,
        size="256",
        train=0.5,
        terms="public domain (USGS National Map)",
        citation="Yang and Newsam 2010, ACM SIGSPATIAL GIS",
        where="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
    ),
    Dataset(
        name="aid",
        title="AID: Aerial Image Dataset",
        classes=30,
        images=10_000,
        size="600",
        train=0.2,
        terms="Google Earth imagery, academic use",
        citation="Xia et al. 2017, IEEE TGRS 55(7):3965-3981",
        where="https://captain-whu.github.io/AID/",
    ),
    Dataset(
        name="nwpu-resisc45",
        title="NWPU-RESISC45",
        classes=45,
        images=31_500,
        size="256",
        train=0.1,
        terms="Google Earth imagery, CC BY-NC 4.0",
        citation="Cheng, Han and Lu 2017, Proceedings of the IEEE 105(10):1865-1883",
        where="https://doi.org/10.1109/JPROC.2017.2675998",
    ),
    Dataset(
        name="eurosat",
        title="EuroSAT (Sentinel-2)",
        classes=10,
        images=27_000,
        size="64",
        train=None,
        terms="MIT; contains Copernicus Sentinel data",
        citation="Helber et al. 2019, IEEE JSTARS 12(7):2217-2226",
        where="https://github.com/phelber/EuroSAT",
    ),
]
DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}


def is_image_name(name: str) -> bool:
    """Is this member an image, by its name? Hidden files and macOS's shadow copies (._x.jpg) are not.

    >>> [is_image_name(n) for n in ("a/b.JPG", "a/._b.jpg", "__MACOSX/a/b.jpg", "README.txt")]
    [True, False, False, False]
    """
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part not in (".", "..") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def find(dataset: str | os.PathLike) -> Source:
    """What `dataset` means. Raises ValueError, one sentence, if it is nothing, missing, empty or without images.

    >>> find("scenes").kind
    'scenes'
    """
    text = os.fspath(dataset).strip()
    if not text:
        raise ValueError("dataset is empty: use 'scenes' or the path of a folder, tar or zip of images")
    path = Path(os.path.expandvars(text)).expanduser()
    if text == "scenes":
        return Source("scenes", None, "scenes")
    if not path.exists():
        raise ValueError(_unknown(text))
    if not os.access(path, os.R_OK):
        raise ValueError(f"dataset: '{text}' may not be read by this user; change its permissions")
    kind = _kind(path)
    if not any(is_image_name(name) for name in names(path, kind)):
        raise ValueError(f"dataset: '{text}' holds no images (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
    return Source(path.name.split(".")[0] or path.name, path.resolve(), kind)


def names(path: Path, kind: str) -> Iterator[str]:
    """Relative names of all files in a folder (sorted) or members of an archive (as stored), with "/" between parts."""
    if kind == "folder":
        yield from _walk(path)
        return
    try:
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                yield from (info.filename for info in archive.infolist() if not info.is_dir())
        else:
            with tarfile.open(path) as archive:
                yield from (member.name for member in archive if member.isfile())
    except DAMAGE as error:
        raise ValueError(damaged(path, error)) from None


def damaged(path: Path, error: Exception) -> str:
    """The sentence for an archive that cannot be read to its end."""
    return f"dataset: the archive '{path}' is damaged ({error}); fetch it again"


def _kind(path: Path) -> str:
    """The kind of a source, by content, not by suffix. Raises ValueError for what is none."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise ValueError(f"dataset: the folder '{path}' is empty")
        return "folder"
    if not path.is_file() or path.stat().st_size == 0:
        raise ValueError(f"dataset: the file '{path}' is empty")
    if tarfile.is_tarfile(path):
        return "tar"
    if zipfile.is_zipfile(path):
        return "zip"
    raise ValueError(f"dataset: '{path}' is neither a folder nor a tar or zip archive that can be read")


def _walk(root: Path) -> Iterator[str]:
    """Sorted, following links to folders (class folders are often links), each folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        inside = Path(folder).relative_to(root)
        yield from ((inside / name).as_posix() for name in sorted(files))


def _unknown(text: str) -> str:
    """Why a name that is no path cannot be used, and what to do."""
    if text.lower() in DATASETS and text.lower() != "scenes":
        card = DATASETS[text.lower()]
        return (
            f"dataset: {card.title} is not shipped with geofm; get it from {card.where} and give the path of its "
            f"folder, tar or zip"
        )
    near = difflib.get_close_matches(text, ["scenes"], n=1)
    hint = f"did you mean '{near[0]}'?" if near else "use 'scenes' or the path of a folder, tar or zip of images"
    return f"dataset: there is no folder or file '{text}'; {hint}"


def signature(dataset: str | os.PathLike) -> str:
    """A short text that changes when the source changes: names and sizes of a folder, size and time of an archive."""
    source = find(dataset)
    if source.kind == "scenes":
        return "scenes"
    if source.kind != "folder":
        state = source.path.stat()
        return f"{source.path}|{state.st_size}|{state.st_mtime_ns}"
    digest = hashlib.sha256()
    for name in _walk(source.path):
        digest.update(f"{name}|{(source.path / name).stat().st_size}\n".encode())
    return f"{source.path}|{digest.hexdigest()[:16]}"
