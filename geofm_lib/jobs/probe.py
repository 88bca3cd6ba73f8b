"""Job: how good are the frozen features? A linear probe and nearest neighbours, beside random weights and histograms.

The protocol is the paper's lineage (paper: section "linear probing"): the encoder is frozen; batch normalisation
without affine and one linear layer are trained with LARS and a cosine; training images are random crops, test
images a centre crop. ``views`` crops of each training image are encoded once and cycled over the epochs; with
``views=0`` every epoch encodes new crops, which is the protocol to the letter.

Accuracies are those after the last epoch, never the best one: the test side chooses nothing. All random choices
depend on seeds, and images are encoded in batches that do not depend on the number of ranks.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch

from geofm_lib import files
from geofm_lib.data import baselines, sampler
from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed.training import learning_rate
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.model import probe_heads, vit
from geofm_lib.model.interop import folders
from geofm_lib.model.interop.load import load_encoder
from geofm_lib.settings import ProbeSettings

BATCH = 64  # images encoded at once; part of the result's definition only to the last bit
LOG_S = 1.0  # seconds between progress rows
RANDOM_SEEDS = 1000  # the random encoders' seeds start here, apart from those of heads and crops
COLUMNS = ("features", "seed", "epoch", "top1", "top5", "loss")
# 97.5 % points of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def run(settings: ProbeSettings, context, run: Folder) -> dict:
    """Probe the encoder on the prepared data set in ``settings.data``; returns the headline numbers.

    ValueError in one sentence for data without labels or with fewer than two classes, and for an encoder that is
    missing or does not fit the images.
    """
    train, test = Shards(settings.data, split="train"), Shards(settings.data, split="test")
    _check_data(settings, train, test)
    encoders, config = _encoders(settings, train, context.device)
    work = _Work(settings, context, run, config.get("mean") or train.mean, config.get("std") or train.std)
    work.plan(train, test)
    known, unknown = (work.extract(encoders, side, "probe_test", 0) for side in (train, test))
    heads = _Heads(settings, encoders, train.labels, test.labels, len(train.classes), context.device)
    views: dict[int, dict[str, torch.Tensor] | None] = {}
    rows = []
    for epoch in range(settings.epochs):
        work.agree()
        view = epoch % settings.views if settings.views else epoch
        if view not in views:
            views[view] = work.extract(encoders, train, "probe_train", view)
        features = views[view] if settings.views else views.pop(view)
        if context.is_main:
            found = heads.epoch(epoch, features, unknown)
            rows += found
            work.advance(1, phase="probe", top1=found[0]["top1"], loss=found[0]["loss"])
    if not context.is_main:
        return {}
    files.write_csv(run.path / "probe.csv", COLUMNS, rows)
    knn = heads.neighbours(known, unknown, settings.knn_k)
    return _summary(settings, rows, knn, _histograms(settings, train, test), config, train, test)


def _check_data(settings: ProbeSettings, train: Shards, test: Shards) -> None:
    where = f"The prepared data set in {settings.data}"
    if (train.labels < 0).any() or (test.labels < 0).any():
        raise ValueError(f"{where} has no labels, so it cannot be probed; give a folder or archive of class folders.")
    if len(train.classes) < 2:
        raise ValueError(f"{where} has {len(train.classes)} class; a probe needs at least 2.")
    if len(train) < 2 or not len(test):
        raise ValueError(f"{where} has {len(train)} train and {len(test)} test images; a probe needs both sides.")


def _encoders(settings: ProbeSettings, train: Shards, device: torch.device) -> tuple[dict[str, vit.ViT], dict]:
    """({"pretrained": encoder, "random 0": encoder, ...}, config of the architecture), frozen and on the device."""
    if settings.encoder == "random":
        config = {"model": settings.model, "patch_size": None, "channels": train.channels}
        encoders = {}
    else:
        folder = folders.find(settings.encoder)
        encoder, config = load_encoder(folder, settings.image_size)
        encoders = {"pretrained": encoder}
    if config["channels"] != train.channels:
        raise ValueError(
            f"The encoder in {settings.encoder} takes {config['channels']} channels, the images in {settings.data} "
            f"have {train.channels}; pretrain on images with as many channels."
        )
    if settings.compare_random or not encoders:
        for seed in range(settings.probe_seeds):
            encoders[f"random {seed}"] = vit.build(
                config["model"],
                config.get("family", "pretrain"),
                settings.image_size,
                config["channels"],
                patch_size=config["patch_size"],
                norm_eps=config.get("norm_eps", vit.NORM_EPS),
                num_classes=0,
                seed=RANDOM_SEEDS + settings.seed + seed,
            )
    return {name: e.to(device).eval().requires_grad_(False) for name, e in encoders.items()}, config


class _Work:
    """Encodes images on all ranks and counts what is done."""

    def __init__(self, settings, context, run: Folder, mean, std):
        self.settings, self.context, self.run, self.mean, self.std = settings, context, run, mean, std
        self.done = self.total = self.passes = self.images = 0
        self.started = self.logged = time.perf_counter()

    def plan(self, train, test) -> None:
        """How many progress steps there are: one for each batch that rank 0 encodes, and one for each epoch."""
        views = self.settings.views or self.settings.epochs
        crops = 1 + min(views, self.settings.epochs)
        self.total = crops * len(self._mine(train)) + len(self._mine(test)) + self.settings.epochs

    def advance(self, steps: int, **row) -> None:
        """Count progress, and log it now and then."""
        self.done += steps
        self.run.at(self.done)
        now = time.perf_counter()
        if now - self.logged > LOG_S or self.done == self.total:
            self.logged, spent = now, now - self.started
            rate = self.images * self.context.world_size / spent
            left = spent * (self.total - self.done) / self.done
            row |= {"encoded_images_per_s": round(rate, 1), "seconds_left": round(left, 1)}
            self.run.log_metrics(step=self.done, total_steps=self.total, **row)

    def _mine(self, shards) -> list[np.ndarray]:
        """This rank's batches: every world-th of the same list on any number of ranks."""
        cuts = [np.arange(i, min(i + BATCH, len(shards))) for i in range(0, len(shards), BATCH)]
        return cuts[self.context.rank :: self.context.world_size]

    def agree(self) -> None:
        """Stop together when asked. Every rank comes here each epoch, so none waits for rank 0's heads too long."""
        if self.context.broadcast(self.run.stop_requested()):
            raise Stopped("a stop was asked for; the probe keeps nothing and will start again")

    @torch.no_grad()
    def extract(self, encoders: dict, shards, transform: str, view: int) -> dict[str, torch.Tensor] | None:
        """Features of all images of one side in one view, for every encoder at once (an image is decoded once).

        {encoder's name: [N, D] fp32 on the device} on rank 0, None elsewhere.
        """
        settings, device = self.settings, self.context.device
        self.agree()
        parts: dict[str, list] = {name: [] for name in encoders}
        stream = batches(
            shards,
            self._mine(shards),
            image_size=settings.image_size,
            transform=transform,
            seed=settings.seed,
            epoch=view,
            workers=settings.workers,
            pin=device.type == "cuda",
        )
        for images, _ in stream:
            pixels = normalise(images.to(device, non_blocking=True), self.mean, self.std)
            for name, encoder in encoders.items():
                parts[name].append(vit.features(encoder, pixels, settings.pool).cpu())
            self.images += len(images)
            self.advance(1, phase="encoding")
        width = next(iter(encoders.values())).embed_dim
        own = {name: torch.cat(found) if found else torch.empty(0, width) for name, found in parts.items()}
        whole = self._gather(own, len(shards))
        return {name: found.to(device) for name, found in whole.items()} if whole else None

    def _gather(self, own: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor] | None:
        """All ranks' features in the images' order, on rank 0. By files in the run folder: any backend, any size."""
        if self.context.world_size == 1:
            return own
        self.passes += 1
        files = [self.run.path / f".features-{self.passes}-{rank}.npz" for rank in range(self.context.world_size)]
        np.savez(files[self.context.rank], **{name: found.numpy() for name, found in own.items()})
        self.context.barrier()
        if not self.context.is_main:
            return None
        whole = {name: torch.empty(count, found.shape[1]) for name, found in own.items()}
        starts = range(0, count, BATCH)
        for rank, file in enumerate(files):
            with np.load(file) as saved:
                for name, target in whole.items():
                    rows = torch.from_numpy(saved[name])
                    mine = [torch.arange(i, min(i + BATCH, count)) for i in starts[rank :: self.context.world_size]]
                    if mine:
                        target[torch.cat(mine)] = rows
            file.unlink()
        return whole


