"""Layer normalisation whose sums over tokens are fp32 also where its tokens are bf16.

Torch's own backward pass in bf16 on CPU adds the gradients of weight and bias in bf16: of a constant over 4,352 tokens
it gives 0.09 of the sum. GPUs and compiled blocks add in fp32 by themselves. Shapes: T tokens, D width.
"""

from typing import Any

import torch
from timm.layers import LayerNorm as Usual
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

NUMBERS = 2**17  # of a piece of the backward pass: it stays in the cache, and is as fast as torch's own
PIECES = 32  # at most


class LayerNorm(Usual):
    """timm's LayerNorm: the same bits in fp32, fp32 statistics and sums in bf16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return super().forward(x)
        if torch.compiler.is_compiling():  # fused, so that no fp32 tokens are kept
            weight_D, bias_D = self.weight.float(), self.bias.float()
            return F.layer_norm(x.float(), self.normalized_shape, weight_D, bias_D, self.eps).to(x.dtype)
        if isinstance(x, FakeTensor):  # a simulation, which stands for a GPU
            return super().forward(x)
        return _Fp32Sums.apply(x, self.weight.float(), self.bias.float(), self.eps)


class _Fp32Sums(torch.autograd.Function):
    """Keeps bf16 tokens, as torch's own does; its backward pass takes a few of them at a time to fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_D: torch.Tensor, bias_D: torch.Tensor, eps: float) -> torch.Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, weight_D.shape, weight_D, bias_D, eps)
        ctx.save_for_backward(x, weight_D, bias_D, mean, rstd)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight_D, bias_D, mean, rstd = ctx.saved_tensors
        width = len(weight_D)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows = max(1, NUMBERS // width, -(-out.numel() // width // PIECES))
        wide_TD = [each.reshape(-1, width).split(rows) for each in (out, gradients[0], x)]
        narrow_T1 = [each.reshape(-1, 1).split(rows) for each in (mean, rstd)]
        of_weight_D, of_bias_D = torch.zeros_like(weight_D), torch.zeros_like(bias_D)
        for own_TD, gradient_TD, x_TD, *statistics in zip(*wide_TD, *narrow_T1, strict=True):
            fp32 = gradient_TD.float(), x_TD.float(), [width], *statistics, weight_D, bias_D, [True, True, True]
            found = torch.ops.aten.native_layer_norm_backward(*fp32)
            own_TD.copy_(found[0])
            of_weight_D += found[1]
            of_bias_D += found[2]
        return out, of_weight_D, of_bias_D, None
