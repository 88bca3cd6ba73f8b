"""A control: the same architecture, trained on the labels alone, from scratch.

Random crops and flips of the own split's train side, AdamW with warm-up and a cosine; the head is a linear layer on the
mean of the patch tokens. Nothing is chosen. On rank 0; what is trained is kept, so a stopped probe goes on.
"""

import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib import files
from geofm_lib.catalog.readouts import SUPERVISED
from geofm_lib.data import sampler
from geofm_lib.data.loader import batches
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed.features import KEEP_S, cut
from geofm_lib.distributed.training import learning_rate
from geofm_lib.jobs import probe_metrics
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.model import vit

BATCH, RATE, DECAY, WARMUP = 64, 1e-3, 0.05, 0.1  # the last: share of the steps
PROTOCOL = f"{SUPERVISED}, AdamW {RATE:g}"
STOPPED = "a stop was asked for; what is encoded and trained is kept"


class Classifier(nn.Module):
    """Images -> logits [B, K]."""

    def __init__(self, encoder: vit.Encoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.embed_dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.head(vit.features(self.encoder, images_BCHW))


def scores(given: Given, encoder: vit.Encoder, folder: Path) -> np.ndarray:
    """Logits [n, K] of the test side, by an encoder with fresh weights that is trained for `supervised_epochs`.

    folder: where the training is kept.

    Stopped where a stop is asked for, ValueError where it diverges.
    """
    settings, train, device = given.settings, given.train, given.context.device
    model = Classifier(encoder, len(train.classes)).to(device).requires_grad_(True)
    for name in getattr(encoder, "fixed_values", dict)():
        encoder.get_parameter(name).requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=DECAY)
    truth = torch.from_numpy(probe_metrics.truth(train)).to(device)
    batch, file = min(BATCH, len(train)), folder / "supervised.pt"
    steps, done, written = len(train) // batch, _load(file, model, optimiser), time.monotonic()
    for epoch in range(done, settings.supervised_epochs):
        if given.run.stop_requested():
            _save(file, model, optimiser, epoch)
            raise Stopped(STOPPED)
        model.train()
        chosen = [each for each in np.split(sampler.order(settings.seed, epoch, len(train))[: steps * batch], steps)]
        stream = batches(
            train, chosen, image_size=settings.image_size, transform="probe_train", seed=settings.seed, epoch=epoch,
            workers=settings.workers,
        )  # fmt: skip
        for step, (pixels, indices) in enumerate(stream, epoch * steps):
            total = settings.supervised_epochs * steps
            rate = learning_rate(step, peak=RATE, warmup_steps=WARMUP * total, total_steps=total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            logits, right = model(normalise(pixels.to(device), given.mean, given.std)), truth[indices.to(device)]
            loss = (
                F.binary_cross_entropy_with_logits(logits, right)
                if right.dim() == 2
                else F.cross_entropy(logits, right)
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"supervised_epochs: the training from scratch diverged in epoch {epoch + 1}; set it to 0."
            )
        given.progress.advance(phase="supervised", supervised_loss=round(loss.item(), 4))
        if time.monotonic() - written > KEEP_S:
            _save(file, model, optimiser, epoch + 1)
            written = time.monotonic()
    return _tested(given, model)


@torch.no_grad()
def _tested(given: Given, model: Classifier) -> np.ndarray:
    model.eval()
    stream = batches(given.test, cut(len(given.test)), image_size=given.settings.image_size, transform="none")
    device = given.context.device
    return torch.cat([model(normalise(p.to(device), given.mean, given.std)).cpu() for p, _ in stream]).numpy()


def _load(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Epochs that are done; 0 where there is no such file."""
    if not file.is_file():
        return 0
    found = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(found["model"])
    optimiser.load_state_dict(found["optimiser"])
    return int(found["epochs"])


def _save(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    stream = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epochs}, stream)
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(file) as fresh:
        fresh.write_bytes(stream.getvalue())
