"""Frozen features of a data set's images, encoded on all ranks and gathered on rank 0 in the images' order.

Images are encoded in batches that do not depend on the number of ranks, so features do not either. Ranks exchange them
through files: that works with any backend and at any size, and a job that was stopped goes on from them, on any ranks.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geofm_lib import files
from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed.context import Context
from geofm_lib.model import vit

BATCH = 64  # images encoded at once; part of the result's definition only to the last bit
KEEP_S = 30.0  # seconds of a rank's work that a kill may cost
NUMBERS = "batches"  # in a file of features: the numbers of its batches
FLIPPED = 4  # turns from here on are those of the mirrored image
Features = dict[str, torch.Tensor]  # encoder's name -> [N, D], fp32


def cut(images: int) -> list[np.ndarray]:
    """The indices of each batch."""
    return [np.arange(first, min(first + BATCH, images)) for first in range(0, images, BATCH)]


class View(NamedTuple):
    """How images are looked at. epoch: numbers random crops. turn: quarters, from FLIPPED on mirrored first.

    blocks: are the features of every block wanted, or of the last?
    """

    transform: str
    epoch: int = 0
    turn: int = 0
    blocks: bool = False

    def key(self, side: str) -> str:
        """What is encoded, as the names of its files begin."""
        more = f"-turned-{self.turn}" * bool(self.turn) + "-blocks" * self.blocks
        return f"{self.transform}-{side}-{self.epoch}{more}"

    def turned(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The images as they are turned."""
        mirrored = images_BCHW.flip(-1) if self.turn >= FLIPPED else images_BCHW
        return torch.rot90(mirrored, self.turn % FLIPPED, (-2, -1))


