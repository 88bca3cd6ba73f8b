"""Prepared images: ordinary tars (data shards) with an index, read in any order by one `pread` each.

A folder of a million small files is slow on a parallel file system; a hundred tars are not, and `tar xf` still
opens them. index.csv says where the bytes of each image begin, so nothing has to be read in sequence.
"""

import csv
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from geofm_lib.data import images

COLUMNS = ("name", "label", "shard", "offset", "size", "checksum", "width", "height", "channels")
KEEP_BYTES = 2**30  # decoded pixels kept in memory, if the whole split fits


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """A CSV in UTF-8, complete or not there at all (written beside, then renamed). Other keys of a row are left out."""
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    with open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, path)


def read_csv(path: Path) -> list[dict]:
    """All rows of a CSV as dicts of strings."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Shards:
    """The images of one side of a prepared folder.

    >>> data = Shards("runs/prepare-scenes", split="train")      # doctest: +SKIP
    >>> data.decode(0).shape, data.classes[data.labels[0]]       # doctest: +SKIP
    (torch.Size([3, 96, 96]), 'beach')

    names: list of str; labels: int64 [len], -1 where there is none; classes: list of str, of the whole folder, sorted;
    mean, std: per channel in 0..1 units, over the train side; channels: int; sizes: int64 [len, 2] height, width.
    """

    def __init__(self, folder: str | Path, split: str | None = None, keep_bytes: int = KEEP_BYTES):
        self.folder = Path(folder)
        if not (self.folder / "index.csv").is_file():
            raise ValueError(
                f"{self.folder} holds no prepared images (no index.csv): give the run folder of a finished "
                f"01_data run, or leave data empty"
            )
        if split not in (None, "train", "test"):
            raise ValueError(f"unknown split {split!r}; use 'train', 'test' or None for both")
        rows = read_csv(self.folder / "index.csv")
        self.classes = sorted({row["label"] for row in rows} - {""})
        if split:
            side = {row["name"]: row["split"] for row in read_csv(self.folder / "split.csv")}
            rows = [row for row in rows if side[row["name"]] == split]
        number = {name: k for k, name in enumerate(self.classes)} | {"": -1}
        self.names = [row["name"] for row in rows]
        self.labels = np.array([number[row["label"]] for row in rows], dtype=np.int64)
        self.sizes = np.array([(row["height"], row["width"]) for row in rows], dtype=np.int64).reshape(-1, 2)
        self._shard = [row["shard"] for row in rows]
        self._offset = np.array([row["offset"] for row in rows], dtype=np.int64)
        self._bytes = np.array([row["size"] for row in rows], dtype=np.int64)
        self._checksum = [row["checksum"] for row in rows]
        statistics = json.loads((self.folder / "statistics.json").read_text(encoding="utf-8"))
        self.mean, self.std, self.channels = statistics["mean"], statistics["std"], statistics["channels"]
        self._files: dict[str, int] = {}
        # Decoding is the bottleneck of a small run: a split that fits is decoded once and kept.
        fits = int(self.sizes.prod(axis=1).sum()) * self.channels <= keep_bytes
        self._kept: dict[int, torch.Tensor] | None = {} if fits else None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict:
        """Sent to another process without open files and pixels."""
        return self.__dict__ | {"_files": {}, "_kept": None if self._kept is None else {}}

    def read(self, i: int, verify: bool = False) -> bytes:
        """The encoded bytes of image i. Raises ValueError if it is cut short or, when asked, changed."""
        shard = self._shard[i]
        if shard not in self._files:
            self._files[shard] = os.open(self.folder / "shards" / shard, os.O_RDONLY)
        # pread has no file position, so threads and forked processes may share the descriptor.
        data = os.pread(self._files[shard], int(self._bytes[i]), int(self._offset[i]))
        if len(data) < self._bytes[i] or verify and f"{zlib.crc32(data):08x}" != self._checksum[i]:
            raise ValueError(
                f"{self.names[i]} in {self.folder / 'shards' / shard} is damaged (length or checksum differs from "
                f"index.csv): delete {self.folder} and prepare the images again"
            )
        return data

    def decode(self, i: int, verify: bool = False) -> torch.Tensor:
        """The pixels of image i, uint8 [C, H, W]. Not to be written to: it may be the copy kept in memory."""
        if self._kept is None:
            return images.decode(self.read(i, verify))
        if i not in self._kept:
            self._kept[i] = images.decode(self.read(i, verify))
        return self._kept[i]

    def keep(self) -> None:
        """Decode everything now, if it fits in memory at all."""
        if self._kept is not None:
            for i in range(len(self)):
                self.decode(i)

    def close(self) -> None:
        """Close the shard files (they open again on the next read)."""
        while self._files:
            os.close(self._files.popitem()[1])
