"""Job: does an encoder carry over to another task? Trained further or frozen, pretrained or not, with several seeds.

TASKS is the table of tasks: to add one is to add a module and a row. Arms are trained one after the other on all ranks,
by the sharding, step and checkpoints of a pretraining (`transfer_arm`). Writes accuracy.csv (rows of
reports/accuracy.csv), differences.csv, classes.csv, and what the task shows.
"""

import shutil
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.catalog import metrics, transfer
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import (
    encoder_bands,
    probe_kept,
    probe_seen,
    probe_sources,
    transfer_arm,
    transfer_classify,
    transfer_detect,
    transfer_judge,
    transfer_segment,
    transfer_series,
)
from geofm_lib.jobs.probe_fast import name_of
from geofm_lib.jobs.run_folder import KEPT, Folder
from geofm_lib.jobs.transfer_progress import Progress
from geofm_lib.jobs.transfer_task import Data, Given, Task
from geofm_lib.model.interop import folders, load
from geofm_lib.profiling import meters
from geofm_lib.settings import TransferSettings, series

TASKS: dict[str, Task] = {
    "classify": transfer_classify.TASK,
    "segment": transfer_segment.TASK,
    "detect": transfer_detect.TASK,
    "series": transfer_series.TASK,
}
ROWS, DIFFERENCES = "accuracy.csv", "differences.csv"


def run(settings: TransferSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Train every arm with every seed, then judge them on the test side; returns the headline numbers.

    ValueError in one sentence for a set that has no such task, and for an encoder that does not fit the images.
    """
    task = TASKS[settings.task]
    data = task.read(settings)
    _draw(settings, data)
    series.refuse(settings, data.train.dates)
    encoder, config = load.load_encoder(settings.encoder, settings.image_size)
    _check(settings, config, data.train)
    about = probe_sources.about(encoder, config, name_of(settings.encoder, config), "")
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    del encoder
    mean, std = (config.get(name) or getattr(data.train, name) for name in ("mean", "std"))
    judge = transfer_judge.Judge(settings.data, data.train.names, data.test.names, data.metric, data.truth())
    labelled = settings.task in ("classify", "series")
    seen = probe_seen.compare(settings, config, labelled) | probe_seen.of_training(settings, config, labelled)
    given = Given(settings, context, run, data, config, weights, mean, std, judge)
    arms = transfer.chosen(settings.arms)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    order = [(arm.name, seed) for arm in arms for seed in seeds]
    steps = settings.epochs * transfer_arm.per_epoch(given)
    progress = Progress(run, order, steps, settings.global_batch, settings.log_every)
    folder, told = probe_kept.folder(settings, run, context), transfer_judge.Told(judge)
    if context.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"dataset": prepared.name(settings.data), "task": task.word, "source": "own"}
    common |= {"shot": settings.train_images or ""}
    more = "".join(f", {name} {value:g}" for name in ("mixup", "balance") if (value := getattr(settings, name)))
    for arm in arms:
        evidence = [transfer_arm.run(given, task, arm, seed, folder, progress) for seed in seeds]
        how = f"{'whole network' if arm.whole else 'frozen'}, AdamW, {settings.epochs} epochs{more}"
        own = {"protocol": how, "pooling": settings.head_name(), "layer": task.layers(settings, config)}
        told.add(arm.name, common | transfer_judge.columns(about, arm.pretrained) | own, evidence)
    run.sync()
    if not context.is_main:
        return {}
    for control in task.controls(given):
        told.add(
            control.name, common | (about if control.name == transfer.PROBE else {}) | control.about, [control.evidence]
        )
    rows, differences = told.rows(settings.seed), told.differences()
    files.write_csv(run.path / ROWS, list(rows[0]), rows)
    if differences:
        files.write_csv(run.path / DIFFERENCES, list(differences[0]), differences)
    sample = folder / transfer_arm.SAMPLE
    shown = task.show(given, told.evidence, np.load(sample) if sample.is_file() else None)
    shutil.rmtree(run.path / KEPT, ignore_errors=True)
    return {
        "encoder": about["pretraining_run"],
        **({"encoder_checkpoint": origin} if (origin := folders.origin(config)) else {}),
        "model": config["model"],
        "patch_size": config["patch_size"],
        "metric": data.metric.key,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "steps": steps,
        "left_out_images": len(data.train) % settings.global_batch,
        **{f"value_{name}": float(each[:, 0].mean()) for name, each in told.values.items()},
        **_headline(differences),
        "answer": transfer_judge.answer(differences, told, metrics.WORDS[data.metric.key]),
        **shown,
        **seen,
        **prepared.told(settings.data),
        "peak_memory_gib": round(meters.peak_memory_gib(context.device), 3),
    }


def _headline(differences: list[dict[str, Any]]) -> dict[str, Any]:
    """gain: of the first pair of `catalog.transfer`, pretrained against the same without, with its interval."""
    row = next((row for row in differences if transfer.WITHOUT.get(row["first"]) == row["second"]), None)
    if not row:
        return {}
    found = {"gain": row["value"], "gain_low": row["low"], "gain_high": row["high"]}
    return found | {"gain_interval": row["interval_kind"], "gain_of": row["first"]}


def _draw(settings: TransferSettings, data: Data) -> None:
    """Leave as many images of both sides as are asked for; of the test side all where there are fewer."""
    if settings.train_images > len(data.train):
        raise ValueError(
            f"train_images: {settings.train_images} are more than the {len(data.train)} of the train side; use fewer"
        )
    if settings.train_images:
        data.train.draw(settings.train_images, settings.seed)
    if 0 < settings.test_images < len(data.test):
        data.test.draw(settings.test_images, settings.seed)


def _check(settings: TransferSettings, config: folders.Config, images: Shards) -> None:
    if "timm" in config:
        raise ValueError(
            f"encoder: {settings.encoder} is a model of timm's own that is not trained here; its frozen features can "
            "be probed (05)."
        )
    folders.refuse_kind(config, images.dates, settings.encoder, settings.data)
    encoder_bands.refuse_other(config, images, settings.encoder, "give one for images with as many channels")
