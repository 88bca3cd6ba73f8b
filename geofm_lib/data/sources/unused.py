"""What lies beside the images and is not taken, counted by suffix and reason."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from geofm_lib.data.sources import listing, sides, tables

COLUMNS = ("suffix", "reason", "files", "example")
FEW = 4  # JSON files, of which each is looked into
MOST_TABLES = 64  # names of tables and lists that are remembered, to be looked into

ARRAYS = ".npy .npz .h5 .hdf5 .he5 .nc .nc4 .mat .pt .pth .zarr"  # by their suffix alone
ARRAY, TABLE, ARCHIVE, FORMAT = (
    "an array, which is not read",
    "a table or text",
    "an archive inside the data set",
    "a format that is not read as an image",
)
LEFT_OUT = "an image that pattern leaves out"
_REASONS = {
    suffix: reason
    for reason, suffixes in {
        ARRAY: f"{ARRAYS} .hdf .pkl .pickle .bin .raw .dat .safetensors",
        TABLE: ".csv .tsv .txt .lst .parquet .json .jsonl .ndjson .xlsx .xls .xml .yaml .yml .md .geojson .shp .dbf "
        ".shx .prj .gpkg .kml .cpg .pdf .html .htm .rst .toml .ini .log .cls",
        ARCHIVE: ".tar .zip .gz .tgz .bz2 .xz .7z .rar .zst .tbz .txz",
        FORMAT: ".img .hdr .vrt .ecw .sid .grd .asc .las .laz .heic .heif .dng .nef .cr2 .svg .eps .psd "
        ".mp4 .avi .mov .jxl .ovr .dt2 .nitf .ntf .mrf",
        "a program": ".py .ipynb .sh .m .r .c .cpp .exe .js",
    }.items()
    for suffix in suffixes.split()
}
# A call that writes an array of any number of bands; without its two options tifffile takes rows for bands.
WRITE = "tifffile.imwrite(name, pixels_HWC.squeeze(), photometric='minisblack', planarconfig='contig')"
# What can be done about a data set that holds nothing else.
_REMEDIES = {
    ARRAY: f"write each image as a TIFF, as in {WRITE}",
    ARCHIVE: "give the path of one archive, or unpack them",
    FORMAT: "convert them to TIFF, as with 'rio convert old.vrt new.tif', which comes with rasterio",
}


class Unused:
    """Counts of files that are not taken. tables: the names of the first tables and lists among them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}
        self.tables: list[str] = []

    def add(self, name: str, reason: str = "", root: Path | None = None) -> None:
        """Count a file. reason: why it is not taken, found by its name where empty. root: of a folder, for links."""
        suffix, why = _kind(name, root)
        key = suffix, reason or why
        self.counts[key] += 1
        if self.counts[key] == 1:
            self.examples[key] = name
        few = suffix == ".json" and self.counts[key] <= FEW  # they may be of objects, whatever their names
        if why == TABLE and len(self.tables) < MOST_TABLES and (few or _is_telling(name, suffix)):
            self.tables.append(name)

    def add_all(self, suffix: str, reason: str, files: int, example: str) -> None:
        """Count files that somebody else has counted."""
        self.counts[suffix, reason] += files
        self.examples.setdefault((suffix, reason), example)

    def add_folders(self, repeated: Iterable[tuple[str, str]]) -> None:
        """Count folders that are passed over, since they are read under another name: (name, reason)."""
        for name, reason in repeated:
            self.add_all("folder", reason, 1, name)

    def watch(self, wanted: Callable[[str], bool], root: Path | None = None) -> Callable[[str], bool]:
        """`wanted`, which counts the names that it does not want."""

        def watched(name: str) -> bool:
            if wanted(name):
                return True
            suffix = name[name.rfind(".") :]
            if (known := _REASONS.get(suffix)) == ARRAY and not listing.is_hidden(name):  # there may be a million
                self.counts[suffix, known] += 1
                self.examples.setdefault((suffix, known), name)
            else:
                self.add(name, root=root)
            return False

        return watched

    def take_out(self, names: Iterable[str]) -> None:
        """Files that were used after all."""
        for name in set(names).intersection(self.tables):
            self.tables.remove(name)
            self.counts[_kind(name, None)] -= 1

    def use(self, names: Iterable[str]) -> None:
        """Count files no longer, since they are used: labels beside bands."""
        self.counts.subtract(_kind(name, None) for name in names)

    def rows(self) -> Iterator[tuple[str, str, int, str]]:
        """Rows of unused.csv, the most files first."""
        for (suffix, reason), files in self.counts.most_common():
            if files > 0:
                yield suffix, reason, files, self.examples[suffix, reason]

    def summary(self) -> dict[str, dict[str, int]]:
        """{suffix: {reason: files}}."""
        found: dict[str, dict[str, int]] = {}
        for suffix, reason, files, _ in self.rows():
            found.setdefault(suffix, {})[reason] = files
        return found


def look(source: listing.Source) -> Unused:
    """What is no image in a source, by its names alone."""
    unused = Unused()
    if source.path is not None:
        wanted = unused.watch(listing.is_image_name, source.path if source.kind == "folder" else None)
        for _ in filter(wanted, source.listed.names([])):
            pass
        unused.add_folders(source.listed.repeated)
    return unused


def instead(path: Path, kind: str) -> str:
    """What a source without images holds, and what to do: the end of a sentence, "" for nothing."""
    unused = Unused()
    for name in listing.names(path, kind, []):
        unused.add(name, root=path if kind == "folder" else None)
    rows = [row for row in unused.rows() if row[0] != "hidden"]
    if not rows:
        return ""
    there = ", ".join(f"{files} {suffix} ({reason})" for suffix, reason, files, _ in rows[:3])
    remedy = next((_REMEDIES[reason] for _, reason, *_ in rows if reason in _REMEDIES), "")
    return f"; it holds {there}" + (f": {remedy}" if remedy else "")


def _is_telling(name: str, suffix: str) -> bool:
    """May a file be about the images of a set? A text is by its name alone, since sets have one for each image."""
    if suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"):
        return True
    file = name.rpartition("/")[2].lower()
    about = any(word in file for word in ("label", "split", "list", "class", "meta"))
    return suffix in tables.SUFFIXES and (about or bool(sides.mentioned(file)))


def _kind(name: str, root: Path | None) -> tuple[str, str]:
    """(suffix, why it is not an image)."""
    folder, _, file = name.replace("\\", "/").rpartition("/")
    if ".zarr/" in f"{folder}/":
        return ".zarr", ARRAY
    if listing.is_hidden(name):
        return "hidden", "a hidden file"
    dot = file.rfind(".")
    suffix = file[dot:].lower() if dot > 0 else ""
    if file.lower() in ("thumbs.db", "desktop.ini", "icon\r"):
        return "hidden", "a hidden file"
    if suffix in _REASONS:
        return suffix, _REASONS[suffix]
    if root is not None and os.path.islink(path := f"{root}/{name}") and not os.path.exists(path):
        return "link", "a link to nothing"
    if not suffix or suffix[1:].isdigit() or len(suffix) > 12:
        return "no suffix", "no image by its name"
    return suffix, "no image by its name"
