"""The task `series` of 08: land covers by their values over time; what classify does, beside a forest on raw values."""

from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from geofm_lib.catalog import transfer
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise
from geofm_lib.jobs import probe_metrics, transfer_classify
from geofm_lib.jobs.transfer_task import Control, Data, Given
from geofm_lib.settings import TransferSettings

TREES = 500
FILE = "series.npz"  # what the page shows


def read(settings: TransferSettings) -> Data:
    """Both sides' series, which all have one label. ValueError, one sentence, for images, and for several labels."""
    data = transfer_classify.read(settings)
    if not data.train.dates:
        raise ValueError(
            f"task: {settings.data} holds images, not series; use task=classify, or prepare a table of them"
        )
    if data.train.several:
        raise ValueError(f"task: series in {settings.data} have several labels; give each one in its table")
    return data


def values(shards: Shards) -> torch.Tensor:
    """[n, bands, 1, dates] as stored; a date that was not measured has the mean of the others."""
    return torch.stack([shards.decode(i) for i in range(len(shards))])


def controls(given: Given) -> list[Control]:
    """The probe, and a random forest; its evidence is the share of trees, 0 of classes that no train series has."""
    data = given.data
    known, unknown = (values(side).flatten(1).numpy() for side in (data.train, data.test))
    forest = RandomForestClassifier(TREES, n_jobs=-1, random_state=0).fit(known, probe_metrics.truth(data.train))
    shares = np.zeros((len(unknown), len(data.classes)), np.float32)
    shares[:, forest.classes_] = forest.predict_proba(unknown)
    about = {"model": transfer.FOREST, "objective": "none", "protocol": f"{TREES} trees, own split"}
    return [*transfer_classify.controls(given), Control(transfer.FOREST, about, shares)]


def sample(network: nn.Module, pixels: torch.Tensor, data: Data) -> torch.Tensor:
    """What is said of the shown series: classes [B]."""
    return network(pixels).argmax(1)


def show(given: Given, told: dict[str, list[np.ndarray]], said: np.ndarray | None) -> dict[str, Any]:
    """What classify shows, and series.npz, all of the first band, normalised: values [n, dates], truth and said [n] of
    the shown test series; quartiles of the train series of each class [K, 3, dates]; classes: their names.
    """
    data = given.data
    if said is not None:
        known, shown = (
            normalise(values(side), given.mean, given.std)[:, 0, 0].numpy() for side in (data.train, data.test)
        )
        truth, empty = probe_metrics.truth(data.train), np.full((3, data.train.dates), np.nan)
        own = [known[truth == k] for k in range(len(data.classes))]
        quartiles = [np.quantile(each, (0.25, 0.5, 0.75), axis=0) if len(each) else empty for each in own]
        arrays: dict[str, Any] = {"values": shown[given.shown], "truth": probe_metrics.truth(data.test)[given.shown]}
        arrays |= {"said": said, "quartiles": np.stack(quartiles), "classes": np.array(data.classes)}
        write_arrays(given.run.path / FILE, arrays)
    return transfer_classify.show(given, told, said) | {"dates": data.train.dates}


TASK = transfer_classify.TASK._replace(
    word="series classification", read=read, controls=controls, show=show, sample=sample
)
