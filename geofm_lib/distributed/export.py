"""A sharded model written as one safetensors file, one whole tensor in memory at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from geofm_lib.distributed.context import Context
from geofm_lib.model.interop.folders import write_tensors

Weights = dict[str, torch.Tensor]


def weights_of(model: nn.Module) -> Weights:
    """The weights by name, without the names of wrappers, as this rank holds them; shapes are those of the whole."""
    return cast(Weights, get_model_state_dict(model))


def whole(weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor) one after the other; every rank calls this, and none holds more than one at a time."""
    for name, value in weights.items():
        yield name, value.full_tensor() if hasattr(value, "full_tensor") else value


def write(file: Path, weights: Weights, context: Context) -> None:
    """Write whole tensors to `file`; every rank calls this, and every rank raises the OSError of rank 0."""
    gathered, fault = whole(weights), ""
    if context.is_main:
        try:
            file.parent.mkdir(exist_ok=True)
            write_tensors(file, gathered, weights)
        except OSError as error:
            fault = f"{file} could not be written: {error.strerror}. Free space and run again to go on"
    for _ in gathered:  # the other ranks only take part in the gathering; so does this one when it cannot write
        pass
    fault = context.broadcast(fault)
    if fault:
        raise OSError(fault)
