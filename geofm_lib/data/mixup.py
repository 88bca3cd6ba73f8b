"""Mixup (arXiv 1710.09412): an image and another one of the set, each by its share, and their labels likewise.

Which one and what share are functions of (seed, epoch, image), as everything random. So ranks and micro-batches change
nothing; torchvision's and timm's mix the images of one batch by one share, which would differ from rank to rank.
"""

from typing import Any, NamedTuple

import torch

from geofm_lib.data import sampler


class Mixup(NamedTuple):
    """alpha: shares are drawn from Beta(alpha, alpha). images: of the set, from which the other one is drawn."""

    alpha: float
    images: int
    seed: int

    def drawn(self, epoch: int, image: int) -> tuple[int, float]:
        """(the other image, the share of the first)."""
        random = sampler.generator(self.seed, epoch, image, "mixup")
        return int(random.integers(self.images)), float(random.beta(self.alpha, self.alpha))

    def other(self, epoch: int, image: int) -> int:
        """The image that `loader.stream` reads second."""
        return self.drawn(epoch, image)[0]

    def of_batch(self, epoch: int, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch's images [B]: (the others int64 [B], the shares of the first float32 [B])."""
        others, shares = zip(*(self.drawn(epoch, image) for image in images.tolist()), strict=True)
        return torch.tensor(others), torch.tensor(shares)


class Mixed(NamedTuple):
    """What both images are, each as the task has it, and the share of the first [B]."""

    first: Any
    second: Any
    share_B: torch.Tensor


def blend(first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, share_B: torch.Tensor) -> torch.Tensor:
    """The pixels [B, C, H, W] of both, by the share of the first."""
    return torch.lerp(second_BCHW, first_BCHW, share_B[:, None, None, None])