@dataclass
class Extractor:
    """Encodes images with several frozen encoders at once (an image is decoded once); every rank makes and calls one.

    folder: keeps what is encoded, until `forget` is called. mean and std are per channel in 0..1 units; `pool` as
    `vit.features` takes it. done: called after each batch of this rank, with its number of images and how
    many batches of all ranks it stands for. stop: is asked before each batch.
    """

    encoders: dict[str, vit.Encoder]
    context: Context
    folder: Path
    mean: Sequence[float]
    std: Sequence[float]
    image_size: int
    pool: str
    seed: int
    workers: int
    done: Callable[[int, int], None]
    stop: Callable[[], bool]
    _parts: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # what is encoded -> file -> its batches

    def __post_init__(self) -> None:
        found = self._whole_files() if self.context.is_main else {}
        self._parts = self.context.broadcast(found)

    @property
    def kept(self) -> int:
        """Batches that need not be encoded again."""
        return sum(len(numbers) for parts in self._parts.values() for numbers in parts.values())

    def left(self, shards: Shards, side: str, view: "View") -> int:
        """Batches of one call that must be encoded."""
        return len(cut(len(shards))) - sum(map(len, self._parts.get(view.key(side), {}).values()))

    def forget(self, transform: str, epochs: Iterable[int]) -> None:
        """Delete what is kept of these epochs' crops."""
        for each in epochs:
            for name in self._parts.pop(View(transform, each).key("train"), {}) if self.context.is_main else ():
                (self.folder / name).unlink(missing_ok=True)

    def __call__(self, shards: Shards, side: str, transform: str, epoch: int = 0) -> Features | None:
        """All images' features by encoder, on the device of rank 0, {} elsewhere; None when a stop was asked for."""
        view = View(transform, epoch)
        if not self.encode(shards, side, view):
            return None
        return self.gather(shards, side, view) if self.context.is_main else {}

    @torch.no_grad()
    def encode(self, shards: Shards, side: str, view: "View") -> bool:
        """See to it that all images' features are in the folder; False when a stop was asked for. Every rank calls it.

        `side` names the images.
        """
        device, places = self.context.device, cut(len(shards))
        key = view.key(side)
        known = {number for numbers in self._parts.get(key, {}).values() for number in numbers}
        left = [number for number in range(len(places)) if number not in known]
        own = left[self.context.rank :: self.context.world_size]
        stream = batches(
            shards,
            [places[number] for number in own],
            image_size=self.image_size,
            transform=view.transform,
            seed=self.seed,
            epoch=view.epoch,
            workers=self.workers,
            pin=device.type == "cuda",
        )
        written: dict[str, list[int]] = {}
        part = _Part(self.folder, key, list(self.encoders))
        for position, number in enumerate(own):
            if self.stop():
                break
            images, indices = next(stream)
            pixels = normalise(images.to(device, non_blocking=True), self.mean, self.std)
            pixels = view.turned(pixels)
            for name, encoder in self.encoders.items():
                found = vit.features(encoder, pixels, self.pool, view.blocks).cpu()
                _finite(found, name, [shards.names[i] for i in indices.tolist()])
                part.features[name].append(found)
            part.numbers.append(number)
            written |= part.write(KEEP_S)
            together = position * self.context.world_size
            self.done(len(images), min(self.context.world_size, len(left) - together))
        written |= part.write(0.0)
        for more in self.context.gather(written):
            self._parts.setdefault(key, {}).update(more)
        there = {number for numbers in self._parts.get(key, {}).values() for number in numbers}
        return bool(self.context.broadcast(len(there) == len(places)))

    def gather(self, shards: Shards, side: str, view: "View") -> Features:
        """What was encoded, by encoder, on the device; for rank 0."""
        images, places, whole = len(shards), cut(len(shards)), Features()
        for file, numbers in self._parts[view.key(side)].items():
            at = np.concatenate([places[number] for number in numbers])
            found = load_file(self.folder / file)
            for name in self.encoders:
                whole.setdefault(name, torch.empty(images, found[name].shape[1]))[at] = found[name]
        return {name: found.to(self.context.device) for name, found in whole.items()}

    def _whole_files(self) -> dict[str, dict[str, list[int]]]:
        """What an earlier start has kept; a file whose content is not that of its name is deleted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, dict[str, list[int]]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            key, digest = file.stem.rsplit(".", 1)
            if files.digest(file) == digest:
                found.setdefault(key, {})[file.name] = load_file(file)[NUMBERS].tolist()
            else:
                print(f"{file} is not what was written; its images are encoded again", flush=True)
                file.unlink()
        return found


class _Part:
    """Batches of features that are not written yet. A file's name has its digest."""

    def __init__(self, folder: Path, key: str, encoders: list[str]) -> None:
        self.folder, self.key, self.encoders = folder, key, encoders
        self._begin()

    def _begin(self) -> None:
        self.began, self.numbers = time.monotonic(), list[int]()
        self.features: dict[str, list[torch.Tensor]] = {name: [] for name in self.encoders}

    def write(self, after_s: float) -> dict[str, list[int]]:
        """{name of a file: its batches} of what is written now; {} when nothing is, or the last time is not so old."""
        if not self.numbers or time.monotonic() - self.began < after_s:
            return {}
        content = {name: torch.cat(found) for name, found in self.features.items()}
        fresh = self.folder / f".{self.key}-{self.numbers[0]}.new"
        save_file(content | {NUMBERS: torch.tensor(self.numbers)}, fresh)
        name = f"{self.key}.{files.digest(fresh)}.safetensors"
        fresh.replace(self.folder / name)
        numbers = self.numbers
        self._begin()
        return {name: numbers}


def _finite(features_BD: torch.Tensor, encoder: str, names: list[str]) -> None:
    """ValueError that names the first image whose features are not finite."""
    bad = ~features_BD.isfinite().all(dim=1)
    if bad.any():
        raise ValueError(
            f"The features of the {encoder} encoder are not finite, first for {names[int(bad.nonzero()[0])]}: its "
            "weights are damaged or its training diverged; export or pretrain it again."
        )
