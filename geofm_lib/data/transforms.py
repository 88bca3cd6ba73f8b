"""From one decoded image to the pixels that a model or a person sees: crop, flip, resize, normalise, red-green-blue.

Shapes: B batch, C channels, H height, W width, N patches. Values keep their type (uint8, uint16, int16, float32) until
`normalise`, which runs on the device: mostly a quarter or half of the bytes to copy. Resizing uint8 is also faster on a
CPU than float.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from geofm_lib.data import sampler
from geofm_lib.data.decode import FULL

PROBE_RESIZE = 256 / 224  # short side before the centre crop, the usual evaluation of ImageNet
ASPECT = 4 / 3  # of the longest crop
# bands of a satellite -> those a person sees as red, green and blue: Sentinel-2 as EuroSAT stores it (13 bands), as its
# surface product does (12) and without the 60 m bands (10). Other sets: the first three, or the first in grey.
RED_GREEN_BLUE = {13: (3, 2, 1), 12: (3, 2, 1), 10: (2, 1, 0), 2: (0, 0, 0), 1: (0, 0, 0)}
SPREAD = 2  # standard deviations to either side of a band's mean that are shown
Scale = tuple[float, float]  # least and largest share of the image's area in a crop
USUAL_SCALE = (0.2, 1.0)


def crop_box(random: np.random.Generator, height: int, width: int, scale: Scale) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of a crop of random area and aspect (Szegedy et al. 2014, section 6).

    Ten tries, as everyone does it; if none fits, the largest centred crop with an allowed aspect.
    """
    (least, most), steepest = scale, math.log(ASPECT)
    for _ in range(10):
        area = height * width * (least + (most - least) * random.random())
        aspect = math.exp(steepest * (2 * random.random() - 1))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1)), h, w
    h, w = min(height, round(width * ASPECT)), min(width, round(height * ASPECT))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic and antialiased, [C, H, W], in the type of the image; 16 bits by way of float32, rounded.

    Of bool, where an image was measured: where the pixels that `resize` makes come from measured ones alone. Of int64,
    the classes of a mask: those of the nearest pixels.
    """
    size = (height, width)
    if image.dtype == torch.int64:
        rows, columns = (_nearest(*each) for each in zip(image.shape[-2:], size, strict=True))
        return image[..., rows[:, None], columns]
    if image.dtype == torch.bool:
        return _measured(image, height, width)
    if image.dtype == torch.uint8:
        return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
    wide = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True)[0]
    return to_type(wide, image.dtype)


def to_type(numbers: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Float32 -> the nearest numbers of a type, in place where it can be."""
    if kind == torch.float32:
        return numbers
    limits = torch.iinfo(kind)
    return numbers.round_().clamp_(limits.min, limits.max).to(kind)


def _nearest(size: int, wanted: int) -> torch.Tensor:
    """The pixel whose middle is nearest to that of each of `wanted`."""
    return ((torch.arange(wanted, dtype=torch.float64) + 0.5) * (size / wanted)).to(torch.int64)


