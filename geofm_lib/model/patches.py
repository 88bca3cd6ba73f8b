"""Images as patches, their positions, and groups of bands whose patches are tokens of their own.

Shapes: B images, C bands, N places of a patch, P = C x patch x patch numbers of a place, G groups, T = G x N tokens,
group by group; P' numbers of a place in one group, D width.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import PatchEmbed
from torch import nn
from torch.nn import functional as F

Groups = Sequence[Sequence[int]]  # the bands of each group; every band is in one of them
Columns = slice | torch.Tensor  # of the P numbers of a place: those of a group
ALL: tuple[Columns, ...] = (slice(None),)  # where all bands make one token


def patchify(images_BCHW: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, N, P]; rows of patches from the top, each in a convolution's order (C, patch, patch)."""
    B, C, H, W = images_BCHW.shape
    cut = images_BCHW.reshape(B, C, H // patch, patch, W // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * patch * patch)


def unpatchify(patches_BNP: torch.Tensor, patch: int, rows: int, columns: int) -> torch.Tensor:
    """The inverse of ``patchify`` for an image of ``rows`` x ``columns`` patches."""
    B, _, P = patches_BNP.shape
    cut = patches_BNP.reshape(B, rows, columns, P // patch**2, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(B, -1, rows * patch, columns * patch)


def take(values_BNX: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """[B, N, X], [B, K] -> [B, K, X]: the K named rows of each image."""
    return values_BNX.gather(1, index_BK[:, :, None].expand(-1, -1, values_BNX.shape[-1]))


def take_groups(values_BNP: torch.Tensor, index_BT: torch.Tensor, groups: Sequence[Columns]) -> list[torch.Tensor]:
    """The numbers of the named tokens, [B, K, P'] of each group; of each as many, named group by group."""
    places, named = values_BNP.shape[1], index_BT.chunk(len(groups), dim=1)
    parts = enumerate(zip(groups, named, strict=True))
    return [take(values_BNP[..., columns], each_BK - number * places) for number, (columns, each_BK) in parts]


def sincos_positions(width: int, rows: int, columns: int, prefix: int = 1, groups: int = 1) -> torch.Tensor:
    """Fixed 2-D positions [1, prefix + groups x rows x columns, width]; the prefix tokens get zeros.

    Half of the channels encode the row and half the column. Each half is sines and cosines of width/4 frequencies from
    1 down to 1/10000 (MAE, arXiv 2111.06377, after "Attention is all you need"). The angles are of double precision, as
    in the published weights; timm's ``build_sincos2d_pos_embed`` computes them in fp32 and is off by up to 2e-6.

    Of several groups of bands, the last quarter of the channels encodes the group's number likewise, and the others the
    place (SatMAE, arXiv 2207.08051).
    """
    if width % 4:
        raise ValueError(f"A width of {width} has no 2-D sine-cosine positions; use a multiple of 4.")
    number = 4 * (width // 16) if groups > 1 else 0  # channels
    if groups > 1 and not number:
        raise ValueError(f"A width of {width} has no positions of groups of bands; use 16 or more.")

    def encode(index: torch.Tensor, channels: int) -> torch.Tensor:
        frequency = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
        angle = index.to(torch.float64)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    table = torch.cat([encode(each, (width - number) // 2) for each in (row, column)], dim=1).repeat(groups, 1)
    if number:
        of_group = encode(torch.arange(groups), number).repeat_interleave(rows * columns, dim=0)
        table = torch.cat([table, of_group], dim=1)
    return torch.cat([torch.zeros(prefix, width), table.float()])[None]


class GroupedPatchEmbed(PatchEmbed):
    """A patch embedding of their own for groups of bands: [B, C, H, W] -> tokens [B, T, D] (SatMAE, arXiv 2207.08051).

    The groups' matrices lie side by side in the one of a plain patch embedding, so what shards, keeps or exports that
    one needs to know of no groups. They share its bias; positions tell the groups apart.
    """

    def __init__(self, *, groups: Groups, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.groups: Groups = groups
        self.columns = tuple(_columns(bands, self.patch_size[0]) for bands in groups)
        self.num_patches *= len(groups)
        cast(Any, self.proj).matrices = self.columns  # see `init`

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if tuple(images_BCHW.shape[-2:]) != tuple(self.img_size):
            raise ValueError(f"This model takes images of {self.img_size}, not {tuple(images_BCHW.shape[-2:])}.")
        patches_BNP = patchify(images_BCHW, self.patch_size[0])
        return torch.cat(project(self.proj, [patches_BNP[..., each] for each in self.columns], self.columns), dim=1)


def project(projection: nn.Conv2d, parts: Sequence[torch.Tensor], groups: Sequence[Columns]) -> list[torch.Tensor]:
    """[B, K, P'] of each group -> its tokens [B, K, D]: each by its own columns of the projection's matrix."""
    weight_DP = projection.weight.flatten(1)
    both = zip(parts, groups, strict=True)
    return [F.linear(part.to(weight_DP.dtype), weight_DP[:, columns], projection.bias) for part, columns in both]


def groups_of(patch_embed: Any) -> tuple[Columns, ...]:
    """The columns of each group of an encoder's patch embedding; of one without groups all of them."""
    return getattr(patch_embed, "columns", ALL)


def by_place(tokens_BTD: torch.Tensor, patch_embed: Any) -> torch.Tensor:
    """[B, N, D]: the mean of what the groups say of a place."""
    groups = len(groups_of(patch_embed))
    return tokens_BTD.unflatten(1, (groups, -1)).mean(1) if groups > 1 else tokens_BTD


def _columns(bands: Sequence[int], patch: int) -> Columns:
    """The numbers of these bands among those of a place; neighbours are a slice, which copies nothing."""
    if list(bands) == list(range(bands[0], bands[-1] + 1)):
        return slice(bands[0] * patch**2, (bands[-1] + 1) * patch**2)
    numbers = torch.arange(patch**2, device="cpu")
    return torch.cat([band * patch**2 + numbers for band in bands])
