"""From one decoded image to the pixels that a model sees: crop, flip, resize, normalise.

Shapes: B batch, C channels, H height, W width, N patches. Pixels stay as stored, uint8 or uint16, until `normalise`,
which runs on the device: a quarter or half of the bytes to copy. Resizing uint8 is also faster on a CPU than float.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2.functional import center_crop

from geofm_lib.data import sampler
from geofm_lib.data.decode import FULL

PROBE_RESIZE = 256 / 224  # short side before the centre crop, the usual evaluation of ImageNet
Scale = tuple[float, float]  # least and largest share of the image's area in a crop


def crop_box(
    random: np.random.Generator, height: int, width: int, scale: Scale, ratio: float = 4 / 3
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
    """Bicubic and antialiased, [C, H, W]; uint8 or uint16 in and out (uint16 by way of float32, rounded)."""
    size = (height, width)
    if image.dtype == torch.uint8:
        return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
    wide = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True)[0]
    return wide.round_().clamp_(0, FULL[image.dtype]).to(image.dtype)


def augment(image: torch.Tensor, size: int, random: np.random.Generator, scale: Scale) -> torch.Tensor:
    """Random resized crop and, every second time, a left-right flip: the only augmentation MAE needs."""
    top, left, height, width = crop_box(random, image.shape[-2], image.shape[-1], scale)
    flip = random.random() < 0.5
    view = resize(image[:, top : top + height, left : left + width], size, size)
    return view.flip(-1) if flip else view


def centre(image: torch.Tensor, size: int) -> torch.Tensor:
    """Short side to size * 256/224, then the middle: how a probe is tested."""
    height, width = image.shape[-2:]
    factor = size * PROBE_RESIZE / min(height, width)
    return center_crop(resize(image, max(size, round(height * factor)), max(size, round(width * factor))), [size])


def squeeze(image: torch.Tensor, size: int) -> torch.Tensor:
    """The whole image in the square, whatever its proportions."""
    return image if image.shape[-2:] == (size, size) else resize(image, size, size)


Transform = Callable[[torch.Tensor, int, int, int, int, Scale], torch.Tensor]
# name -> function(image, size, sample, seed, epoch, scale)
TRANSFORMS: dict[str, Transform] = {
    "pretrain": lambda x, size, i, seed, epoch, scale: augment(
        x, size, sampler.generator(seed, epoch, i, "crop"), scale
    ),
    "probe_train": lambda x, size, i, seed, epoch, scale: augment(
        x, size, sampler.generator(seed, epoch, i, "probe"), scale
    ),
    "probe_test": lambda x, size, i, seed, epoch, scale: centre(x, size),
    "none": lambda x, size, i, seed, epoch, scale: squeeze(x, size),
}


def normalise(
    images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """uint8 or uint16 -> (x - mean) / std, x in 0..1 of the type's range, on the device of the images.

    mean and std per channel, in 0..1 units.
    """
    full, shape = FULL[images_BCHW.dtype], (1, -1, 1, 1)
    means = torch.as_tensor(mean, dtype=torch.float32, device=images_BCHW.device).view(shape)
    stds = torch.as_tensor(std, dtype=torch.float32, device=images_BCHW.device).view(shape)
    # In place: on a CPU fresh memory for every step of the arithmetic costs more than the arithmetic.
    return images_BCHW.float().sub_(full * means).div_(full * stds).to(dtype)


def mask_noise(seed: int, epoch: int, indices: Iterable[int], patches: int) -> torch.Tensor:
    """Uniform noise, float32 [B, N]: the patches of a sample with the smallest values stay visible."""
    rows = [sampler.generator(seed, epoch, int(i), "mask").random(patches, dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))
