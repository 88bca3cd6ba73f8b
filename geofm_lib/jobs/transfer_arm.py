"""One arm with one seed: trained on all ranks from its last checkpoint, then asked about every test image.

An arm is one stream of steps, cut into stages: the head alone, then the whole network. A stage has an optimiser, a
schedule and checkpoints of its own. What an arm came to is a file, so a run that was killed goes on in the very step,
or with the next arm.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from geofm_lib.catalog.models import lookup
from geofm_lib.catalog.transfer import Arm
from geofm_lib.data import loader, sampler
from geofm_lib.data.arrays import write_array
from geofm_lib.data.mixup import Mixed, Mixup, blend
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed import checkpoint, export, sharding, training
from geofm_lib.distributed.features import cut
from geofm_lib.jobs import kernels
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.jobs.transfer_progress import Progress
from geofm_lib.jobs.transfer_task import Given, Task
from geofm_lib.model import transfer
from geofm_lib.model.interop import load, start

PARTS = ("encoder.", "head.")


class Stage(NamedTuple):
    """Steps from `begin` to `end` of an arm. whole: is the encoder trained?"""

    whole: bool
    begin: int
    end: int


def per_epoch(given: Given) -> int:
    """Steps of an epoch; ValueError where not one batch can be filled."""
    return sampler.steps_per_epoch(len(given.data.train), given.settings.global_batch)


def stages(arm: Arm, given: Given) -> list[Stage]:
    """What an arm does, in order."""
    each, settings = per_epoch(given), given.settings
    frozen, last = settings.frozen_epochs() * each * arm.eased, settings.epochs * each
    return [*([Stage(False, 0, frozen)] if frozen else []), Stage(arm.whole, frozen, last)]


def run(given: Given, task: Task, arm: Arm, seed: int, folder: Path, progress: Progress) -> np.ndarray:
    """The evidence of an arm for each test image, [n, ...], the same on every rank; every rank calls this.

    folder: what is kept of it. Stopped where a stop is asked for, ValueError where the training diverges.
    """
    file = folder / f"{arm.name}-{seed}.npy"
    if given.context.broadcast(file.is_file()):
        progress.skip(arm, seed)
        return np.load(file)
    model = _trained(given, task, arm, seed, folder / f"{arm.name}-{seed}", progress)
    found = _evidence(given, task, model)
    if task.sample and progress.first(arm, seed):
        _sample(given, task, model, folder / SAMPLE)
    if not np.isfinite(found).all():
        raise ValueError(f"{_named(arm, seed)} diverged: what it says of test images is not finite; {LOWER}")
    given.run.sync()
    if given.context.is_main:
        write_array(file, found)
        shutil.rmtree(folder / f"{arm.name}-{seed}", ignore_errors=True)
    given.context.barrier()
    return found


SAMPLE = "sample.npy"
LOWER = "set base_learning_rate and head_learning_rate lower"


def _named(arm: Arm, seed: int) -> str:
    return f"the arm {arm.name}, seed {seed},"


def _trained(given: Given, task: Task, arm: Arm, seed: int, folder: Path, progress: Progress) -> nn.Module:
    """The network after the arm's last step."""
    head: dict[str, torch.Tensor] = {}
    parts = stages(arm, given)
    begun = [any((folder / str(k)).glob(checkpoint.STEPS)) for k in range(len(parts))]
    first = given.context.broadcast(max((k for k, each in enumerate(begun) if each), default=0))
    for k in range(first, len(parts)):
        stage = parts[k]
        model, optimiser = _built(given, task, arm, seed, stage)
        state = {"arm": arm.name, "seed": seed, "stage": k}
        done = checkpoint.load(folder / str(k), model, optimiser, state, given.context)
        if not done:
            start.apply((given.weights if arm.pretrained else {}) | head, model)
            done = stage.begin
        save = partial(_save, given, folder / str(k), model, optimiser, state)
        _train(given, task, model, optimiser, arm, seed, stage, done, save, progress)
        if k + 1 < len(parts):
            save(stage.end)
            whole = export.whole(export.weights_of(model))
            head = {name: value.cpu() for name, value in whole if name.startswith("head.")}
    return model


def _built(given: Given, task: Task, arm: Arm, seed: int, stage: Stage) -> tuple[nn.Module, torch.optim.Optimizer]:
    settings, context = given.settings, given.context
    encoder = load.shell(given.config, settings.image_size)
    network = transfer.Network(encoder, task.heads[settings.head_name()](encoder, given.data), stage.whole)
    together = settings.global_batch // context.world_size // settings.accumulation(context.world_size)
    kernels.choose(network, settings, together, context, given.run)
    asked = settings.model_copy(update={"seed": seed})
    model = sharding.apply_settings(network, asked, context, together=sharding.SMALL)
    decay = settings.layer_decay if arm.pretrained else 1.0  # weights that know nothing have nothing to keep
    share = transfer.share_of_rate(lookup(given.config["model"]).depth, decay)
    return model, training.layered(model, settings.weight_decay, share)


