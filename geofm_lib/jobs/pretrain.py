"""Job: masked-autoencoder pretraining under any sharding strategy, with checkpoints; ends with the exported encoder."""

import contextlib
import time
from pathlib import Path

import numpy as np
import torch

from geofm_lib import files
from geofm_lib.data import loader, sampler
from geofm_lib.data.decode import FULL
from geofm_lib.data.loader import batches
from geofm_lib.data.rgb import to_rgb
from geofm_lib.data.shards import Shards, write_csv
from geofm_lib.data.transforms import mask_noise, normalise
from geofm_lib.distributed import checkpoint, sharding, training
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.model import mae
from geofm_lib.model.interop import folders, formats, tensors
from geofm_lib.profiling import meters
from geofm_lib.settings import PretrainSettings

SHOWN = 8  # images whose reconstruction is kept
EVIDENCE = "not-finite"  # folder of what led to a loss or gradient that is not a number


def run(settings: PretrainSettings, context, run: Folder) -> dict:
    """Pretrain from the last good checkpoint (or from nothing) to the end; returns the headline numbers."""
    torch.manual_seed(settings.seed)
    shards = Shards(settings.data, split="train")
    if len(shards) < settings.global_batch:
        raise ValueError(
            f"global_batch: {settings.global_batch} images are more than the {len(shards)} of the train side; use fewer"
        )
    model, bare = _model(settings, context, shards.channels)
    optimiser = training.optimiser(model, settings.weight_decay)
    per_epoch = sampler.steps_per_epoch(len(shards), settings.global_batch)
    total = per_epoch * settings.epochs
    identity = {"model": settings.model, "data": run.resolved.data_fingerprint, "seed": settings.seed}
    saved = run.path / "checkpoint"
    done = checkpoint.load(saved, model, optimiser, identity, context)
    run.drop_metrics_after(done)

    def save(step: int) -> None:
        checkpoint.save(saved, step, model, optimiser, identity, context, settings.keep_checkpoints)

    parts = settings.accumulation(context.world_size)
    peak = settings.base_learning_rate * settings.global_batch / 256
    patches = (settings.image_size // settings.patch()) ** 2
    rows, mark, marked = [], time.perf_counter(), done
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
    )
    for step, epoch, micro_batches in steps:
        rate = training.learning_rate(
            step, peak=peak, warmup_steps=settings.warmup_epochs * per_epoch, total_steps=total
        )

        def losses(micro_batches=micro_batches, epoch=epoch):
            for images, indices in micro_batches:
                pixels = normalise(images.to(context.device, non_blocking=True), shards.mean, shards.std)
                noise = mask_noise(settings.seed, epoch, indices.tolist(), patches).to(context.device)
                yield lambda pixels=pixels, noise=noise: model(pixels, noise)

        try:
            loss, norm, stop = training.step(
                model,
                optimiser,
                losses(),
                parts=parts,
                rate=rate,
                clip=settings.clip_grad_norm,
                stop=run.stop_requested(),
            )
        except training.NotFinite as fault:
            images = [int(index) for _, indices in micro_batches for index in indices]
            where = {"step": step + 1, "epoch": epoch, "learning_rate": rate}
            told = _told(fault, context, model, where, images, run.path / EVIDENCE)
            try:
                checkpoint.save(run.path / EVIDENCE, done, model, optimiser, identity, context, keep=1)
                kept = f"The weights before it, its images and the gradients concerned are in {run.path / EVIDENCE}."
            except checkpoint.CheckpointError as error:
                kept = f"What led to it could not be kept: {error}."
            fault.args = (f"{told}. {kept} Lower base_learning_rate or set clip_grad_norm",)
            raise
        done = step + 1
        run.at(done)
        if done % settings.log_every == 0 or done in (1, total) or stop:
            now = time.perf_counter()
            step_s, mark, marked = (now - mark) / max(1, done - marked), now, done
            row = {
                "step": done,
                "total_steps": total,
                "epoch": round(done / per_epoch, 4),
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "step_s": step_s,
                "images_per_s": settings.global_batch / step_s,
                "seconds_left": round((total - done) * step_s, 1),
            }
            rows.append(row)
            run.log_metrics(**row)
        if stop or done % settings.checkpoint_every == 0 or done == total:
            save(done)
        if stop and done < total:
            raise Stopped(f"a stop was asked for; saved at step {done} of {total}")
    return {**_finish(settings, context, run, model, bare, shards), **_headline(run, settings, rows, total, context)}


def _model(settings: PretrainSettings, context, channels: int):
    """(the module to train, the autoencoder inside it)."""
    bare = mae.build(
        settings.model,
        settings.image_size,
        channels,
        "meta",
        settings.patch(),
        settings.mask_ratio,
        **settings.decoder(),
        norm_pix_loss=settings.norm_pix_loss,
    )
    return sharding.apply_settings(bare, settings, context), bare


