"""Job: steady-state step time, memory and communication of one model, strategy and size.

Two windows are kept side by side. `steady`: the median step after warm-up, of the slowest rank, the device waited
for at both ends. `paper_30_steps`: 30 steps by wall clock from the first batch on, start-up inside, as published
(paper.md, finding 4).
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib.data import loader
from geofm_lib.data.images import mask_noise, normalise
from geofm_lib.data.shards import Shards, write_csv
from geofm_lib.distributed import meters, sharding, training
from geofm_lib.jobs.folder import Folder
from geofm_lib.model import mae, vit
from geofm_lib.planning import costs
from geofm_lib.settings import ThroughputSettings

CLASSES = 1000  # of the paper's benchmark
RATE, WEIGHT_DECAY = 5e-4, 0.002  # its AdamW (paper.md, section 5.3); they do not change the speed
PAPER_STEPS = 30
PHASES = ("data", "forward", "backward", "optimiser")


class Classifier(nn.Module):
    """The paper's all-token benchmark step: classify, cross-entropy. `vit.build(..., family="benchmark")` inside."""

    def __init__(self, network: nn.Module):
        super().__init__()
        # fully_shard pads a first dimension to the group: [1, N, D] would grow as many times as there are ranks
        # where they divide neither N nor D (2.5 GiB for ViT-15B on 1,024). As a matrix they add just the same.
        network.pos_embed = nn.Parameter(network.pos_embed.detach()[0])
        self.network = network

    def init_weights(self, seed: int | None = None) -> None:
        """Sets every weight; works on sharded parameters."""
        vit.initialise(self, seed)

    def forward(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the batch, in fp32."""
        compute = next(self.network.parameters()).dtype  # bf16 inside fully_shard's or our own cast
        return F.cross_entropy(self.network(images_BCHW.to(compute)).float(), labels_B)


def run(settings: ThroughputSettings, ranks, run: Folder) -> dict:
    """Warm up, measure; returns the headline numbers with the conditions they hold under."""
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    shards = Shards(settings.data, split="train", keep_bytes=0) if settings.input == "real" else None
    channels = shards.channels if shards else 3
    model = sharding.apply_settings(network(settings, channels), settings, ranks)
    optimiser = training.optimiser(model, WEIGHT_DECAY)
    phases = meters.Phases(ranks.device)
    stream = _batches(settings, ranks, shards)
    ranks.barrier()
    counted, rows = None, []
    loop = time.perf_counter()
    paper_s = None
    for step in range(settings.warmup_steps + settings.steps):
        meters.synchronise(ranks.device)
        start = time.perf_counter()
        with phases("data"):
            inputs = next(stream)
        with meters.CollectiveBytes() if step == 0 else nullcontext() as counter:
            training.step(
                model, optimiser, [lambda inputs=inputs: model(*inputs)], parts=1, rate=RATE, clip=0.0, phases=phases
            )
        meters.synchronise(ranks.device)
        now = time.perf_counter()
        run.at(step + 1)
        counted = counter if step == 0 else counted
        if step + 1 == PAPER_STEPS:
            paper_s = now - loop
        row = {"step": step + 1, "step_s": now - start, **{f"{n}_s": s for n, s in phases.take().items()}}
        rows.append(row)
        left = settings.warmup_steps + settings.steps - step - 1
        speed = settings.batch_per_gpu * ranks.world / row["step_s"]
        phase = "warm-up" if step < settings.warmup_steps else "steady window"
        total = settings.warmup_steps + settings.steps
        run.log_metrics(**row, total_steps=total, images_per_s=speed, phase=phase, seconds_left=left * row["step_s"])
    table = ranks.gather(_own(settings, ranks, model, optimiser, rows, counted, paper_s))
    if not ranks.is_main:
        return {}
    write_csv(run.path / "ranks.csv", table[0], table)
    return _headline(settings, ranks, table, loop - began, channels)


def network(settings, channels: int = 3) -> nn.Module:
    """The model with its loss, on the meta device: `model(images, labels or masking noise)`."""
    if settings.workload == "mae":
        return mae.build(settings.model, settings.image_size, channels, "meta", settings.patch())
    size = (settings.image_size, channels, "meta", settings.patch(), CLASSES)
    return Classifier(vit.build(settings.model, "benchmark", *size))


def _batches(settings: ThroughputSettings, ranks, shards: Shards | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (images, labels or masking noise) on the device, from the data set or drawn."""
    patches = (settings.image_size // settings.patch()) ** 2
    images = _real(settings, ranks, shards) if shards else _synthetic(settings, ranks)
    for number, (pixels, indices) in enumerate(images):
        pixels = pixels.to(ranks.device, non_blocking=True)
        if settings.workload == "mae":
            second = mask_noise(settings.seed, number, indices, patches)
        else:
            second = torch.as_tensor([int(i) % CLASSES for i in indices])
        yield pixels, second.to(ranks.device)


def _synthetic(settings, ranks):
    """Normal noise drawn once on the device: no loader in the measurement."""
    generator = torch.Generator(ranks.device).manual_seed(settings.seed + ranks.rank)
    shape = (settings.batch_per_gpu, 3, settings.image_size, settings.image_size)
    pixels = torch.randn(shape, generator=generator, device=ranks.device)
    while True:
        yield pixels, range(ranks.rank * settings.batch_per_gpu, (ranks.rank + 1) * settings.batch_per_gpu)


def _real(settings, ranks, shards):
    """The train side through the real loader, read from files every epoch as a large set would be."""
    steps = loader.stream(
        shards,
        seed=settings.seed,
        global_batch=settings.batch_per_gpu * ranks.world,
        epochs=10**9,
        image_size=settings.image_size,
        rank=ranks.rank,
        world=ranks.world,
        workers=settings.workers,
        pin=ranks.device.type == "cuda",
    )
    for _, _, [(images, indices)] in steps:
        yield normalise(images.to(ranks.device, non_blocking=True), shards.mean, shards.std), indices.tolist()


def _own(settings, ranks, model, optimiser, rows, counted, paper_s) -> dict:
    """This rank's row of ranks.csv."""
    steady = rows[settings.warmup_steps :]
    held = [value for state in optimiser.state.values() for value in state.values() if torch.is_tensor(value)]
    trained = [p for p in model.parameters() if p.requires_grad]
    medians = {f"{n}_s": float(np.median([row[f"{n}_s"] for row in steady])) for n in PHASES}
    return {
        "rank": ranks.rank,
        "step_s": float(np.median([row["step_s"] for row in steady])),
        "mean_step_s": float(np.mean([row["step_s"] for row in steady])),
        "first_step_s": rows[0]["step_s"],
        **medians,
        "paper_window_s": paper_s,
        "peak_memory_gib": meters.peak_memory_gib(ranks.device),
        "parameters_gib": sharding.local_bytes(model.parameters()) / meters.GIB,
        "gradients_gib": sharding.local_bytes(trained)
        / meters.GIB,  # freed after each step; as large as what is trained
        "optimiser_gib": sharding.local_bytes(held) / meters.GIB,
        **{f"{name}_bytes": counted.bytes.get(name, 0) for name in ("all_gather", "reduce_scatter", "all_reduce")},
        **{f"{name}_calls": counted.calls.get(name, 0) for name in ("all_gather", "reduce_scatter", "all_reduce")},
    }


def _headline(settings, ranks, table: list[dict], start_up_s: float, channels: int) -> dict:
    images = settings.batch_per_gpu * ranks.world
    slowest = max(row["step_s"] for row in table)
    paper_s = max((row["paper_window_s"] for row in table if row["paper_window_s"]), default=None)
    size = {"image_size": settings.image_size, "patch_size": settings.patch(), "channels": channels}
    flops = costs.training_flops(settings.model, settings.workload, **size)  # the model's own, without recomputation
    predicted = costs.memory(
        settings.model,
        settings.strategy,
        ranks.world,
        settings.batch_per_gpu,
        settings.workload,
        settings.precision,
        settings.activation_checkpointing,
        **size,
    )
    return {
        "window": "steady",
        "warmup_steps": settings.warmup_steps,
        "measured_steps": settings.steps,
        "step_s": slowest,
        "mean_step_s": float(np.mean([row["mean_step_s"] for row in table])),
        "images_per_s": images / slowest,
        "paper_30_steps_images_per_s": PAPER_STEPS * images / paper_s if paper_s else None,
        "start_up_s": start_up_s,
        "global_batch": images,
        "model_tflops_per_rank": flops * settings.batch_per_gpu / slowest / 1e12,
        "peak_memory_gib": max(row["peak_memory_gib"] for row in table),
        **{f"predicted_{name}_gib": costs.gib(value) for name, value in vars(predicted).items()},
        "predicted_total_gib": costs.gib(predicted.peak),
        "synchronised": settings.communication == "on",
        **{f"{n}_gib": max(row[f"{n}_gib"] for row in table) for n in ("parameters", "gradients", "optimiser")},
        **{n: table[0][n] for n in ("all_gather_bytes", "reduce_scatter_bytes", "all_reduce_bytes")},
    }
