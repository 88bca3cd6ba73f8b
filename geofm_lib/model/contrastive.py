"""An encoder that learns by telling views of whole images apart: no mask, no decoder, and a head beside it.

Shapes: B views, N patches, D encoder width, J numbers of a projection.
"""

from functools import partial

import torch
from torch import nn

from geofm_lib.model import mae, vit
from geofm_lib.model.head import Projector
from geofm_lib.model.init import initialise, materialise
from geofm_lib.model.patches import Groups


class ContrastiveEncoder(nn.Module):
    """An encoder of family ``pretrain`` that sees whole images, and a projector; ``encoder.blocks`` are its units."""

    def __init__(self, encoder: vit.ViT, projection: int):
        super().__init__()
        self.patch, self.encoder = encoder.patch_embed.patch_size[0], encoder
        with encoder.cls_token.device:
            norm = partial(type(encoder.norm), eps=encoder.norm.eps)
            self.projector = Projector(encoder.embed_dim, projection, norm)
        if encoder.cls_token.device.type != "meta":
            initialise(self)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of an image in the encoder."""
        return (1 + self.encoder.patch_embed.num_patches,)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Projections [B, J] in fp32."""
        return self.projector(mae.whole(self.encoder, images_BCHW))

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, D] in fp32: the mean of the encoder's patch tokens, as a probe takes them."""
        return mae.whole(self.encoder, images_BCHW)[:, 1:].mean(dim=1).float()


def build(
    name: str,
    image_size: vit.Size,
    channels: int,
    device: torch.device | str | None,
    patch_size: int | None,
    projection: int,
    norm_eps: float = vit.NORM_EPS,
    seed: int | None = None,
    groups: Groups = (),
) -> ContrastiveEncoder:
    """The catalogue's encoder ``name`` with a projector of ``projection`` numbers; ``groups`` of bands as `vit` has."""
    size = image_size, channels, "meta", patch_size
    encoder = vit.build(name, "pretrain", *size, norm_eps=norm_eps, groups=groups)
    return materialise(ContrastiveEncoder(encoder, projection), device, seed)
