"""The task `segment` of 08: a class of each pixel, by a light decoder or a pyramid; mIoU at the masks' own size."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib import files
from geofm_lib.catalog import transfer
from geofm_lib.catalog.models import lookup
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.masks import NONE, Masks
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.data.transforms import apart, picture, squeeze
from geofm_lib.jobs import segment_colours, segment_metric
from geofm_lib.jobs.transfer_task import Control, Data, Given, Task
from geofm_lib.model import decoders
from geofm_lib.model.interop import folders
from geofm_lib.settings import TransferSettings

PIXELS = 96  # of a picture's side


def read(settings: TransferSettings) -> Data:
    """Both sides' images, which all have a mask. ValueError, one sentence, for a set without masks or sides."""
    prepared.refuse_without("masks", Path(settings.data))
    train, test = (Shards(settings.data, split=side) for side in ("train", "test"))
    for side, shards in (("train", train), ("test", test)):
        if not len(shards):
            raise ValueError(f"{settings.data} has no image on the {side} side; prepare it with another train_ratio")
    beside = Masks(settings.data)
    data = Data(train, test, beside.classes, segment_metric.METRIC, lambda: np.zeros(len(test)), beside)
    if settings.balance:
        data.weights = functools.cache(lambda: weights(pixels_of(data), settings.balance))
    return data


def pixels_of(data: Data) -> np.ndarray:
    """Pixels of each class on the train side, int64 [K]."""
    counts = np.zeros(len(data.classes), np.int64)
    for i in range(len(data.train)):
        truth = truth_of(data, data.train, i)
        counts += np.bincount(truth[truth != NONE].numpy(), minlength=len(counts))
    return counts


def weights(pixels_K: np.ndarray, power: float) -> torch.Tensor:
    """Of each class 1 / its share of the pixels to a power, float32 [K], 1 on average over the pixels.

    A class without pixels has 0.

    >>> weights(np.array([90, 10, 0]), 0.5)
    tensor([0.8333, 2.5000, 0.0000])
    """
    shares = pixels_K / pixels_K.sum()
    found = np.where(shares > 0, np.maximum(shares, 1e-12) ** -power, 0)
    return torch.from_numpy(found / (found * shares).sum()).float()


Targets = tuple[
    torch.Tensor, torch.Tensor | None
]  # int64 [B, H, W], NONE for no class or nothing measured; weights [K]


def targets(data: Data, images: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, Targets]:
    """(pixels, what the loss compares with)."""
    pixels, valid = apart(images[:, :-1], data.train.masked)
    classes = images[:, -1].to(torch.int64)
    classes = classes if valid is None else torch.where(valid[:, 0], classes, NONE)
    return pixels, (classes, data.weights().to(images.device) if data.weights else None)


def loss(network: nn.Module, pixels: torch.Tensor, right: Targets) -> torch.Tensor:
    """`cross_entropy` of what the network says."""
    return cross_entropy(network(pixels).float(), *right)


def cross_entropy(
    logits_BKHW: torch.Tensor, classes_BHW: torch.Tensor, weights_K: torch.Tensor | None = None
) -> torch.Tensor:
    """A mean over each image's labelled pixels, then over images.

    An image without any counts 0 and stays in the divisor, so that ranks and micro-batches change nothing.
    """
    each = F.cross_entropy(logits_BKHW, classes_BHW, weights_K, ignore_index=NONE, reduction="none")
    return (each.sum((1, 2)) / (classes_BHW != NONE).sum((1, 2)).clamp(min=1)).mean()


def evidence(network: nn.Module, pixels: torch.Tensor, data: Data, images: np.ndarray) -> torch.Tensor:
    """Confusions int64 [B, K, K] at the masks' own sizes."""
    found = []
    for logits, i in zip(network(pixels).float(), images, strict=True):
        truth = truth_of(data, data.test, int(i)).to(logits.device)
        said = F.interpolate(logits[None], tuple(truth.shape), mode="bilinear")[0].argmax(0)
        found.append(segment_metric.confusion(said, truth, len(data.classes)))
    return torch.stack(found)


