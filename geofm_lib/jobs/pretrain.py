"""Job: pretraining by any objective under any sharding strategy, with checkpoints; ends with the exported encoder."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geofm_lib import files
from geofm_lib.data import loader, sampler
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.data.transforms import apart, normalise
from geofm_lib.distributed import checkpoint, sharding, training
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import (
    kernels,
    pace,
    pretrain_failed,
    pretrain_files,
    pretrain_loss,
    pretrain_objective,
    pretrain_probe,
    pretrain_start,
    pretrain_views,
)
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.planning.conditions import gib
from geofm_lib.profiling import meters
from geofm_lib.settings import PretrainSettings, series
from geofm_lib.settings.branch import ranges

Losses = Iterator[Callable[[], torch.Tensor]]
Steps = Iterator[tuple[int, int, list[loader.Batch]]]


def run(settings: PretrainSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Pretrain from the last good checkpoint (or from nothing) to the end; returns the headline numbers."""
    torch.manual_seed(settings.seed)
    shards = Shards(settings.data, split="train")
    series.refuse(settings, shards.dates)
    total, final = settings.steps(len(shards))
    if settings.train_images:
        shards.draw(settings.train_images, settings.seed)
    start = pretrain_start.Start(settings, run, context)
    objective = pretrain_objective.Objective(settings, shards)
    network = objective.build(start.norm_eps)
    parts = settings.accumulation(context.world_size)
    together = settings.global_batch // context.world_size // parts
    begun = not start.fresh or bool(start.parent)
    kernels.choose(network, settings, together * objective.looks, context, run, begun)
    model = sharding.apply_settings(network, settings, context, together=sharding.SMALL)
    optimiser = training.optimiser(model, settings.weight_decay, settings.share_of_rate())
    identity = pretrain_files.identity(settings, run.resolved)
    config = pretrain_files.config(settings, shards, start.norm_eps) | pretrain_files.seen(settings, run, context)
    state = identity | {"stored": pretrain_files.stored(run.path), "encoder": config, "total_steps": total}

    recent = pretrain_loss.Recent(total)

    def save(folder: Path, step: int, keep: int) -> None:
        run.sync()
        checkpoint.save(folder, step, model, optimiser, state | recent.kept(), context, keep, settings.keep_every)

    per_epoch = sampler.steps_per_epoch(len(shards), settings.global_batch)
    done = checkpoint.load(run.path / "checkpoint", model, optimiser, identity, context)
    if start.fresh:
        done = start.apply(model, optimiser, network)
        settings.steps(len(shards), done)
    run.drop_metrics_after(done)
    rows = run.metrics()
    if context.is_main:
        recent.go_on(pretrain_loss.before(run.path, run.resolved.parent, done), done, rows)
    if start.fresh and done:  # from here on the run that was branched may change, or go
        save(run.path / "checkpoint", done, settings.keep_checkpoints)
    along = pretrain_probe.Along(settings, run, context, network, shards.mean, shards.std)
    along.go_on(done)
    constant = settings.schedule == "constant"
    course: dict[str, Any] = {
        "peak": settings.base_learning_rate * settings.global_batch / 256,
        "warmup_steps": settings.warmup_epochs * per_epoch,
        "total_steps": total,
        "cooldown_steps": settings.cooldown_epochs * per_epoch if constant else None,
    }
    speed, mark, taken = pace.Pace(), time.perf_counter(), 0
    losses_so_far = {row["step"]: row["loss"] for row in rows}
    steps = loader.stream(
        shards,
        seed=settings.seed,
        global_batch=settings.global_batch,
        epochs=settings.epochs,
        image_size=settings.image_size,
        rank=context.rank,
        world=context.world_size,
        parts=parts,
        done=done,
        workers=settings.workers,
        pin=context.device.type == "cuda",
        crop_scale=(settings.crop_scale_min, 1.0),
        rotations=settings.rotations,
        skipped=ranges(settings.skip_steps),
        second=objective.second,
    )
    milestones = (settings.checkpoint_every, settings.keep_every)

    def losses(epoch: int, batches: list[loader.Batch]) -> Losses:
        for images, indices in batches:
            pixels, valid = apart(images.to(context.device, non_blocking=True), shards.masked)
            pixels = normalise(pixels, shards.mean, shards.std)
            yield partial(objective.loss, model, network, pixels, valid, epoch, indices)

    for step, epoch, micro_batches in steps:
        rate = training.learning_rate(step, **course)
        objective.shares.clear()
        try:
            loss, norm, stop, also = training.step(
                model,
                optimiser,
                losses(epoch, micro_batches),
                parts=parts,
                rate=rate,
                clip=settings.clip_grad_norm,
                stop=run.stop_requested(),
                also=objective.also if objective.columns else None,
            )
        except training.NotFinite as fault:
            where = {"step": step + 1, "epoch": epoch, "learning_rate": rate}
            images = {int(index): shards.names[index] for _, indices in micro_batches for index in indices}
            after = _loss_of_next(steps, losses, context)
            keep = partial(save, step=done, keep=1)
            told = pretrain_failed.failed_step(
                fault, run, settings, model, context, done, where, images, losses_so_far, after, keep
            )
            fault.args = (told,)
            raise
        done, taken = step + 1, taken + 1
        losses_so_far[done] = loss
        recent.losses.append(loss)
        run.at(done)
        if done % settings.log_every == 0 or done in (1, final) or stop:
            now = time.perf_counter()
            speed.took(taken, now - mark)
            step_s, mark, taken = (now - mark) / taken, now, 0
            row = {
                "step": done,
                "total_steps": total,
                "epoch": round(done / per_epoch, 4),
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "step_s": step_s,
                "images_per_s": settings.global_batch / step_s,
                "seconds_left": speed.left(total - done),
                **dict(zip(objective.columns, also, strict=True)),
            }
            rows.append(row)
            run.log_metrics(**row)
        if not stop:  # a resume makes up for it
            mark += along.at(done, final)
        if stop or done == final or any(each and done % each == 0 for each in milestones):
            save(run.path / "checkpoint", done, settings.keep_checkpoints)
        if stop and done < final:
            raise Stopped(f"a stop was asked for; saved at step {done} of {total}")
    side, held = pretrain_loss.held_out(settings.data)
    if objective.rebuilds:
        unseen = pretrain_loss.fixed_masks(settings, model, network, shards, side, held, context)
        unseen["rebuilt"] = side or "train"  # the side that reconstruction.npz shows
        file = run.path / "reconstruction.npz"
        pretrain_files.reconstruct(file, network, shards, held or shards, settings.seed, context)
    else:
        unseen = pretrain_views.fixed_views(settings, model, shards, side, held, context)
    pretrain_files.encoder(run.path / "encoder", model, config, context)
    own = {
        "rank": context.rank,
        "peak_memory_gib": round(meters.peak_memory_gib(context.device), 3),
        "parameters_gib": gib(sharding.local_bytes(model.parameters())),
        "device": meters.device_name(context.device),
    }
    table = context.gather(own)
    if context.is_main:
        files.write_csv(run.path / "ranks.csv", own, table)
    rates = [row["images_per_s"] for row in pace.steady(rows, run.path)]
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": total,
        "epochs": settings.epochs,
        **recent.told(),
        **objective.told(),
        **unseen,
        "images_per_s": float(np.median(rates)) if rates else None,
        "global_batch": settings.global_batch,
        "train_images": len(shards),
        "left_out_images": len(shards) % settings.global_batch,  # of an epoch, which holds full batches only
        **prepared.told(settings.data),
        "micro_batches": parts,
        **start.told(),
        **along.told(),
        **{name: float(np.mean([row[name] for row in rows])) for name in objective.columns if rows},
    }


def _loss_of_next(steps: Steps, losses: Callable[..., Losses], context: Context) -> float | None:
    """The loss of the images that come next, over all ranks and without training; None if there are none."""
    found = None
    with contextlib.suppress(ValueError):  # images that cannot be read are another fault
        found = next(steps, None)
    if not context.broadcast(all(context.gather(found is not None))) or found is None:
        return None
    with torch.no_grad():
        own = context.gather(float(np.mean([float(loss()) for loss in losses(found[1], found[2])])))
    return context.broadcast(float(np.mean(own)) if own else 0.0)