def _told(fault, context, model, where: dict, images: list[int], folder: Path) -> str:
    """What happened, in words, and with every rank's part of it in `folder`/step-<step>.json."""
    own = {
        "rank": context.rank,
        "loss": str(fault.own_loss),  # JSON has no nan
        "images": images,
        "gradients_not_finite": training.not_finite(model),
    }
    table = context.gather(own)
    if context.is_main:
        evidence = {**where, "loss": str(fault.loss), "grad_norm": str(fault.norm), "ranks": table}
        with contextlib.suppress(OSError):  # saving the weights, next, says why
            folder.mkdir(exist_ok=True)
            files.write_json(folder / f"step-{where['step']:08d}.json", evidence)
    table = context.broadcast(table)
    guilty = [str(row["rank"]) for row in table if not np.isfinite(float(row["loss"]))]
    loss = f"the loss of rank {', '.join(guilty)} is not finite" if guilty else f"the loss is {fault.loss:.4g}"
    weight = next((row["gradients_not_finite"][0] for row in table if row["gradients_not_finite"]), "no single weight")
    return (
        f"step {where['step']}: {loss} and the gradient norm is {fault.norm} (first in {weight}) at learning rate "
        f"{where['learning_rate']:.3g}; this step changed nothing"
    )


def _finish(settings, context, run: Folder, model, bare, shards) -> dict:
    """Keep some reconstructions, export the autoencoder, write ranks.csv."""
    _reconstruct(settings, context, run, bare, shards)
    _export(settings, context, run, model, shards)
    own = {
        "rank": context.rank,
        "peak_memory_gib": round(meters.peak_memory_gib(context.device), 3),
        "parameters_gib": sharding.local_bytes(model.parameters()) / meters.GIB,
        "device": meters.device_name(context.device),
    }
    table = context.gather(own)
    if context.is_main:
        write_csv(run.path / "ranks.csv", own, table)
    return {"parameters": sum(p.numel() for p in bare.parameters())}


def _export(settings, context, run: Folder, model, shards) -> None:
    """encoder/: the encoder as timm and `model.export` read it, and its decoder; one tensor in memory at a time."""
    folder = run.path / "encoder"
    encoder, decoder = folders.split(checkpoint.layout(model))
    for file, weights in ((folders.WEIGHTS, encoder), (folders.DECODER, decoder)):
        gathered, fault = checkpoint.whole(weights), ""
        if context.is_main:
            try:
                folder.mkdir(exist_ok=True)
                tensors.write(folder / file, gathered, weights)
            except OSError as error:
                fault = f"{folder / file} could not be written: {error.strerror}. Free space and run again to go on"
        for _ in gathered:  # the other ranks only take part in the gathering; so does this one when it cannot write
            pass
        fault = context.broadcast(fault)
        if fault:
            raise OSError(fault)
    config = {
        "model": settings.model,
        "family": "pretrain",
        "image_size": settings.image_size,
        "patch_size": settings.patch(),
        "channels": shards.channels,
        "mean": [float(v) for v in shards.mean],
        "std": [float(v) for v in shards.std],
        **settings.decoder(),
        "mask_ratio": settings.mask_ratio,
        "norm_pix_loss": settings.norm_pix_loss,
    }
    run.write_json(f"encoder/{folders.SETTINGS}", formats.settings(config))  # last: it makes the folder an encoder's


def _reconstruct(settings, context, run: Folder, bare, shards) -> None:
    """reconstruction.npz: some held-out images (train ones if there is no test side), what was seen, the rebuilt."""
    held_out = Shards(settings.data, split="test")
    shown = held_out if len(held_out) else shards
    # Spread over the set, which is sorted by class; every rank rebuilds the same ones, since FSDP gathers together.
    chosen = np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(np.int64)
    images, _ = next(batches(shown, [chosen], image_size=settings.image_size, transform="probe_test"))
    patches = (settings.image_size // settings.patch()) ** 2
    noise = mask_noise(settings.seed, 0, chosen.tolist(), patches).to(context.device)
    rebuilt, hidden = bare.reconstruct(normalise(images.to(context.device), shards.mean, shards.std), noise)
    if not context.is_main:
        return
    side = settings.image_size // settings.patch()
    hidden = hidden.cpu().reshape(-1, 1, side, side)
    hidden = torch.nn.functional.interpolate(hidden, scale_factor=settings.patch(), mode="nearest").bool()
    mean, std = (torch.as_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (shards.mean, shards.std))
    pixels = ((rebuilt.cpu() * std + mean).clamp(0, 1) * FULL[images.dtype]).round().to(images.dtype)
    original, pixels = (to_rgb(each, shards.mean, shards.std) for each in (images, pixels))
    pictures = {
        "original": original,
        "masked": torch.where(hidden, torch.full_like(original, 128), original),
        "rebuilt": torch.where(hidden, pixels, original),
    }
    np.savez_compressed(
        run.path / "reconstruction.npz", **{n: p.permute(0, 2, 3, 1).numpy() for n, p in pictures.items()}
    )


def _headline(run: Folder, settings, rows: list[dict], total: int, context) -> dict:
    """Numbers for the summary; images/s is the median over logged rows after the first, which holds start-up."""
    rates = [row["images_per_s"] for row in rows[1:]] or [row["images_per_s"] for row in rows]
    return {
        "steps": total,
        "epochs": settings.epochs,
        "loss": rows[-1]["loss"] if rows else None,
        "images_per_s": float(np.median(rates)) if rates else None,
        "global_batch": settings.global_batch,
        "micro_batches": settings.accumulation(context.world_size),
    }
