"""Random convolutional features, the MOSAIKS recipe (Rolf et al. 2021, doi 10.1038/s41467-021-24638-z).

Patches of training images, whitened, are the filters of one convolution; what exceeds a threshold, of either sign, is
averaged over the image. Nothing is learned, and no label is looked at.
"""

import numpy as np
import torch
from torch.nn import functional as F

from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise

PATCH = 3  # pixels a side
FILTERS = 512  # features are twice as many
THRESHOLD = 1.0
RIDGE = 1e-3  # of the largest eigenvalue: how far whitening goes
SOURCES = 512  # training images from which patches are cut, at most
BATCH = 64
IMAGES, AT_ONCE = 4, 64  # images and filters whose responses fit the cache: a whole batch's take ten times as long


def filters(train: Shards, size: int, seed: int = 0) -> torch.Tensor:
    """[FILTERS, C, PATCH, PATCH]: whitened patches of the training images, each of length 1 before."""
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(train), min(SOURCES, len(train)), replace=False))
    cut = [normalise(pixels, train.mean, train.std) for pixels, _ in _batches(train, chosen, size)]
    patches = torch.cat([F.unfold(each, PATCH, stride=PATCH) for each in cut]).transpose(1, 2).flatten(0, 1).double()
    centred = patches - patches.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    whiten = vectors @ torch.diag((values + RIDGE * values[-1]).rsqrt()) @ vectors.T
    some = torch.from_numpy(random.choice(len(centred), FILTERS, replace=len(centred) < FILTERS))
    found = F.normalize(centred[some] @ whiten, dim=1) @ whiten
    return found.float().unflatten(1, (train.channels, PATCH, PATCH))


@torch.no_grad()
def features(images: Shards, weights: torch.Tensor, size: int) -> np.ndarray:
    """Float32 [len(images), 2 FILTERS] with filters of `filters`."""
    rows = []
    for pixels, _ in _batches(images, np.arange(len(images)), size):
        for some in normalise(pixels, images.mean, images.std).split(IMAGES):
            parts = [_exceeding(F.conv2d(some, part)) for part in weights.split(AT_ONCE)]
            above, below = zip(*parts, strict=True)
            rows.append(torch.cat([*above, *below], 1))
    return torch.cat(rows).numpy()


def _exceeding(responses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far responses [B, F, H, W] lie above the threshold, and their opposites: means over the image, [B, F] each.

    Overwrites them.
    """
    opposites = -responses
    return F.relu_(responses.sub_(THRESHOLD)).mean((2, 3)), F.relu_(opposites.sub_(THRESHOLD)).mean((2, 3))


def _batches(images: Shards, chosen: np.ndarray, size: int):
    places = [chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH)]
    return batches(images, places, image_size=size, transform="none")
