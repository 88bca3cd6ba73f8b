"""Vision transformers of both families, on timm's parts.

``pretrain`` is the plain ViT that MAE trains (GELU, learned class token, fixed 2-D sine-cosine positions); its
state dict has timm's names and loads into ``timm.create_model("vit_base_patch16_224", num_classes=0)``.
``benchmark`` is the classifier behind the paper's throughput figures: gated SiLU MLP, norms after the residual
branches, norms on queries and keys, and a patch embedding between two norms. Its six parameter counts are those
of Table I, to the digit.

Shapes: B images, C channels, N patches, P = C x patch x patch numbers per patch, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import GluMlp, PatchEmbed
from timm.models.vision_transformer import Block, Mlp, ResPostBlock, VisionTransformer
from torch import nn

from geofm_lib.catalog.models import grid, lookup
from geofm_lib.model.init import materialise
from geofm_lib.model.norm import LayerNorm
from geofm_lib.model.patches import GroupedPatchEmbed, Groups, groups_of, patchify, sincos_positions

FAMILIES = ("pretrain", "benchmark")
POOLED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of the patch tokens [B, N, D] -> [B, D]
    "mean": lambda patches: patches.mean(1),
    "spread": lambda patches: patches.std(1, correction=0),
    "max": lambda patches: patches.amax(1),
}
POOLS = (*POOLED, "cls")
NORM_EPS = 1e-6  # of timm's LayerNorm and of MAE
Size = int | tuple[int, int]  # pixels: of a square's side, or (height, width)
Encoder = Any  # our ViT, or one of timm's: forward_features, cls_token, num_prefix_tokens, fc_norm, embed_dim


class ViT(VisionTransformer):
    """timm's VisionTransformer, with positions that may be fixed; ``init.initialise`` sets its weights."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    norm: nn.LayerNorm

    def __init__(self, *, fixed_positions: bool = False, **kwargs: Any):
        super().__init__(weight_init="skip", **kwargs)
        self.fixed_positions = fixed_positions
        if fixed_positions:
            self.pos_embed.requires_grad_(False)

    def fixed_values(self) -> dict[str, torch.Tensor]:
        """Values of parameters that are computed, not drawn."""
        if not self.fixed_positions:
            return {}
        (rows, columns), groups = self.patch_embed.grid_size, len(groups_of(self.patch_embed))
        return {"pos_embed": sincos_positions(self.embed_dim, rows, columns, groups=groups)}

    def forward_features(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Images [B, C, H, W] -> [B, 1 + N, D] after the final norm; they are cast to the weights' precision here."""
        return super().forward_features(x.to(self.patch_embed.proj.weight.dtype), *args, **kwargs)


class DualPatchNorm(nn.Module):
    """The benchmark's patch embedding: norm, projection without bias, norm (arXiv 2302.01327)."""

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: partial[LayerNorm],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **_: Any,
    ):
        super().__init__()
        self.img_size, self.patch_size = img_size, (patch_size, patch_size)
        self.grid_size = grid(img_size, patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        numbers = in_chans * patch_size**2
        self.norm_in = norm(numbers, device=device, dtype=dtype)
        self.proj = nn.Linear(numbers, embed_dim, bias=False, device=device, dtype=dtype)
        self.norm = norm(embed_dim, device=device, dtype=dtype)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if tuple(images_BCHW.shape[-2:]) != tuple(self.img_size):
            raise ValueError(f"This model takes images of {self.img_size}, not {tuple(images_BCHW.shape[-2:])}.")
        return self.norm(self.proj(self.norm_in(patchify(images_BCHW, self.patch_size[0]))))


def build(
    name: str,
    family: str = "pretrain",
    image_size: Size = 224,
    channels: int = 3,
    device: torch.device | str | None = None,
    patch_size: int | None = None,
    num_classes: int | None = None,
    seed: int | None = None,
    norm_eps: float = NORM_EPS,
    groups: Groups = (),
) -> ViT:
    """The model ``name`` of the catalogue: images [B, channels, H, W] -> logits, or the class token's features.

    ``patch_size`` None or 0 is the model's own; ``num_classes`` None is 1000 for ``benchmark`` and no head for
    ``pretrain``; ``norm_eps`` is every LayerNorm's; ``groups`` of bands are tokens of their own, and one group or none
    is the plain patch embedding. On ``device="meta"`` no memory is used: ``init.materialise`` gives it and the weights
    later.

    >>> build("ViT-Atto", image_size=64)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 64])
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no model family '{family}'; use one of {', '.join(FAMILIES)}.")
    if groups and family != "pretrain":
        raise ValueError(f"Family '{family}' makes tokens of all bands together; leave the groups of bands out.")
    row = lookup(name).resized(patch_size=patch_size)
    rows, columns = grid(image_size, row.patch_size)
    norm = partial(LayerNorm, eps=norm_eps)
    kind: dict[str, Any]
    if family == "pretrain":
        embed = partial(GroupedPatchEmbed, groups=groups) if len(groups) > 1 else PatchEmbed
        kind = dict(block_fn=Block, mlp_layer=Mlp, act_layer=nn.GELU, embed_layer=embed, fixed_positions=True)
    else:
        kind = dict(block_fn=ResPostBlock, act_layer=nn.SiLU, qk_norm=True, pre_norm=True, no_embed_class=True)
        kind["mlp_layer"] = partial(_gated_mlp, width=2 * row.gated_mlp_dim)
        kind["embed_layer"] = partial(DualPatchNorm, norm=norm)
    model = ViT(
        img_size=(rows * row.patch_size, columns * row.patch_size),
        patch_size=row.patch_size,
        in_chans=channels,
        num_classes=(0 if family == "pretrain" else 1000) if num_classes is None else num_classes,
        embed_dim=row.width,
        depth=row.depth,
        num_heads=row.heads,
        mlp_ratio=row.mlp_dim / row.width,
        norm_layer=norm,
        device="meta",
        **kind,
    )
    return materialise(model, device, seed)


def _gated_mlp(in_features: int, hidden_features: int | None = None, *, width: int, **kwargs: Any) -> GluMlp:
    """One ``width -> 2 x hidden`` and one ``hidden -> width`` layer; the first half goes through SiLU."""
    return GluMlp(in_features, width, gate_last=False, **kwargs)


def features(encoder: Encoder, images_BCHW: torch.Tensor, pool: str = "mean", blocks: bool = False) -> torch.Tensor:
    """[B, D]: after the final norm, the class token (``cls``), or one of POOLED of the patch tokens.

    Several with "+" between them stand side by side, [B, 2 D] of "mean+cls". With `blocks` they are those of every
    block, each after the final norm: [B, blocks x pools x D]. An average-pooled model of timm's has its final norm
    behind the pooling; it comes there. ValueError for ``cls`` of a model without a class token.
    """
    pools = pool.split("+")
    for each in pools:
        if each not in POOLS:
            raise ValueError(f"There is no pooling '{each}'; use one of {', '.join(POOLS)}.")
    if "cls" in pools and encoder.cls_token is None:
        raise ValueError("pool: this encoder has no class token; use pool=mean.")
    found = []
    for tokens_BND in _blocks(encoder, images_BCHW) if blocks else [encoder.forward_features(images_BCHW)]:
        patches_BND = tokens_BND[:, encoder.num_prefix_tokens :]
        for each in pools:
            pooled_BD = tokens_BND[:, 0] if each == "cls" else POOLED[each](patches_BND)
            found.append(encoder.fc_norm(pooled_BD) if each in ("mean", "cls") else pooled_BD)
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _blocks(encoder: Encoder, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
    """The tokens [B, prefix + N, D] behind each block, all after the final norm."""
    pairs = encoder.forward_intermediates(
        images_BCHW, norm=True, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    return [torch.cat([prefix, patches], dim=1) if prefix is not None else patches for patches, prefix in pairs]
