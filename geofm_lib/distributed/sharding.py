"""Strategy table -> mesh -> activation checkpointing -> compile -> `fully_shard`, DDP or nothing, in this one place.

Every strategy of the paper is two numbers: the size of the shard group and whether a block's weights are dropped
again after its forward pass. Precision is an independent choice, the same for every strategy. Weights and optimiser
stay fp32, a block computes in bf16, gradients are added up over micro-batches and ranks in `reduce_dtype`. (The paper's
DDP ran in fp32, its FSDP in bf16, reductions too.)

What each of the paper's FSDP1 settings is under FSDP2 stands in README (What a run survives).
"""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from geofm_lib.catalog import strategies
from geofm_lib.distributed import casts, ddp
from geofm_lib.distributed.context import Context
from geofm_lib.model.init import materialise

BF16 = torch.bfloat16
SMALL = 2**21  # parameters up to which a message between two ranks on CPU costs its two waits and nothing else
LARGE = 2**28  # parameters from which on memory is worth more than a tenth of the speed, on CPU
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # in glibc's malloc.h
# By `large`. By itself glibc keeps blocks of up to 32 MiB and gives larger ones back. Weights of large models that come
# and go with FSDP then leave holes between gradients that stay: a rank of ViT-1B needs 1.5 GiB more. A small model's
# activations would be made of fresh pages in every step, which takes a tenth of it (reports/LOG.md).
ALLOCATOR = {
    True: {M_MMAP_THRESHOLD: 4 * 2**20, M_MMAP_MAX: 65536},  # every freed block from there on goes back at once
    False: {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0},  # none does
}
Stack = nn.Sequential | nn.ModuleList  # of blocks


def apply(
    model: nn.Module,
    strategy: str,
    *,
    world_size: int,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
    reduce_dtype: Literal["fp32", "bf16"] = "fp32",
    activation_checkpointing: bool = False,
    compile: bool = False,
    forward_prefetch: int = 1,
    backward_prefetch: int = 1,
    seed: int | None = 0,
    fake: dist.ProcessGroup | None = None,
    wrapped: bool = False,
    allocator: bool = True,
    together: int = 0,
) -> nn.Module:
    """Spread a model over the ranks; returns the module to train (the same object, but a wrapper for DDP).

    Args:
        model: a ViT or a masked autoencoder. On the meta device it gets its weights here, drawn from `seed`, after
            sharding: no rank ever holds the whole of it (DDP holds the whole by its nature).
        strategy: a name that `catalog.strategies.lookup` knows.
        world_size: number of ranks; the strategy's shard group must divide it (ValueError).
        seed: None leaves a sharded model on the meta device: a simulation gives it memory that is none.
        reduce_dtype: in which bf16's gradients are reduced, and added up under FSDP2; fp32's always are in fp32.
        forward_prefetch, backward_prefetch: how many blocks ahead are gathered (0: only when needed); see above.
        fake: `context.fake_group()` for a model that makes the same calls and sends nothing.
        wrapped: a single rank has the strategy's wrapper as several have; else it needs none, and trains the bare
            module to the same bits (micro-batches of bf16 are added up in fp32, whatever `reduce_dtype` is).
        allocator: tell glibc what to keep (ALLOCATOR), from here on; else this process has glibc's own choice.
        together: on CPU neighbouring blocks, unless compiled, are gathered as one until they have so many parameters.
    """
    row = strategies.lookup(strategy)
    replicas, shard = strategies.resolve(row, world_size)
    if allocator and device.type == "cpu":
        _tell_allocator(large=sum(parameter.numel() for parameter in model.parameters()) >= LARGE)
    alone = world_size == 1 and not wrapped
    if row.ddp or (alone and seed is not None):
        _materialise(model, device, seed)
    dtype = BF16 if precision == "bf16" else None
    reduced = dtype and (BF16 if reduce_dtype == "bf16" else torch.float32)
    blocks: list[nn.Module] = []
    for stack in stacks(model):
        for index, block in enumerate(stack):
            if (row.ddp or alone) and dtype:
                casts.compute_in(block, dtype, cast_inputs=True, may_share=not activation_checkpointing)
            if compile:
                block.compile()
            blocks.append(checkpoint_wrapper(block) if activation_checkpointing else block)
            stack[index] = blocks[-1]

    if dtype and (row.ddp or alone):
        casts.compute_in(model, dtype, cast_inputs=False, skip=blocks)
    if alone:
        return model
    if row.ddp:
        return ddp.wrap(model, reduced, fake)
    mesh = _mesh(device.type, replicas, shard, fake is not None)
    how: dict[str, Any] = {"reshard_after_forward": row.reshard_after_forward, "shard_placement_fn": _cut(shard)}
    units = _units(model, together if device.type == "cpu" and not compile else 0)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=MixedPrecisionPolicy(dtype, reduced), **how)
    # The root takes images and masking noise as they are: rounding them would change targets and masks.
    policy = MixedPrecisionPolicy(dtype, reduced, cast_forward_inputs=False)
    # Fixed positions are not trained: each rank keeps them whole, and nothing is sent.
    fixed = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=fixed, **how)
    if seed is not None:
        _materialise(model, device, seed)
    _prefetch(model, [unit[0] for unit in units], forward_prefetch, backward_prefetch)
    return model


