"""What a contrastive pretraining came to on images that it was not trained on, under views that are always the same.

Its training loss depends on the images of a batch, on its crops and on whose second date they have. So two runs are
compared by two views of each held-out image, told from those of all others. The views depend neither on the run's seed
nor on its ranks or `positives`: dates would need pairs, which a side may lack.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from geofm_lib.data import views
from geofm_lib.data.loader import Batches, load
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import apart, normalise
from geofm_lib.distributed import contrast
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.pretrain_loss import BATCH, IMAGES, SEED
from geofm_lib.settings import PretrainSettings


@torch.no_grad()
def fixed_views(
    settings: PretrainSettings, model: nn.Module, train: Shards, side: str, images: Shards | None, context: Context
) -> dict[str, Any]:
    """For the summary; every rank calls this, after the last step, with what `pretrain_loss.held_out` found.

    held_out_contrast: InfoNCE among all these images, with its interval (95 %, half, over images), their side and
    number, and the loss of guessing among so many. {} where fewer than two are held out.
    """
    if images is None or len(images) < 2:
        return {}
    size = min(BATCH, len(images))
    count = min(IMAGES, len(images)) // size
    chosen = np.linspace(0, len(images) - 1, count * size).astype(np.int64)  # the side is sorted by class
    places, world = chosen.reshape(size, count).T, context.world_size
    own = [min(turn * world + context.rank, count - 1) for turn in range(-(-count // world))]  # FSDP gathers together
    dataset = Batches(
        images,
        lambda k: (0, np.ascontiguousarray(places[k])),
        settings.image_size,
        "pretrain",
        SEED,
        (settings.crop_scale_min, 1.0),
        validity=images.masked,
        second=views.itself,
    )
    projected = []
    for batch, indices in load(dataset, own):
        pixels = normalise(apart(batch.to(context.device), images.masked)[0], train.mean, train.std)
        colours = settings.colour_jitter, train.mean, train.std
        projected.append(model(views.recolour(pixels, SEED, 0, indices.tolist(), *colours)))
    whole = contrast.gathered(torch.stack(projected)).transpose(0, 1).flatten(0, 1)[:count]  # in the batches' order
    losses = contrast.of_each(torch.cat(whole.unflatten(1, (2, size)).unbind(1)).flatten(0, 1), settings.temperature)
    return {
        "held_out_contrast": float(losses.mean()),
        "held_out_contrast_interval": float(1.96 * losses.std() / len(losses) ** 0.5),
        "held_out_contrast_guessing": contrast.guessing(len(losses)),
        "held_out_contrast_side": side,
        "held_out_contrast_images": len(losses),
    }
