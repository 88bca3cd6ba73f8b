"""Images into data shards: ordinary tars, one completed after the other, so that a killed packing goes on.

Beside NNNNNN.tar lies NNNNNN.csv: a row for each image of the source that came while this shard was open, the refused
ones too, with everything that was measured of it. A shard counts only when that file is there; it gets its name last,
after both are on the disk. What is unfinished is called *.part and is written again.
"""

import csv
import itertools
import json
import operator
import os
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from geofm_lib.data.sample import ROW, Block, Sample, checksum, from_row

BLOCK = 512  # a tar pads each member to a multiple of this
BUFFER = 2**20  # bytes written at once
PIECE = 2**25  # bytes of a shard brought to the disk at once, more where the disk is slower than the packing
AT_ONCE = 4096  # rows read together
NOTE = "source.json"  # beside the shards: what they are made of
_END = bytes(2 * BLOCK)
_values = operator.attrgetter(*ROW)
_blank = [""] * (len(ROW) - 2)  # between the name and the reason of a refused image


def pack(samples: Iterable[Sample], folder: Path, shard_bytes: int, first: int = 0) -> Generator[Sample, None, None]:
    """Write `samples` into folder/shards/000000.tar ..., yielding each with its place.

    A missing checksum is worked out. A sample with a reason becomes a row and nothing else. `first` is the number of
    the first shard. A generator, so that the caller decides when to log or to stop; only finished shards stay then.
    """
    target = folder / "shards"
    target.mkdir(parents=True, exist_ok=True)
    shard: _Shard | None = None
    with ThreadPoolExecutor(1) as disk:  # what is written gets to the disk while more comes
        waiting: Future[Any] = disk.submit(bool)

        def then(step: Callable[[], None]) -> Future:
            waiting.result()  # tells what went wrong
            return disk.submit(step)

        try:
            for sample in samples:
                if shard is None or (shard.size >= shard_bytes and not sample.reason):
                    if shard:
                        waiting = then(shard.finish)
                    shard = _Shard(target, first)
                    first += 1
                elif shard.size - shard.stored >= PIECE and waiting.done():
                    waiting, shard.stored = then(shard.store), shard.size
                shard.add(sample)
                yield sample
            if shard:
                waiting = then(shard.finish)
            waiting.result()
        finally:
            if shard:
                shard.close()


def columns(folder: Path) -> Iterator[Block]:
    """The rows of all finished shards, in the order of the source: some at a time, as columns, much faster than dicts.

    A block never holds rows of two shards.
    """
    for number in range(finished(folder)):
        with open(folder / "shards" / f"{number:06d}.csv", encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
            while some := _cells(file):
                yield dict(zip(header, zip(*some, strict=True), strict=True))


def _cells(file: TextIO) -> list[list[str]]:
    """The next rows of a CSV; where nothing is quoted, in a third of the time of the csv module."""
    lines = list(itertools.islice(file, AT_ONCE))
    if any('"' in line for line in lines):
        return list(itertools.islice(csv.reader(itertools.chain(lines, file)), AT_ONCE))
    return [line.rstrip("\n").split(",") for line in lines]


def rows(folder: Path) -> Iterator[Sample]:
    """The samples of all finished shards without their data, in the order of the source."""
    for block in columns(folder):
        yield from (from_row(block, row) for row in zip(*block.values(), strict=True))


def finished(folder: Path) -> int:
    """How many data shards are complete, counted from the first."""
    number = 0
    while (folder / "shards" / f"{number:06d}.csv").is_file():
        number += 1
    return number


def leave_out(folder: Path, reasons: dict[str, str], shard_bytes: int) -> None:
    """Write the finished shards again without the images that `reasons` names: their rows then hold only the reason.

    What comes out is what packing would have written, had it known the reasons.
    """
    shards, beside = folder / "shards", folder / "shards.again"
    shutil.rmtree(beside, ignore_errors=True)

    def samples() -> Iterator[Sample]:
        for sample in rows(folder):
            if not sample.reason and not (reason := reasons.get(sample.name, "")):
                sample.data = _read(shards, sample)
            elif not sample.reason:
                sample.reason = reason
            yield sample

    for _ in pack(samples(), beside, shard_bytes):
        pass
    shutil.copy(shards / NOTE, beside / "shards")
    os.replace(shards, beside / "before")  # a restart that finds no shards packs everything again
    os.replace(beside / "shards", shards)
    shutil.rmtree(beside)


def _read(shards: Path, sample: Sample) -> bytes:
    with open(shards / sample.shard, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.size)


def resume(folder: Path, source: dict[str, Any]) -> int:
    """Take away what an interrupted packing left unfinished; how many shards of it are complete.

    `source` says what the shards are made of, in plain values: shards of anything else are taken away as well.
    """
    target = folder / "shards"
    note = target / NOTE
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
        self.path, self.name = target / f"{number:06d}", f"{number:06d}.tar"
        self.tar = open(f"{self.path}.tar.part", "wb", BUFFER)
        self.size = self.stored = 0  # bytes
        self.rows = open(f"{self.path}.csv.part", "w", encoding="utf-8", newline="")
        self.table = csv.writer(self.rows, lineterminator="\n")
        self.table.writerow(ROW)

    def add(self, sample: Sample) -> None:
        """Append an image, or only the row of a refused one."""
        if sample.reason:
            self.table.writerow([sample.name, *_blank, sample.reason])
            return
        size = len(sample.data)
        header, padding = _header(sample.name, size), bytes(-size % BLOCK)
        sample.shard, sample.offset, sample.size = self.name, self.size + len(header), size
        sample.checksum = sample.checksum or checksum(sample.data)
        for part in (header, sample.data, padding):
            self.tar.write(part)
        self.size += len(header) + size + len(padding)
        self.table.writerow(_values(sample))

    def store(self) -> None:
        """Bring to the disk what has been written, and let go of its memory, which is scarce in a job."""
        os.fsync(self.tar.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.tar.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def finish(self) -> None:
        """On the disk first, then by its name, the rows last: they say that the shard is complete."""
        try:
            self.tar.write(_END)
            for file, name in ((self.tar, "tar"), (self.rows, "csv")):
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(f"{self.path}.{name}.part", f"{self.path}.{name}")
        finally:
            self.close()
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def close(self) -> None:
        """Leave the shard as it is."""
        self.tar.close()
        self.rows.close()


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
