"""Job: evidence for the four findings that change how the paper's numbers read, on a few ranks of any machine.

Replicas that FSDP1 forgets to synchronise, precision beside DDP and FSDP, start-up inside the window of 30 steps, and
Table I's counts. This is the only module that imports FSDP1: to show its fault, never to train.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from geofm_lib.catalog.models import MODELS
from geofm_lib.distributed import sharding
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import vit
from geofm_lib.model.init import materialise
from geofm_lib.planning.conditions import PAPER_STEPS
from geofm_lib.profiling import meters, step_timing
from geofm_lib.profiling.step_timing import RATE, WEIGHT_DECAY, Inputs
from geofm_lib.settings import FindingsSettings

GROUPS = (1, 2)  # ranks of a shard group; the ranks are replicas of such groups
PAIRS = [(strategy, precision) for precision in ("fp32", "bf16") for strategy in ("DDP", "NO_SHARD")]
WARMUP_STEPS = 1
SETTLED = 10  # steps of a window that do not count as steady
LOADERS = 2  # processes a rank that draw the paper's images


def run(settings: FindingsSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Gather the evidence; returns it under flat names, for `paper.claims` to read."""
    parts = (start_up, precisions, replicas, parameter_counts)  # start-up first: what comes later finds torch warm
    found: dict[str, Any] = {"device": meters.device_name(context.device), "torch": torch.__version__}
    for number, part in enumerate(parts, 1):
        run.log_metrics(step=number, total_steps=len(parts), phase=part.__name__.replace("_", " "))
        run.at(number)
        found |= part(settings, context)
    return found if context.is_main else {}


def replicas(settings: FindingsSettings, context: Context) -> dict[str, Any]:
    """How far replicas drift apart that train on different images: gradients of the first step, weights of the last.

    For shard groups of one and of two ranks, by FSDP1 as the paper's code calls it, and by our `sharding.apply`.
    """
    device = context.device
    there, version = hasattr(fsdp, "FullyShardedDataParallel"), f"torch {torch.__version__}"
    absent = f"{version} has no FSDP1 any more, so its fault cannot be shown here."
    found: dict[str, Any] = {"fsdp1": version if there else absent}
    for group in GROUPS:
        shape = context.world_size // group, group
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
        name = f"HYBRID_{group}GPU" + "s" * (group > 1)
        kinds = {"ours": (_sharded(settings, context, settings.model, name), name)}
        if there:
            network = step_timing.build("classify", settings.model, settings.image_size)
            kinds["fsdp1"] = fsdp1(network, mesh, device, settings.seed)
        for kind, (model, effective) in kinds.items():
            differences = _drift(model, mesh.get_group("replicate"), _noise(settings, context, settings.steps), context)
            found |= {f"{kind}_group_{group}_{what}": value for what, value in differences.items()}
            found[f"{kind}_group_{group}_strategy"] = effective
    return found


def _sharded(settings: FindingsSettings, context: Context, name: str, strategy: str, **how: Any) -> nn.Module:
    network = step_timing.build("classify", name, settings.image_size)
    world_size, device = context.world_size, context.device
    return sharding.apply(network, strategy, world_size=world_size, device=device, seed=settings.seed, **how)


def fsdp1(model: nn.Module, mesh: DeviceMesh, device: torch.device, seed: int) -> tuple[nn.Module, str]:
    """A model under FSDP1's HYBRID_SHARD over `mesh` (replicate x shard), and the strategy that torch made of it."""
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    block = type(next(iter(sharding.stacks(model)[0].children())))
    wrapped = fsdp.FullyShardedDataParallel(
        materialise(model, device, seed),
        device_mesh=mesh,
        sharding_strategy=fsdp.ShardingStrategy.HYBRID_SHARD,
        auto_wrap_policy=ModuleWrapPolicy({block}),
        use_orig_params=True,
        device_id=device,  # without it FSDP1 refuses a CPU
    )
    return wrapped, wrapped.sharding_strategy.name


def _drift(model: nn.Module, group: dist.ProcessGroup, batches: Iterable[Inputs], context: Context) -> dict[str, float]:
    """Largest differences of gradients and weights between the ranks of `group`, over all ranks."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    found = {}
    for number, inputs in enumerate(batches):
        model(*inputs).backward()
        if number == 0:
            gradients = _row(p.grad for p in model.parameters() if p.grad is not None)
            found["gradient_difference"] = _largest(context, _spread(gradients, group))
            found["largest_gradient"] = _largest(context, float(gradients.abs().max()))
        optimiser.step()
        optimiser.zero_grad()
    return found | {"weight_difference": _largest(context, _spread(_row(model.parameters()), group))}


def _row(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """This rank's part of them, as one row of numbers."""
    own = (each.to_local() if isinstance(each, DTensor) else each for each in tensors)
    return torch.cat([each.detach().flatten() for each in own])


