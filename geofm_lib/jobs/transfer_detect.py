"""The task `detect` of 08: a box and a class of each object, by a pyramid under FCOS; mAP as COCO counts it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geofm_lib import files
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.boxes import Boxes, padded
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.data.transforms import apart, picture
from geofm_lib.jobs import detect_metric
from geofm_lib.jobs.transfer_task import Data, Given, Task
from geofm_lib.model.detector import Detector
from geofm_lib.settings import TransferSettings

PIXELS = 192  # of a picture's side


def read(settings: TransferSettings) -> Data:
    """Both sides' images, all looked through for boxes. ValueError, one sentence, for a set without boxes or sides."""
    prepared.refuse_without("boxes", Path(settings.data))
    train, test = (Shards(settings.data, split=side) for side in ("train", "test"))
    beside = Boxes(settings.data)
    for side, shards in (("train", train), ("test", test)):
        if not any(len(beside.of(name).boxes) for name in shards.names):
            raise ValueError(
                f"{settings.data} has no image with a box on the {side} side; prepare it with another train_ratio"
            )

    def telling() -> list[int]:
        return [i for i, name in enumerate(test.names) if len(beside.of(name).boxes)]

    how: dict[str, Any] = {"boxes": beside, "telling": telling}
    return Data(train, test, beside.classes, detect_metric.METRIC, lambda: truth(beside, test), **how)


def truth(beside: Boxes, side: Shards) -> np.ndarray:
    """Boxes in pixels of the image, class and crowd of each image, float32 [N, G, 6]; class -1 for none."""
    rows = []
    for name in side.names:
        known = beside.of(name)
        rows.append(torch.cat([known.boxes, known.classes[:, None], known.crowd[:, None]], 1))
    return padded(rows).numpy()


def targets(data: Data, images: torch.Tensor, indices: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """(pixels, boxes of what they show with their class, [B, G, 5])."""
    return apart(images, data.train.masked)[0], boxes.to(images.device)


def loss(network: nn.Module, pixels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """See `Detector.loss`."""
    return head_of(network).loss(network(pixels), boxes)


def head_of(network: nn.Module) -> Detector:
    """The head within what shards the network."""
    return getattr(network, "module", network).head  # type: ignore[return-value]


def evidence(network: nn.Module, pixels: torch.Tensor, data: Data, images: np.ndarray) -> torch.Tensor:
    """Detections [B, MOST, 6]: box in pixels of the image as stored, score, class."""
    found = head_of(network).detections(network(pixels))
    sizes = torch.from_numpy(data.test.sizes[images]).flip(1).to(found.device)  # width, height
    shown = torch.tensor(pixels.shape[-2:]).flip(0).to(found.device)
    found[..., :4] *= (sizes / shown).repeat(1, 2)[:, None]
    return found


def sample(network: nn.Module, pixels: torch.Tensor, data: Data) -> torch.Tensor:
    """What is said of the shown images, in shares of their sides: [B, MOST, 6]."""
    found = head_of(network).detections(network(pixels))
    found[..., :4] /= torch.tensor(pixels.shape[-2:]).flip(0).repeat(2).to(found.device)
    return found


def show(given: Given, told: dict[str, list[np.ndarray]], said: np.ndarray | None) -> dict[str, Any]:
    """classes.csv: of each class its boxes on the test side, and its precision, a mean over seeds. detections.npz."""
    data, known = given.data, given.judge.truth
    found = {name: [detect_metric.by_class(each, known) for each in seeds] for name, seeds in told.items()}
    rows = []
    for k, name in enumerate(data.classes):
        row: dict[str, Any] = {"class": name, "test boxes": int(((known[..., 4] == k) & (known[..., 5] == 0)).sum())}
        for arm, seeds in found.items():
            row[arm] = round(float(np.mean([each[k][0] for each in seeds])), 2) if k in seeds[0] else ""
        rows.append(row)
    files.write_csv(given.run.path / "classes.csv", list(rows[0]), rows)
    if said is not None:
        _pictures(given, said)
    whole = {name: np.mean([[*each.values()] for each in seeds]) for name, seeds in found.items()}
    numbers = {f"map_0.5_to_0.95_{name}": float(value) for name, value in whole.items()}
    return {"classes": len(data.classes), "test_boxes": sum(row["test boxes"] for row in rows), **numbers}


def _pictures(given: Given, said: np.ndarray) -> None:
    """image uint8 [n, P, P, 3]; truth [n, G, 6] and said [n, M, 6], boxes in pixels of the picture; classes: names."""
    data, images, truths = given.data, [], []
    for i in given.shown:
        images.append(picture(data.test.decode(i), PIXELS, data.train.mean, data.train.std))
        height, width = data.test.sizes[i]
        truths.append(given.judge.truth[i] * [*(PIXELS / width, PIXELS / height) * 2, 1, 1])
    arrays = {"image": np.stack(images), "truth": np.stack(truths), "said": said * [*(PIXELS,) * 4, 1, 1]}
    write_arrays(given.run.path / "detections.npz", arrays | {"classes": np.array(data.classes)})


TASK = Task(
    word="detection",
    read=read,
    heads={"fcos": lambda encoder, data: Detector(encoder, len(data.classes))},
    targets=targets,
    loss=loss,
    evidence=evidence,
    controls=lambda given: [],
    layers=lambda settings, config: "last",
    show=show,
    sample=sample,
)
