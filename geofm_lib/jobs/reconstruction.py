"""reconstruction.npz: a few images, what the encoder saw of them, and what the decoder made of the rest."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from geofm_lib.data.decode import FULL
from geofm_lib.data.loader import batches
from geofm_lib.data.rgb import to_rgb
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import mask_noise, normalise
from geofm_lib.distributed.context import Context
from geofm_lib.model.mae import MaskedAutoencoder

SHOWN = 8  # images


def save(file: Path, model: MaskedAutoencoder, train: Shards, test: Shards, seed: int, context: Context) -> None:
    """Write `original`, `masked` and `rebuilt`, uint8 [B, H, W, 3], of held-out images; every rank calls this.

    Without a test side they are of the train side, whose mean and std are the ones that the model was trained with.
    """
    shown = test if len(test) else train
    (rows, columns), patch = model.encoder.patch_embed.grid_size, model.patch
    # Spread over the set, which is sorted by class; every rank rebuilds the same ones, since FSDP gathers together.
    chosen = np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(np.int64)
    images, _ = next(batches(shown, [chosen], image_size=rows * patch, transform="probe_test"))
    noise = mask_noise(seed, 0, chosen.tolist(), rows * columns).to(context.device)
    rebuilt, mask_BN = model.reconstruct(normalise(images.to(context.device), train.mean, train.std), noise)
    if not context.is_main:
        return
    masked = F.interpolate(mask_BN.cpu().reshape(-1, 1, rows, columns), scale_factor=patch, mode="nearest").bool()
    mean, std = (torch.as_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (train.mean, train.std))
    pixels = ((rebuilt.cpu() * std + mean).clamp(0, 1) * FULL[images.dtype]).round().to(images.dtype)
    original, pixels = (to_rgb(each, train.mean, train.std) for each in (images, pixels))
    seen = torch.where(masked, torch.full_like(original, 128), original)
    sheets = [each.permute(0, 2, 3, 1).numpy() for each in (original, seen, torch.where(masked, pixels, original))]
    np.savez_compressed(file, original=sheets[0], masked=sheets[1], rebuilt=sheets[2])
