"""The training stream: what each rank reads in each step, in one order for any number of ranks and processes.

Its only state is the number of steps done. Order, crops and flips are functions of (seed, epoch, sample), so a run
goes on in the middle of an epoch, on other ranks and with other workers, with the very images that it would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from geofm_lib.data import images, sampler


@dataclass
class Places:
    """places(k): (epoch, indices int64) of a rank's micro-batch k, counted from the first of the run."""

    seed: int
    samples: int
    global_batch: int
    rank: int = 0
    world: int = 1
    parts: int = 1  # micro-batches a step
    _order: tuple[int, np.ndarray] | None = field(default=None, repr=False)  # of the epoch looked at last

    def __call__(self, k: int) -> tuple[int, np.ndarray]:
        step, part = divmod(k, self.parts)
        epoch, step = divmod(step, sampler.steps_per_epoch(self.samples, self.global_batch))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, sampler.order(self.seed, epoch, self.samples)
        slices = sampler.rank_slice(self._order[1], step, self.global_batch, self.rank, self.world, self.parts)
        return epoch, np.ascontiguousarray(slices[part])


def stream(
    shards,
    *,
    seed: int,
    global_batch: int,
    epochs: int,
    image_size: int,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
    done: int = 0,
    workers: int = 0,
    pin: bool = False,
    crop_scale: tuple[float, float] = (0.2, 1.0),
) -> Iterator[tuple[int, int, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """(step, epoch, the rank's micro-batches) from step `done` to the end of the last epoch.

    A micro-batch is (images as stored [B, C, S, S], indices int64 [B]). The processes live as long as the stream, so
    an epoch's end is no pause. `pin` where a GPU copies. ValueError for a batch that cannot be filled or shared.
    """
    places = Places(seed, len(shards), global_batch, rank, world, parts)
    steps = epochs * sampler.steps_per_epoch(len(shards), global_batch)
    dataset = images.Batches(shards, places, image_size, "pretrain", seed, crop_scale)
    found = images.load(dataset, range(done * parts, steps * parts), workers, pin)
    for step in range(done, steps):
        yield step, places(step * parts)[0], [next(found) for _ in range(parts)]
