"""Prepared images: ordinary tars (data shards) with an index, read in any order by one `pread` each.

A folder of a million small files is slow on a parallel file system; a hundred tars are not, and `tar xf` still
opens them. index.csv says where the bytes of each image begin, so nothing has to be read in sequence.
"""

import csv
import json
import os
import zlib
from array import array
from pathlib import Path

import numpy as np
import torch

from geofm_lib.data import decode, sampler, several
from geofm_lib.data.sources import prepared
from geofm_lib.files import prove

COLUMNS = ("name", "label", "shard", "offset", "size", "checksum", "width", "height", "channels")
LISTS = ("index.csv", "split.csv", "statistics.json")
MOST_OPEN = 256  # shards at once: a process may open 1024 files on most systems
KEEP_BYTES = 2**30  # decoded pixels kept in memory, if the whole split fits
Pixels = tuple[torch.Tensor, torch.Tensor | None]  # [C, H, W], and where they were measured, see `Shards.pixels`


class Shards:
    """The images of one side of a prepared folder.

    names: list of str. labels: int64 [len], the first of each image, -1 where there is none. several: has any image of
    the folder more than one? classes: of the whole folder, sorted.
    mean, std: per channel in 0..1 units, over the train side. sizes: int64 [len, 2], height and width. masked: has any
    image of the folder pixels that were not measured? dates: of series, which are images one pixel high, 0 of images.
    labelled: are images without a label left out?
    drawn: int64, which images of the side these are; None: all.
    """

    def __init__(
        self, folder: str | Path, split: str | None = None, keep_bytes: int = KEEP_BYTES, labelled: bool = False
    ):
        self.folder = Path(folder)
        if not (self.folder / "index.csv").is_file():
            raise ValueError(
                f"{self.folder} holds no prepared images (no index.csv): give the run folder of a finished "
                f"01_data run, or leave data empty"
            )
        prepared.check_members(self.folder)
        prove(self.folder, [name for name in LISTS if (self.folder / name).is_file()])
        if split not in (None, "train", "val", "test"):
            raise ValueError(f"unknown split {split!r}; use 'train', 'val', 'test' or None for all")
        side = None
        if split:
            if not (self.folder / "split.csv").is_file():
                raise ValueError(f"{self.folder} has no split.csv; copy the whole folder, or prepare it again")
            with open(self.folder / "split.csv", encoding="utf-8", newline="") as file:
                side = {row[0] for row in csv.reader(file) if row[1] == split}
        self._read_index(side, labelled)
        statistics = json.loads((self.folder / "statistics.json").read_text(encoding="utf-8"))
        self.mean, self.std, self.channels = statistics["mean"], statistics["std"], statistics["channels"]
        self.dates = int(statistics.get("dates", 0))
        self.bands: list[str] = statistics.get("bands", [])  # their names, [] where they have none
        self.masked = bool(statistics.get("masked_images"))
        self.drawn: np.ndarray | None = None
        self._files: dict[int, int] = {}
        # Decoding is the bottleneck of a small run: a split that fits is decoded once and kept.
        value = np.dtype(statistics.get("dtype", "uint8" if self.channels == 3 else "uint16")).itemsize
        fits = int(self.sizes.prod(axis=1).sum()) * (self.channels * value + self.masked) <= keep_bytes
        self._kept: dict[int, Pixels] | None = {} if fits else None

    def _read_index(self, side: set[str] | None, labelled: bool) -> None:
        """The rows of index.csv, those named in `side` only, as one array a column: a million rows a rank must fit."""
        names, labels, places, sizes = [], array("q"), array("q"), array("q")
        numbers: dict[str, int] = {}  # label -> number, in the order in which they come
        files: dict[str, int] = {}  # shard -> number, likewise
        with open(self.folder / "index.csv", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for name, label, shard, offset, size, checksum, width, height, _ in rows:
                number = numbers.setdefault(label, len(numbers))
                if side is not None and name not in side or labelled and not label:
                    continue
                names.append(name)
                labels.append(number)
                place = files.setdefault(shard, len(files))
                places.extend((place, int(offset), int(size), int(checksum, 16)))
                sizes.extend((int(height), int(width)))
        self._read_labels(list(numbers), np.array(labels, dtype=np.int64))
        self.names = names
        self.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 4)  # shard, offset, size, checksum
        self._shards = list(files)

    def _read_labels(self, written: list[str], number: np.ndarray) -> None:
        """`written`: what stands in the column, each once; `number`: which of them each image has."""
        parts = [several.parts(label) for label in written]
        self.several = any(len(each) > 1 for each in parts)
        self.classes = sorted({label for each in parts for label in each})
        rank = {label: k for k, label in enumerate(self.classes)}
        first = [rank[each[0]] if each else -1 for each in parts]
        self.labels = np.array(first, dtype=np.int64)[number]
        self._written, self._number = np.zeros((len(parts), len(rank)), np.float32), number
        for row, each in zip(self._written, parts, strict=True):
            row[[rank[label] for label in each]] = 1

    @property
    def targets(self) -> np.ndarray:
        """1 where an image has a class and 0 elsewhere, float32 [len, classes]."""
        return self.targets_of(slice(None))

    def targets_of(self, places: np.ndarray | slice) -> np.ndarray:
        """`targets` of some images, without building those of all."""
        return self._written[self._number[places]]

    def size(self, image_size: int) -> tuple[int, int]:
        """(height, width) of what a model sees of them, in pixels."""
        return (1 if self.dates else image_size), image_size

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict:
        """Sent to another process without open files and pixels."""
        return self.__dict__ | {"_files": {}, "_kept": None if self._kept is None else {}}

    def draw(self, count: int, seed: int) -> None:
        """Keep `count` images that a seed chooses, in their order; those of fewer are among those of more."""
        self.drawn = chosen = np.sort(sampler.generator(seed, 0, 0, "subset").permutation(len(self))[:count])
        self.names = [self.names[i] for i in chosen]
        self.labels, self._number = self.labels[chosen], self._number[chosen]
        self.sizes, self._places = self.sizes[chosen], self._places[chosen]

    def read(self, i: int, verify: bool = False) -> bytes:
        """The encoded bytes of image i. Raises ValueError if it is cut short or, when asked, changed."""
        number, offset, size, checksum = self._places[i].tolist()
        if number not in self._files:
            if len(self._files) >= MOST_OPEN:
                os.close(self._files.pop(next(iter(self._files))))  # the one opened first
            try:
                self._files[number] = os.open(self.folder / "shards" / self._shards[number], os.O_RDONLY)
            except OSError as error:
                raise ValueError(f"{self.names[i]} in {self.folder} cannot be read: {error}") from None
        # pread has no file position, so threads and forked processes may share the descriptor.
        data = os.pread(self._files[number], size, offset)
        if len(data) < size or verify and zlib.crc32(data) != checksum:
            raise ValueError(
                f"{self.names[i]} in {self.folder / 'shards' / self._shards[number]} is damaged (length or checksum "
                f"differs from index.csv): delete {self.folder} and prepare the images again"
            )
        return data

    def decode(self, i: int) -> torch.Tensor:
        """The pixels of image i, as stored, [C, H, W]. Not to be written to: they may be the copy in memory.

        Raises ValueError, with the image's name, when they cannot be read.
        """
        return self.pixels(i)[0]

    def pixels(self, i: int) -> Pixels:
        """The same, and where they were measured: bool [1, H, W], None for everywhere. Elsewhere is their mean."""
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        data = self.read(i, verify=True)  # a flipped bit may decode to other pixels without a word
        try:
            values, valid = decode.read(data)
        except Exception as error:  # decoders raise whatever the bytes lead them to
            raise ValueError(f"{self.names[i]} in {self.folder} cannot be decoded here: {error}") from error
        # Tensors keep their HWC memory under a CHW shape, in which resizing is faster.
        found = torch.from_numpy(values).permute(2, 0, 1), None if valid is None else torch.from_numpy(valid)[None]
        if self._kept is not None:
            self._kept[i] = found
        return found

    def keep(self) -> None:
        """Decode everything now, if it fits in memory at all."""
        if self._kept is not None:
            for i in range(len(self)):
                self.pixels(i)
