"""Linear layers as 1x1 convolutions: oneDNN's products on a CPU, where torch's own are another library's.

It imports torch alone, since `profiling.devices` is asked at every launch.
"""

import torch
from torch import nn
from torch.nn import functional as F


def convolved(x: torch.Tensor, weight_ED: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[..., D] -> [..., E] as a convolution on channels-last tokens: no copy."""
    rows_1D1R = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows_1D1R, weight_ED[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Convolved(nn.Linear):
    """A linear layer that is computed so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or not x.numel():
            return super().forward(x)
        return convolved(x, self.weight, self.bias)
