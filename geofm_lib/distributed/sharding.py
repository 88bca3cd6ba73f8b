"""Strategy table -> mesh -> activation checkpointing -> compile -> `fully_shard` (or DDP), in this one place.

Every strategy of the paper is two numbers: the size of the shard group and whether a block's weights are dropped
again after its forward pass. Precision is an independent choice, applied the same way to every strategy: weights
and optimiser stay fp32, a block computes in bf16, gradients are reduced in bf16 (the paper's DDP ran in fp32
against FSDP in bf16; here that cannot happen).
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from geofm_lib.catalog import strategies

BF16 = torch.bfloat16


def apply(
    model: nn.Module,
    strategy: str,
    *,
    world: int,
    device: torch.device,
    precision: str = "fp32",
    activation_checkpointing: bool = False,
    compile: bool = False,
    forward_prefetch: int = 1,
    backward_prefetch: int = 1,
    seed: int = 0,
) -> nn.Module:
    """Spread a model over the ranks; returns the module to train (the same object for FSDP2, a wrapper for DDP).

    Args:
        model: a ViT or a masked autoencoder. On the meta device it gets its weights here, drawn from `seed`, after
            sharding: no rank ever holds the whole of it (DDP holds the whole by its nature).
        strategy: a name that `catalog.strategies.lookup` knows.
        world: number of ranks; the strategy's shard group must divide it (ValueError).
        forward_prefetch, backward_prefetch: how many blocks ahead are gathered (0: only when needed). FSDP2 always
            gathers the next block in backward order; depth 1 is the paper's BACKWARD_PRE, 0 its NONE.
    """
    row = strategies.lookup(strategy)
    replicas, shard = strategies.resolve(row, world)
    if row.ddp:
        _materialise(model, device, seed)
    blocks = []
    for stack in stacks(model):
        for index, block in enumerate(stack):
            if row.ddp and precision == "bf16":
                _compute_in(block, BF16, cast_inputs=True)
            if compile:
                block.compile()
            blocks.append(checkpoint_wrapper(block) if activation_checkpointing else block)
            stack[index] = blocks[-1]

    if row.ddp:
        if precision == "bf16":
            _compute_in(model, BF16, cast_inputs=False, skip=blocks)
        wrapped = DistributedDataParallel(model)
        if dist.get_backend() == "fake":  # communication=off: the same casts, nothing is sent
            wrapped.register_comm_hook(BF16 if precision == "bf16" else torch.float32, _send_nothing)
        elif precision == "bf16":
            wrapped.register_comm_hook(None, bf16_compress_hook)
        return wrapped

    if replicas == 1:
        mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(device.type, (replicas, shard), mesh_dim_names=("replicate", "shard"))
    kinds = {"param_dtype": BF16, "reduce_dtype": BF16} if precision == "bf16" else {}
    for block in blocks:
        policy = MixedPrecisionPolicy(**kinds)
        fully_shard(block, mesh=mesh, reshard_after_forward=row.reshard_after_forward, mp_policy=policy)
    # The root takes images and masking noise as they are: rounding them would change targets and masks.
    policy = MixedPrecisionPolicy(**kinds, cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=row.reshard_after_forward, mp_policy=policy)
    _materialise(model, device, seed)
    for i, block in enumerate(blocks):
        if forward_prefetch:
            block.set_modules_to_forward_prefetch(blocks[i + 1 : i + 1 + forward_prefetch])
        if backward_prefetch:
            block.set_modules_to_backward_prefetch(blocks[max(0, i - backward_prefetch) : i][::-1])
    return model


def apply_settings(model: nn.Module, settings, ranks) -> nn.Module:
    """`apply` as a job's settings say: strategy, precision, checkpointing, compile, prefetch, seed."""
    names = ("precision", "activation_checkpointing", "compile", "forward_prefetch", "backward_prefetch", "seed")
    chosen = {name: getattr(settings, name) for name in names}
    return apply(model, settings.strategy, world=ranks.world, device=ranks.device, **chosen)


def stacks(model: nn.Module) -> list[nn.Module]:
    """The model's stacks of blocks (encoder, then decoder); a block is what is gathered and freed as one."""
    return [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("blocks", "decoder_blocks")]


def _materialise(model: nn.Module, device: torch.device, seed: int) -> None:
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device=device)
        model.init_weights(seed)
    else:
        model.to(device)


def last_micro_batch(model: nn.Module, last: bool) -> None:
    """Reduce gradients only after the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = last


def local_bytes(tensors) -> int:
    """Bytes of these tensors that this rank holds (its shard of a DTensor)."""
    return sum(t.to_local().nbytes if hasattr(t, "to_local") else t.nbytes for t in tensors if t is not None)


def _send_nothing(dtype: torch.dtype, bucket):
    done = torch.futures.Future()
    done.set_result(bucket.buffer().to(dtype).to(bucket.buffer().dtype))
    return done


def _compute_in(module: nn.Module, dtype: torch.dtype, cast_inputs: bool, skip=()) -> None:
    """Let a module compute with its fp32 parameters cast to `dtype`, as fully_shard's policy does.

    The casts are part of the graph, so gradients come back in fp32; on recomputation they are simply made again.
    """
    skipped = {id(inner) for outer in skip for inner in outer.modules()}
    owners = [m for m in module.modules() if id(m) not in skipped and m._parameters]
    held: list[tuple[nn.Module, str, torch.Tensor]] = []

    def cast(_, args, kwargs):
        for owner in owners:
            for name, parameter in owner._parameters.items():
                if parameter is not None and parameter.is_floating_point():
                    held.append((owner, name, parameter))
                    owner._parameters[name] = parameter.to(dtype)

        def down(value):
            return value.to(dtype) if cast_inputs and torch.is_tensor(value) and value.is_floating_point() else value

        return tuple(down(a) for a in args), {k: down(v) for k, v in kwargs.items()}

    def restore(*_):
        while held:
            owner, name, parameter = held.pop()
            owner._parameters[name] = parameter

    module.register_forward_pre_hook(cast, with_kwargs=True)
    module.register_forward_hook(restore, always_call=True)