class _Heads:
    """One head for each kind of features and probe seed; all are trained on the same views."""

    def __init__(self, settings, encoders, train_labels, test_labels, classes: int, device):
        self.settings, self.classes = settings, classes
        self.train_labels = torch.from_numpy(train_labels).to(device)
        self.test_labels = torch.from_numpy(test_labels).to(device)
        self.heads = []  # (kind, seed, encoder's name, head, optimiser)
        for seed in range(settings.probe_seeds):
            for kind in dict.fromkeys(name.split()[0] for name in encoders):
                name = kind if kind in encoders else f"{kind} {seed}"
                head = probe_heads.ProbeHead(encoders[name].embed_dim, classes, seed=settings.seed + seed).to(device)
                self.heads.append((kind, seed, name, head, probe_heads.lars(head, settings.weight_decay)))

    def epoch(self, epoch: int, train: dict, test: dict) -> list[dict]:
        """Train every head for one epoch; rows of probe.csv. An incomplete last batch is left out, as in MAE."""
        s, count = self.settings, len(self.train_labels)
        batch = min(s.batch, count)
        steps = count // batch
        peak = s.base_learning_rate * batch / 256
        rows = []
        for kind, seed, name, head, optimiser in self.heads:
            order = torch.from_numpy(sampler.order(s.seed + seed, epoch, count)).to(self.train_labels.device)
            losses = []
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                rate = learning_rate(
                    epoch * steps + step,
                    peak=peak,
                    warmup_steps=s.warmup_epochs * steps,
                    total_steps=s.epochs * steps,
                )
                losses.append(
                    probe_heads.train_step(head, optimiser, train[name][chosen], self.train_labels[chosen], rate)
                )
            top1, top5 = probe_heads.accuracy(head, test[name], self.test_labels)
            loss = sum(losses) / len(losses)
            values = (kind, seed, epoch + 1, round(top1, 3), round(top5, 3), round(loss, 5))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        return rows

    def neighbours(self, train: dict, test: dict, k: int) -> dict[str, list[float]]:
        """Top-1 in percent by nearest neighbours on centre crops: {kind: one value for each encoder}."""
        found: dict[str, list[float]] = {}
        for name in train:
            predicted = probe_heads.knn_predict(train[name], self.train_labels, test[name], k)
            hits = (predicted == self.test_labels).float().mean().item()
            found.setdefault(name.split()[0], []).append(100 * hits)
        return found


