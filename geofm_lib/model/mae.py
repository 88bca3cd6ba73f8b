"""The masked autoencoder: mask most patches, encode the visible rest, rebuild what was masked.

Written from the paper's description (He et al., "Masked Autoencoders Are Scalable Vision Learners",
arXiv 2111.06377) on timm's transformer block. Bands may be in groups whose patches are tokens of their own, as in
SatMAE (Cong et al., arXiv 2207.08051).

Shapes: B images, N places of a patch, P numbers of a place; G groups of bands with P' of these numbers each (P' = P
where G = 1); T = G x N tokens, group by group; of each group K visible and M = N - K masked; D encoder width, E decoder
width. A token's index counts through all groups.
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
from geofm_lib.model.patches import (
    Groups,
    groups_of,
    patchify,
    project,
    sincos_positions,
    take,
    take_groups,
    unpatchify,
)
from geofm_lib.model.targets import spread, weights


def random_masking(noise_BN: torch.Tensor, visible: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(visible [B, K], masked [B, M]) patch indices: those with the smallest noise stay visible.

    The sort is stable, so noise of low precision, with equal values, still gives one answer.
    """
    order = noise_BN.argsort(dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def encoded(encoder: vit.Encoder, patches_BNP: torch.Tensor, visible_BT: torch.Tensor) -> torch.Tensor:
    """[B, 1 + G K, D] after the encoder's norm. Patches are chosen before they are projected, to project fewer."""
    groups = groups_of(encoder.patch_embed)
    tokens = project(encoder.patch_embed.proj, take_groups(patches_BNP, visible_BT, groups), groups)
    positions = encoder.pos_embed.to(tokens[0].dtype).expand(len(patches_BNP), -1, -1)
    first_B1D = encoder.cls_token.to(tokens[0].dtype) + positions[:, :1]
    named = zip(tokens, visible_BT.chunk(len(groups), dim=1), strict=True)
    x = torch.cat([first_B1D, *(each + take(positions[:, 1:], index_BK) for each, index_BK in named)], dim=1)
    for block in encoder.blocks:
        x = block(x)
    return encoder.norm(x)


def whole(encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
    """[B, 1 + T, D] after the encoder's norm, of images of which nothing is masked."""
    patches_BNP = patchify(images_BCHW, encoder.patch_embed.patch_size[0])
    every = torch.arange(encoder.patch_embed.num_patches, device=images_BCHW.device).expand(len(images_BCHW), -1)
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
        group_masks: str = "independent",
    ):
        """projection: numbers of a head in which views are compared too (`contrastive`); 0: there is none.

        group_masks: each group of bands masks places of its own (`independent`), or all of them the same
        (`consistent`). Either way each masks equally many.
        """
        super().__init__()
        if not getattr(encoder, "fixed_positions", False):
            raise ValueError("MaskedAutoencoder needs an encoder of family 'pretrain', not the benchmark's.")
        if decoder_width % decoder_heads:
            raise ValueError(f"A decoder {decoder_width} wide cannot have {decoder_heads} heads; choose a divisor.")
        rows, columns = encoder.patch_embed.grid_size
        self.patch, self.groups = encoder.patch_embed.patch_size[0], groups_of(encoder.patch_embed)
        self.visible = visible_patches(rows * columns, mask_ratio)  # of each group
        self.drawn = rows * columns * (1 if group_masks == "consistent" else len(self.groups))
        self.norm_pix_loss = norm_pix_loss
        self.not_measured = torch.zeros(())  # share of the last batch's targets that were not measured
        norm = partial(type(encoder.norm), eps=encoder.norm.eps)
        self.encoder = encoder
        with encoder.cls_token.device:  # the parts below are made where the encoder is
            self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_width)
            self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
            positions = torch.empty(1, encoder.patch_embed.num_patches + 1, decoder_width)
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
        rows, columns = self.encoder.patch_embed.grid_size
        return {"decoder_pos_embed": sincos_positions(width, rows, columns, groups=len(self.groups))}

    @property
    def tokens(self) -> tuple[int, int]:
        """Of an image in the encoder, and in the decoder."""
        return 1 + len(self.groups) * self.visible, 1 + self.encoder.patch_embed.num_patches

    def masks(
        self, noise: torch.Tensor, unmeasured_BN: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(visible [B, G K], masked [B, G M]) tokens by noise [B, `drawn`]; what was not measured is masked first."""
        groups, places = len(self.groups), self.encoder.patch_embed.num_patches // len(self.groups)
        noise_BGN = noise.view(len(noise), -1, places).expand(-1, groups, -1)
        if unmeasured_BN is not None:
            noise_BGN = noise_BGN + unmeasured_BN[:, None].to(noise.dtype)
        found = [random_masking(noise_BGN[:, number], self.visible) for number in range(groups)]
        visible, masked = ([each + n * places for n, each in enumerate(kind)] for kind in zip(*found, strict=True))
        return torch.cat(visible, dim=1), torch.cat(masked, dim=1)

    def forward(
        self,
        images_BCHW: torch.Tensor,
        noise: torch.Tensor,
        valid_B1HW: torch.Tensor | None = None,
        rebuild: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The loss (a scalar), or with ``rebuild`` what ``reconstruct`` returns.

        With a projector the loss and the projections [B, J] of the same visible patches: one pass serves both.

        The loss is the mean over the batch of each image's mean squared error over its masked patches, and over the
        groups of bands. Every image masks equally many of each, so one mean over all of them is that.

        ``noise`` [B, `drawn`] says what is masked. ``valid`` is true where an image was measured, None for everywhere.
        Then only what was measured is a target, and patches that were not at all are masked first. An image without any
        target counts as one without error.
        """
        patches_BNP = patchify(images_BCHW, self.patch)
        valid_BNP = None if valid_B1HW is None else patchify(valid_B1HW.expand_as(images_BCHW), self.patch)
        visible_BT, masked_BT = self.masks(noise, None if valid_BNP is None else ~valid_BNP.any(2))
        tokens = self.encode(patches_BNP, visible_BT)
        decoded_BTE = self.decode(tokens, visible_BT)
        if rebuild:
            return self._rebuilt(decoded_BTE, patches_BNP, masked_BT, valid_BNP)
        loss = self._loss(take(decoded_BTE, masked_BT), patches_BNP, masked_BT, valid_BNP)
        return loss if self.projector is None else (loss, self.projector(tokens))

    def _loss(
        self,
        decoded_BTE: torch.Tensor,
        patches_BNP: torch.Tensor,
        masked_BT: torch.Tensor,
        valid_BNP: torch.Tensor | None,
    ) -> torch.Tensor:
        predicted, truth = self.predict(decoded_BTE), take_groups(patches_BNP, masked_BT, self.groups)
        pairs = list(zip(predicted, truth, strict=True))
        if valid_BNP is None:
            losses = [F.mse_loss(ours, self.target(theirs)) for ours, theirs in pairs]
            return torch.stack(losses).mean()
        losses, shares = [], []
        for (ours, theirs), valid in zip(pairs, take_groups(valid_BNP, masked_BT, self.groups), strict=True):
            root, share = weights(valid)  # roots of 1 where all is measured, so that the loss is that of above
            losses.append(F.mse_loss(root * ours, root * self.target(theirs, valid)))
            shares.append(share)
        self.not_measured = 1 - torch.stack(shares).mean()
        return torch.stack(losses).mean()

    def predict(self, decoded_BTE: torch.Tensor) -> list[torch.Tensor]:
        """[B, K, P'] in fp32: what each group's decoded tokens, as many of each, say of its own bands."""
        weight, bias = self.decoder_pred.weight, self.decoder_pred.bias
        parts = zip(decoded_BTE.chunk(len(self.groups), dim=1), self.groups, strict=True)
        return [F.linear(part, weight[columns], bias[columns]).float() for part, columns in parts]

    def encode(self, patches_BNP: torch.Tensor, visible_BT: torch.Tensor) -> torch.Tensor:
        """[B, 1 + G K, D] after the encoder's norm."""
        return encoded(self.encoder, patches_BNP, visible_BT)

    def decode(self, encoded: torch.Tensor, visible_BT: torch.Tensor) -> torch.Tensor:
        """[B, 1 + G K, D] -> [B, T, E]: visible tokens at their places, the mask token everywhere else."""
        tokens = self.decoder_embed(encoded)
        positions = self.decoder_pos_embed.to(tokens.dtype)
        blank_BTE = self.mask_token.to(tokens.dtype).expand(len(tokens), positions.shape[1] - 1, -1)
        place = visible_BT[:, :, None].expand(-1, -1, tokens.shape[-1])
        full_BTE = blank_BTE.scatter(1, place, tokens[:, 1:])
        tokens = torch.cat([tokens[:, :1], full_BTE], dim=1) + positions
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
        mean, scale = spread(patches, valid)
        return (patches - mean) / scale

    def reconstruct(
        self, images_BCHW: torch.Tensor, noise: torch.Tensor, valid_B1HW: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(predicted images [B, C, H, W] in fp32, mask [B, T] with 1 where a patch was masked).

        All patches are predicted; figures use only the masked ones. With ``norm_pix_loss`` the network predicts
        no brightness or contrast: each patch's own are put back, for the figure only.
        """
        with torch.no_grad():
            return self(images_BCHW, noise, valid_B1HW, rebuild=True)  # through __call__, so that FSDP's hooks run

    def _rebuilt(
        self,
        decoded_BTE: torch.Tensor,
        patches_BNP: torch.Tensor,
        masked_BT: torch.Tensor,
        valid_BNP: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole_BNP = torch.empty_like(patches_BNP, dtype=torch.float32)
        for columns, predicted in zip(self.groups, self.predict(decoded_BTE), strict=True):
            if self.norm_pix_loss:
                valid = None if valid_BNP is None else valid_BNP[..., columns]
                mean, scale = spread(patches_BNP[..., columns].float(), valid)
                predicted = predicted * scale + mean
            whole_BNP[..., columns] = predicted
        mask_BT = torch.zeros(decoded_BTE.shape[:2], device=patches_BNP.device).scatter(1, masked_BT, 1.0)
        return unpatchify(whole_BNP, self.patch, *self.encoder.patch_embed.grid_size), mask_BT


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
    groups: Groups = (),
    group_masks: str = "independent",
) -> MaskedAutoencoder:
    """The catalogue's model ``name`` with its own decoder, or the given one (None or 0: the model's own).

    ``groups`` of bands are tokens of their own; ``group_masks``: see the class.
    """
    row = lookup(name).resized(decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
    model = MaskedAutoencoder(
        vit.build(name, "pretrain", image_size, channels, "meta", patch_size, norm_eps=norm_eps, groups=groups),
        mask_ratio,
        row.decoder_width,
        row.decoder_depth,
        row.decoder_heads,
        norm_pix_loss,
        projection,
        group_masks,
    )
    return materialise(model, device, seed)
