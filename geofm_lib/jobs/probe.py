"""Job: how good are the frozen features? A linear probe and nearest neighbours, beside random weights and histograms.

The protocol is the paper's. The encoder is frozen; batch normalisation
without affine and one linear layer are trained with LARS and a cosine. Training images are random crops, test images
a centre crop. ``views`` crops of each training image are encoded once and cycled over the epochs; with
``views=0`` every epoch encodes new crops, which is the protocol to the letter. Where images have several labels, each
class is a yes or no of its own (binary cross-entropy), and mean average precision stands in place of top-1.

Accuracies are those after the last epoch, never the best one: the test side chooses nothing. All random choices
depend on seeds, and images are encoded in batches that do not depend on the number of ranks. A probe that was stopped
goes on with the features and the heads that it has kept (`probe_kept`), and ends with the same bits.
"""

import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.optim import Lars

from geofm_lib import files
from geofm_lib.data import baselines, sampler
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared, probeable
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.features import BATCH, Extractor, Features, cut
from geofm_lib.distributed.training import learning_rate
from geofm_lib.jobs import kernels, pace, probe_kept, probe_metrics, probe_seen, probe_summary
from geofm_lib.jobs.run_folder import KEPT, Folder, Stopped
from geofm_lib.model import probe_heads, vit
from geofm_lib.model.interop import folders, load
from geofm_lib.settings import ProbeSettings

LOG_S = 1.0  # seconds between progress rows
KEEPS = "a stop was asked for; what is encoded and the heads are kept"
RANDOM_SEEDS = 1000  # the random encoders' seeds start here, apart from those of heads and crops


class Head(NamedTuple):
    """One linear head and its optimiser, for one seed and one encoder's features."""

    kind: str  # of the features: pretrained or random
    seed: int
    encoder: str
    layers: probe_heads.ProbeHead
    optimiser: Lars