def _measured(valid: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where no pixel that the resized one is made of is a hole, by a table of sums over rectangles."""
    holes = F.pad((~valid).to(torch.int64).cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    (top, bottom), (left, right) = _support(valid.shape[-2], height), _support(valid.shape[-1], width)
    rows = holes[..., bottom, :] - holes[..., top, :]
    return rows[..., right] == rows[..., left]


def _support(size: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first pixel, and the one behind the last, that torch's antialiased bicubic takes for each of `wanted`."""
    if size == wanted:
        return torch.arange(size), torch.arange(1, size + 1)
    scale = size / wanted
    middle, reach = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale, 2 * max(scale, 1.0)
    first, last = ((middle + side + 0.5).clamp(0, size).to(torch.int64) for side in (-reach, reach))
    return first, last


class View(NamedTuple):
    """What is taken of an image: a crop in its pixels, which is resized, then flipped left to right, then turned."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    turns: int = 0  # quarters, against the clock


def drawn(random: np.random.Generator, height: int, width: int, scale: Scale, turn: bool = False) -> View:
    """Random resized crop and, every second time, a left-right flip: the only augmentation MAE needs.

    turn: by none to three quarter turns as well, since from above there is no upright.
    """
    box, flip = crop_box(random, height, width, scale), random.random() < 0.5
    return View(*box, bool(flip), int(random.integers(4)) if turn else 0)


def take(image: torch.Tensor, view: View, size: int) -> torch.Tensor:
    """The pixels of a view, [C, size, size]."""
    crop = image[:, view.top : view.top + view.height, view.left : view.left + view.width]
    found = resize(crop, size, size)
    found = found.flip(-1) if view.flip else found
    return found.rot90(view.turns, (-2, -1)) if view.turns else found


def augment(
    image: torch.Tensor, size: int, random: np.random.Generator, scale: Scale, turn: bool = False
) -> torch.Tensor:
    """The pixels of a view that is drawn."""
    return take(image, drawn(random, image.shape[-2], image.shape[-1], scale, turn), size)


def centre(image: torch.Tensor, size: int) -> torch.Tensor:
    """Short side to size * 256/224, then the middle: how a probe is tested."""
    factor = size * PROBE_RESIZE / min(image.shape[-2:])
    height, width = (max(size, round(side * factor)) for side in image.shape[-2:])
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resize(image, height, width)[..., top : top + size, left : left + size]


def squeeze(image: torch.Tensor, size: int) -> torch.Tensor:
    """The whole image in the square, whatever its proportions."""
    return image if image.shape[-2:] == (size, size) else resize(image, size, size)


Draw = Callable[[str], np.random.Generator]  # purpose -> the generator of an image's random numbers
Transform = Callable[[torch.Tensor, int, Draw, Scale], torch.Tensor]
VIEWS = {"pretrain": ("crop", False), "pretrain_turned": ("crop", True), "probe_train": ("probe", False)}


def view(name: str, random: Draw, height: int, width: int, scale: Scale) -> View:
    """The view that a transform of VIEWS takes of an image: those have a purpose of their own, and turn or do not."""
    purpose, turn = VIEWS[name]
    return drawn(random(purpose), height, width, scale, turn)


def _augment(name: str, image: torch.Tensor, size: int, random: Draw, scale: Scale) -> torch.Tensor:
    return take(image, view(name, random, image.shape[-2], image.shape[-1], scale), size)


def as_it_is(image: torch.Tensor, size: int, random: Draw, scale: Scale) -> torch.Tensor:
    """A series keeps its dates in their order: it is neither cropped, mirrored nor resized, whatever is asked."""
    return image


# name -> function(image, size, random(purpose), scale)
TRANSFORMS: dict[str, Transform] = {
    **{name: functools.partial(_augment, name) for name in VIEWS},
    "probe_test": lambda image, size, random, scale: centre(image, size),
    "none": lambda image, size, random, scale: squeeze(image, size),
}


def together(image: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """[C, H, W] and where it was measured, bool [1, H, W] or None for everywhere -> [C + 1, H, W], 1 where it was."""
    plane = torch.ones_like(image[:1]) if valid is None else valid.to(image.dtype)
    return torch.cat([image, plane])


def apart(images_BCHW: torch.Tensor, masked: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A batch as it came from the loader -> its images, and where they were measured: bool [B, 1, H, W], None: all."""
    return (images_BCHW[:, :-1], images_BCHW[:, -1:].bool()) if masked else (images_BCHW, None)


def normalise(
    images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(x - mean) / std in units of the type's range (`decode.FULL`), on the device of the images.

    mean and std per channel, in the same units.
    """
    full, device = FULL[images_BCHW.dtype], images_BCHW.device
    means, stds = (full * torch.as_tensor(x, dtype=torch.float32, device=device).view(-1, 1, 1) for x in (mean, std))
    found = torch.empty_like(images_BCHW, dtype=torch.float32)
    # Image by image on a CPU: one stays in the cache for all of its arithmetic, a batch does not (six times as long).
    parts = zip(images_BCHW, found, strict=True) if device.type == "cpu" else [(images_BCHW, found)]
    for stored, wide in parts:
        wide.copy_(stored).sub_(means).div_(stds)
    return found.to(dtype)


def mask_noise(seed: int, epoch: int, indices: Iterable[int], patches: int, use: str = "mask") -> torch.Tensor:
    """Uniform noise, float32 [B, N]: the patches of a sample with the smallest values stay visible.

    use: what it is drawn for, "second_mask" for a second view.
    """
    rows = [sampler.generator(seed, epoch, int(i), use).random(patches, dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))


def colours(channels: int) -> list[int]:
    """The bands that are shown as red, green and blue."""
    return list(RED_GREEN_BLUE.get(channels, (0, 1, 2)))


def eight_bits(images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B, C, H, W] for the eye and for histograms.

    Eight bits are left as they are. Other types hardly ever fill their range, so each band is stretched: black and
    white lie two standard deviations of the data set below and above its mean. So the images of one set compare.
    """
    if images_BCHW.dtype == torch.uint8:
        return images_BCHW
    at = normalise(images_BCHW, mean, std)
    return ((at / SPREAD + 1) / 2 * 255).round_().clamp_(0, 255).to(torch.uint8)


def to_rgb(images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """What a person is shown of images with any bands: uint8 [B, 3, H, W]."""
    return eight_bits(images_BCHW, mean, std)[:, colours(images_BCHW.shape[1])]


def picture(image_CHW: torch.Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What a person is shown of one whole image: uint8 [side, side, 3]."""
    return to_rgb(squeeze(image_CHW, side)[None], mean, std)[0].permute(1, 2, 0).numpy()
