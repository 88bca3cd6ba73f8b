"""The masked autoencoder: mask most patches, encode the visible rest, rebuild what was masked.

Written from the paper's description (He et al., "Masked Autoencoders Are Scalable Vision Learners",
arXiv 2111.06377) on timm's transformer block.

Shapes: B images, N patches, K of them visible and M = N - K masked, P numbers per patch, D encoder width,
E decoder width.
"""

from functools import partial
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from geofm_lib.catalog.models import lookup, visible_patches
from geofm_lib.model import vit
from geofm_lib.model.head import Projector
from geofm_lib.model.init import initialise, materialise
from geofm_lib.model.vit import patchify, sincos_positions, unpatchify


def take(values_BNX: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """[B, N, X], [B, K] -> [B, K, X]: the K named rows of each image."""
    return values_BNX.gather(1, index_BK[:, :, None].expand(-1, -1, values_BNX.shape[-1]))


def random_masking(noise_BN: torch.Tensor, visible: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(visible [B, K], masked [B, M]) patch indices: those with the smallest noise stay visible.

    The sort is stable, so noise of low precision, with equal values, still gives one answer.
    """
    order = noise_BN.argsort(dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def encoded(encoder: vit.Encoder, patches_BNP: torch.Tensor, visible_BK: torch.Tensor) -> torch.Tensor:
    """[B, 1 + K, D] after the encoder's norm. Patches are chosen before they are projected, to project fewer."""
    projection = encoder.patch_embed.proj
    kept_BKP = take(patches_BNP, visible_BK).to(projection.weight.dtype)
    tokens_BKD = F.linear(kept_BKP, projection.weight.flatten(1), projection.bias)
    positions = encoder.pos_embed.to(tokens_BKD.dtype).expand(len(tokens_BKD), -1, -1)
    first_B1D = encoder.cls_token.to(tokens_BKD.dtype) + positions[:, :1]
    tokens = torch.cat([first_B1D, tokens_BKD + take(positions[:, 1:], visible_BK)], dim=1)
    for block in encoder.blocks:
        tokens = block(tokens)
    return encoder.norm(tokens)


def whole(encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
    """[B, 1 + N, D] after the encoder's norm, of images of which nothing is masked."""
    patches_BNP = patchify(images_BCHW, encoder.patch_embed.patch_size[0])
    every = torch.arange(patches_BNP.shape[1], device=images_BCHW.device).expand(len(images_BCHW), -1)
    return encoded(encoder, patches_BNP, every)


class MaskedAutoencoder(nn.Module):
    """An encoder of family ``pretrain`` with a small decoder.

    ``encoder.blocks`` and ``decoder_blocks`` are the units to shard and to checkpoint. The forward pass casts
    its inputs to the weights' precision where it first uses them, and computes the loss in fp32 from the images
    as they came: hand it fp32 images and noise also when the weights are bf16.
    """

    def __init__(
        self,
        encoder: vit.ViT,
        mask_ratio: float = 0.75,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_pix_loss: bool = False,
        projection: int = 0,
    ):
        """projection: numbers of a head in which views are compared too (`contrastive`); 0: there is none."""
        super().__init__()
        if not getattr(encoder, "fixed_positions", False):
            raise ValueError("MaskedAutoencoder needs an encoder of family 'pretrain', not the benchmark's.")
        if decoder_width % decoder_heads:
            raise ValueError(f"A decoder {decoder_width} wide cannot have {decoder_heads} heads; choose a divisor.")
        rows, columns = encoder.patch_embed.grid_size
        self.patch, self.patches = encoder.patch_embed.patch_size[0], rows * columns
        self.visible = visible_patches(self.patches, mask_ratio)
        self.norm_pix_loss = norm_pix_loss
        self.not_measured = torch.zeros(())  # share of the last batch's targets that were not measured
        norm = partial(type(encoder.norm), eps=encoder.norm.eps)
        self.encoder = encoder
        with encoder.cls_token.device:  # the parts below are made where the encoder is
            self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_width)
            self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
            positions = torch.empty(1, self.patches + 1, decoder_width)
            self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
            self.decoder_blocks = nn.ModuleList(
                Block(decoder_width, decoder_heads, mlp_ratio=4, qkv_bias=True, norm_layer=cast(Any, norm))
                for _ in range(decoder_depth)
            )
            self.decoder_norm = norm(decoder_width)
            self.decoder_pred = nn.Linear(decoder_width, encoder.in_chans * self.patch**2)
            self.projector = Projector(encoder.embed_dim, projection, norm) if projection else None
        if self.mask_token.device.type != "meta":
            initialise(self)

    def fixed_values(self) -> dict[str, torch.Tensor]:
        """Values of parameters that are computed, not drawn."""
        width = self.decoder_pos_embed.shape[-1]
        return {"decoder_pos_embed": sincos_positions(width, *self.encoder.patch_embed.grid_size)}

    @property
    def tokens(self) -> tuple[int, int]:
        """Of an image in the encoder, and in the decoder."""
        return 1 + self.visible, 1 + self.patches

    def forward(
        self,
        images_BCHW: torch.Tensor,
        noise_BN: torch.Tensor,
        valid_B1HW: torch.Tensor | None = None,
        rebuild: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The loss (a scalar), or with ``rebuild`` what ``reconstruct`` returns.

        With a projector the loss and the projections [B, J] of the same visible patches: one pass serves both.

        The loss is the mean over the batch of each image's mean squared error over its masked patches. Every
        image masks equally many, so one mean over all of them is that.

        ``valid`` is true where an image was measured, None for everywhere. Then only what was measured is a target, and
        patches that were not at all are masked first. An image without any target counts as one without error.
        """
        patches_BNP = patchify(images_BCHW, self.patch)
        valid_BNP = None
        if valid_B1HW is not None:
            valid_BNP = patchify(valid_B1HW.expand_as(images_BCHW), self.patch)
            noise_BN = noise_BN + (~valid_BNP.any(2)).to(noise_BN.dtype)
        visible_BK, masked_BM = random_masking(noise_BN, self.visible)
        tokens = self.encode(patches_BNP, visible_BK)
        decoded_BNE = self.decode(tokens, visible_BK)
        if rebuild:
            return self._rebuilt(self.decoder_pred(decoded_BNE), patches_BNP, masked_BM, valid_BNP)
        loss = self._loss(self.decoder_pred(take(decoded_BNE, masked_BM)).float(), patches_BNP, masked_BM, valid_BNP)
        return loss if self.projector is None else (loss, self.projector(tokens))

    def _loss(
        self,
        predicted_BMP: torch.Tensor,
        patches_BNP: torch.Tensor,
        masked_BM: torch.Tensor,
        valid_BNP: torch.Tensor | None,
    ) -> torch.Tensor:
        if valid_BNP is None:
            return F.mse_loss(predicted_BMP, self.target(take(patches_BNP, masked_BM)))
        valid_BMP = take(valid_BNP, masked_BM)
        root_BMP = self._weights(valid_BMP).sqrt()  # of 1 where all is measured, so that the loss is that of above
        return F.mse_loss(root_BMP * predicted_BMP, root_BMP * self.target(take(patches_BNP, masked_BM), valid_BMP))

    def _weights(self, valid_BMP: torch.Tensor) -> torch.Tensor:
        """What each number counts in the mean over all: 0, or the more, the fewer of its image were measured."""
        weight_BMP = valid_BMP.float()
        share_B11 = weight_BMP.mean((1, 2), keepdim=True)
        self.not_measured = 1 - share_B11.mean()
        return weight_BMP / share_B11.clamp_min(torch.finfo(torch.float32).tiny)

    def encode(self, patches_BNP: torch.Tensor, visible_BK: torch.Tensor) -> torch.Tensor:
        """[B, 1 + K, D] after the encoder's norm."""
        return encoded(self.encoder, patches_BNP, visible_BK)

    def decode(self, encoded: torch.Tensor, visible_BK: torch.Tensor) -> torch.Tensor:
        """[B, 1 + K, D] -> [B, N, E]: visible tokens at their places, the mask token everywhere else."""
        tokens = self.decoder_embed(encoded)
        positions = self.decoder_pos_embed.to(tokens.dtype)
        blank_BNE = self.mask_token.to(tokens.dtype).expand(len(tokens), positions.shape[1] - 1, -1)
        place = visible_BK[:, :, None].expand(-1, -1, tokens.shape[-1])
        full_BNE = blank_BNE.scatter(1, place, tokens[:, 1:])
        tokens = torch.cat([tokens[:, :1], full_BNE], dim=1) + positions
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_norm(tokens)[:, 1:]

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, D] in fp32: the mean of the encoder's patch tokens, none masked, as a probe takes them."""
        return whole(self.encoder, images_BCHW)[:, 1:].mean(dim=1).float()

    def target(self, patches: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """What is predicted, of the shape [B, any, P], in fp32; ``norm_pix_loss`` makes it mean 0 and variance 1."""
        patches = patches.float()
        if not self.norm_pix_loss:
            return patches
        mean, scale = _spread(patches, valid)
        return (patches - mean) / scale

    def reconstruct(
        self, images_BCHW: torch.Tensor, noise_BN: torch.Tensor, valid_B1HW: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(predicted images [B, C, H, W] in fp32, mask [B, N] with 1 where a patch was masked).

        All patches are predicted; figures use only the masked ones. With ``norm_pix_loss`` the network predicts
        no brightness or contrast: each patch's own are put back, for the figure only.
        """
        with torch.no_grad():
            return self(images_BCHW, noise_BN, valid_B1HW, rebuild=True)  # through __call__, so that FSDP's hooks run

    def _rebuilt(
        self,
        predicted_BNP: torch.Tensor,
        patches_BNP: torch.Tensor,
        masked_BM: torch.Tensor,
        valid_BNP: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        predicted_BNP = predicted_BNP.float()
        if self.norm_pix_loss:
            mean, scale = _spread(patches_BNP.float(), valid_BNP)
            predicted_BNP = predicted_BNP * scale + mean
        mask_BN = torch.zeros(patches_BNP.shape[:2], device=patches_BNP.device).scatter(1, masked_BM, 1.0)
        return unpatchify(predicted_BNP, self.patch, *self.encoder.patch_embed.grid_size), mask_BN


def patch_means(images_BCHW: torch.Tensor, patch: int, valid_B1HW: torch.Tensor | None = None) -> torch.Tensor:
    """Images with the mean of each patch in place of its numbers, [B, C, H, W]: what is rebuilt from a prediction of 0.

    That holds with ``norm_pix_loss``, where brightness and contrast are put back.
    """
    patches_BNP = patchify(images_BCHW.float(), patch)
    valid_BNP = None if valid_B1HW is None else patchify(valid_B1HW.expand_as(images_BCHW), patch)
    mean_BN1, _ = _spread(patches_BNP, valid_BNP)
    return unpatchify(mean_BN1.expand_as(patches_BNP), patch, *(side // patch for side in images_BCHW.shape[2:]))


def _spread(patches: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the measured numbers of each patch, [B, any, 1]."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    if valid is not None:
        count = valid.sum(-1, keepdim=True)
        of_some = torch.where(valid, patches, 0).sum(-1, keepdim=True) / count.clamp_min(1)
        squares = torch.where(valid, patches - of_some, 0).square().sum(-1, keepdim=True)
        whole = count == patches.shape[-1]  # to the bit what it would be without holes elsewhere
        mean = torch.where(whole, mean, of_some)
        variance = torch.where(whole, variance, squares / (count - 1).clamp_min(1))
    return mean, (variance + 1e-6).sqrt()


def build(
    name: str,
    image_size: vit.Size = 224,
    channels: int = 3,
    device: torch.device | str | None = None,
    patch_size: int | None = None,
    mask_ratio: float = 0.75,
    decoder_width: int | None = None,
    decoder_depth: int | None = None,
    decoder_heads: int | None = None,
    norm_pix_loss: bool = False,
    seed: int | None = None,
    norm_eps: float = vit.NORM_EPS,
    projection: int = 0,
) -> MaskedAutoencoder:
    """The catalogue's model ``name`` with its own decoder, or the given one (None or 0: the model's own)."""
    row = lookup(name).resized(decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
    model = MaskedAutoencoder(
        vit.build(name, "pretrain", image_size, channels, "meta", patch_size, norm_eps=norm_eps),
        mask_ratio,
        row.decoder_width,
        row.decoder_depth,
        row.decoder_heads,
        norm_pix_loss,
        projection,
    )
    return materialise(model, device, seed)
