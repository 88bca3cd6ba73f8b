"""From encoded bytes to batches of pixels: decode, crop, flip, normalise.

Shapes: B batch, C channels, H height, W width, N patches. Pixels stay uint8 until `normalise`, which runs on the
device: a quarter of the bytes to copy, and resizing uint8 is faster than resizing float on a CPU.
"""

import io
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from geofm_lib.data import sampler

PROBE_RESIZE = 256 / 224  # short side before the centre crop, the usual evaluation of ImageNet


def decode(data: bytes) -> torch.Tensor:
    """Encoded image -> uint8 [3, H, W] (grey is repeated). Raises OSError, or what Pillow makes of a broken image.

    Pillow, not torchvision.io: at 256 px both take about a millisecond a JPEG, and torchvision's decoders are
    deprecated (0.29) and end the process on some damaged PNGs.
    """
    with Image.open(io.BytesIO(data)) as image:
        # The tensor keeps Pillow's HWC memory under its CHW shape, in which resizing is faster.
        return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)


def crop_box(
    random: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: float = 4 / 3
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of a crop of random area and aspect (Szegedy et al. 2014, section 6).

    Ten tries, as everyone does it; if none fits, the largest centred crop with an allowed aspect.
    """
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = np.exp(random.uniform(-np.log(ratio), np.log(ratio)))
        h, w = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1)), h, w
    h, w = min(height, round(width * ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic and antialiased, uint8 in and out."""
    return F.resize(image, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True)


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
    return F.center_crop(resize(image, max(size, round(height * factor)), max(size, round(width * factor))), [size])


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


class _Batches(torch.utils.data.Dataset):
    """Batch k of a list of index arrays; a class only because DataLoader wants an object it can send to a process."""

    def __init__(self, shards, steps, image_size, transform, seed, epoch, scale):
        self.shards, self.steps, self.size, self.transform = shards, steps, image_size, transform
        self.seed, self.epoch, self.scale = seed, epoch, scale

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, k):
        change, indices = TRANSFORMS[self.transform], self.steps[k]
        views = [
            change(self.shards.decode(i), self.size, i, self.seed, self.epoch, self.scale) for i in indices.tolist()
        ]
        return torch.stack(views).contiguous(), torch.from_numpy(indices)


def batches(
    shards,
    steps_indices: Iterable,
    *,
    image_size: int,
    transform: str = "pretrain",
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    crop_scale: tuple[float, float] = (0.2, 1.0),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One batch for each index array of `steps_indices`: (images uint8 [B, C, S, S], indices int64 [B]).

    `shards` is anything with decode(i) -> uint8 [C, H, W]. With `workers` > 0 that many processes prepare batches
    ahead; the pixels are the same. Raises ValueError for an unknown transform.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform {transform!r}; known: {', '.join(TRANSFORMS)}")
    steps = [np.ascontiguousarray(step, dtype=np.int64) for step in steps_indices]
    dataset = _Batches(shards, steps, image_size, transform, seed, epoch, tuple(crop_scale))
    if workers == 0 or len(steps) < 2:
        yield from (dataset[k] for k in range(len(dataset)))
        return
    if hasattr(shards, "keep"):
        shards.keep()  # before the fork, so that the processes share the decoded pixels
    yield from torch.utils.data.DataLoader(
        dataset,
        batch_size=None,  # an item is a batch already
        num_workers=min(workers, len(steps)),
        # The processes only read files and resize; forking them costs milliseconds, spawning them seconds per epoch.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )


def normalise(images_BCHW: torch.Tensor, mean, std, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 -> (x/255 - mean) / std, on the device of the images; mean and std per channel, in 0..1 units."""
    shape = (1, -1, 1, 1)
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images_BCHW.device).view(shape)
    std = torch.as_tensor(std, dtype=torch.float32, device=images_BCHW.device).view(shape)
    return ((images_BCHW.float() - 255 * mean) / (255 * std)).to(dtype)


def mask_noise(seed: int, epoch: int, indices, patches: int) -> torch.Tensor:
    """Uniform noise, float32 [B, N]: the patches of a sample with the smallest values stay visible."""
    rows = [sampler.generator(seed, epoch, int(i), "mask").random(patches, dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))
