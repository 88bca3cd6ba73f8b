"""What a measured step trains: MAE pretraining, or the classifier of the paper's benchmark, each with its loss.

Shapes: B images, C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib.model import mae, vit

CLASSES = 1000  # of the paper's benchmark


class Classifier(nn.Module):
    """The paper's all-token benchmark step: classify, cross-entropy. `vit.build(..., family="benchmark")` inside."""

    def __init__(self, network: vit.ViT):
        super().__init__()
        # fully_shard pads a first dimension to the group: [1, N, D] would grow as many times as there are ranks,
        # where those divide neither N nor D. That is 2.5 GiB for ViT-15B on 1,024. As a matrix they add just the same.
        network.pos_embed = nn.Parameter(network.pos_embed.detach()[0])
        self.network = network

    def forward(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the batch, in fp32."""
        compute = next(self.network.parameters()).dtype  # bf16 inside fully_shard's or our own cast
        return F.cross_entropy(self.network(images_BCHW.to(compute)).float(), labels_B)


def build(workload: str, model: str, image_size: int, channels: int = 3, patch_size: int = 0) -> nn.Module:
    """The model with its loss, on the meta device: `model(images, masking noise)` of "mae", else `(images, labels)`.

    ``patch_size`` in pixels a side, 0 for the model's own.
    """
    if workload == "mae":
        return mae.build(model, image_size, channels, "meta", patch_size)
    return Classifier(vit.build(model, "benchmark", image_size, channels, "meta", patch_size, CLASSES))
