"""Job: what one rank of a large run would hold and send, found on one CPU core without the memory or the ranks.

The same model, strategy and sharding code as in `throughput` run two steps on tensors that have shapes but no
numbers. Their process group is torch's fake one, of as many ranks as asked for. The second step counts: the
optimiser's moments exist by then. Checks `planning/memory` and never feeds it.
"""

import time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geofm_lib.distributed import sharding
from geofm_lib.distributed.context import Context, join_fake_group
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.planning.conditions import Conditions, gib
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.steps import step_traffic
from geofm_lib.profiling import step_timing
from geofm_lib.profiling.memory_tracker import MemoryTracker, StepMemory
from geofm_lib.profiling.meters import CollectiveBytes
from geofm_lib.profiling.step_timing import Inputs
from geofm_lib.settings import SimulateSettings

CPU = torch.device("cpu")


class Traced(NamedTuple):
    """One rank's second step: bytes that it holds, and calls and bytes of each collective that it sends."""

    memory: StepMemory
    bytes: dict[str, int]
    calls: dict[str, int]


def run(settings: SimulateSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Trace two steps; returns peak memory by kind, bytes by collective, and what the arithmetic says of both."""
    began = time.perf_counter()
    if dist.is_initialized():
        dist.destroy_process_group()  # of this one process; the job's own has as many ranks as are simulated
    found = simulate(settings)
    memory = found.memory
    size: dict[str, Any] = {"image_size": settings.image_size, "patch_size": settings.patch()}
    job, how = (settings.model, settings.strategy, settings.gpus), Conditions.of(vars(settings))
    held = rank_memory(*job, settings.batch_per_gpu, how, **size)
    predicted = step_traffic(*job, how, **size)
    at_peak = {f"{kind}_at_peak": size for kind, size in memory.at_peak.items()}
    return {
        "peak_memory_gib": gib(memory.peak),
        "predicted_peak_gib": gib(held.peak),
        **{f"{kind}_gib": gib(size) for kind, size in (memory.whole | at_peak).items()},
        **{f"predicted_{kind}_gib": gib(getattr(held, kind)) for kind in memory.whole},
        **{f"{name}_bytes": found.bytes.get(name, 0) for name in predicted},
        **{f"{name}_calls": found.calls.get(name, 0) for name in predicted},
        **{f"predicted_{name}_bytes": each.payload for name, each in predicted.items()},
        "simulation_s": time.perf_counter() - began,
    }


def simulate(settings: SimulateSettings, backward_prefetch: int = 1) -> Traced:
    """Rank 0's second step, without memory or other ranks; `backward_prefetch` in blocks gathered ahead."""
    network = step_timing.build(settings.workload, settings.model, settings.image_size, patch_size=settings.patch())
    join_fake_group(0, settings.gpus)
    try:
        model = sharding.apply(
            network,
            settings.strategy,
            world_size=settings.gpus,
            device=CPU,
            precision=settings.precision,
            reduce_dtype=settings.reduce_dtype,
            activation_checkpointing=settings.activation_checkpointing,
            backward_prefetch=backward_prefetch,
            seed=None,
        )
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device=CPU)
            return two_steps(model, inputs(settings))
    finally:
        dist.destroy_process_group()


def two_steps(model: nn.Module, inputs: Inputs) -> Traced:
    """What the second of two steps holds and sends; the model's tensors may as well be real."""
    optimiser = step_timing.optimiser(model)

    def step() -> None:  # training.step reads the loss as a number, which fake tensors do not have
        model(*inputs).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    with MemoryTracker() as tracker:
        tracker.of_step(step, model, optimiser, inputs)
        with CollectiveBytes() as sent:
            return Traced(tracker.of_step(step, model, optimiser, inputs), sent.bytes, sent.calls)


def inputs(settings: SimulateSettings) -> Inputs:
    """A batch of images, and labels or masking noise, of the right shapes; their numbers do not matter."""
    images = torch.zeros(settings.batch_per_gpu, 3, settings.image_size, settings.image_size)
    if settings.workload == "mae":
        return images, torch.zeros(settings.batch_per_gpu, (settings.image_size // settings.patch()) ** 2)
    return images, torch.zeros(settings.batch_per_gpu, dtype=torch.long)
