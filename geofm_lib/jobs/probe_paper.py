"""The paper's protocol: batch normalisation without affine and one linear layer, trained with LARS and a cosine.

Training images are random crops, test images a centre crop. ``views`` crops of each training image are encoded once
and cycled over the epochs; with ``views=0`` every epoch encodes new crops, which is the protocol to the letter. Where
images have several labels, each class is a yes or no of its own (binary cross-entropy).

Accuracies are those after the last epoch, never the best one: the test side chooses nothing. All random choices
depend on seeds, and images are encoded in batches that do not depend on the number of ranks. A probe that was stopped
goes on with the features and the heads that it has kept (`probe_kept`), and ends with the same bits.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.optim import Lars

from geofm_lib import files
from geofm_lib.data import baselines, sampler
from geofm_lib.data.shards import Shards
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.features import Extractor, Features, cut
from geofm_lib.distributed.training import learning_rate
from geofm_lib.jobs import probe_kept, probe_metrics, probe_summary
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.model import probe_heads, vit
from geofm_lib.settings import ProbeSettings

KEEPS = "a stop was asked for; what is encoded and the heads are kept"


class Head(NamedTuple):
    """One linear head and its optimiser, for one seed and one encoder's features."""

    kind: str  # of the features: pretrained or random
    seed: int
    encoder: str
    layers: probe_heads.ProbeHead
    optimiser: Lars


class Paper:
    """The heads of one probe; every rank makes one and calls `run`. steps, kept: of progress."""

    def __init__(self, given: Given, encoders: dict[str, vit.Encoder]) -> None:
        settings, context, self.folder, train, test, self.progress, mean, std = given
        self.settings, self.context, self.train, self.test = settings, context, train, test
        self.metric = probe_metrics.of(train)
        self.extract = Extractor(
            encoders,
            context,
            probe_kept.folder(settings, self.folder, context),
            mean=mean,
            std=std,
            image_size=settings.image_size,
            pool=settings.pool,
            seed=settings.seed,
            workers=settings.workers,
            done=self.progress.encoded,
            stop=self.folder.stop_requested,
        )
        self.heads = _heads(encoders, len(train.classes), settings, context.device)
        self.parts = [(head.layers, head.optimiser) for head in self.heads]
        self.file = probe_kept.HeadsFile(self.extract.folder)
        first, self.rows = self.file.load(self.parts, context.device) if context.is_main else (0, [])
        self.first = context.broadcast(first)
        if not settings.views:
            self.extract.forget("probe_train", range(self.first))
        crops, each = 1 + min(settings.views or settings.epochs, settings.epochs), len(cut(len(train)))
        self.steps = crops * each + len(cut(len(test))) + settings.epochs
        self.kept = self.first + self.extract.kept + (0 if settings.views else self.first * each)

    def run(self) -> dict[str, Any]:
        """Encode, train the heads, write probe.csv; the numbers of the summary on rank 0, {} elsewhere."""
        settings, train, test, metric = self.settings, self.train, self.test, self.metric
        known = _encoded(self.extract(train, "train", "probe_test"))
        unknown = _encoded(self.extract(test, "test", "probe_test"))
        tested = probe_metrics.truth(test)
        truth = torch.from_numpy(probe_metrics.truth(train)).to(self.context.device)
        batch = min(settings.batch, len(train))
        steps = len(train) // batch  # of an epoch; an incomplete last batch is left out, as in MAE
        base_rate = settings.base_learning_rate or probe_heads.base_rate(settings.epochs * steps)
        rate = partial(
            learning_rate,
            peak=base_rate * batch / 256,
            warmup_steps=settings.warmup_epochs * steps,
            total_steps=settings.epochs * steps,
        )
        views: dict[int, Features] = {}
        try:
            for epoch in range(self.first, settings.epochs):
                _stop_together(self.folder, self.context)
                view = epoch % settings.views if settings.views else epoch
                if view not in views:
                    views[view] = _encoded(self.extract(train, "train", "probe_train", view))
                features = views[view] if settings.views else views.pop(view)
                if self.context.is_main:
                    self._train(features, truth, unknown, tested, batch, epoch, rate)
        except Stopped:
            if self.rows:
                self.file.save(self.parts, self.rows[-1]["epoch"], self.rows, after_s=0)
            raise
        if not self.context.is_main:
            return {}
        files.write_csv(self.folder.path / "probe.csv", list(self.rows[0]), self.rows)
        neighbours: dict[str, list[float]] = {}  # kind of features -> the metric in percent, one for each encoder
        for name in known:
            votes = probe_heads.knn_scores(known[name], truth, unknown[name], len(train.classes), settings.knn_k)
            neighbours.setdefault(name.split()[0], []).append(metric.measure(votes.cpu().numpy(), tested)[0])
        last = self.rows[-len(self.heads) :]
        losses = [row["loss"] for row in last if row["features"] == last[0]["features"]]
        return {
            "probe_seeds": settings.probe_seeds,
            "intervals": probe_summary.INTERVALS,
            **probe_summary.accuracies(last, neighbours, metric.columns),
            **(_histograms(train, test, metric) if settings.compare_histograms else {}),
            "loss": sum(losses) / settings.probe_seeds,
            "head_steps": settings.epochs * steps,
            "head_base_learning_rate": round(base_rate, 4),
        }

    def _train(self, features: Features, truth, unknown: Features, tested, batch: int, epoch: int, rate) -> None:
        """One epoch of all heads, on rank 0, and what it came to."""
        metric = self.metric
        trained = _epoch(self.heads, features, truth, batch, epoch, self.settings.seed, rate)
        for head, loss in zip(self.heads, trained, strict=True):
            scores = probe_heads.scores(head.layers, unknown[head.encoder]).cpu().numpy()
            row = {"features": head.kind, "seed": head.seed, "epoch": epoch + 1}
            measured = (round(value, 3) for value in metric.measure(scores, tested))
            self.rows.append(row | dict(zip(metric.columns, measured, strict=True)) | {"loss": round(loss, 5)})
        first = self.rows[-len(self.heads)]
        self.progress.advance(phase="probe", loss=first["loss"], **{metric.key: first[metric.key]})
        if self.file.save(self.parts, epoch + 1, self.rows) and not self.settings.views:
            self.extract.forget("probe_train", range(epoch + 1))


