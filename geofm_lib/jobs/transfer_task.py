"""What a task of 08 is: how its images are read, which heads learn it, by what loss, and how the test side is judged.

A task is a module with a row `TASK`, and stands in `transfer.TASKS`. The training (`transfer_arm`) and the intervals
(`transfer_judge`) know no task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from geofm_lib.data.boxes import Boxes
from geofm_lib.data.masks import Masks
from geofm_lib.data.shards import Shards
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.probe_metrics import Metric
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.jobs.transfer_judge import Judge
from geofm_lib.model import vit
from geofm_lib.model.interop import folders
from geofm_lib.settings import TransferSettings

SHOWN = 6  # test images


@dataclass
class Data:
    """Both sides of a task. metric: of `Task.evidence` and `truth()`, both with an entry a test image, in their order.

    masks: their classes are a last plane of the batches. boxes: those that a view shows are their third part.
    weights: of the classes in the loss, [K], where they do not weigh alike.
    telling: the test images of which the page may show some, where that is not any.
    """

    train: Shards
    test: Shards
    classes: list[str]
    metric: Metric
    truth: Callable[[], np.ndarray]
    masks: Masks | None = None
    boxes: Boxes | None = None
    weights: Callable[[], torch.Tensor] | None = None
    telling: Callable[[], Sequence[int]] | None = None


@dataclass
class Given:
    """What every part of the job works on. weights: of the pretrained encoder, by the network's names.

    mean, std: by which images are normalised. kept: the folder of what a stopped run goes on from.
    """

    settings: TransferSettings
    context: Context
    run: Folder
    data: Data
    config: folders.Config
    weights: dict[str, torch.Tensor]
    mean: list[float]
    std: list[float]
    judge: Judge

    @property
    def shown(self) -> list[int]:
        """The test images that the page may show, spread over the side."""
        found = np.array((self.data.telling and self.data.telling()) or range(len(self.data.test)))
        return found[np.linspace(0, len(found) - 1, min(SHOWN, len(found))).astype(int)].tolist()


class Control(NamedTuple):
    """What stands beside the arms. about: columns of its row. evidence: as an arm's, of the test side."""

    name: str
    about: dict[str, Any]
    evidence: np.ndarray


class Task(NamedTuple):
    """See the module. `network` is what is trained, a head on the encoder: it is called as a module is, on all ranks.

    word: in rows of accuracy.csv.
    heads: by name, each makes a head on the meta device for an encoder (`model/transfer.Network`).
    targets: (data, a batch on the device, which train images, its boxes where there are any) -> (pixels, what the loss
        compares with).
    loss: (network, normalised pixels, targets) -> a mean over the images.
    evidence: (network, pixels, data, which test images) -> [B, ...], what the metric needs to know of each image.
    controls: what rank 0 compares with.
    layers: which blocks the head looks at, in words.
    show: writes what the page shows beside the rows, and gives numbers of the summary; it is given the evidence of all
        seeds by name, and the sample.
    sample: (network, pixels of `Given.shown`, data) -> what is kept of them for `show`, by the first arm and seed.
    """

    word: str
    read: Callable[[TransferSettings], Data]
    heads: dict[str, Callable[[vit.Encoder, Data], nn.Module]]
    targets: Callable[..., tuple[torch.Tensor, Any]]
    loss: Callable[[nn.Module, torch.Tensor, Any], torch.Tensor]
    evidence: Callable[[nn.Module, torch.Tensor, Data, np.ndarray], torch.Tensor]
    controls: Callable[[Given], list[Control]]
    layers: Callable[[TransferSettings, folders.Config], str]
    show: Callable[[Given, dict[str, list[np.ndarray]], np.ndarray | None], dict[str, Any]]
    sample: Callable[[nn.Module, torch.Tensor, Data], torch.Tensor] | None = None
