"""Sharded checkpoints that a crash cannot spoil.

Each rank writes its own shards (torch.distributed.checkpoint) into `step-00000100.part/`. A manifest with a digest of
every file follows; only then is the folder renamed and `latest` moved. Loading verifies every digest first, because
torch's own loader accepts a flipped byte without a word, and falls back to the checkpoint before. Weights and
optimiser load under another number of ranks or another strategy.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from geofm_lib.distributed import manifest
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.export import weights_of
from geofm_lib.distributed.manifest import CheckpointError
from geofm_lib.distributed.safe_load import Planner, Reader

STEPS = "step-????????"  # the folders of checkpoints, in a run's `checkpoint/`
DAMAGED = "damaged-????????"  # what such a folder is called once it was found damaged


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    context: Context,
    keep: int,
    keep_every: int = 0,
) -> None:
    """Write `folder/step-<step>`; every rank calls this. CheckpointError when it cannot; older ones stay untouched.

    Args:
        folder: the run's `checkpoint/`.
        step: optimiser steps done, which is also the position in the data: the order of samples is a function of
            seed and epoch. At step 0 the optimiser is left out: reading its state would make Adam's counter start at
            1 and change the training.
        state: small JSON values that go into the manifest (what the run is).
        keep: how many checkpoints stay.
        keep_every: those of the steps that it divides stay besides, for good; 0: none.
    """
    final = folder / f"step-{step:08d}"
    if context.broadcast(final.exists()):
        return
    part = final.with_suffix(".part")
    fault = context.broadcast(_fresh(part) if context.is_main else None)
    if not fault:
        written = context.gather(_write(part, step, model, optimiser, context))
        if context.is_main:
            files = {name: digest for _, own in written for name, digest in own.items()}
            content = {"step": step, "ranks": context.world_size, "state": state, "files": files}
            fault = next((each for each, _ in written if each), "") or manifest.commit(part, final, content)
            if fault:
                shutil.rmtree(part, ignore_errors=True)  # its space is needed to say so
            else:
                _drop_older(folder, final, keep, keep_every)
        fault = context.broadcast(fault)
    if fault:
        before = sorted(each.name for each in folder.glob(STEPS))
        intact = f"{before[-1]} before it is intact" if before else "there is none before it"
        raise CheckpointError(
            f"{final} could not be written ({fault}); {intact}. Free space or mend the disk, and run again to go on"
        )


def load(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], context: Context
) -> int:
    """Put the newest good checkpoint into model and optimiser; returns its step, 0 if there is none.

    A damaged checkpoint is named in the log, renamed to `damaged-<step>` and the one before is used; if all are
    damaged, CheckpointError. A checkpoint of another run or of a model of other shapes is refused (CheckpointError)
    before anything is changed.

    Args:
        state: what the run is. What was given to `save` besides is not looked at.
    """
    found = sorted((each.name for each in folder.glob(STEPS)), reverse=True)
    faults: dict[str, str] = {}
    for candidate in context.broadcast(found):
        fault, content = manifest.verify(folder / candidate, context)
        if fault:
            faults[candidate] = fault
            if context.is_main:
                print(f"checkpoint {candidate} is damaged ({fault}); trying the one before", flush=True)
            continue
        differing = manifest.differing(content["state"], state)
        if differing:
            raise CheckpointError(
                f"{folder / candidate} belongs to another run ({', '.join(differing)}); choose another run_dir"
            )
        _read(folder / candidate, content, model, optimiser, context)
        for damaged in faults if context.is_main else ():  # out of the way of the one that this step will write again
            aside = folder / damaged.replace("step", "damaged")
            shutil.rmtree(aside, ignore_errors=True)
            (folder / damaged).rename(aside)
        context.barrier()
        return content["step"]
    if faults:
        listed = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise CheckpointError(f"no usable checkpoint in {folder}: {listed}. Delete the folder to start again")
    return 0


def load_of_another(
    source: Path,
    digest: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    context: Context,
) -> int:
    """Put a checkpoint of another run into model and optimiser, whose weight decay stays; returns its step.

    Nothing is written there. CheckpointError unless it is whole, its manifest has this digest, and `state` (the part
    of what a run is that both must share) is its own.
    """
    fault, content = manifest.verify(source, context)
    if not fault and content["digest"] != digest:
        fault = "it was written again since this run was launched"
    if fault:
        raise CheckpointError(f"{source} cannot be branched ({fault}); branch from another step")
    if differing := manifest.differing(content["state"], state):
        raise CheckpointError(f"{source} cannot be branched: {', '.join(differing)}")
    decays = [group["weight_decay"] for group in optimiser.param_groups]
    _read(source, content, model, optimiser, context)
    for group, decay in zip(optimiser.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    context.barrier()
    return content["step"]


def _fresh(part: Path) -> str:
    """Make the empty folder to write to. Returns '' or what went wrong."""
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        return manifest.reason(error)
    return ""


def _write(
    part: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, context: Context
) -> tuple[str, dict[str, str]]:
    """Write this rank's files. Returns ('' or what went wrong, their digests)."""
    generators = {f"rank {context.rank}": _generators(context.device)}
    writer = dcp.FileSystemWriter(part, sync_files=True)
    writer.fs = _Disk()
    try:
        dcp.save({**_content(step, model, optimiser), "generators": generators}, storage_writer=writer)
        return "", manifest.digests_of(part, context.rank)  # now, while the files are still in the page cache
    except (CheckpointException, OSError) as error:
        return manifest.reason(error), {}


