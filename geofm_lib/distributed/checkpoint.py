"""Sharded checkpoints that a crash cannot spoil.

Each rank writes its own shards (torch.distributed.checkpoint) into `step-00000100.part/`; a manifest with a digest
of every file follows; only then is the folder renamed and `latest` moved. Loading verifies every digest first,
because torch's own loader accepts a flipped byte silently, and falls back to the checkpoint before. Weights and
optimiser load under another number of ranks or another strategy.
"""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from geofm_lib.distributed.context import Context


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or used, in one sentence."""


def save(
    folder: Path, step: int, model: nn.Module, optimiser, state: dict[str, Any], context: Context, keep: int
) -> None:
    """Write `folder/step-<step>`; every rank calls this. CheckpointError when it cannot; older ones stay untouched.

    Args:
        folder: the run's `checkpoint/`.
        step: optimiser steps done, which is also the position in the data: the order of samples is a function of
            seed and epoch. At step 0 the optimiser is left out: reading its state would make Adam's counter start at
            1 and change the training.
        state: small JSON values that go into the manifest (what the run is).
        keep: how many checkpoints stay.
    """
    final = folder / f"step-{step:08d}"
    if context.broadcast(final.exists()):
        return
    part = final.with_suffix(".part")
    fault = context.broadcast(_fresh(part) if context.is_main else None)
    if not fault:
        fault, written = _write(part, step, model, optimiser, context)
        gathered = context.gather([fault, written])
        if context.is_main:
            fault = next((f for f, _ in gathered if f), "")
            files = {name: digest for _, written in gathered for name, digest in written.items()}
            manifest = {"step": step, "ranks": context.world_size, "state": state, "files": files}
            fault = fault or _commit(part, final, manifest)
            if fault:
                shutil.rmtree(part, ignore_errors=True)  # its room is needed to say so
            else:
                others = [f for f in sorted(folder.glob("step-????????")) if f != final]
                for old in others[: max(0, len(others) - (keep - 1))]:
                    shutil.rmtree(old, ignore_errors=True)
        fault = context.broadcast(fault)
    if fault:
        before = sorted(f.name for f in folder.glob("step-????????"))
        intact = f"{before[-1]} before it is intact" if before else "there is none before it"
        raise CheckpointError(
            f"{final} could not be written ({fault}); {intact}. Free space or mend the disk, and run again to go on"
        )


def _fresh(part: Path) -> str:
    """Make the empty folder to write to. Returns '' or what went wrong."""
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        return _reason(error)
    return ""


def _write(part: Path, step: int, model: nn.Module, optimiser, context: Context) -> tuple[str, dict[str, str]]:
    """Write this rank's files. Returns ('' or what went wrong, their digests)."""
    content = {**_content(step, model, optimiser), "generators": {f"rank {context.rank}": _generators(context.device)}}
    try:
        dcp.save(content, storage_writer=_writer_to(part))
        # Each rank hashes what it wrote, while it is still in the page cache.
        return "", {f.name: _digest(f) for f in sorted(part.iterdir()) if _writer(f.name) == context.rank}
    except (CheckpointException, OSError) as error:
        return _reason(error), {}


def _writer_to(part: Path) -> dcp.FileSystemWriter:
    writer = dcp.FileSystemWriter(part, sync_files=True)
    writer.fs = _Disk()
    return writer


class _Disk(FileSystem):
    """Torch's files, which let the disk speak: the archive writer of torch hides a failed write behind an error of
    its own ("unexpected pos 704 vs 598"), raised while it closes the archive that could not be written."""

    @contextlib.contextmanager
    def create_stream(self, path, mode: str):
        try:
            with super().create_stream(path, mode) as stream:
                yield stream
        except RuntimeError as error:
            hidden = error.__context__
            while hidden is not None and not isinstance(hidden, OSError):
                hidden = hidden.__context__
            raise hidden or error from None


def _commit(part: Path, final: Path, manifest: dict[str, Any]) -> str:
    """Make a written checkpoint count: the manifest, then the rename. Returns '' or what went wrong."""
    try:
        manifest["digest"] = _manifest_digest(manifest)
        _write_durably(part / "manifest.json", json.dumps(manifest, indent=1))
        _sync(part)
        part.rename(final)
    except OSError as error:
        return _reason(error)
    with contextlib.suppress(OSError):  # `latest` is for people; loading looks at the folders themselves
        latest = final.with_name(".latest.new")
        _write_durably(latest, final.name)
        latest.replace(final.with_name("latest"))
        _sync(final.parent)
    return ""


