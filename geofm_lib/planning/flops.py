"""Operations of a training step, counted from the shapes of the weights as torch's own counter counts them.

One multiply-add is two operations; norms, activations and softmax are not counted.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from geofm_lib.catalog.models import Model
from geofm_lib.planning.weights import describe


@dataclass(frozen=True)
class Flops:
    """Operations for one image. ``recomputed`` is what activation checkpointing adds to a training step."""

    forward: int
    backward: int
    recomputed: int

    def step(self, activation_checkpointing: bool = False) -> int:
        return self.forward + self.backward + (self.recomputed if activation_checkpointing else 0)


def flops(model: str | Model, workload: str = "mae", **size: Any) -> Flops:
    """Operations per image; ``size`` as in ``weights.describe``."""
    parts = [part for _, part in flops_by_width(model, workload, **size)]
    return Flops(*(sum(getattr(part, name) for part in parts) for name in ("forward", "backward", "recomputed")))


def flops_by_width(model: str | Model, workload: str = "mae", **size: Any) -> list[tuple[float, Flops]]:
    """(equivalent width, operations) of the encoder with all that is outside blocks, and of MAE's decoder.

    The equivalent width is that of a plain block with as many weights. ViT-5B's narrow blocks with their large MLPs
    so count as what they are: as large as ViT-3B's.
    """
    s = describe(model, workload, **size)
    row, width = s.row, s.row.width
    gated = s.gated
    patch = 2 * s.numbers(s.visible) * width
    # No gradient flows into images. The benchmark's norm before the projection is trained, so one flows through it.
    forward, backward = patch, (2 if gated else 1) * patch
    stacks = [(row.depth, width, row.gated_mlp_dim if gated else row.mlp_dim, s.tokens, s.products)]
    outside = 2 * width * s.classes
    if s.decoder:
        narrow, depth, _ = s.decoder
        stacks.append((depth, narrow, 4 * narrow, s.patches + 1, 12 * narrow * narrow))
        outside += 2 * s.tokens * width * narrow + 2 * s.numbers(s.patches - s.visible) * narrow
    forward, backward = forward + outside, backward + 2 * outside
    found = []
    for depth, wide, mlp_dim, tokens, weights in stacks:
        products = 2 * tokens * weights
        attention = 4 * tokens * tokens * wide  # scores and their product with the values, 2 N^2 D each
        # Recomputing a plain block stops before its last product, whose output no gradient needs. The benchmark's
        # block has a norm behind it that does.
        last = 0 if gated else 2 * tokens * mlp_dim * wide
        forward += depth * (products + attention)
        backward += depth * (2 * products + attention * 5 // 2)  # fused attention computes the scores again: 2.5 times
        recomputed = depth * (products + attention - last)
        equivalent = sqrt(weights / 12)  # a plain block of width D has 12 D^2 weights
        found.append((equivalent, Flops(forward, backward, recomputed)))
        forward = backward = 0
    return found


def training_flops(
    model: str | Model, workload: str = "mae", activation_checkpointing: bool = False, **size: Any
) -> int:
    """Operations of one training step for one image."""
    return flops(model, workload, **size).step(activation_checkpointing)