def _spread(row: torch.Tensor, group: dist.ProcessGroup) -> float:
    """The largest difference of a number between the ranks of `group`, which should all hold the same."""
    high, low = row.clone(), row.clone()
    dist.all_reduce(high, dist.ReduceOp.MAX, group)
    dist.all_reduce(low, dist.ReduceOp.MIN, group)
    return float((high - low).max())


def _largest(context: Context, value: float) -> float:
    return max(context.gather(value) or [value])


class Noise(Dataset[Inputs]):
    """The benchmark's synthetic batches: normal noise [B, 3, H, W] and labels [B], a function of (seed, rank, k)."""

    def __init__(self, settings: FindingsSettings, rank: int, batches: int) -> None:
        self.shape = (settings.batch_per_gpu, 3, settings.image_size, settings.image_size)
        self.seed, self.batches = settings.seed * 100_003 + rank, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, k: int) -> Inputs:
        generator = torch.Generator().manual_seed(self.seed * 10_007 + k)
        images = torch.randn(*self.shape, generator=generator)
        return images, torch.randint(0, step_timing.CLASSES, self.shape[:1], generator=generator)


def _noise(settings: FindingsSettings, context: Context, batches: int, loaders: int = 0) -> Iterator[Inputs]:
    """That many batches on the device, drawn by so many processes, others on each rank."""
    fork = "fork" if loaders and sys.platform == "linux" else None
    noise = Noise(settings, context.rank, batches)
    for images, labels in DataLoader(noise, batch_size=None, num_workers=loaders, multiprocessing_context=fork):
        yield images.to(context.device), labels.to(context.device)


def precisions(settings: FindingsSettings, context: Context) -> dict[str, float]:
    """Median step time (s, slowest rank) of the larger model under DDP and FSDP, in fp32 and in bf16, taken in turn."""
    trained = {}
    for strategy, precision in PAIRS:
        how = {"precision": precision, "reduce_dtype": precision, "activation_checkpointing": True}
        model = _sharded(settings, context, settings.larger_model, strategy, **how)
        trained[f"{strategy}_{precision}"] = model, step_timing.optimiser(model)
    times: dict[str, list[float]] = {name: [] for name in trained}
    for inputs in _noise(settings, context, WARMUP_STEPS + settings.steps):
        for name, (model, optimiser) in trained.items():
            dist.barrier()
            began = time.perf_counter()
            step_timing.step(model, optimiser, inputs)
            meters.synchronise(context.device)
            times[name].append(time.perf_counter() - began)
    gathered = context.gather(times)
    if not gathered:
        return {}
    slowest = {name: np.max([own[name] for own in gathered], axis=0)[WARMUP_STEPS:] for name in times}
    return {f"{name}_step_s": float(np.median(each)) for name, each in slowest.items()}


def start_up(settings: FindingsSettings, context: Context) -> dict[str, float]:
    """images/s of a small and a larger model by the paper's method and when settled; the start-up in s.

    The paper's: PAPER_STEPS steps by wall clock from the start of a loader whose processes draw the images. Start-up is
    the time to the end of the first step, less a settled step; `window_over_steady` is what it leaves of the speed.
    """
    found, images = {}, settings.batch_per_gpu * context.world_size
    for size, name in (("small", settings.model), ("larger", settings.larger_model)):
        model = _sharded(settings, context, name, "DDP")
        optimiser = step_timing.optimiser(model)
        own: list[float] = []  # seconds from the loader's start to the end of each step
        context.barrier()
        began = time.perf_counter()
        for inputs in _noise(settings, context, PAPER_STEPS, LOADERS):
            step_timing.step(model, optimiser, inputs)
            meters.synchronise(context.device)
            own.append(time.perf_counter() - began)
        gathered = context.gather(own)
        if gathered:
            ends = np.max(gathered, axis=0)
            steady_s = float(np.median(np.diff(ends)[SETTLED:]))
            start_up_s = float(ends[0]) - steady_s
            found[f"{size}_steady_images_per_s"] = images / steady_s
            found[f"{size}_window_images_per_s"] = PAPER_STEPS * images / float(ends[-1])
            found[f"{size}_start_up_s"] = start_up_s
            found[f"{size}_window_over_steady"] = PAPER_STEPS * steady_s / (PAPER_STEPS * steady_s + start_up_s)
    return found


def parameter_counts(settings: FindingsSettings, context: Context) -> dict[str, int]:
    """Parameters of the paper's six models, counted in the networks themselves, which take no memory."""
    names = [row.name for row in MODELS.values() if row.published_params_M] if context.is_main else []
    built = {(family, name): vit.build(name, family, device="meta") for family in vit.FAMILIES for name in names}
    return {f"{family}_parameters_{name}": sum(p.numel() for p in model.parameters())
            for (family, name), model in built.items()}  # fmt: skip