def _reason(error: Exception) -> str:
    """Why writing failed, in a few words; torch hides each rank's own error in one of its own."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (error, _) = min(failures.items())
        return f"rank {rank}: {_reason(error)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def load(folder: Path, model: nn.Module, optimiser, state: dict[str, Any], context: Context) -> int:
    """Put the newest good checkpoint into model and optimiser; returns its step, 0 if there is none.

    A damaged checkpoint is named in the log, renamed to `damaged-<step>` and the one before is used; if all are
    damaged, CheckpointError. A checkpoint of another run or of a model of other shapes is refused (CheckpointError)
    before anything is changed.

    Args:
        state: what the run is, as it was given to `save`.
    """
    found = sorted(folder.glob("step-????????"), reverse=True) if folder.is_dir() else []
    faults: dict[str, str] = {}
    for candidate in context.broadcast([f.name for f in found]):
        fault, manifest = _verify(folder / candidate, context)
        if fault:
            faults[candidate] = fault
            if context.is_main:
                print(f"checkpoint {candidate} is damaged ({fault}); trying the one before", flush=True)
            continue
        differing = [k for k, v in state.items() if manifest["state"].get(k) != v]
        if differing:
            raise CheckpointError(
                f"{folder / candidate} belongs to another run ({', '.join(differing)} differ); choose another run_dir"
            )
        _read(folder / candidate, manifest, model, optimiser, context)
        for damaged in faults if context.is_main else ():  # out of the way of the one that this step will write again
            aside = folder / damaged.replace("step", "damaged")
            shutil.rmtree(aside, ignore_errors=True)
            (folder / damaged).rename(aside)
        context.barrier()
        return manifest["step"]
    if faults:
        told = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise CheckpointError(f"no usable checkpoint in {folder}: {told}. Delete the folder to start again")
    return 0


def _read(source: Path, manifest: dict[str, Any], model: nn.Module, optimiser, context: Context) -> None:
    reader = _Reader(source)
    index = reader.read_metadata()
    saved = index.state_dict_metadata
    strays = {each.relative_path for each in index.storage_data.values()} - manifest["files"].keys()
    if strays:
        raise CheckpointError(f"{source} refers to {min(strays)}, which is none of its files, so it is not loaded")
    sizes = {n.removeprefix("model."): tuple(m.size) for n, m in saved.items() if n.startswith("model.")}
    ours = {n: tuple(t.shape) for n, t in get_model_state_dict(model).items()}
    odd = sorted(n for n in sizes.keys() | ours.keys() if sizes.get(n) != ours.get(n))
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise CheckpointError(
            f"{source} does not fit this model: {odd[0]} is {_size(sizes.get(odd[0]))} there and "
            f"{_size(ours.get(odd[0]))} here{more}. Use the model it was made with, or another run_dir"
        )
    # Asking a fresh optimiser for its state makes Adam count a step; the load overwrites it at once.
    content = _content(manifest["step"], model, optimiser)
    own = f"rank {context.rank}"
    if manifest["ranks"] == context.world_size:
        content["generators"] = {own: _generators(context.device)}
        if not all(f"generators.{own}.{kind}" in saved for kind in content["generators"][own]):
            del content["generators"]  # made on another kind of device
    try:
        dcp.load(content, storage_reader=reader, planner=_Planner())
    except CheckpointException as error:
        raise CheckpointError(f"{source} could not be read ({_reason(error)})") from error
    if manifest["step"]:
        set_state_dict(model, optimiser, model_state_dict=content["model"], optim_state_dict=content["optimiser"])
    else:
        strict = StateDictOptions(strict=True)
        set_state_dict(model, [], model_state_dict=content["model"], optim_state_dict={}, options=strict)
    states = content.get("generators", {}).get(own, {})
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], context.device)


def _content(step: int, model: nn.Module, optimiser) -> dict[str, Any]:
    if not step:
        return {"model": get_model_state_dict(model)}
    weights, moments = get_state_dict(model, optimiser)
    return {"model": weights, "optimiser": moments}


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators. Nothing here draws from them while training; a model with dropout would."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"


class _Reader(dcp.FileSystemReader):
    """torch's reader, but its index (`.metadata`) may name nothing except what an index is made of.

    That file is a pickle, and a pickle from somebody else's folder could run anything.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as stream:
            metadata = _Unpickler(stream).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    """torch's planner unpickles whatever stands for a small value (a learning rate); here it must be a plain one."""

    def load_bytes(self, read_item, value) -> None:
        try:
            torch.load(value, weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(f"{read_item.storage_index.fqn} is no plain value, so it is not loaded") from None
        value.seek(0)
        super().load_bytes(read_item, value)


class _Unpickler(pickle.Unpickler):
    METADATA = "torch.distributed.checkpoint.metadata"
    ALLOWED = {
        ("builtins", "set"),
        ("builtins", "list"),
        ("builtins", "dict"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),  # Python 3.13
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        (METADATA, "Metadata"),
        (METADATA, "TensorStorageMetadata"),
        (METADATA, "BytesStorageMetadata"),
        (METADATA, "ChunkStorageMetadata"),
        (METADATA, "TensorProperties"),
        (METADATA, "MetadataIndex"),
        (METADATA, "StorageMeta"),
        (METADATA, "_MEM_FORMAT_ENCODING"),
        *(
            ("torch", str(each).removeprefix("torch."))
            for each in vars(torch).values()
            if isinstance(each, torch.dtype)
        ),
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise CheckpointError(
                f"the index of this checkpoint (.metadata) names {module}.{name}, so it is not loaded"
            )
        return super().find_class(module, name)


def _manifest_digest(manifest: dict[str, Any]) -> str:
    rest = {k: v for k, v in manifest.items() if k != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _verify(source: Path, context: Context) -> tuple[str, dict[str, Any]]:
    """('' or what is wrong, manifest); the files are shared out over the ranks."""
    manifest, names = {}, []
    try:
        manifest = json.loads((source / "manifest.json").read_text())
        fault = "" if manifest["digest"] == _manifest_digest(manifest) else "manifest.json has changed"
        names = sorted({*manifest["files"], ".metadata"})[context.rank :: context.world_size]
        _ = manifest["state"], manifest["step"], manifest["ranks"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        fault = "its manifest.json is missing or unreadable"
    for name in () if fault else names:
        try:
            fault = "" if _digest(source / name) == manifest["files"].get(name) else "has changed since it was written"
        except FileNotFoundError:
            fault = "is missing"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault:
            fault = f"{name} {fault}"
            break
    faults = context.gather(fault)
    return context.broadcast(next((f for f in faults if f), "") if context.is_main else None), manifest


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


def layout(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name, as this rank holds them; shapes are those of the whole."""
    return get_model_state_dict(model)


def whole(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor) one after the other; every rank calls this, and none holds more than one at a time."""
    for name, value in weights.items():
        yield name, value.full_tensor() if hasattr(value, "full_tensor") else value
