"""From decoded images to batches of pixels: crop, flip, normalise; and pictures of them for people.

Shapes: B batch, C channels, H height, W width, N patches. Pixels stay as stored, uint8 or uint16, until `normalise`,
which runs on the device: a quarter or half of the bytes to copy, and resizing uint8 is faster than resizing float on a
CPU.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2.functional import center_crop

from geofm_lib.data import sampler
from geofm_lib.data.decode import FULL
from geofm_lib.data.decode import decode as decode  # images.decode is what others call

PROBE_RESIZE = 256 / 224  # short side before the centre crop, the usual evaluation of ImageNet


def crop_box(
    random: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: float = 4 / 3
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of a crop of random area and aspect (Szegedy et al. 2014, section 6).

    Ten tries, as everyone does it; if none fits, the largest centred crop with an allowed aspect.
    """
    (least, most), steepest = scale, math.log(ratio)
    for _ in range(10):
        area = height * width * (least + (most - least) * random.random())
        aspect = math.exp(steepest * (2 * random.random() - 1))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1)), h, w
    h, w = min(height, round(width * ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic and antialiased; uint8 or uint16 in and out (uint16 by way of float32, rounded)."""
    how = {"size": (height, width), "mode": "bicubic", "antialias": True}
    if image.dtype == torch.uint8:
        return F.interpolate(image[None], **how)[0]
    return F.interpolate(image[None].float(), **how)[0].round_().clamp_(0, FULL[image.dtype]).to(image.dtype)


def augment(image: torch.Tensor, size: int, random: np.random.Generator, scale: tuple[float, float]) -> torch.Tensor:
    """Random resized crop and, every second time, a left-right flip: the only augmentation MAE needs."""
    top, left, height, width = crop_box(random, *image.shape[-2:], scale)
    flip = random.random() < 0.5
    view = resize(image[:, top : top + height, left : left + width], size, size)
    return view.flip(-1) if flip else view


def centre(image: torch.Tensor, size: int) -> torch.Tensor:
    """Short side to size * 256/224, then the middle: how a probe is tested."""
    height, width = image.shape[-2:]
    factor = size * PROBE_RESIZE / min(height, width)
    return center_crop(resize(image, max(size, round(height * factor)), max(size, round(width * factor))), [size])


# name -> function(image, size, sample, seed, epoch, scale). "none" squeezes the whole picture into the square.
TRANSFORMS = {
    "pretrain": lambda x, size, i, seed, epoch, scale: augment(
        x, size, sampler.generator(seed, epoch, i, "crop"), scale
    ),
    "probe_train": lambda x, size, i, seed, epoch, scale: augment(
        x, size, sampler.generator(seed, epoch, i, "probe"), scale
    ),
    "probe_test": lambda x, size, i, seed, epoch, scale: centre(x, size),
    "none": lambda x, size, i, seed, epoch, scale: x if x.shape[-2:] == (size, size) else resize(x, size, size),
}


class Batches(torch.utils.data.Dataset):
    """Batch k: (images [B, C, S, S] as stored, indices int64 [B]) of the samples that places(k) names.

    places(k) -> (epoch, int64 array of indices). A class only because DataLoader wants an object that it can send to a
    process.
    """

    def __init__(self, shards, places: Callable, image_size: int, transform: str, seed: int, crop_scale):
        if transform not in TRANSFORMS:
            raise ValueError(f"unknown transform {transform!r}; known: {', '.join(TRANSFORMS)}")
        self.shards, self.places, self.size, self.transform = shards, places, image_size, transform
        self.seed, self.scale = seed, tuple(crop_scale)

    def __getitem__(self, k: int):
        epoch, indices = self.places(k)
        change = TRANSFORMS[self.transform]
        try:
            views = [
                change(self.shards.decode(i), self.size, i, self.seed, epoch, self.scale) for i in indices.tolist()
            ]
        except ValueError as fault:
            return fault  # `load` raises it: a process of DataLoader would bury its sentence in a traceback
        return torch.stack(views).contiguous(), torch.from_numpy(indices)


def load(dataset: Batches, numbers: Sequence[int], workers: int = 0, pin: bool = False) -> Iterator:
    """dataset[k] for each k of `numbers`, in that order, prepared ahead by `workers` processes (two batches each).

    `pin`: into memory that a GPU copies from without waiting. The pixels are the same for any number of workers.
    """
    workers = min(workers, len(numbers)) if len(numbers) > 1 else 0
    if workers and hasattr(dataset.shards, "keep"):
        dataset.shards.keep()  # before the fork, so that the processes share the decoded pixels
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
    shards,
    steps_indices: Iterable,
    *,
    image_size: int,
    transform: str = "pretrain",
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    pin: bool = False,
    crop_scale: tuple[float, float] = (0.2, 1.0),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One batch for each index array of `steps_indices`: (images as stored [B, C, S, S], indices int64 [B]).

    `shards` is anything with decode(i) -> uint8 or uint16 [C, H, W]. Raises ValueError for an unknown transform, and in
    the sentence of `shards` for an image that cannot be read.
    """
    steps = [(epoch, np.ascontiguousarray(step, dtype=np.int64)) for step in steps_indices]
    dataset = Batches(shards, steps.__getitem__, image_size, transform, seed, crop_scale)
    yield from load(dataset, range(len(steps)), workers, pin)


def normalise(images_BCHW: torch.Tensor, mean, std, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 or uint16 -> (x - mean) / std, x in 0..1 of the type's range, on the device of the images.

    mean and std per channel, in 0..1 units.
    """
    full, shape = FULL[images_BCHW.dtype], (1, -1, 1, 1)
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images_BCHW.device).view(shape)
    std = torch.as_tensor(std, dtype=torch.float32, device=images_BCHW.device).view(shape)
    # In place: on a CPU fresh memory for every step of the arithmetic costs more than the arithmetic.
    return images_BCHW.float().sub_(full * mean).div_(full * std).to(dtype)


def mask_noise(seed: int, epoch: int, indices, patches: int) -> torch.Tensor:
    """Uniform noise, float32 [B, N]: the patches of a sample with the smallest values stay visible."""
    rows = [sampler.generator(seed, epoch, int(i), "mask").random(patches, dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))


# bands of a satellite -> those a person sees as red, green and blue: Sentinel-2 as EuroSAT stores it (13 bands), as its
# surface product does (12) and without the 60 m bands (10). Other sets: the first three, or the first in grey.
RED_GREEN_BLUE = {13: (3, 2, 1), 12: (3, 2, 1), 10: (2, 1, 0), 2: (0, 0, 0), 1: (0, 0, 0)}
SPREAD = 2  # standard deviations to either side of a band's mean that a picture shows


def shown(channels: int) -> tuple[int, int, int]:
    """The bands that are shown as red, green and blue."""
    return RED_GREEN_BLUE.get(channels, (0, 1, 2))


def eight_bits(images_BCHW: torch.Tensor, mean, std) -> torch.Tensor:
    """uint8 [B, C, H, W] for the eye and for histograms.

    Eight bits are left as they are. Sixteen bits hardly ever fill their range: each band is stretched, black and white
    two standard deviations of the data set below and above its mean, so that the images of one set compare.
    """
    if images_BCHW.dtype == torch.uint8:
        return images_BCHW
    at = normalise(images_BCHW, mean, std)
    return ((at / SPREAD + 1) / 2 * 255).round_().clamp_(0, 255).to(torch.uint8)


def picture(images_BCHW: torch.Tensor, mean, std) -> torch.Tensor:
    """What a person is shown of images with any bands: uint8 [B, 3, H, W]."""
    return eight_bits(images_BCHW, mean, std)[:, list(shown(images_BCHW.shape[1]))]