def _heads(encoders: dict[str, vit.Encoder], classes: int, settings: ProbeSettings, device: torch.device) -> list[Head]:
    """One for each seed and kind of features; the random encoder is another one for each seed."""
    heads = []
    for seed in range(settings.probe_seeds):
        for kind in dict.fromkeys(name.split()[0] for name in encoders):
            name = kind if kind in encoders else f"{kind} {seed}"
            layers = probe_heads.ProbeHead(encoders[name].embed_dim, classes, settings.seed + seed).to(device)
            heads.append(Head(kind, seed, name, layers, probe_heads.lars(layers, settings.weight_decay)))
    return heads


def _epoch(
    heads: list[Head],
    features: Features,
    truth: torch.Tensor,
    batch: int,
    epoch: int,
    seed: int,
    rate: Callable[[int], float],
) -> list[float]:
    """The mean loss of each head over its epoch of whole batches; ValueError for one that is not finite."""
    losses = []
    for head in heads:
        own = features[head.encoder]
        steps = len(own) // batch
        order = torch.from_numpy(sampler.order(seed + head.seed, epoch, len(own))).to(own.device)
        found = [
            probe_heads.train_step(head.layers, head.optimiser, own[chosen], truth[chosen], rate(step))
            for step, chosen in enumerate(order.split(batch)[:steps], epoch * steps)
        ]
        losses.append(sum(found) / steps)
        if not math.isfinite(losses[-1]) or not probe_heads.is_finite(head.layers):
            where = f"the head on {head.kind} features (seed {head.seed}) diverged in epoch {epoch + 1}"
            raise ValueError(f"{where}: its loss is {losses[-1]:.4g}; lower base_learning_rate.")
    return losses


def _histograms(train: Shards, test: Shards, metric: probe_metrics.Metric) -> dict[str, Any]:
    """The metric of colour and gradient histograms with ridge regression; nothing in it is drawn from a seed.

    So its interval is another one: the 95 % interval over the test images, on the split as it is.
    """
    known, tested = probe_metrics.truth(train), probe_metrics.truth(test)
    scores = baselines.ridge(baselines.features(train), known, baselines.features(test))
    found, half = metric.measure(scores, tested)[0], metric.spread(scores, tested)
    return {f"histograms_{metric.key}": found, "histograms_interval": half, "histograms_interval_kind": metric.interval}


def _stop_together(run: Folder, context: Context) -> None:
    """Stop when asked. Every rank comes here each epoch, so none waits for rank 0's heads too long."""
    if context.broadcast(run.stop_requested()):
        raise Stopped(KEEPS)


def _encoded(found: Features | None) -> Features:
    """What an extractor returned; Stopped where it was asked to stop."""
    if found is None:
        raise Stopped(KEEPS)
    return found
