"""Job: evidence for the four findings that change how the paper's numbers read, on a few ranks of any machine.

Replicas that FSDP1 forgets to synchronise, precision beside DDP and FSDP, start-up inside the window of 30 steps, and
Table I's counts (paper.md, section 0). This is the only module that imports FSDP1: to show its fault, never to train.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.data import DataLoader, Dataset

from geofm_lib.catalog.models import MODELS
from geofm_lib.distributed import sharding, training
from geofm_lib.jobs import throughput
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.jobs.throughput import CLASSES, WEIGHT_DECAY
from geofm_lib.model import vit
from geofm_lib.planning.reference import PAPER_STEPS
from geofm_lib.profiling import meters
from geofm_lib.profiling.step_timing import RATE
from geofm_lib.settings import FindingsSettings

GROUPS = (1, 2)  # ranks of a shard group; the ranks are replicas of such groups
PAIRS = [(strategy, precision) for precision in ("fp32", "bf16") for strategy in ("DDP", "NO_SHARD")]
WARMUP_STEPS = 1
SETTLED = 10  # steps of a window that do not count as steady
LOADERS = 2  # processes a rank that draw the paper's images


def run(settings: FindingsSettings, context, run: Folder) -> dict:
    """Gather the evidence; returns it under flat names, for `desk.evidence` to read."""
    parts = (start_up, precisions, replicas, parameter_counts)  # start-up first: what comes later finds torch warm
    found = {"device": meters.device_name(context.device), "torch": torch.__version__}
    for number, part in enumerate(parts, 1):
        run.log_metrics(step=number, total_steps=len(parts), phase=part.__name__.replace("_", " "))
        run.at(number)
        found |= part(settings, context)
    return found if context.is_main else {}


# ---------------------------------------------------------------- HYBRID_1GPU: are replicas synchronised?


def replicas(settings: FindingsSettings, context) -> dict:
    """How far replicas drift apart that train on different images: gradients of the first step, weights of the last.

    For shard groups of one and of two ranks, by FSDP1 as the paper's code calls it, and by our `sharding.apply`.
    """
    found = {"fsdp1": missing_fsdp1() or f"torch {torch.__version__}"}
    for group in GROUPS:
        shape = (context.world_size // group, group)
        mesh = init_device_mesh(context.device.type, shape, mesh_dim_names=("replicate", "shard"))
        name = f"HYBRID_{group}GPU" + "s" * (group > 1)
        network, where = throughput.network(settings), {"world_size": context.world_size, "device": context.device}
        kinds = {"ours": (sharding.apply(network, name, seed=settings.seed, **where), name)}
        if not missing_fsdp1():
            kinds["fsdp1"] = fsdp1(throughput.network(settings), mesh, context.device, settings.seed)
        for kind, (model, effective) in kinds.items():
            told = _drift(model, mesh, settings, context)
            found |= {f"{kind}_group_{group}_{what}": value for what, value in told.items()}
            found[f"{kind}_group_{group}_strategy"] = effective
    return found


def missing_fsdp1() -> str:
    """Why FSDP1 cannot be tried with this torch, in one sentence; empty where it can."""
    try:
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy  # noqa: F401
    except ImportError:
        return f"torch {torch.__version__} has no FSDP1 any more, so its fault cannot be shown here."
    return ""


def fsdp1(model: nn.Module, mesh: DeviceMesh, device: torch.device, seed: int) -> tuple[nn.Module, str]:
    """A model under FSDP1's HYBRID_SHARD over `mesh` (replicate x shard), and the strategy that torch made of it."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    block = type(sharding.stacks(model)[0][0])
    wrapped = FullyShardedDataParallel(
        vit.materialise(model, device, seed),
        device_mesh=mesh,
        sharding_strategy=ShardingStrategy.HYBRID_SHARD,
        auto_wrap_policy=ModuleWrapPolicy({block}),
        use_orig_params=True,
        device_id=device,  # without it FSDP1 refuses a CPU
    )
    return wrapped, wrapped.sharding_strategy.name


def _drift(model, mesh, settings, context) -> dict[str, float]:
    group = mesh.get_group("replicate")
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    found = {}
    for step, inputs in enumerate(_noise(settings, context, settings.steps)):
        model(*inputs).backward()
        if step == 0:
            gradients = _held(p.grad for p in model.parameters() if p.grad is not None)
            found["gradient_difference"] = _largest(context, _spread(gradients, group))
            found["largest_gradient"] = _largest(context, float(gradients.abs().max()))
        optimiser.step()
        optimiser.zero_grad()
    return found | {"weight_difference": _largest(context, _spread(_held(model.parameters()), group))}


def _held(tensors) -> torch.Tensor:
    """What this rank holds of them, as one row of numbers."""
    own = (t.to_local() if hasattr(t, "to_local") else t for t in tensors)
    return torch.cat([t.detach().flatten() for t in own])


def _spread(row: torch.Tensor, group) -> float:
    """The largest difference of a number between the ranks of `group`, which should all hold the same."""
    high, low = row.clone(), row.clone()
    dist.all_reduce(high, dist.ReduceOp.MAX, group)
    dist.all_reduce(low, dist.ReduceOp.MIN, group)
    return float((high - low).max())