def _mesh(kind: str, replicas: int, shard: int, fake: bool) -> DeviceMesh:
    """Ranks as [shard], or as [replicate, shard] where there are several replicas."""
    sizes = {"shard": shard} if replicas == 1 else {"replicate": replicas, "shard": shard}
    if fake:  # under names of its own, since DTensor remembers what it did on an equal mesh, with that one's groups
        sizes = {f"fake_{name}": size for name, size in sizes.items()}
    backends: dict[int | str, Any] | None = dict.fromkeys(sizes, "fake") if fake else None
    return init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes), backend_override=backends)


def _units(model: nn.Module, least: int) -> list[list[nn.Module]]:
    """What is gathered as one: neighbouring blocks of a stack, until they have `least` parameters."""
    units: list[list[nn.Module]] = []
    for stack in stacks(model):
        held = least
        for block in stack:
            if held >= least:
                units.append([])
                held = 0
            units[-1].append(block)
            held += sum(parameter.numel() for parameter in block.parameters())
    return units


def _cut(group: int) -> Callable[[nn.Parameter], Shard | None]:
    """The dimension along which a weight is cut for a shard group: the first, unless it is 1 long.

    FSDP pads the first dimension to the group, which would blow up tokens and positions ([1, N, D]) as many times
    as there are ranks. They are cut along their last dimension that the group divides (FSDP cuts no other
    dimension unevenly); with none, they are padded after all. ``planning.weights`` counts the same.
    """

    def place(weight: nn.Parameter) -> Shard | None:
        if weight.shape[0] > 1:
            return None
        return next((Shard(d) for d in reversed(range(weight.ndim)) if weight.shape[d] % group == 0), None)

    return place


def _tell_allocator(large: bool) -> None:
    """Whether glibc gives freed memory back to the system (ALLOCATOR). musl and macOS have no such choice."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for name, value in ALLOCATOR[large].items():
            mallopt(name, value)


def _prefetch(model: nn.Module, blocks: list[nn.Module], forward: int, backward: int) -> None:
    """Tell each block which others to gather ahead, in the order in which they will be used."""
    units = [cast(FSDPModule, block) for block in blocks]
    for i, unit in enumerate(units):
        if forward:
            unit.set_modules_to_forward_prefetch(units[i + 1 : i + 1 + forward])
        if backward > 1:  # FSDP2's own choice is the one before
            unit.set_modules_to_backward_prefetch(units[max(0, i - backward) : i][::-1])
    if not backward:
        # An empty list means FSDP2's own choice; a unit that names itself, which is gathered by then, means none.
        for unit in (cast(FSDPModule, model), *units):
            unit.set_modules_to_backward_prefetch([unit])


SETTINGS = (
    "precision",
    "reduce_dtype",
    "activation_checkpointing",
    "compile",
    "forward_prefetch",
    "backward_prefetch",
    "seed",
)


def apply_settings(
    model: nn.Module, settings: Any, context: Context, fake: dist.ProcessGroup | None = None, together: int = 0
) -> nn.Module:
    """`apply` as a job's settings say: their strategy, and SETTINGS."""
    how = {name: getattr(settings, name) for name in SETTINGS}
    how |= {"world_size": context.world_size, "device": context.device, "fake": fake, "together": together}
    return apply(model, settings.strategy, **how)


def stacks(model: nn.Module) -> list[Stack]:
    """The model's stacks of blocks (encoder, then decoder); a block is what is gathered and freed as one."""
    found = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("blocks", "decoder_blocks")]
    return cast(list[Stack], found)


def _materialise(model: nn.Module, device: torch.device, seed: int | None) -> None:
    if any(parameter.is_meta for parameter in model.parameters()):
        materialise(model, device, seed)
    else:
        model.to(device)


def forward_method(model: nn.Module, name: str) -> None:
    """Let a method of a model that was spread compute as its forward pass does."""
    register_fsdp_forward_method(model, name)
    casts.forward_method(model, name)


def micro_batch(model: nn.Module, part: int, parts: int) -> None:
    """Before each of a step's micro-batches: gradients are reduced only after the last one, weights cast only once."""
    last = part == parts - 1
    casts.micro_batch(model, part, parts)
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = last


def local_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    """Bytes of these tensors that this rank holds (its shard of a DTensor)."""
    return sum(t.to_local().nbytes if hasattr(t, "to_local") else t.nbytes for t in tensors if t is not None)
