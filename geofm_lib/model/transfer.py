"""An encoder with a head for a task: one network, which is sharded and trained as a pretraining's is.

Heads are made of linear layers, convolutions and LayerNorm alone. They have no buffers and no statistics over a batch,
so ranks and micro-batches change nothing, and `init` draws them by name. A head uses every weight of the encoder that
is trained, since DDP waits for the gradient of each.

Shapes: B images, N patches, D width, K classes.
"""

from collections.abc import Callable

import torch
from torch import nn

from geofm_lib.model import vit


class Zeros(nn.Linear):
    """A linear layer whose first weights are 0: what it is given says nothing yet."""

    def fixed_values(self) -> dict[str, torch.Tensor]:
        """See `init.initialise`."""
        return {"weight": torch.zeros(self.weight.shape)}


class Pooled(nn.Module):
    """The mean of the patch tokens behind the final norm -> logits [B, K]."""

    layers = "last"

    def __init__(self, encoder: vit.Encoder, classes: int) -> None:
        super().__init__()
        self.linear = Zeros(encoder.embed_dim, classes, device="meta")

    def take(self, encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the head looks at: [B, D]."""
        return vit.features(encoder, images_BCHW)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        return self.linear(features_BD)


class Network(nn.Module):
    """Images [B, C, H, W] -> what the head makes of them. whole: is the encoder trained too?

    A head has `take`, which asks the encoder for what the head looks at, and `layers`, which says so in words.
    """

    def __init__(self, encoder: vit.Encoder, head: nn.Module, whole: bool) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        fixed = set(getattr(encoder, "fixed_values", dict)())
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(whole and name not in fixed)

    @property
    def tokens(self) -> tuple[int]:
        """The tokens of an image in each stack of blocks."""
        return (self.encoder.num_prefix_tokens + self.encoder.patch_embed.num_patches,)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.head(self.head.take(self.encoder, images_BCHW))  # type: ignore[operator]


def share_of_rate(depth: int, decay: float) -> Callable[[str], float]:
    """A parameter's plain name -> its share of the rate: `decay` for the last block, its square for the one before ...

    What comes before the blocks has one power more than the first, the final norm is the last block's, and the head has
    all of the rate (ELECTRA, arXiv 2003.10555; MAE fine-tunes so).

    >>> [round(share_of_rate(2, 0.5)(n), 3) for n in ("encoder.cls_token", "encoder.blocks.1.norm1.bias", "head.x")]
    [0.125, 0.5, 1.0]
    """

    def share(name: str) -> float:
        if name.startswith("encoder.blocks."):
            return decay ** (depth - int(name.split(".")[2]))
        if name.startswith(("encoder.norm.", "encoder.fc_norm.")):
            return decay
        return decay ** (depth + 1) if name.startswith("encoder.") else 1.0

    return share
