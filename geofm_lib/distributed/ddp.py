"""DDP in the precision of everything else: gradients reduced in fp32 or in bf16. (`casts` has its bf16 blocks.)"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


def wrap(model: nn.Module, reduced: torch.dtype | None, group: dist.ProcessGroup | None) -> DistributedDataParallel:
    """The model, its gradients reduced over `group` in `reduced` (None: fp32).

    Micro-batches are added up in fp32 whatever `reduced` is. A fake group sends nothing.
    """
    wrapped = DistributedDataParallel(model, process_group=group)
    if dist.get_backend(group) == "fake":  # the same casts, nothing is sent
        wrapped.register_comm_hook(reduced or torch.float32, _send_nothing)
    elif reduced == torch.bfloat16:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def _send_nothing(dtype: torch.dtype, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().to(dtype).to(bucket.buffer().dtype))
    return done
