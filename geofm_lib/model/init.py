"""First weights that depend on a seed alone: not on the number of ranks, the device, or when the model was sharded."""

import hashlib
from typing import Any, TypeVar, cast

import torch
from torch import nn

WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")  # what checkpointing and compile add to a parameter's name
M = TypeVar("M", bound=nn.Module)


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers (checkpointing, compile, DDP) add to it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def materialise(model: M, device: torch.device | str | None, seed: int | None = None) -> M:
    """Gives a model on the meta device its memory and first weights (``device`` None is the CPU); returns it."""
    device = torch.device(device or "cpu")
    if device.type != "meta":
        initialise(model.to_empty(device=device), seed)
    return model


def initialise(root: nn.Module, seed: int | None = None) -> None:
    """Sets all parameters: Xavier-uniform matrices, zero biases, unit norms, N(0, 0.02) tokens and positions.

    Each parameter is drawn on the CPU from a generator of its own, keyed by (seed, name). Then it is copied, or the
    part of it that this rank holds. A module with a method ``fixed_values`` names parameters that are computed instead
    (sine-cosine positions). ``seed=None`` takes the seed last given to ``torch.manual_seed``. ValueError for weights
    that are still on the meta device.
    """
    seed = torch.initial_seed() if seed is None else seed
    for prefix, module in root.named_modules():
        fixed = cast(Any, module).fixed_values() if hasattr(module, "fixed_values") else {}
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                raise ValueError("The weights are on the meta device; call to_empty(device=...) before initialise().")
            name = plain_name(f"{prefix}.{key}")
            value = fixed.get(key)
            if value is None:
                digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
                value = _draw(module, key, parameter.shape, generator)
            write(parameter, value)


def _draw(module: nn.Module, key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    value = torch.zeros(shape)
    if isinstance(module, nn.LayerNorm | nn.GroupNorm) and key == "weight":
        return value.fill_(1.0)
    if key == "bias":
        return value
    if isinstance(module, (nn.Linear, nn.Conv2d)):  # a patch projection counts as the matrix it is
        matrix = value.view(shape[0], -1)
        nn.init.xavier_uniform_(matrix, generator=generator)
        for columns in getattr(module, "matrices", ()):  # of groups of bands (`patches`): each a matrix of its own
            matrix[:, columns] *= (sum(matrix.shape) / sum(matrix[:, columns].shape)) ** 0.5
        return value
    return value.normal_(std=0.02, generator=generator)


@torch.no_grad()
def write(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Copies the whole tensor ``value`` into ``parameter``, or this rank's part where FSDP has sharded it.

    A sharded parameter (DTensor) tells which part it holds by the protocol that distributed checkpoints use. So
    nothing is sent, and this room needs no torch.distributed.
    """
    if hasattr(parameter, "to_local"):
        (chunk,) = cast(Any, parameter).__create_chunk_list__()
        value = value[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes, strict=True))]
        parameter = parameter.to_local()
    parameter.copy_(value)
