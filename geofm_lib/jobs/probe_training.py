"""What is fitted to frozen features: a linear head for each seed and kind of features, and nearest neighbours."""

from typing import NamedTuple

import torch
from timm.optim import Lars

from geofm_lib.data import sampler
from geofm_lib.distributed.features import Features
from geofm_lib.distributed.training import learning_rate
from geofm_lib.model import probe_heads, vit
from geofm_lib.settings import ProbeSettings


class Head(NamedTuple):
    """One linear head and its optimiser, for one seed and one encoder's features."""

    kind: str  # of the features: pretrained or random
    seed: int
    encoder: str
    layers: probe_heads.ProbeHead
    optimiser: Lars


def heads(settings: ProbeSettings, encoders: dict[str, vit.ViT], classes: int, device: torch.device) -> list[Head]:
    """One for each seed and kind of features; the random encoder is another one for each seed."""
    found = []
    for seed in range(settings.probe_seeds):
        for kind in dict.fromkeys(name.split()[0] for name in encoders):
            name = kind if kind in encoders else f"{kind} {seed}"
            width = encoders[name].embed_dim
            layers = probe_heads.ProbeHead(width, classes, seed=settings.seed + seed).to(device)
            found.append(Head(kind, seed, name, layers, probe_heads.lars(layers, settings.weight_decay)))
    return found


def train_epoch(settings: ProbeSettings, head: Head, epoch: int, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean loss of one epoch of a head. An incomplete last batch is left out, as in MAE."""
    batch = min(settings.batch, len(labels))
    steps = len(labels) // batch
    order = torch.from_numpy(sampler.order(settings.seed + head.seed, epoch, len(labels))).to(labels.device)
    losses = []
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        rate = learning_rate(
            epoch * steps + step,
            peak=settings.base_learning_rate * batch / 256,
            warmup_steps=settings.warmup_epochs * steps,
            total_steps=settings.epochs * steps,
        )
        losses.append(probe_heads.train_step(head.layers, head.optimiser, features[chosen], labels[chosen], rate))
    return sum(losses) / len(losses)


def neighbours(
    train: Features, test: Features, train_labels: torch.Tensor, test_labels: torch.Tensor, k: int
) -> dict[str, list[float]]:
    """Top-1 in percent by the k nearest training images: {kind of features: one value for each encoder}."""
    found: dict[str, list[float]] = {}
    for name in train:
        guesses = probe_heads.knn_predict(train[name], train_labels, test[name], k)
        found.setdefault(name.split()[0], []).append(100 * (guesses == test_labels).float().mean().item())
    return found