def _save(
    given: Given, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], step: int
) -> None:
    given.run.sync()
    if given.context.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, step, model, optimiser, state, given.context, keep=1)


def _train(
    given: Given,
    task: Task,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    arm: Arm,
    seed: int,
    stage: Stage,
    done: int,
    save: Any,
    progress: Progress,
) -> None:
    """The steps of a stage that are still to take."""
    settings, context, data = given.settings, given.context, given.data
    parts, each = settings.accumulation(context.world_size), per_epoch(given)
    base = settings.base_learning_rate if stage.whole else settings.head_learning_rate
    steps = stage.end - stage.begin
    course = {"peak": base * settings.global_batch / 256, "warmup_steps": settings.warmup_share * steps}
    mixup = Mixup(settings.mixup, len(data.train), seed) if settings.mixup else None
    stream = loader.stream(
        data.train, seed=seed, global_batch=settings.global_batch, epochs=stage.end // each,
        image_size=settings.image_size, rank=context.rank, world=context.world_size, parts=parts, done=done,
        workers=settings.workers, pin=context.device.type == "cuda", crop_scale=(settings.crop_scale_min, 1.0),
        rotations=settings.rotations, second=mixup and mixup.other, masks=data.masks, beside=data.boxes,
    )  # fmt: skip

    def read(images: torch.Tensor, *beside: torch.Tensor) -> tuple[torch.Tensor, Any]:
        stored, targets = task.targets(data, images.to(context.device, non_blocking=True), *beside)
        return normalise(stored, given.mean, given.std), targets

    def loss(epoch: int, images: torch.Tensor, indices: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor:
        if not mixup:
            return task.loss(model, *read(images, indices, *boxes))
        others, share = mixup.of_batch(epoch, indices)
        mine, theirs = images.chunk(2)
        (first, right), (second, also), share = read(mine, indices), read(theirs, others), share.to(context.device)
        return task.loss(model, blend(first, second, share), Mixed(right, also, share))

    model.train()
    progress.begin(arm, seed, done)
    for step, epoch, batches in stream:
        rate = training.learning_rate(step - stage.begin, total_steps=steps, **course)
        losses = (partial(loss, epoch, *batch) for batch in batches)
        stop = given.run.stop_requested()
        try:
            found = training.step(model, optimiser, losses, parts=parts, rate=rate, clip=settings.clip_grad_norm,
                                  stop=stop)  # fmt: skip
        except training.NotFinite as fault:
            raise ValueError(
                f"{_named(arm, seed)} diverged in step {step + 1} of epoch {epoch + 1}: {fault}; {LOWER}"
            ) from None
        done = step + 1
        progress.took(arm, seed, done, epoch=round(done / each, 4), loss=found.loss, grad_norm=found.norm,
                      learning_rate=rate, last=found.stop)  # fmt: skip
        if found.stop or done % settings.checkpoint_every == 0 and done < stage.end:
            save(done)
        if found.stop:
            raise Stopped(f"a stop was asked for; {_named(arm, seed)} is saved at step {done}")


@torch.no_grad()
def _evidence(given: Given, task: Task, model: nn.Module) -> np.ndarray:
    """What the network says of each test image: batches do not depend on the ranks, which take them in turn."""
    context, data, places = given.context, given.data, cut(len(given.data.test))
    rounds = -(-len(places) // context.world_size)
    own = [k * context.world_size + context.rank for k in range(rounds)]
    # Ranks call the network equally often, since FSDP gathers together; what there is nothing for is dropped.
    taken = [places[min(number, len(places) - 1)] for number in own]
    stream = loader.batches(data.test, taken, image_size=given.settings.image_size, transform="none",
                            workers=given.settings.workers)  # fmt: skip
    model.eval()
    found = torch.zeros(0)
    for number, (images, indices) in zip(own, stream, strict=True):
        pixels = normalise(images.to(context.device), given.mean, given.std)
        said = task.evidence(model, pixels, data, indices.numpy())
        if not len(found):
            found = torch.zeros(len(data.test), *said.shape[1:], dtype=said.dtype, device=context.device)
        if number < len(places):
            found[indices] = said.to(found.device)
    dist.all_reduce(found)
    return found.cpu().numpy()


@torch.no_grad()
def _sample(given: Given, task: Task, model: nn.Module, file: Path) -> None:
    """Keep what the network says of the images that the page may show; every rank asks it, rank 0 writes."""
    assert task.sample
    size, places = given.settings.image_size, [np.array(given.shown)]
    images, _ = next(loader.batches(given.data.test, places, image_size=size, transform="none"))
    pixels = normalise(images.to(given.context.device), given.mean, given.std)
    said = task.sample(model, pixels, given.data).cpu().numpy()
    if given.context.is_main:
        write_array(file, said)
