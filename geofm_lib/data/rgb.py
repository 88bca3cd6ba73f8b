"""Images of any bands as people see them: red, green and blue in eight bits."""

from collections.abc import Sequence

import torch

from geofm_lib.data.transforms import normalise

# bands of a satellite -> those a person sees as red, green and blue: Sentinel-2 as EuroSAT stores it (13 bands), as its
# surface product does (12) and without the 60 m bands (10). Other sets: the first three, or the first in grey.
RED_GREEN_BLUE = {13: (3, 2, 1), 12: (3, 2, 1), 10: (2, 1, 0), 2: (0, 0, 0), 1: (0, 0, 0)}
SPREAD = 2  # standard deviations to either side of a band's mean that are shown


def bands(channels: int) -> tuple[int, int, int]:
    """The bands that are shown as red, green and blue."""
    return RED_GREEN_BLUE.get(channels, (0, 1, 2))


def eight_bits(images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B, C, H, W] for the eye and for histograms.

    Eight bits are left as they are. Sixteen bits hardly ever fill their range, so each band is stretched: black and
    white lie two standard deviations of the data set below and above its mean. So the images of one set compare.
    """
    if images_BCHW.dtype == torch.uint8:
        return images_BCHW
    at = normalise(images_BCHW, mean, std)
    return ((at / SPREAD + 1) / 2 * 255).round_().clamp_(0, 255).to(torch.uint8)


def to_rgb(images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """What a person is shown of images with any bands: uint8 [B, 3, H, W]."""
    return eight_bits(images_BCHW, mean, std)[:, list(bands(images_BCHW.shape[1]))]
