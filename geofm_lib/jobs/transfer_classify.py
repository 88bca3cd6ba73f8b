"""The task `classify` of 08: one linear layer on the mean patch token; top-1, or mean average precision."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib import files
from geofm_lib.catalog import readouts, transfer
from geofm_lib.data.loader import batches
from geofm_lib.data.mixup import Mixed
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import apart, normalise
from geofm_lib.distributed import features
from geofm_lib.jobs import probe_judge, probe_metrics
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.jobs.transfer_task import Control, Data, Given, Task
from geofm_lib.model import vit
from geofm_lib.model.interop import load
from geofm_lib.model.transfer import Pooled
from geofm_lib.settings import TransferSettings


def read(settings: TransferSettings) -> Data:
    """Both sides' images that have a label."""
    train, test = (Shards(settings.data, split=side, labelled=True) for side in ("train", "test"))
    return Data(train, test, train.classes, probe_metrics.of(train), partial(probe_metrics.truth, test))


def targets(data: Data, images: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels, labels [B], or 0 and 1 for each class [B, K])."""
    pixels, _ = apart(images, data.train.masked)
    return pixels, torch.from_numpy(probe_metrics.truth(data.train, indices.numpy())).to(images.device)


def loss(network: nn.Module, pixels: torch.Tensor, right: torch.Tensor | Mixed) -> torch.Tensor:
    """Cross-entropy, binary where an image has several labels; of mixed images each label's by its share."""
    logits = network(pixels).float()
    if isinstance(right, Mixed):
        return torch.lerp(_each(logits, right.second), _each(logits, right.first), right.share_B).mean()
    return _each(logits, right).mean()


def _each(logits_BK: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The loss of each image [B]."""
    if right.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits_BK, right, reduction="none").mean(1)
    return F.cross_entropy(logits_BK, right, reduction="none")


def evidence(network: nn.Module, pixels: torch.Tensor, data: Data, images: np.ndarray) -> torch.Tensor:
    """Logits [B, K]."""
    return network(pixels).float()


def controls(given: Given) -> list[Control]:
    """The probe: 05's fast head on the frozen features of whole images, its strength chosen on the train side."""
    data = given.data
    if not given.weights:
        return []
    encoder, _ = load.load_encoder(given.settings.encoder, given.settings.image_size)
    encoder = encoder.to(given.context.device).eval().requires_grad_(False)
    known, unknown = (_features(given, encoder, shards) for shards in (data.train, data.test))
    truth = probe_metrics.truth(data.train)
    found = probe_judge.PLAIN.head(
        known, truth, unknown, given.judge.split.validation, data.metric.measure, len(data.classes)
    )
    about = {
        "protocol": f"{readouts.FAST}, own split",
        "pooling": "mean",
        "layer": "last",
        "normalisation": readouts.SCALED,
    }
    return [Control(transfer.PROBE, about, found.scores)]


@torch.no_grad()
def _features(given: Given, encoder: vit.Encoder, shards: Shards) -> np.ndarray:
    """[n, D] of whole images."""
    size, device = given.settings.image_size, given.context.device
    found = []
    for images, _ in batches(shards, features.cut(len(shards)), image_size=size, transform="none"):
        if given.run.stop_requested():
            raise Stopped("a stop was asked for; what the arms came to is kept")
        found.append(vit.features(encoder, normalise(images.to(device), given.mean, given.std)).cpu())
    return torch.cat(found).numpy()


def show(given: Given, told: dict[str, list[np.ndarray]], said: np.ndarray | None) -> dict[str, Any]:
    """classes.csv: of each class its test images, and of each arm the share that is right (or precision), all seeds."""
    data, truth = given.data, given.data.truth()
    together = {name: np.stack(each) for name, each in told.items()}
    rows = []
    for k, name in enumerate(data.classes):
        own = truth[:, k] > 0 if truth.ndim == 2 else truth == k
        row: dict[str, Any] = {"class": name, "test_images": int(own.sum())}
        if own.any():
            for arm, scores in together.items():
                if truth.ndim == 2:
                    each = [probe_metrics.mean_average_precision(one[:, [k]], truth[:, [k]])[0] for one in scores]
                    value = float(np.mean(each))
                else:
                    value = 100 * float((scores[:, own].argmax(2) == k).mean())
                row[arm] = round(value, 2)
        rows.append(row)
    names = ["class", "test_images", *together]
    files.write_csv(given.run.path / "classes.csv", names, [dict.fromkeys(names, "") | row for row in rows])
    return {
        "classes": len(data.classes),
        **{k: v for k, v in probe_metrics.guessing(data.train, data.test).items() if k == "chance"},
    }


TASK = Task(
    word="classification",
    read=read,
    heads={"linear": lambda encoder, data: Pooled(encoder, len(data.classes))},
    targets=targets,
    loss=loss,
    evidence=evidence,
    controls=controls,
    layers=lambda settings, config: "last",
    show=show,
)
