"""Sharded checkpoints that a crash cannot spoil.

Each rank writes its own shards (torch.distributed.checkpoint) into `step-00000100.part/`; a manifest with a digest
of every file follows; only then is the folder renamed and `latest` moved. Loading verifies every digest first,
because torch's own loader accepts a flipped byte silently, and falls back to the checkpoint before. Weights and
optimiser load under another number of ranks or another strategy.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from geofm_lib.distributed.ranks import Ranks


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, in one sentence."""


def save(folder: Path, step: int, model: nn.Module, optimiser, state: dict[str, Any], ranks: Ranks, keep: int) -> None:
    """Write `folder/step-<step>`; every rank calls this.

    Args:
        folder: the run's `checkpoint/`.
        step: optimiser steps done. At step 0 the optimiser is left out: reading its state would make Adam's counter
            start at 1 and change the training.
        state: small JSON values that go into the manifest (position in the data, what the run is).
        keep: how many checkpoints stay.
    """
    final = folder / f"step-{step:08d}"
    if final.exists():
        return
    part = final.with_suffix(".part")
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    ranks.barrier()
    if step:
        weights, optimiser_state = get_state_dict(model, optimiser)
        content = {"model": weights, "optimiser": optimiser_state}
    else:
        content = {"model": get_model_state_dict(model)}
    dcp.save(content, storage_writer=dcp.FileSystemWriter(part, sync_files=True))
    # Each rank hashes what it wrote, while it is still in the page cache.
    own = {f.name: _digest(f) for f in sorted(part.iterdir()) if _writer(f.name) == ranks.rank}
    gathered = ranks.gather(own)
    if ranks.is_main:
        files = {name: digest for part_of_rank in gathered for name, digest in part_of_rank.items()}
        manifest = {"step": step, "ranks": ranks.world, "state": state, "files": files}
        _write_durably(part / "manifest.json", json.dumps(manifest, indent=1))
        _sync(part)
        part.rename(final)
        _write_durably(folder / ".latest.new", final.name)
        (folder / ".latest.new").replace(folder / "latest")
        _sync(folder)
        for old in sorted(folder.glob("step-????????"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()


def load(folder: Path, model: nn.Module, optimiser, state: dict[str, Any], ranks: Ranks) -> int:
    """Put the newest good checkpoint into model and optimiser; returns its step, 0 if there is none.

    A damaged checkpoint is named in the log and the one before is used; if all are damaged, CheckpointError.

    Args:
        state: what the run is; a checkpoint that says otherwise is refused (CheckpointError), nothing is changed.
    """
    found = sorted(folder.glob("step-????????"), reverse=True) if folder.is_dir() else []
    faults = []
    for candidate in ranks.broadcast([f.name for f in found]):
        fault, manifest = _verify(folder / candidate, ranks)
        if fault:
            faults.append(f"{candidate}: {fault}")
            if ranks.is_main:
                print(f"checkpoint {candidate} is damaged ({fault}); trying the one before", flush=True)
            continue
        differing = [k for k, v in state.items() if manifest["state"].get(k) != v]
        if differing:
            raise CheckpointError(
                f"{folder / candidate} belongs to another run ({', '.join(differing)} differ); choose another run_dir"
            )
        _read(folder / candidate, manifest["step"], model, optimiser)
        return manifest["step"]
    if faults:
        raise CheckpointError(
            f"no usable checkpoint in {folder}: {'; '.join(faults)}. Delete the folder to start again"
        )
    return 0


def _read(source: Path, step: int, model: nn.Module, optimiser) -> None:
    reader = dcp.FileSystemReader(source)
    if not step:
        weights = get_model_state_dict(model)
        dcp.load({"model": weights}, storage_reader=reader)
        set_state_dict(model, [], model_state_dict=weights, optim_state_dict={}, options=StateDictOptions(strict=True))
        return
    # Asking a fresh optimiser for its state makes Adam count a step; the load overwrites it at once.
    weights, optimiser_state = get_state_dict(model, optimiser)
    content = {"model": weights, "optimiser": optimiser_state}
    dcp.load(content, storage_reader=reader)
    set_state_dict(model, optimiser, model_state_dict=content["model"], optim_state_dict=content["optimiser"])


def _verify(source: Path, ranks: Ranks) -> tuple[str, dict[str, Any]]:
    """('' or what is wrong, manifest); the files are shared out over the ranks."""
    try:
        manifest = json.loads((source / "manifest.json").read_text())
        names = sorted(manifest["files"])[ranks.rank :: ranks.world]
        digests = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        manifest, names, digests = {}, [], {}
        fault = "its manifest.json is missing or unreadable"
    else:
        fault = ""
    for name in names:
        if not (source / name).is_file():
            fault = f"{name} is missing"
        elif _digest(source / name) != digests[name]:
            fault = f"{name} has changed since it was written"
        if fault:
            break
    faults = ranks.gather(fault)
    return ranks.broadcast(next((f for f in faults if f), "") if ranks.is_main else None), manifest


def _writer(name: str) -> int:
    """The rank that wrote a file: `__<rank>_<part>.distcp`; the metadata is rank 0's."""
    return int(name.strip("_").split("_")[0]) if name.startswith("__") else 0


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_durably(file: Path, text: str) -> None:
    with open(file, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def full_weights(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """The whole weights on the CPU of rank 0 (an empty dict elsewhere), names after `prefix`; every rank calls this."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return {n.removeprefix(prefix): t.contiguous() for n, t in weights.items() if n.startswith(prefix)}
