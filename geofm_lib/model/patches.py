"""Images as rows of patches and back, and the fixed positions of patches.

Shapes: B images, C channels, N patches, P = C x patch x patch numbers per patch, D width.
"""

import torch


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


def sincos_positions(width: int, rows: int, columns: int, prefix: int = 1) -> torch.Tensor:
    """Fixed 2-D positions [1, prefix + rows x columns, width]; the prefix tokens get zeros.

    Half of the channels encode the row and half the column. Each half is sines and cosines of width/4 frequencies from
    1 down to 1/10000 (MAE, arXiv 2111.06377, after "Attention is all you need"). The angles are of double precision, as
    in the published weights; timm's ``build_sincos2d_pos_embed`` computes them in fp32 and is off by up to 2e-6.
    """
    if width % 4:
        raise ValueError(f"A width of {width} has no 2-D sine-cosine positions; use a multiple of 4.")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def encode(index: torch.Tensor) -> torch.Tensor:
        angle = index.to(torch.float64)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    table = torch.cat([encode(row), encode(column)], dim=1)
    return torch.cat([torch.zeros(prefix, width), table.float()])[None]
