"""Two ways each to compute attention and linear layers, equal up to rounding, and what each takes on this machine.

Which one is faster depends on processor, precision and shape, so it is measured (`times`) and never assumed.
Shapes: B images, T tokens, D width.
"""

import copy
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.layers import Attention
from torch import nn

from geofm_lib.model.convolved import Convolved

ROUNDS, ROUNDS_S, MOST_S = 5, 0.1, 10.0  # of a measurement of one stack's block, at least and at most
TWICE = 1.05  # a best time counts when another round came as near to it
GAIN = 0.03  # of a block's time, for which the usual kernel is left


ATTENTION = {"fused": True, "plain": False}  # -> timm's `fused_attn`: torch's own choice, or softmax(q k) v
LINEAR: dict[str, type[nn.Linear]] = {"matmul": nn.Linear, "convolution": Convolved}


class Kernels(NamedTuple):
    """How the blocks of a stack compute: a name of ATTENTION and one of LINEAR."""

    attention: str = "fused"
    linear: str = "matmul"


USUAL = Kernels()


def use(blocks: nn.Module, kernels: Kernels) -> None:
    """Let these blocks compute so. Names and values of their weights stay."""
    for module in blocks.modules():
        if isinstance(module, Attention):
            module.fused_attn = ATTENTION[kernels.attention]  # type: ignore[misc]
        if type(module) in LINEAR.values():
            module.__class__ = LINEAR[kernels.linear]


def candidates(attention: str, linear: str) -> list[Kernels]:
    """What is measured where a setting is `auto`: the kernels of then, and each with one other."""
    first = Kernels(
        *(usual if asked == "auto" else asked for usual, asked in zip(USUAL, (attention, linear), strict=True))
    )
    others = [first._replace(attention="plain")] if attention == "auto" else []
    return [first, *others, *([first._replace(linear="convolution")] if linear == "auto" else [])]


def fastest(seconds: dict[Kernels, float]) -> Kernels:
    """Of measured `candidates`: what they differ in is added up, and the first is left for a gain of GAIN alone."""
    (first, whole), *others = seconds.items()
    saved = {kernels: max(0.0, whole - each) for kernels, each in others}
    chosen = first
    for kernels, own in saved.items():
        without = whole - (sum(saved.values()) - own)  # what the block takes with all other gains
        if own and own >= GAIN * without:
            chosen = Kernels(*(b if b != a else c for a, b, c in zip(first, kernels, chosen, strict=True)))
    return chosen


def times(
    block: nn.Module,
    batch: int,
    tokens: int,
    dtype: torch.dtype,
    asked: Sequence[Kernels],
    backward: bool = True,
) -> tuple[list[float], bool]:
    """Seconds of a block on [B, T, D], forward (and backward), under each of `asked`, taken in turn; are they steady?

    The best round counts: whatever else the machine does only makes one longer. So rounds go on until every best time
    was reached twice. A copy of the block is measured, with weights of its own; the block may be on the meta device.
    """
    own = copy.deepcopy(block).to(dtype).to_empty(device="cpu").requires_grad_(backward)
    width: int = own.norm1.normalized_shape[0]  # type: ignore[union-attr, index, assignment]
    with torch.no_grad():
        for weight in own.parameters():  # any that give neither zeros nor numbers that overflow
            weight.copy_(torch.linspace(-0.05, 0.05, weight.shape[-1]).expand_as(weight))
    x = torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_(backward)
    gradient = torch.full_like(x, 1e-3)
    taken: list[list[float]] = [[] for _ in asked]
    began = time.perf_counter()
    for number in itertools.count():  # the first meets new shapes and is not counted
        for kernels, found in zip(asked, taken, strict=True):
            use(own, kernels)
            start = time.perf_counter()
            with torch.set_grad_enabled(backward):
                out = own(x)
            if backward:
                out.backward(gradient)
            found.append(time.perf_counter() - start)
            own.zero_grad()
            x.grad = None
        spent, steady = time.perf_counter() - began, all(_reached_twice(found[1:]) for found in taken)
        if number and (spent > MOST_S or (steady and number >= ROUNDS and spent > ROUNDS_S)):
            break
    return [min(found[1:]) for found in taken], steady


def _reached_twice(rounds: list[float]) -> bool:
    return len(rounds) > 1 and sorted(rounds)[1] <= TWICE * min(rounds)
