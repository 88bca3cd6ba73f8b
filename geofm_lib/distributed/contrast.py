"""InfoNCE over the global batch: each view is told from all views of all ranks (NT-Xent, SimCLR, arXiv 2002.05709).

Shapes: W ranks, B images of this rank and so 2 B of its views, J numbers of a projection.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F


class _Gathered(torch.autograd.Function):
    """[n, J] of each rank -> [W, n, J] of all. A rank's gradient is the sum of those that all ranks have for its part.

    torch.distributed.nn has the same, and is deprecated from 2.12 on.
    """

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        whole = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(whole, own.contiguous())
        return torch.stack(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def gathered(own: torch.Tensor) -> torch.Tensor:
    """[n, ...] of this rank -> [W, n, ...] of all ranks, in their order; gradients flow back to whose part it is."""
    return own[None] if dist.get_world_size() == 1 else _Gathered.apply(own)


def info_nce(views: torch.Tensor, temperature: float, places: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over this rank's views of -log p(the other view of the same image); every rank calls this.

    Args:
        views: projections [2 B, J] in fp32: the first views of B images, then their second ones in that order.
        temperature: divides the cosines.
        places: int64 [B]; images of one place (its two dates) are no negatives of each other. None: all differ.

    The views of all ranks are standardised number by number before they are compared, as by the BatchNorm without
    weights that ends MoCo v3's head. Else what they all share makes every cosine nearly 1, and a small ViT stays there.

    The global loss is the mean over ranks, as of any loss here. Its gradient has the right scale without a factor: the
    gathering hands each rank the sum over all ranks' losses, and FSDP and DDP take the mean over ranks of what each
    rank's weights got, which divides that sum by W. (Without gradients through the gathering all terms in which a
    rank's views are somebody else's would be missing.)
    """
    rank, half = dist.get_rank(), len(views) // 2
    everybody = _standardised(gathered(views).flatten(0, 1))
    own = torch.arange(2 * half, device=views.device)
    first = rank * 2 * half  # column of this rank's first view
    cosines = everybody[first : first + 2 * half] @ everybody.T / temperature
    out = F.one_hot(first + own, len(everybody)).bool()  # no view is told from itself
    partner = first + (own + half) % (2 * half)
    if places is not None:
        both = places.repeat(2)
        out |= both[:, None] == gathered(both).flatten()
        out[own, partner] = False
    return F.cross_entropy(cosines.masked_fill(out, -math.inf), partner)


def of_each(views: torch.Tensor, temperature: float) -> torch.Tensor:
    """The same loss of each of B images, [B], of views [2 B, J] that this process has all of."""
    units, half = _standardised(views), len(views) // 2
    cosines = (units @ units.T / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(len(views), device=views.device).roll(half)
    return F.cross_entropy(cosines, partner, reduction="none").view(2, half).mean(0)


def _standardised(views: torch.Tensor) -> torch.Tensor:
    return F.normalize(F.batch_norm(views, None, None, training=True), dim=1)


def guessing(global_batch: int) -> float:
    """The loss of one who cannot tell views apart: the logarithm of how many others there are."""
    return math.log(2 * global_batch - 1)