def truth_of(data: Data, side: Shards, i: int) -> torch.Tensor:
    """Classes of an image's pixels, int64 [H, W], NONE also where nothing was measured."""
    assert data.masks is not None
    truth = data.masks.of(side.names[i])[0]
    valid = side.pixels(i)[1]
    return truth if valid is None else torch.where(valid[0], truth, NONE)


def sample(network: nn.Module, pixels: torch.Tensor, data: Data) -> torch.Tensor:
    """What is said of the shown images: classes [B, H, W]."""
    return network(pixels).float().argmax(1)


def controls(given: Given) -> list[Control]:
    """The most frequent class of the train side everywhere, and each pixel by its own colour."""
    data = given.data
    counts = pixels_of(data)
    everywhere = np.zeros((len(data.test), len(counts), len(counts)), np.int64)
    for i in range(len(data.test)):
        truth = truth_of(data, data.test, i)
        everywhere[i, :, counts.argmax()] = np.bincount(truth[truth != NONE].numpy(), minlength=len(counts))
    colours = segment_colours.confusions(data.train, data.test, lambda side, i: truth_of(data, side, i), len(counts))
    none = {"model": "none", "objective": "none"}
    found = {transfer.MAJORITY: everywhere, transfer.COLOURS: colours}
    return [Control(name, none | {"model": name, "protocol": name}, each) for name, each in found.items()]


def show(given: Given, told: dict[str, list[np.ndarray]], said: np.ndarray | None) -> dict[str, Any]:
    """classes.csv: of each class its share of the test pixels, and its IoU over all seeds. segments.npz: pictures."""
    data, sums = given.data, {name: np.sum([each.sum(0) for each in found], axis=0) for name, found in told.items()}
    whole = next(iter(sums.values()))
    share = whole.sum(1) / max(whole.sum(), 1)
    ious = {name: segment_metric.ious(each) for name, each in sums.items()}
    rows = [
        {"class": name, "share of pixels": round(100 * float(share[k]), 2)}
        | {arm: round(100 * float(each[k]), 2) if np.isfinite(each[k]) else "" for arm, each in ious.items()}
        for k, name in enumerate(data.classes)
    ]
    files.write_csv(given.run.path / "classes.csv", list(rows[0]), rows)
    if said is not None:
        _pictures(given, said)
    accuracy = {
        name: float(segment_metric.measure(np.stack(found).sum(0), data.truth())[1]) for name, found in told.items()
    }
    return {"classes": len(data.classes), **{f"pixel_accuracy_{name}": value for name, value in accuracy.items()}}


def _pictures(given: Given, said: np.ndarray) -> None:
    """image uint8 [n, P, P, 3]; truth, said: classes [n, P, P], NONE where there is none; classes: their names."""
    data, images, truths, maps = given.data, [], [], []
    for i, each in zip(given.shown, said, strict=True):
        images.append(picture(data.test.decode(i), PIXELS, data.train.mean, data.train.std))
        truths.append(squeeze(truth_of(data, data.test, i)[None], PIXELS)[0].numpy())
        maps.append(squeeze(torch.from_numpy(each)[None], PIXELS)[0].numpy())
    arrays = {"image": np.stack(images), "truth": np.stack(truths), "said": np.stack(maps)}
    write_arrays(given.run.path / "segments.npz", arrays | {"classes": np.array(data.classes)})


def layers(settings: TransferSettings, config: folders.Config) -> str:
    """Which blocks the decoder looks at, in words."""
    if settings.head_name() == "light":
        return "last"
    return "blocks " + ", ".join(str(k + 1) for k in decoders.levels(lookup(config["model"]).depth))


TASK = Task(
    word="segmentation",
    read=read,
    heads={
        "light": lambda encoder, data: decoders.Light(encoder, len(data.classes)),
        "pyramid": lambda encoder, data: decoders.Pyramid(encoder, len(data.classes)),
    },
    targets=targets,
    loss=loss,
    evidence=evidence,
    controls=controls,
    layers=layers,
    show=show,
    sample=sample,
)
