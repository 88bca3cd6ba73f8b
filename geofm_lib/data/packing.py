"""Images into data shards: ordinary tars, one completed after the other, so that a killed packing goes on.

Beside NNNNNN.tar lies NNNNNN.csv: a row for each image of the source that came while this shard was open, the refused
ones too, with everything that was measured of it. A shard counts only when that file is there; it gets its name last,
after both are on the disk. What is unfinished is called *.part and is written again.
"""

import csv
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from geofm_lib.data.shards import COLUMNS

SHARD_BYTES = 256 * 2**20
BLOCK = 512  # a tar pads each member to a multiple of this
BUFFER = 2**20  # bytes written at once
MEASURED = ("bits", "digest", "look", "sums", "squares", "converted", "reason")
ROW = (*COLUMNS, *MEASURED)  # what the rows beside a shard have
_END = bytes(2 * BLOCK)


def pack(samples: Iterable[dict], folder: Path, shard_bytes: int = SHARD_BYTES, first: int = 0) -> Iterator[dict]:
    """Write `samples` into folder/shards/000000.tar ..., yielding for each its row (see shards.COLUMNS and MEASURED).

    A sample holds name, data (bytes, or what can be written as such), label ("" = none), width, height, channels, the
    CRC-32 of its data as checksum (worked out where it is missing) and what there is of MEASURED; one with a `reason`
    is refused: it becomes a row and nothing else. `first` is the number of the first shard. A generator, so that the
    caller decides when to log or to stop; only a shard that was finished stays then.
    """
    target = Path(folder) / "shards"
    target.mkdir(parents=True, exist_ok=True)
    shard = None
    try:
        for sample in samples:
            if shard is None or shard.size >= shard_bytes and not sample.get("reason"):
                if shard:
                    shard.finish()
                shard = _Shard(target, first)
                first += 1
            yield shard.add(sample)
        if shard:
            shard.finish()
    finally:
        if shard:
            shard.close()


def rows(folder: Path) -> Iterator[dict]:
    """The rows of all finished shards, as dicts of strings, in the order of the source."""
    for number in range(finished(folder)):
        with open(Path(folder) / "shards" / f"{number:06d}.csv", encoding="utf-8", newline="") as file:
            table = csv.reader(file)
            header = next(table)
            for row in table:
                yield dict(zip(header, row, strict=True))


def finished(folder: Path) -> int:
    """How many data shards are complete, counted from the first."""
    number = 0
    while (Path(folder) / "shards" / f"{number:06d}.csv").is_file():
        number += 1
    return number


def resume(folder: Path, source: dict) -> int:
    """Take away what an interrupted packing left unfinished; how many shards of it are complete.

    `source` says what the shards are made of, in plain values: shards of anything else are taken away as well.
    """
    target, note = Path(folder) / "shards", Path(folder) / "shards" / "source.json"
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != source:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        note.write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    done = finished(folder)
    kept = {note.name} | {f"{number:06d}{end}" for number in range(done) for end in (".tar", ".csv")}
    for path in target.iterdir():
        if path.name not in kept:
            path.unlink()
    return done


class _Shard:
    """A data shard and its rows while they are written."""

    def __init__(self, target: Path, number: int):
        self.path = target / f"{number:06d}"
        self.tar, self.size = open(f"{self.path}.tar.part", "wb", BUFFER), 0
        self.rows = open(f"{self.path}.csv.part", "w", encoding="utf-8", newline="")
        self.table = csv.writer(self.rows, lineterminator="\n")
        self.table.writerow(ROW)

    def add(self, sample: dict) -> dict:
        """Append an image, or only the row of a refused one."""
        row = {key: sample[key] for key in ROW if key in sample}
        if not sample.get("reason"):
            data = sample["data"]
            header, size = _header(sample["name"], len(data)), len(data)
            row |= {"shard": f"{self.path.name}.tar", "offset": self.size + len(header), "size": size}
            row["checksum"] = sample.get("checksum") or checksum(data)
            padding = -size % BLOCK
            for part in (header, data, bytes(padding)):
                self.tar.write(part)
            self.size += len(header) + size + padding
        self.table.writerow([row.get(key, "") for key in ROW])
        return row

    def finish(self) -> None:
        """On the disk first, then by its name, the rows last: they say that the shard is complete."""
        self.tar.write(_END)
        for file, name in ((self.tar, "tar"), (self.rows, "csv")):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(f"{self.path}.{name}.part", f"{self.path}.{name}")
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def close(self) -> None:
        """Leave the shard as it is."""
        self.tar.close()
        self.rows.close()


def checksum(data) -> str:
    """The CRC-32 of an image's bytes, as it stands in the index."""
    return f"{zlib.crc32(data):08x}"


_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)  # of a header; its own sum counts as spaces
_REST = sum(_EMPTY) - sum(_EMPTY[_SIZE]) - sum(_EMPTY[_SUM]) + 8 * ord(" ")


def _header(name: str, size: int) -> bytes:
    """What stands before a member: as tarfile writes it, with mtime 0, so that the same images give the same tar."""
    if len(name) > 100 or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    # tarfile takes longer for this than for everything else that is done to write an image.
    header, short, octal = bytearray(_EMPTY), name.encode().ljust(100, b"\0"), b"%011o\0" % size
    header[_NAME], header[_SIZE] = short, octal
    header[_SUM] = b"%06o\0 " % (_REST + sum(short) + sum(octal))
    return bytes(header)
