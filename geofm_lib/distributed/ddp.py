"""DDP in the precision of everything else: bf16 blocks with fp32 weights, gradients reduced in fp32 or in bf16.

Torch's DDP has no policy of mixed precision that casts as `fully_shard` does, so hooks cast the weights here.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


def wrap(
    model: nn.Module,
    blocks: list[nn.Module],
    dtype: torch.dtype | None,
    reduced: torch.dtype | None,
    group: dist.ProcessGroup | None,
) -> DistributedDataParallel:
    """The model, computing in `dtype` (None: fp32), its gradients reduced over `group` in `reduced`.

    The blocks compute in `dtype` already, see `compute_in`; here the rest of the model is made to. Micro-batches are
    added up in fp32 whatever `reduced` is. A fake group sends nothing.
    """
    if dtype:
        compute_in(model, dtype, cast_inputs=False, skip=blocks)
    wrapped = DistributedDataParallel(model, process_group=group)
    if dist.get_backend(group) == "fake":  # the same casts, nothing is sent
        wrapped.register_comm_hook(reduced or torch.float32, _send_nothing)
    elif reduced == torch.bfloat16:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def compute_in(module: nn.Module, dtype: torch.dtype, cast_inputs: bool, skip: Iterable[nn.Module] = ()) -> None:
    """Let a module compute with its fp32 parameters cast to `dtype`, as fully_shard's policy does.

    The casts are part of the graph, so gradients come back in fp32; on recomputation they are simply made again.
    """
    skipped = {id(inner) for outer in skip for inner in outer.modules()}
    owners = [m for m in module.modules() if id(m) not in skipped and m._parameters]
    held: list[tuple[nn.Module, str, nn.Parameter]] = []

    def lower(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        for owner in owners:
            for name, parameter in owner._parameters.items():
                if parameter is not None and parameter.is_floating_point():
                    held.append((owner, name, parameter))
                    lowered: Any = parameter.to(dtype)  # no parameter, and in the place of one
                    owner._parameters[name] = lowered

        def down(value: Any) -> Any:
            return value.to(dtype) if cast_inputs and torch.is_tensor(value) and value.is_floating_point() else value

        return tuple(down(a) for a in args), {k: down(v) for k, v in kwargs.items()}

    def restore(*_: Any) -> None:
        while held:
            owner, name, parameter = held.pop()
            owner._parameters[name] = parameter

    module.register_forward_pre_hook(lower, with_kwargs=True)
    module.register_forward_hook(restore, always_call=True)


def _send_nothing(dtype: torch.dtype, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().to(dtype).to(bucket.buffer().dtype))
    return done