def _largest(context, value: float) -> float:
    values = context.gather(value)
    return max(values) if values else value


def _noise(settings, context, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of images and labels on the device, others on each rank."""
    images = Noise(settings, context.rank, steps)
    for number in range(steps):
        yield tuple(each.to(context.device) for each in images[number])


class Noise(Dataset):
    """The benchmark's synthetic batches: normal noise [B, 3, H, W] and labels [B], a function of (seed, rank, k)."""

    def __init__(self, settings: FindingsSettings, rank: int, batches: int):
        self.settings, self.rank, self.batches = settings, rank, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked = self.settings
        generator = torch.Generator().manual_seed((asked.seed * 100_003 + self.rank) * 10_007 + k)
        images = torch.randn(asked.batch_per_gpu, 3, asked.image_size, asked.image_size, generator=generator)
        return images, torch.randint(0, CLASSES, (asked.batch_per_gpu,), generator=generator)


# ---------------------------------------------------------------- DDP in fp32 beside FSDP in bf16


def precisions(settings: FindingsSettings, context) -> dict:
    """Median step time (s, slowest rank) of the larger model under DDP and FSDP, in fp32 and in bf16, taken in turn."""
    larger = settings.model_copy(update={"model": settings.larger_model})
    trained = {}
    for strategy, precision in PAIRS:
        how = {"precision": precision, "activation_checkpointing": True, "seed": settings.seed}
        network = throughput.network(larger)
        model = sharding.apply(network, strategy, world_size=context.world_size, device=context.device, **how)
        trained[f"{strategy}_{precision}"] = model, training.optimiser(model, WEIGHT_DECAY)
    times = {name: [] for name in trained}
    for inputs in _noise(larger, context, WARMUP_STEPS + settings.steps):
        for name, (model, optimiser) in trained.items():
            dist.barrier()
            began = time.perf_counter()
            _step(model, optimiser, inputs)
            meters.synchronise(context.device)
            times[name].append(time.perf_counter() - began)
    own = context.gather(times)
    if not own:
        return {}
    slowest = {name: np.max([each[name] for each in own], axis=0)[WARMUP_STEPS:] for name in times}
    return {f"{name}_step_s": float(np.median(each)) for name, each in slowest.items()}


def _step(model, optimiser, inputs) -> None:
    training.step(model, optimiser, [lambda: model(*inputs)], parts=1, rate=RATE, clip=0.0)


# ---------------------------------------------------------------- start-up inside the window


def start_up(settings: FindingsSettings, context) -> dict:
    """images/s of a small and a larger model by the paper's method and when settled; the start-up in s.

    The paper's: PAPER_STEPS steps by wall clock from the start of a loader whose processes draw the images. Start-up is
    the time to the end of the first step, less a settled step; `window_over_steady` is what it leaves of the speed.
    """
    found, images = {}, settings.batch_per_gpu * context.world_size
    for size, name in (("small", settings.model), ("larger", settings.larger_model)):
        network = throughput.network(settings.model_copy(update={"model": name}))
        model = sharding.apply(network, "DDP", world_size=context.world_size, device=context.device, seed=settings.seed)
        own = context.gather(_window(model, training.optimiser(model, WEIGHT_DECAY), settings, context))
        if own:
            ends = np.max(own, axis=0)
            steady_s = float(np.median(np.diff(ends)[SETTLED:]))
            start_up_s = float(ends[0]) - steady_s
            found[f"{size}_steady_images_per_s"] = images / steady_s
            found[f"{size}_window_images_per_s"] = PAPER_STEPS * images / float(ends[-1])
            found[f"{size}_start_up_s"] = start_up_s
            found[f"{size}_window_over_steady"] = PAPER_STEPS * steady_s / (PAPER_STEPS * steady_s + start_up_s)
    return found


def _window(model, optimiser, settings, context) -> list[float]:
    """Seconds from the loader's start to the end of each step."""
    context.barrier()
    ends, began = [], time.perf_counter()
    fork = "fork" if sys.platform == "linux" else None
    noise = Noise(settings, context.rank, PAPER_STEPS)
    for inputs in DataLoader(noise, batch_size=None, num_workers=LOADERS, multiprocessing_context=fork):
        _step(model, optimiser, [each.to(context.device) for each in inputs])
        meters.synchronise(context.device)
        ends.append(time.perf_counter() - began)
    return ends


# ---------------------------------------------------------------- Table I


def parameter_counts(settings: FindingsSettings, context) -> dict:
    """Parameters of the paper's six models, counted in the networks themselves, which take no memory."""
    names = [row.name for row in MODELS.values() if row.published_params_M] if context.is_main else []
    built = {(family, name): vit.build(name, family, device="meta") for family in vit.FAMILIES for name in names}
    return {f"{family}_parameters_{name}": sum(p.numel() for p in model.parameters())
            for (family, name), model in built.items()}  # fmt: skip
