"""What a masked patch is asked for: mean and spread of its measured numbers, and what each of these counts.

Shapes: B images, C bands, N places, P numbers of a place, M masked patches.
"""

from collections.abc import Sequence

import torch

from geofm_lib.model.patches import ALL, Columns, patchify, unpatchify


def patch_means(
    images_BCHW: torch.Tensor,
    patch: int,
    valid_B1HW: torch.Tensor | None = None,
    groups: Sequence[Columns] = ALL,
) -> torch.Tensor:
    """Images with the mean of each patch of a group in place of its numbers, [B, C, H, W]: what is rebuilt from a
    prediction of 0. That holds with ``norm_pix_loss``, where brightness and contrast are put back.
    """
    patches_BNP = patchify(images_BCHW.float(), patch)
    valid_BNP = None if valid_B1HW is None else patchify(valid_B1HW.expand_as(images_BCHW), patch)
    means_BNP = torch.empty_like(patches_BNP)
    for columns in groups:
        valid = None if valid_BNP is None else valid_BNP[..., columns]
        means_BNP[..., columns], _ = spread(patches_BNP[..., columns], valid)
    return unpatchify(means_BNP, patch, *(side // patch for side in images_BCHW.shape[2:]))


def weights(valid_BMP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(roots of what each number counts in the mean over all, the share of each image that was measured).

    A number counts 0, or the more, the fewer of its image were measured.
    """
    weight_BMP = valid_BMP.float()
    share_B11 = weight_BMP.mean((1, 2), keepdim=True)
    return (weight_BMP / share_B11.clamp_min(torch.finfo(torch.float32).tiny)).sqrt(), share_B11


def spread(patches: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
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
