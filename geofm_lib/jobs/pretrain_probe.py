"""How good an encoder's features are while it is trained: a quick probe at milestones (`probe_every`).

At most IMAGES images of either side of a labelled set, spread evenly over it, are encoded by all ranks; on rank 0 ridge
regression tells their classes apart. Nothing is drawn from a generator, so the training's bits do not change. The
control is the first point: the weights before the first step. 05's protocol is longer, and its numbers are other ones.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from geofm_lib import files
from geofm_lib.data import baselines
from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed import sharding
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import probe_metrics
from geofm_lib.jobs.run_folder import ALONG, Folder
from geofm_lib.model.mae import MaskedAutoencoder
from geofm_lib.settings import PretrainSettings

IMAGES = 2000  # of either side, at most
BATCH = 64
KEEP_BYTES = 2**28  # of decoded pixels of either side


class Along:
    """The probes of one run; every rank makes one, and calls `at` after every step. Without `probe_every` it is idle.

    mean and std: those that the training normalises by.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        run: Folder,
        context: Context,
        autoencoder: MaskedAutoencoder,
        mean: list[float],
        std: list[float],
    ) -> None:
        self.settings, self.run, self.context, self.model = settings, run, context, autoencoder
        self.mean, self.std = mean, std
        self.rows: list[dict[str, Any]] = []
        if not settings.probe_every:
            return
        sharding.forward_method(autoencoder, "features")
        folder = Path(settings.probe_data or settings.data)
        self.known, self.tested = (Shards(folder, side, KEEP_BYTES, labelled=True) for side in ("train", "test"))
        self.metric = probe_metrics.of(self.known)
        self.set = prepared.fingerprint(folder)

    def go_on(self, done: int) -> None:
        """Forget rows of steps that will be done again, and measure `done` if it is a milestone without a row."""
        if not self.settings.probe_every:
            return
        file = self.run.path / ALONG
        before = files.read_csv(file) if self.context.is_main and file.is_file() else []
        self.rows = [row for row in before if int(row["step"]) <= done and row["data"] == self.set]
        if self.context.broadcast(all(int(row["step"]) != done for row in self.rows)):
            self.at(done)

    def at(self, step: int, total: int = 0) -> float:
        """Measure if the step is a milestone, or the last; returns the seconds that it took."""
        every = self.settings.probe_every
        if not every or (step % every and step != total):
            return 0.0
        began, training = time.perf_counter(), self.model.training
        self.model.eval()
        known, tested = self._features(self.known), self._features(self.tested)
        self.model.train(training)
        if self.context.is_main:
            truth = [probe_metrics.truth(side)[_chosen(side)] for side in (self.known, self.tested)]
            scores = baselines.ridge(known, truth[0], tested)
            values = [round(each, 3) for each in self.metric.measure(scores, truth[1])]
            row: dict[str, Any] = {"step": step, **dict(zip(self.metric.columns, values, strict=True))}
            row |= {"chance": round(probe_metrics.guessing(self.known, self.tested)["chance"], 3)}
            row |= {"train_images": len(known), "test_images": len(tested), "data": self.set}
            self.rows.append(row | {"seconds": round(time.perf_counter() - began, 3)})
            files.write_csv(self.run.path / ALONG, self.rows[-1], self.rows)
        self.context.barrier()
        return time.perf_counter() - began

    def told(self) -> dict[str, Any]:
        """For the summary: the first and the last, and what all of them cost."""
        if not self.rows:
            return {}
        key, seconds = self.metric.key, [float(row["seconds"]) for row in self.rows]
        return {
            "along_metric": key,
            "along_first_step": int(self.rows[0]["step"]),
            "along_first": float(self.rows[0][key]),
            "along_last": float(self.rows[-1][key]),
            "along_probes": len(self.rows),
            "along_seconds": round(sum(seconds), 2),
        }

    @torch.no_grad()
    def _features(self, images: Shards) -> np.ndarray:
        """[N, D] of the chosen images, on every rank. FSDP gathers together, so each rank takes as many batches."""
        chosen, size, world = _chosen(images), self.settings.max_batch_per_rank or BATCH, self.context.world_size
        places = [chosen[first : first + min(size, BATCH)] for first in range(0, len(chosen), min(size, BATCH))]
        rounds = -(-len(places) // world)
        own = [places[min(turn * world + self.context.rank, len(places) - 1)] for turn in range(rounds)]
        stream = batches(images, own, image_size=self.settings.image_size, transform="probe_test")
        found = torch.zeros(rounds, min(size, BATCH), self.model.encoder.embed_dim, device=self.context.device)
        for turn, (pixels, _) in enumerate(stream):
            pixels = normalise(pixels.to(self.context.device), self.mean, self.std)
            found[turn, : len(pixels)] = self.model.features(pixels)
        _give_back(self.model)
        whole = [torch.empty_like(found) for _ in range(world)]
        dist.all_gather(whole, found)
        return torch.stack(whole, dim=1).flatten(0, 2).cpu().numpy()[: len(chosen)]


def _chosen(images: Shards) -> np.ndarray:
    """Positions spread evenly over a side, which is sorted by class."""
    return np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(np.int64))


def _give_back(model: nn.Module) -> None:
    """Leave every unit sharded, as the training step found it."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