def _histograms(settings: ProbeSettings, train: Shards, test: Shards) -> dict:
    """Top-1 of colour and gradient histograms with ridge regression; nothing in it is drawn from a seed.

    So its interval is another one: the 95 % binomial interval over the test images, on the split as it is.
    """
    if not settings.compare_histograms:
        return {}
    scores = baselines.ridge(baselines.features(train), train.labels, baselines.features(test))
    share = float((scores.argmax(1) == test.labels).mean())
    half = 1.96 * math.sqrt(share * (1 - share) / len(test))
    return {
        "histograms_top1": 100 * share,
        "histograms_interval": 100 * half,
        "histograms_interval_kind": "95 %, binomial, over test images (the method draws nothing from a seed)",
    }


def interval(values: list[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for a single value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    t = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96 + 2.4 / (n - 1)  # within 0.5 % of Student's from 16 on
    return t * spread / math.sqrt(n)


def _summary(settings, rows, knn, histograms, config, train, test) -> dict:
    """Headline numbers, in percent; ``..._interval`` is half a 95 % interval."""
    found = {
        "encoder": "random" if settings.encoder == "random" else Path(settings.encoder).parent.name,
        "model": config["model"],
        "patch_size": config["patch_size"] or None,
        "classes": len(train.classes),
        "chance": 100 / len(train.classes),
        "train_images": len(train),
        "test_images": len(test),
        "probe_seeds": settings.probe_seeds,
        "intervals": "95 %, Student's t, over probe seeds (head, order of images and, for random, the encoder)",
    }
    last = [row for row in rows if row["epoch"] == settings.epochs]
    for kind in ("pretrained", "random"):
        for top in ("top1", "top5"):
            values = [row[top] for row in last if row["features"] == kind]
            if values:
                found[f"{top}_{kind}_mean"] = sum(values) / len(values)
                found[f"{top}_{kind}_interval"] = interval(values)
        if kind in knn:
            found[f"knn_{kind}"] = sum(knn[kind]) / len(knn[kind])
            found[f"knn_{kind}_interval"] = interval(knn[kind])
    found |= histograms
    loss = sum(row["loss"] for row in last if row["features"] == last[0]["features"]) / settings.probe_seeds
    found |= {"loss": loss, "head_steps": settings.epochs * max(1, len(train) // settings.batch)}
    return found | {"verdict": verdict(found)}


def verdict(found: dict) -> str:
    """One sentence that reads the summary: against random weights, against histograms, or on its own."""
    own = "pretrained" if "top1_pretrained_mean" in found else "random"
    mean = found[f"top1_{own}_mean"]
    what = "The pretrained encoder's features" if own == "pretrained" else "The features of random weights"
    parts = [f"{what} reach {mean:.1f} % top-1 ({found['classes']} classes, chance {found['chance']:.1f} %)"]
    others = {"random": ("top1_random_mean", "top1_random_interval", "the same encoder at random initialisation")}
    others["histograms"] = ("histograms_top1", "histograms_interval", "colour and gradient histograms")
    for name, (key, half, words) in others.items():
        if name == own or found.get(key) is None:
            continue
        gain = mean - found[key]
        # intervals of independent means add in squares
        noise = math.hypot(found.get(f"top1_{own}_interval") or 0.0, found.get(half) or 0.0)
        clear = "" if abs(gain) > noise else ", which is within the interval: no clear difference"
        side = "above" if gain >= 0 else "below"
        parts.append(f"{abs(gain):.1f} points (± {noise:.1f}) {side} {words}{clear}")
    return "; ".join(parts) + "."
