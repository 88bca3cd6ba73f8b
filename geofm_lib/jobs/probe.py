"""Job: how good are the frozen features? Linear probes and nearest neighbours, beside random weights and histograms.

The encoder is frozen. `protocol` says which heads are trained (catalog/readouts): the paper's (`probe_paper`), the fast
one on several splits (`probe_fast`), or both; or that places are sought on their other date (`probe_dates`). The test
side chooses nothing in any of them.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from geofm_lib.catalog.readouts import DATES, FAST, PAPER
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import pairs, prepared, probeable
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.features import BATCH
from geofm_lib.jobs import encoder_bands, kernels, probe_dates, probe_metrics, probe_seen, probe_summary
from geofm_lib.jobs.probe_fast import RANDOM_SEEDS, Fast, name_of
from geofm_lib.jobs.probe_paper import Paper
from geofm_lib.jobs.probe_progress import Given, Progress
from geofm_lib.jobs.run_folder import KEPT, Folder
from geofm_lib.model import vit
from geofm_lib.model.interop import folders, load
from geofm_lib.settings import ProbeSettings, series


def run(settings: ProbeSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Probe the encoder on the prepared data set in ``settings.data``; returns the headline numbers.

    ValueError in one sentence for data without labels or with fewer than two classes, and for an encoder that is
    missing or does not fit the images.
    """
    dates = settings.protocol == DATES
    unlabelled = 0 if dates else probeable.check(Path(settings.data))
    if dates:
        pairs.check(Path(settings.data), "test")
    train, test = (Shards(settings.data, split=side, labelled=not dates) for side in ("train", "test"))
    series.refuse(settings, train.dates)
    encoders, config = _encoders(settings, train, context.device)
    kernels.choose_of_encoders(encoders.values(), settings, BATCH, context, run, (run.path / KEPT).exists())
    seen = probe_seen.compare(settings, config, labelled=not dates)
    progress = Progress(run, context.world_size)
    mean, std = (config.get(name) or getattr(train, name) for name in ("mean", "std"))
    given = Given(settings, context, run, train, test, progress, mean, std)
    about = {
        "encoder": name_of(settings.encoder, config),
        **({"encoder_checkpoint": origin} if (origin := folders.origin(config)) else {}),
        "model": config["model"],
        "patch_size": config["patch_size"] or None,
        "train_images": len(train),
        "test_images": len(test),
        **prepared.told(settings.data),
    }
    if dates:
        found = probe_dates.run(given, encoders, config)
        return about | seen | found | {"verdict": f"{found['answer']}."} if found else {}
    paper = Paper(given, encoders) if settings.protocol != FAST else None
    fast = Fast(given, encoders, config) if settings.protocol != PAPER else None
    parts = [each for each in (fast, paper) if each]
    progress.begin(sum(each.steps for each in parts), sum(each.kept for each in parts))
    if fast:
        fast.encode()
    found = paper.run() if paper else {}
    if not context.is_main:
        return {}
    if fast:
        found |= fast.run()
    metric = probe_metrics.of(train)
    found = about | {
        "classes": len(train.classes),
        "metric": metric.key,
        **probe_metrics.guessing(train, test),
        **({"unlabelled": unlabelled} if unlabelled else {}),
        **seen,
        **found,
    }
    found |= probe_summary.support(train.classes, *(side.targets.sum(axis=0).tolist() for side in (train, test)))
    shutil.rmtree(run.path / KEPT, ignore_errors=True)
    return found | {"verdict": probe_summary.verdict(found)}


def _encoders(
    settings: ProbeSettings, images: Shards, device: torch.device
) -> tuple[dict[str, vit.Encoder], dict[str, Any]]:
    """({"pretrained": encoder, "random 0": encoder, ...}, config of the architecture), frozen and on the device."""
    encoders: dict[str, vit.Encoder] = {}
    config: dict[str, Any]
    if settings.encoder == "random":
        config = {"model": settings.model, "patch_size": None, "channels": images.channels}
        config |= {"patch_size": 1, "image_size": [1, images.dates]} if images.dates else {}
    else:
        encoders["pretrained"], config = load.load_encoder(settings.encoder, settings.image_size)
    encoder_bands.refuse_other(config, images, settings.encoder, "pretrain on images with as many channels")
    folders.refuse_kind(config, images.dates, settings.encoder, settings.data)
    if settings.compare_random or not encoders:
        for seed in range(settings.probe_seeds):
            encoders[f"random {seed}"] = load.fresh(config, settings.image_size, RANDOM_SEEDS + settings.seed + seed)
    return {name: e.to(device).eval().requires_grad_(False) for name, e in encoders.items()}, config
