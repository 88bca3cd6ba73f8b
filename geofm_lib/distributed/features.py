"""Frozen features of a data set's images, encoded on all ranks and gathered on rank 0 in the images' order.

Images are encoded in batches that do not depend on the number of ranks, so features do not either. Ranks exchange
them through files in the run folder: that works with any backend and at any size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed.context import Context
from geofm_lib.model import vit

BATCH = 64  # images encoded at once; part of the result's definition only to the last bit
Features = dict[str, torch.Tensor]  # encoder's name -> [N, D], fp32


def cut(images: int) -> list[np.ndarray]:
    """The indices of each batch."""
    return [np.arange(first, min(first + BATCH, images)) for first in range(0, images, BATCH)]


@dataclass
class Extractor:
    """Encodes images with several frozen encoders at once (an image is decoded once); every rank makes and calls one.

    mean and std are per channel in 0..1 units; `pool` is one of `vit.POOLS`; `done` is called after each batch of this
    rank with the number of images in it.
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
    done: Callable[[int], None]
    _calls: int = 0

    def mine(self, images: int) -> list[np.ndarray]:
        """This rank's batches: every world_size-th of the same list on any number of ranks."""
        return cut(images)[self.context.rank :: self.context.world_size]

    @torch.no_grad()
    def __call__(self, shards: Shards, transform: str, epoch: int = 0) -> Features:
        """All images' features by encoder, on the device of rank 0, {} elsewhere; `epoch` numbers random crops."""
        device = self.context.device
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.encoders}
        stream = batches(
            shards,
            self.mine(len(shards)),
            image_size=self.image_size,
            transform=transform,
            seed=self.seed,
            epoch=epoch,
            workers=self.workers,
            pin=device.type == "cuda",
        )
        for images, indices in stream:
            pixels = normalise(images.to(device, non_blocking=True), self.mean, self.std)
            for name, encoder in self.encoders.items():
                parts[name].append(vit.features(encoder, pixels, self.pool).cpu())
                _finite(parts[name][-1], name, [shards.names[i] for i in indices.tolist()])
            self.done(len(images))
        nothing = torch.empty(0, next(iter(self.encoders.values())).embed_dim)
        own = {name: torch.cat([nothing, *found]) for name, found in parts.items()}
        return {name: found.to(device) for name, found in self._gather(own, len(shards)).items()}

    def _gather(self, own: Features, images: int) -> Features:
        if self.context.world_size == 1:
            return own
        self._calls += 1
        files = [self.folder / f".features-{self._calls}-{rank}" for rank in range(self.context.world_size)]
        save_file(own, files[self.context.rank])
        self.context.barrier()
        if not self.context.is_main:
            return {}
        whole = {name: torch.empty(images, found.shape[1]) for name, found in own.items()}
        for rank, file in enumerate(files):
            places = np.concatenate([np.arange(0), *cut(images)[rank :: self.context.world_size]])
            for name, found in load_file(file).items():
                whole[name][places] = found
            file.unlink()
        return whole


def _finite(features_BD: torch.Tensor, encoder: str, names: list[str]) -> None:
    """ValueError that names the first image whose features are not finite."""
    bad = ~features_BD.isfinite().all(dim=1)
    if bad.any():
        raise ValueError(
            f"The features of the {encoder} encoder are not finite, first for {names[int(bad.nonzero()[0])]}: its "
            "weights are damaged or its training diverged; export or pretrain it again."
        )
