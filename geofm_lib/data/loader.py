"""Batches of pixels, prepared ahead by processes, and the training stream of a rank.

The stream's only state is the number of steps done. Order, crops and flips are functions of (seed, epoch, sample). So a
run goes on in the middle of an epoch, on other ranks and with other workers, with the very images that it would have
seen.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geofm_lib.data import boxes, sampler, transforms
from geofm_lib.data.boxes import Boxes
from geofm_lib.data.masks import Masks
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import TRANSFORMS, USUAL_SCALE, Scale, as_it_is, together
from geofm_lib.data.views import FIRST, SECOND

# Images as stored [B, C, S, S] (of two views [2 B, C, S, S]), indices int64 [B]. With validity there is one plane more,
# see `transforms.apart`. With boxes they come third, [B, G, 5].
Batch = tuple[torch.Tensor, ...]


@dataclass
class Batches(torch.utils.data.Dataset):
    """Batch k, made of the samples that places(k) names: places(k) -> (epoch, int64 array of indices).

    validity: do the images carry a last plane that says where they were measured?
    second: second(epoch, image) is the image that a second view is taken of. The first views of all samples come first,
    then their second ones. None: there is one view.
    masks: whose classes are one plane more, behind validity.
    boxes: what of them a view shows comes as a third part of the batch; for transforms of `transforms.VIEWS`.

    A class only because DataLoader wants an object that it can send to a process.
    """

    images: Shards
    places: Callable[[int], tuple[int, np.ndarray]]
    size: int
    transform: str
    seed: int
    scale: Scale
    validity: bool = False
    second: Callable[[int, int], int] | None = None
    masks: Masks | None = None
    boxes: Boxes | None = None

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(f"unknown transform {self.transform!r}; known: {', '.join(TRANSFORMS)}")
        self.change = as_it_is if self.images.dates else TRANSFORMS[self.transform]

    def __getitem__(self, k: int) -> Batch | ValueError:
        epoch, indices = self.places(k)
        change, views = self.change, []
        shown: list[torch.Tensor] = []
        looks = [(i, i, FIRST) for i in indices.tolist()]
        if self.second:
            looks += [(i, self.second(epoch, i), SECOND) for i in indices.tolist()]
        try:
            for i, image, which in looks:
                random = functools.partial(_generator, self.seed, epoch, i, which)
                pixels, valid = self.images.pixels(image)
                view = change(pixels, self.size, random, self.scale)
                if self.validity:
                    seen = None if valid is None else change(valid, self.size, random, self.scale)
                    view = together(view, seen)
                if self.masks is not None:
                    ids = change(self.masks.of(self.images.names[image]), self.size, random, self.scale)
                    view = torch.cat([view, ids.to(view.dtype)])
                views.append(view)
                if self.boxes is not None:
                    height, width = pixels.shape[-2:]
                    taken = transforms.view(self.transform, random, height, width, self.scale)
                    shown.append(self.boxes.seen(self.images.names[image], taken, height, width, self.size))
        except ValueError as fault:
            return fault  # `load` raises it: a process of DataLoader would bury its sentence in a traceback
        beside = (boxes.padded(shown),) if self.boxes is not None else ()
        return torch.stack(views).contiguous(), torch.from_numpy(indices), *beside


def _generator(seed: int, epoch: int, sample: int, view: str, purpose: str) -> np.random.Generator:
    return sampler.generator(seed, epoch, sample, view + purpose)


def load(dataset: Batches, numbers: Sequence[int], workers: int = 0, pin: bool = False) -> Iterator[Batch]:
    """dataset[k] for each k of `numbers`, in that order, prepared ahead by `workers` processes (two batches each).

    `pin`: into memory that a GPU copies from without waiting. The pixels are the same for any number of workers.
    """
    workers = min(workers, len(numbers)) if len(numbers) > 1 else 0
    if workers:
        dataset.images.keep()  # before the fork, so that the processes share the decoded pixels
    loader = torch.utils.data.DataLoader(
        dataset,
        sampler=numbers,
        batch_size=None,  # an item is a batch already
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # it draws a number that nobody uses: not from the run's own generator
        # The processes only read files and resize; forking them costs milliseconds, spawning them seconds.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    for found in loader:
        if isinstance(found, ValueError):
            raise found
        yield found


def batches(
    images: Shards,
    steps_indices: Iterable[np.ndarray | Sequence[int]],
    *,
    image_size: int,
    transform: str = "pretrain",
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    pin: bool = False,
    validity: bool = False,
    masks: Masks | None = None,
) -> Iterator[Batch]:
    """One batch for each index array of `steps_indices`; with `validity`, then `masks`, as last planes if asked for.

    Raises ValueError for an unknown transform, and in the sentence of `images` for an image that cannot be read.
    """
    steps = [(epoch, np.ascontiguousarray(step, dtype=np.int64)) for step in steps_indices]
    dataset = Batches(images, steps.__getitem__, image_size, transform, seed, USUAL_SCALE, validity, masks=masks)
    yield from load(dataset, range(len(steps)), workers, pin)


@dataclass
class Places:
    """places(k): (epoch, indices int64) of a rank's micro-batch k, counted from the first of the run."""

    seed: int
    samples: int
    global_batch: int
    rank: int
    world: int
    parts: int  # micro-batches a step
    _epoch: int = -1  # the one looked at last, and its order

    def __call__(self, k: int) -> tuple[int, np.ndarray]:
        step, part = divmod(k, self.parts)
        epoch, step = divmod(step, sampler.steps_per_epoch(self.samples, self.global_batch))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, sampler.order(self.seed, epoch, self.samples)
        slices = sampler.rank_slice(self._order, step, self.global_batch, self.rank, self.world, self.parts)
        return epoch, np.ascontiguousarray(slices[part])


def stream(
    images: Shards,
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
    crop_scale: Scale = USUAL_SCALE,
    rotations: bool = False,
    skipped: Sequence[range] = (),
    second: Callable[[int, int], int] | None = None,
    masks: Masks | None = None,
    beside: Boxes | None = None,
) -> Iterator[tuple[int, int, list[Batch]]]:
    """(step, epoch, the rank's micro-batches) from step `done` to the end of the last epoch.

    second: for a second view of each image, as `Batches` has it.
    skipped: steps, counted from 1, whose images are not even read; all others have those that they have without it.
    They carry validity if any image of the set was not measured everywhere, the classes of `masks` and the boxes of
    `beside`. The processes live as long as the stream, so an epoch's end is no pause. `pin` where a GPU copies. Raises
    ValueError for a batch that cannot be filled or shared.
    """
    places = Places(seed, len(images), global_batch, rank, world, parts)
    steps = epochs * sampler.steps_per_epoch(len(images), global_batch)
    transform = "pretrain_turned" if rotations else "pretrain"
    dataset = Batches(images, places, image_size, transform, seed, crop_scale, images.masked, second, masks,
                      beside)  # fmt: skip
    # Ranges, not lists: a throughput run has images without end.
    taken: Sequence[int] = range(done, steps)
    numbers: Sequence[int] = range(done * parts, steps * parts)
    if skipped:
        taken = [step for step in taken if not any(step + 1 in each for each in skipped)]
        numbers = [step * parts + part for step in taken for part in range(parts)]
    found = load(dataset, numbers, workers, pin)
    for step in taken:
        yield step, places(step * parts)[0], [next(found) for _ in range(parts)]
