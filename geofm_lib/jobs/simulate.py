"""Job: what one rank of a large run would hold and send, found on one CPU core without the memory or the ranks.

The same model, strategy and sharding code as in `throughput` run two steps on tensors that have shapes but no
numbers, over torch's fake process group of as many ranks as asked for. The second step counts: the optimiser's
moments exist by then. Checks `planning/memory` and never feeds it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geofm_lib.distributed import sharding, training
from geofm_lib.distributed.context import join_fake_group
from geofm_lib.jobs import throughput
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.planning.communication import step_traffic
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.sizes import gib
from geofm_lib.profiling import meters
from geofm_lib.profiling.memory_tracker import Holdings
from geofm_lib.settings import SimulateSettings

CPU = torch.device("cpu")
WHOLE = ("parameters", "gradients", "optimiser")
"""Kinds that are told whole as well: gradients are not all there yet at the fullest moment."""


def run(settings: SimulateSettings, context, run: Folder) -> dict:
    """Trace two steps; returns peak memory by kind, bytes by collective, and what the arithmetic says of both."""
    began = time.perf_counter()
    if dist.is_initialized():
        dist.destroy_process_group()  # of this one process; the job's own has as many ranks as are simulated
    found = simulate(settings)
    size = {"image_size": settings.image_size, "patch_size": settings.patch()}
    job, how = (settings.model, settings.strategy, settings.gpus), Conditions.of(vars(settings))
    held = rank_memory(*job, settings.batch_per_gpu, how, **size)
    sent = step_traffic(*job, how, **size)
    whole = {name: found["whole"][name] for name in WHOLE}
    at_peak = {f"{name}_at_peak": value for name, value in found["held"].items()}
    return {
        "peak_memory_gib": gib(found["peak"]),
        "predicted_peak_gib": gib(held.peak),
        **{f"{name}_gib": gib(value) for name, value in (whole | at_peak).items()},
        **{f"predicted_{name}_gib": gib(getattr(held, name)) for name in WHOLE},
        **{f"{name}_{what}": found[what].get(name, 0) for what in ("bytes", "calls") for name in sent},
        **{f"predicted_{name}_bytes": each.payload for name, each in sent.items()},
        "simulation_s": time.perf_counter() - began,
    }


def simulate(settings: SimulateSettings, **prefetch: int) -> dict:
    """Of rank 0's second step: "peak" in bytes, "held" then by `holdings.KINDS`, "whole" by WHOLE, "bytes" and
    "calls" by collective. ``prefetch``: depths that are not `sharding.apply`'s defaults."""
    how = {name: getattr(settings, name) for name in ("precision", "activation_checkpointing")} | prefetch
    with fake_ranks(settings.gpus):
        network = throughput.network(settings)
        model = sharding.apply(network, settings.strategy, world_size=settings.gpus, device=CPU, seed=None, **how)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device=CPU)
            return two_steps(model, *inputs(settings))


def two_steps(model: nn.Module, images_BCHW: torch.Tensor, second: torch.Tensor) -> dict:
    """What `simulate` returns, of a model whose tensors may as well be real."""
    optimiser = training.optimiser(model, throughput.WEIGHT_DECAY)
    with Holdings() as holdings:
        known = {"parameters": holdings.follow(model.parameters()), "inputs": holdings.follow([images_BCHW, second])}
        for _ in range(2):
            holdings.forget_peak()
            with meters.CollectiveBytes() as counted:
                model(images_BCHW, second).backward()
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                known["gradients"] = holdings.follow(gradients)
                whole = {"gradients": holdings.size(known["gradients"])}
                del gradients
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        moments = [v for state in optimiser.state.values() for v in state.values() if torch.is_tensor(v)]
        known["optimiser"] = holdings.follow(moments)
        held = holdings.by_kind(**known)
        whole |= {name: holdings.size(known[name]) for name in ("parameters", "optimiser")}
    return {"peak": holdings.peak, "held": held, "whole": whole, "bytes": counted.bytes, "calls": counted.calls}


@contextmanager
def fake_ranks(world: int) -> Iterator[None]:
    """This process as rank 0 of `world` ranks that are not there: collectives have shapes and send nothing."""
    join_fake_group(0, world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def inputs(settings: SimulateSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of images, and labels or masking noise, of the right shapes; their numbers do not matter."""
    images = torch.zeros(settings.batch_per_gpu, 3, settings.image_size, settings.image_size)
    if settings.workload == "mae":
        return images, torch.zeros(settings.batch_per_gpu, (settings.image_size // settings.patch()) ** 2)
    return images, torch.zeros(settings.batch_per_gpu, dtype=torch.long)
