"""The head in which views are compared: SimCLR's (arXiv 2002.05709), one hidden layer, thrown away afterwards.

Its norm is a LayerNorm, since a BatchNorm would tie the images of a rank together; over all ranks the loss has one
(`distributed/contrast`). There is no momentum encoder and no
predictor (MoCo v3, arXiv 2104.02057): with all images of a step as negatives nothing collapses, and a second encoder
would be a second model to shard.
"""

from functools import partial

import torch
from torch import nn


class Projector(nn.Sequential):
    """[B, 1 + K, D] tokens of the encoder -> [B, J] in fp32: the mean of the patch tokens, projected."""

    def __init__(self, width: int, out: int, norm: partial[nn.LayerNorm]):
        super().__init__(nn.Linear(width, width), norm(width), nn.GELU(), nn.Linear(width, out))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mean_BD = tokens[:, 1:].float().mean(dim=1)  # sums are of fp32, as everywhere
        return super().forward(mean_BD.to(tokens.dtype)).float()
