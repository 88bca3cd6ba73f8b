"""Decoders of 08 that say a class of each pixel: a light one on the last tokens, and one on features of four blocks.

Shapes: B images, N patches, D width, h x w patches of p pixels, K classes, S = h p.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib.model import vit
from geofm_lib.model.patches import by_place
from geofm_lib.model.transfer import Zeros

FINER = 4  # as many times finer than the patches, a side, are the maps of classes; bilinear from there on
LEVELS = 4
MOST_WIDTH = 128


def last_map(encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Patch tokens behind the final norm, [B, N, D]; where bands are in groups, the mean of those of a place."""
    return by_place(encoder.forward_features(images_BCHW)[:, encoder.num_prefix_tokens :], encoder.patch_embed)


class Light(nn.Module):
    """One linear layer on each patch token behind the final norm, FINER x FINER classes of it: logits [B, K, S, S]."""

    layers = "last"

    def __init__(self, encoder: vit.Encoder, classes: int) -> None:
        super().__init__()
        self.size, self.grid = encoder.patch_embed.img_size, encoder.patch_embed.grid_size
        self.linear = Zeros(encoder.embed_dim, classes * FINER**2, device="meta")

    def take(self, encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the head looks at: [B, N, D]."""
        return last_map(encoder, images_BCHW)

    def forward(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        maps = F.pixel_shuffle(_map(self.linear(tokens_BND), self.grid), FINER)
        return F.interpolate(maps.float(), self.size, mode="bilinear")


class Pyramid(nn.Module):
    """Features of LEVELS blocks, brought to one width, from the last to the first added up and made finer (after
    feature pyramids, arXiv 1612.03144, on a plain ViT): logits [B, K, S, S]."""

    def __init__(self, encoder: vit.Encoder, classes: int) -> None:
        super().__init__()
        self.size, self.grid = encoder.patch_embed.img_size, encoder.patch_embed.grid_size
        self.blocks = levels(len(encoder.blocks))
        width = min(MOST_WIDTH, encoder.embed_dim)
        meta: dict[str, Any] = {"device": "meta"}
        self.lateral = nn.ModuleList(nn.Linear(encoder.embed_dim, width, **meta) for _ in self.blocks)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, **meta) for _ in self.blocks)
        self.classify = Zeros(width, classes, **meta)

    def take(self, encoder: vit.Encoder, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """What the head looks at: [B, N, D] of each block, all after the final norm."""
        pixels = images_BCHW.to(encoder.patch_embed.proj.weight.dtype)
        how = {"indices": list(self.blocks), "norm": True, "output_fmt": "NLC", "intermediates_only": True}
        return [by_place(each, encoder.patch_embed) for each in encoder.forward_intermediates(pixels, **how)]

    def forward(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        parts = [_map(linear(each), self.grid) for each, linear in zip(tokens, self.lateral, strict=True)]
        whole = self.smooth[-1](parts[-1])
        for k in range(len(parts) - 2, -1, -1):
            scale = FINER // 2 ** min(k, 2)  # the last two at the patches' own size, then twice, then FINER times
            fine = [F.interpolate(each, scale_factor=scale * self.grid[0] / each.shape[-2], mode="bilinear")
                    if scale * self.grid[0] != each.shape[-2] else each for each in (parts[k], whole)]  # fmt: skip
            whole = self.smooth[k](F.gelu(fine[0] + fine[1]))
        logits = self.classify(F.gelu(whole).movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(logits.float(), self.size, mode="bilinear")


def levels(depth: int) -> tuple[int, ...]:
    """The blocks that a pyramid looks at, counted from 0: the last, and the ends of the quarters before it.

    >>> levels(12), levels(6), levels(2)
    ((2, 5, 8, 11), (0, 2, 3, 5), (0, 1))
    """
    return tuple(sorted({max(0, (depth * k) // LEVELS - 1) for k in range(1, LEVELS + 1)}))


def _map(tokens_BND: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    return tokens_BND.transpose(1, 2).unflatten(2, grid)
