"""The model in a checkpoint, read by a process of its own while the run may go on: nothing of the run is touched.

All files of the checkpoint are opened before one is read, so the run's retention, which may delete it meanwhile, takes
nothing away. They are read by the checkpoint's own digests. `geofm export` and the launcher run this file.
"""

import hashlib
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from geofm_lib import files, streams
from geofm_lib.distributed import manifest
from geofm_lib.distributed.manifest import CheckpointError
from geofm_lib.distributed.safe_load import Held, Planner, Reader
from geofm_lib.model.interop import export, folders, locate

DELETED = "deleted meanwhile"


def read(run: Path, step: int | None = None) -> folders.Saved:
    """The autoencoder in a run's checkpoint of `step` (None: the newest good one); its config says which one it is.

    A checkpoint that is damaged, or deleted before it was opened, is told on standard error, and the newest of the
    others is taken. ValueError, one sentence, where there is none, or not the `step` asked for.
    """
    faults, looks = dict[int, str](), 5
    while True:
        there = locate.steps(run)
        left = [each for each in there if each not in faults and step in (None, each)]
        if not left and step is None and looks and locate.checkpoint(run, 0).parent.is_dir():
            looks -= 1  # a listing that is made while folders come and go can miss them all
            time.sleep(0.2)
            continue
        if not left:
            raise ValueError(_none(run, step, there, faults))
        try:
            return _read(run, left[-1])
        except FileNotFoundError as gone:
            whole = (locate.checkpoint(run, left[-1]) / manifest.NAME).exists()
            faults[left[-1]] = f"{Path(gone.filename).name} is missing" if whole else DELETED
        except CheckpointError as fault:
            faults[left[-1]] = str(fault)
        if step is None:
            words = f"the checkpoint of step {left[-1]} cannot be used ({faults[left[-1]]}); another one is taken"
            print(words, file=sys.stderr, flush=True)


def take(source: str, target: str, format: str, step: str = "") -> str:
    """Export a run's checkpoint, or whatever else `interop.export` reads; returns one line about what was written."""
    if not step and not locate.unfinished(Path(source)):
        return export.export(source, target, format)
    export.refuse_full(Path(target))
    return export.export(source, target, format, read(Path(source), int(step) if step else None))


def _read(run: Path, step: int) -> folders.Saved:
    source = locate.checkpoint(run, step)
    fault, content = manifest.content(source)
    if fault and not source.is_dir():
        raise FileNotFoundError(source)
    if fault:
        raise CheckpointError(fault)
    with ExitStack() as stack:
        names = {*content["files"], ".metadata"}
        held: dict[str, Any] = {name: stack.enter_context(open(source / name, "rb")) for name in names}
        fault = manifest.first_fault(held, content, lambda name: hashlib.file_digest(held[name], "sha256").hexdigest())
        if fault:
            raise CheckpointError(fault)
        reader = Reader(source)
        reader.fs = Held(held)
        state = _weights(reader, source, content)
    config = content["state"].get("encoder")
    if not config:
        raise ValueError(
            f"{source} was written by a geofm that did not keep what its encoder is; let the run go on to its next "
            "checkpoint, or to its end."
        )
    ended = _ended(run)
    which = {"run": run.name, "step": step, "of": content["state"]["total_steps"], "digest": content["digest"]}
    return folders.Saved({**config, "checkpoint": {**which, "ended": ended}}, *folders.split(state))


def _weights(reader: Reader, source: Path, content: dict[str, Any]) -> folders.Weights:
    """The model's weights alone: moments and counters are neither read nor held."""
    index = reader.read_metadata()
    manifest.refuse_strays(source, index, content)
    sizes = {name: each for name, each in index.state_dict_metadata.items() if name.startswith("model.")}
    state = {name: _empty(cast(TensorStorageMetadata, each)) for name, each in sizes.items()}
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is one process, which is what is meant
            dcp.load(cast(Any, state), storage_reader=reader, planner=Planner(), no_dist=True)
    except CheckpointException as error:
        raise CheckpointError(manifest.reason(error)) from error
    return {name.removeprefix("model."): each for name, each in state.items()}


def _empty(like: TensorStorageMetadata) -> torch.Tensor:
    return torch.empty(like.size, dtype=like.properties.dtype)


def _ended(run: Path) -> bool:
    try:
        return files.read_json(run / "summary.json").get("status") == "finished"
    except (OSError, ValueError):
        return False


def _none(run: Path, step: int | None, there: list[int], faults: dict[int, str]) -> str:
    """The sentence for a checkpoint that cannot be had."""
    if step in faults and faults[step] != DELETED:
        return f"The checkpoint of step {step} in {run} cannot be used ({faults[step]}); give another step, or none."
    if step is not None:
        others = f"those of {', '.join(map(str, there))}" if there else "none"
        return f"{run} has no checkpoint of step {step}, but {others}; keep_every keeps some beside the newest."
    listed = "; ".join(f"{each}: {fault}" for each, fault in faults.items())
    return f"{run} has no checkpoint that can be used{f' ({listed})' if listed else ''}; let it go on to its next one."


if __name__ == "__main__":
    streams.secure()
    try:
        print(take(*sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