def run(settings: ProbeSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Probe the encoder on the prepared data set in ``settings.data``; returns the headline numbers.

    ValueError in one sentence for data without labels or with fewer than two classes, and for an encoder that is
    missing or does not fit the images.
    """
    unlabelled = probeable.check(Path(settings.data))
    train, test = (Shards(settings.data, split=side, labelled=True) for side in ("train", "test"))
    device = context.device
    encoders, config = _encoders(settings, train.channels, device)
    kernels.choose_of_encoders(encoders.values(), settings, BATCH, context, run, (run.path / KEPT).exists())
    seen = probe_seen.compare(settings, config)
    progress = Progress(run, context.world_size)
    extract = Extractor(
        encoders,
        context,
        probe_kept.folder(settings, run, context),
        mean=config.get("mean") or train.mean,
        std=config.get("std") or train.std,
        image_size=settings.image_size,
        pool=settings.pool,
        seed=settings.seed,
        workers=settings.workers,
        done=progress.encoded,
        stop=run.stop_requested,
    )
    heads = _heads(encoders, len(train.classes), settings.probe_seeds, settings.seed, settings.weight_decay, device)
    parts = [(head.layers, head.optimiser) for head in heads]
    kept = probe_kept.HeadsFile(extract.folder)
    first_epoch, rows = kept.load(parts, device) if context.is_main else (0, [])
    first_epoch = context.broadcast(first_epoch)
    if not settings.views:
        extract.forget("probe_train", range(first_epoch))
    crops = 1 + min(settings.views or settings.epochs, settings.epochs)
    total = crops * len(cut(len(train))) + len(cut(len(test))) + settings.epochs
    progress.begin(total, first_epoch + extract.kept + (0 if settings.views else first_epoch * len(cut(len(train)))))
    known, unknown = _encoded(extract(train, "train", "probe_test")), _encoded(extract(test, "test", "probe_test"))
    metric, tested = probe_metrics.of(train), probe_metrics.truth(test)
    train_truth = torch.from_numpy(probe_metrics.truth(train)).to(device)
    batch = min(settings.batch, len(train))
    steps = len(train) // batch  # of an epoch; an incomplete last batch is left out, as in MAE
    rate = partial(
        learning_rate,
        peak=settings.base_learning_rate * batch / 256,
        warmup_steps=settings.warmup_epochs * steps,
        total_steps=settings.epochs * steps,
    )
    views: dict[int, Features] = {}
    try:
        for epoch in range(first_epoch, settings.epochs):
            _stop_together(run, context)
            view = epoch % settings.views if settings.views else epoch
            if view not in views:
                views[view] = _encoded(extract(train, "train", "probe_train", view))
            features = views[view] if settings.views else views.pop(view)
            if context.is_main:
                trained = _epoch(heads, features, train_truth, batch, epoch, settings.seed, rate)
                for head, loss in zip(heads, trained, strict=True):
                    scores = probe_heads.scores(head.layers, unknown[head.encoder]).cpu().numpy()
                    row = {"features": head.kind, "seed": head.seed, "epoch": epoch + 1}
                    measured = (round(value, 3) for value in metric.measure(scores, tested))
                    rows.append(row | dict(zip(metric.columns, measured, strict=True)) | {"loss": round(loss, 5)})
                first = rows[-len(heads)]
                progress.advance(phase="probe", loss=first["loss"], **{metric.key: first[metric.key]})
                if kept.save(parts, epoch + 1, rows) and not settings.views:
                    extract.forget("probe_train", range(epoch + 1))
    except Stopped:
        if rows:
            kept.save(parts, rows[-1]["epoch"], rows, after_s=0)
        raise
    if not context.is_main:
        return {}
    files.write_csv(run.path / "probe.csv", list(rows[0]), rows)
    neighbours: dict[str, list[float]] = {}  # kind of features -> the metric in percent, one value for each encoder
    for name in known:
        votes = probe_heads.knn_scores(known[name], train_truth, unknown[name], len(train.classes), settings.knn_k)
        neighbours.setdefault(name.split()[0], []).append(metric.measure(votes.cpu().numpy(), tested)[0])
    last = rows[-len(heads) :]
    losses = [row["loss"] for row in last if row["features"] == last[0]["features"]]
    found = {
        "encoder": _name(settings.encoder, config),
        **({"encoder_checkpoint": origin} if (origin := folders.origin(config)) else {}),
        "model": config["model"],
        "patch_size": config["patch_size"] or None,
        "classes": len(train.classes),
        "metric": metric.key,
        **probe_metrics.guessing(train, test),
        "train_images": len(train),
        "test_images": len(test),
        **({"unlabelled": unlabelled} if unlabelled else {}),
        **seen,
        "probe_seeds": settings.probe_seeds,
        "intervals": probe_summary.INTERVALS,
        **probe_summary.accuracies(last, neighbours, metric.columns),
        **(_histograms(train, test, metric) if settings.compare_histograms else {}),
        "loss": sum(losses) / settings.probe_seeds,
        "head_steps": settings.epochs * steps,
    }
    found |= probe_summary.support(train.classes, *(side.targets.sum(axis=0).tolist() for side in (train, test)))
    found |= prepared.told(settings.data)
    shutil.rmtree(extract.folder.parent, ignore_errors=True)
    return found | {"verdict": probe_summary.verdict(found)}


def _name(encoder: str, config: dict[str, Any]) -> str:
    """What a table calls it: the run's folder, its checkpoint RUN@STEP, or the folder of an encoder from elsewhere."""
    if found := config.get("checkpoint"):
        return f"{found['run']}@{found['step']}"
    folder = Path(encoder)
    return folder.parent.name if folder.name == "encoder" else folder.name


def _encoders(
    settings: ProbeSettings, channels: int, device: torch.device
) -> tuple[dict[str, vit.Encoder], dict[str, Any]]:
    """({"pretrained": encoder, "random 0": encoder, ...}, config of the architecture), frozen and on the device."""
    encoders: dict[str, vit.Encoder] = {}
    config: dict[str, Any]
    if settings.encoder == "random":
        config = {"model": settings.model, "patch_size": None, "channels": channels}
    else:
        encoders["pretrained"], config = load.load_encoder(settings.encoder, settings.image_size)
    if config["channels"] != channels:
        raise ValueError(
            f"The encoder in {settings.encoder} takes {config['channels']} channels, the images in {settings.data} "
            f"have {channels}; pretrain on images with as many channels."
        )
    if settings.compare_random or not encoders:
        for seed in range(settings.probe_seeds):
            encoders[f"random {seed}"] = load.fresh(config, settings.image_size, RANDOM_SEEDS + settings.seed + seed)
    return {name: e.to(device).eval().requires_grad_(False) for name, e in encoders.items()}, config


def _heads(
    encoders: dict[str, vit.Encoder], classes: int, seeds: int, first: int, weight_decay: float, device: torch.device
) -> list[Head]:
    """One for each seed and kind of features; the random encoder is another one for each seed."""
    heads = []
    for seed in range(seeds):
        for kind in dict.fromkeys(name.split()[0] for name in encoders):
            name = kind if kind in encoders else f"{kind} {seed}"
            layers = probe_heads.ProbeHead(encoders[name].embed_dim, classes, first + seed).to(device)
            heads.append(Head(kind, seed, name, layers, probe_heads.lars(layers, weight_decay)))
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


class Progress:
    """Rows of metrics.jsonl: one step for each batch that is encoded on any rank, and one for each epoch of the heads.

    An earlier start's rows stay, up to what was kept of it.
    """

    def __init__(self, run: Folder, world_size: int) -> None:
        self.run, self.world_size = run, world_size
        self.total = self.steps = self.kept = self.images = 0
        self.encoding_s, self.speed, self.marked = 0.0, pace.Pace(), 0
        self.began = self.logged = time.perf_counter()

    def begin(self, total: int, kept: int) -> None:
        """There are so many steps, of which so many need not be done again."""
        self.total, self.steps, self.kept = total, kept, kept
        self.run.drop_metrics_after(kept)

    def encoded(self, images: int, batches: int) -> None:
        """A batch of so many images is encoded on this rank, while all ranks encode so many."""
        self.images += images
        self.encoding_s = time.perf_counter() - self.began
        self.advance(batches, phase="encoding")

    def advance(self, steps: int = 1, **row: Any) -> None:
        """Count steps, and log them now and then."""
        self.steps, self.marked = self.steps + steps, self.marked + steps
        self.run.at(self.steps)
        now = time.perf_counter()
        if now - self.logged > LOG_S or self.steps == self.total:
            self.speed.took(self.marked, now - self.logged)
            self.logged, self.marked = now, 0
            if self.images:  # not of the heads' time, nor when an earlier start encoded all
                row["encoded_images_per_s"] = round(self.images * self.world_size / self.encoding_s, 1)
            row["seconds_left"] = self.speed.left(self.total - self.steps)
            self.run.log_metrics(step=self.steps, total_steps=self.total, **row)