class _Disk(FileSystem):
    """Torch's files, which let the disk speak. Torch's archive writer hides a failed write behind an error of its own
    ("unexpected pos 704 vs 598"), raised while it closes the archive."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[io.IOBase]:
        try:
            with super().create_stream(path, mode) as stream:
                yield stream
        except RuntimeError as error:
            hidden = error.__context__
            while hidden is not None and not isinstance(hidden, OSError):
                hidden = hidden.__context__
            raise hidden or error from None


def _drop_older(folder: Path, newest: Path, keep: int, keep_every: int) -> None:
    """Keep so many beside the milestones, and of the damaged ones none that a whole one has taken the place of."""
    for damaged in folder.glob(DAMAGED):
        if damaged.name[-8:] <= newest.name[-8:]:
            shutil.rmtree(damaged, ignore_errors=True)
    found = sorted(folder.glob(STEPS))
    others = [each for each in found if each != newest and not (keep_every and int(each.name[5:]) % keep_every == 0)]
    for old in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)


def _read(
    source: Path, content: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer, context: Context
) -> None:
    reader = Reader(source)
    index = reader.read_metadata()
    saved = index.state_dict_metadata
    manifest.refuse_strays(source, index, content)
    sizes = {
        n.removeprefix("model."): tuple(cast(TensorStorageMetadata, m).size)
        for n, m in saved.items()
        if n.startswith("model.")
    }
    _same_shapes(source, sizes, {name: tuple(each.shape) for name, each in weights_of(model).items()})
    # Asking a fresh optimiser for its state makes Adam count a step; the load overwrites it at once.
    wanted = _content(content["step"], model, optimiser)
    own = f"rank {context.rank}"
    if content["ranks"] == context.world_size:
        generators = _generators(context.device)
        if all(f"generators.{own}.{kind}" in saved for kind in generators):  # else made on another kind of device
            wanted["generators"] = {own: generators}
    try:
        dcp.load(wanted, storage_reader=reader, planner=Planner())
    except CheckpointException as error:
        raise CheckpointError(f"{source} could not be read ({manifest.reason(error)})") from error
    if content["step"]:
        set_state_dict(model, optimiser, model_state_dict=wanted["model"], optim_state_dict=wanted["optimiser"])
    else:
        strict = StateDictOptions(strict=True)
        set_state_dict(model, [], model_state_dict=wanted["model"], optim_state_dict={}, options=strict)
    states = wanted.get("generators", {}).get(own, {})
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], context.device)


def _content(step: int, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    if not step:
        return {"model": weights_of(model)}
    weights, moments = get_state_dict(model, optimiser)
    return {"model": weights, "optimiser": moments}


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators. Nothing here draws from them while training; a model with dropout would."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _same_shapes(source: Path, theirs: dict[str, tuple[int, ...]], ours: dict[str, tuple[int, ...]]) -> None:
    """CheckpointError that names the first weight whose shape differs."""
    odd = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise CheckpointError(
            f"{source} does not fit this model: {odd[0]} is {_size(theirs.get(odd[0]))} there and "
            f"{_size(ours.get(odd[0]))} here{more}. Use the model it was made with, or another run_dir"
        )


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
