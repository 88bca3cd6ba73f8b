"""Masked autoencoders of other libraries with our weights: `model(images, masking noise)` is the loss, as of ours.

Each is written as its library's own documentation writes it, and masks what the noise says instead of drawing it.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from geofm_lib.catalog.models import lookup
from geofm_lib.catalog.peers import MASK_RATIO, Config
from geofm_lib.model import mae, vit
from geofm_lib.model.interop import folders, huggingface
from geofm_lib.model.interop.folders import Weights


def installed(package: str) -> bool:
    """Can this library be imported here?"""
    return find_spec(package) is not None


def build(package: str, config: Config, seed: int) -> nn.Module:
    """The library's model in fp32 on the CPU, with the weights that ours draws from `seed`."""
    ours = mae.build(config.model, channels=3, seed=seed, device="cpu", mask_ratio=MASK_RATIO, **config.sizes)
    return BUILD[package](config, ours.state_dict())


def described(config: Config) -> dict[str, Any]:
    """The model in the words of `interop`."""
    fixed = {"family": "pretrain", "channels": 3, "mask_ratio": MASK_RATIO, "norm_pix_loss": False}
    return {"model": config.model, **config.sizes, **fixed}


class TransformersMAE(nn.Module):
    """transformers' ViTMAEForPreTraining."""

    def __init__(self, config: Config, state: Weights):
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        super().__init__()
        row, (width, depth, heads) = lookup(config.model), config.decoder
        asked = ViTMAEConfig(
            hidden_size=row.width,
            num_hidden_layers=row.depth,
            num_attention_heads=row.heads,
            intermediate_size=row.mlp_dim,
            layer_norm_eps=vit.NORM_EPS,
            image_size=config.image_size,
            patch_size=config.patch_size,
            decoder_hidden_size=width,
            decoder_num_hidden_layers=depth,
            decoder_num_attention_heads=heads,
            decoder_intermediate_size=4 * width,
            mask_ratio=MASK_RATIO,
        )
        self.model = ViTMAEForPreTraining(asked)
        saved = folders.Saved(described(config), *folders.split(state))
        theirs = huggingface.to_theirs(saved, "vitmae")
        weights = {huggingface.hub_name(name): value for name, value in theirs.items()}
        self.model.load_state_dict({name: weights[huggingface.hub_name(name)] for name in self.model.state_dict()})

    def forward(self, images_BCHW: torch.Tensor, noise_BN: torch.Tensor) -> torch.Tensor:
        """The mean squared error over masked patches."""
        return self.model(images_BCHW, noise=noise_BN).loss


class LightlyMAE(nn.Module):
    """lightly's example of MAE: its masked ViT on timm's, its decoder, its functions of tokens."""

    def __init__(self, config: Config, state: Weights):
        from lightly.models import utils
        from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        row, (width, depth, heads) = lookup(config.model), config.decoder
        self.utils, self.patch = utils, config.patch_size
        network = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="token",
            embed_dim=row.width,
            depth=row.depth,
            num_heads=row.heads,
        )
        self.backbone = MaskedVisionTransformerTIMM(vit=network)
        self.decoder_embed = nn.Linear(row.width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=config.patches, embed_dim=width, depth=depth, num_heads=heads
        )
        self.decoder_pred = nn.Linear(width, 3 * config.patch_size**2)
        self.load_state_dict(self._named(state))

    def _named(self, state: Weights) -> Weights:
        """Our weights by their names; a patch's numbers are in the order (row, column, channel) there."""
        found = {}
        for name, value in state.items():
            if name.startswith("decoder_pred."):
                value = huggingface.channels_last(value, self.patch)
            elif name.startswith("encoder."):
                name = name.replace("encoder.", "backbone.vit.")
            elif not name.startswith("decoder_embed."):
                name = f"decoder.{name.removeprefix('decoder_')}"
            found[name] = value
        return found | {
            "backbone.mask_token": self.backbone.mask_token
        }  # an encoder that sees no mask has no use of it

    def forward(self, images_BCHW: torch.Tensor, noise_BN: torch.Tensor) -> torch.Tensor:
        """The mean squared error over masked patches."""
        utils, tokens = self.utils, self.backbone.sequence_length
        first_B1 = noise_BN.new_full((len(noise_BN), 1), -1.0)  # the class token is never masked
        order = torch.cat([first_B1, noise_BN], 1).argsort(dim=1)
        kept = 1 + int((tokens - 1) * (1 - MASK_RATIO))
        keep, hide = order[:, :kept], order[:, kept:]
        decoded = self.decoder_embed(self.backbone.encode(images=images_BCHW, idx_keep=keep))
        masked = utils.repeat_token(self.decoder.mask_token, (len(images_BCHW), tokens))
        masked = utils.set_at_index(masked, keep, decoded.type_as(masked))
        decoded = self.decoder.decode(self.decoder.add_pos_embed(masked))
        predicted = self.decoder_pred(utils.get_at_index(decoded, hide))
        return F.mse_loss(predicted, utils.get_at_index(utils.patchify(images_BCHW, self.patch), hide - 1))


BUILD: dict[str, Callable[[Config, Weights], nn.Module]] = {"transformers": TransformersMAE, "lightly": LightlyMAE}
