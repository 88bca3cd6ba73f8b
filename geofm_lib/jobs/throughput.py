"""Job: steady-state step time, memory and communication of one model, strategy and size.

Two windows are kept side by side. `steady`: the median step after warm-up, of the slowest rank, the device waited
for at both ends. `paper_30_steps`: 30 steps by wall clock from the first batch on, start-up inside, as published
(paper.md, finding 4).
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib.catalog import machines
from geofm_lib.data import loader, sampler
from geofm_lib.data.shards import Shards, write_csv
from geofm_lib.data.transforms import mask_noise, normalise
from geofm_lib.distributed import devices, sharding, training
from geofm_lib.distributed.context import fake_group
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import mae, vit
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.reference import PAPER_STEPS
from geofm_lib.profiling import meters, step_timing
from geofm_lib.profiling.power import Power
from geofm_lib.profiling.step_timing import Steps
from geofm_lib.settings import ThroughputSettings

CLASSES = 1000  # of the paper's benchmark
WEIGHT_DECAY = 0.002  # of its AdamW (paper.md, section 5.3); it does not change the speed
PEAK_S = 0.3  # of matrix products, on all ranks at once
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


def run(settings: ThroughputSettings, context, run: Folder) -> dict:
    """Warm up, measure, take the step apart; returns the headline numbers with the conditions they hold under."""
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    reads = settings.input == "real" or settings.compare
    shards = Shards(settings.data, split="train", keep_bytes=0) if reads else None
    if shards:  # too few of them are told before anything is measured
        sampler.steps_per_epoch(len(shards), settings.batch_per_gpu * context.world_size)
    channels = shards.channels if shards else 3
    model = sharding.apply_settings(network(settings, channels), settings, context)
    optimiser = training.optimiser(model, WEIGHT_DECAY)
    steps = Steps(model, optimiser, _batches(settings, context, settings.input, shards), context.device)
    context.barrier()
    start_up_s = time.perf_counter() - began
    tflops = devices.matmul_peak(devices.PRECISIONS[settings.precision], context.device.type, PEAK_S)
    context.barrier()
    loop = time.perf_counter()
    rows, counted, paper_s, power = _window(settings, context, run, steps, loop)
    own = _own(settings, context, steps, rows, counted) | {"paper_window_s": paper_s, "matmul_tflops": tflops} | power
    if not settings.compile:  # what is compiled holds other tensors than what is watched
        own |= {f"tracked_{name}_gib": size / meters.GIB for name, size in step_timing.held(steps).items()}
    if settings.profile_steps:
        own |= _apart(settings, context, run, steps, shards)
    table = context.gather(own)
    if not context.is_main:
        return {}
    write_csv(run.path / "ranks.csv", table[0], table)
    return _headline(settings, context, table, start_up_s, channels)


def _window(
    settings, context, run: Folder, steps: Steps, loop: float
) -> tuple[list[dict], meters.CollectiveBytes, ...]:
    """Warm-up and steady window: rows of all steps, the bytes of the first, seconds of PAPER_STEPS, power."""
    total = settings.warmup_steps + settings.steps
    rows, counted, paper_s = [], None, None
    for step in range(total):
        if step == settings.warmup_steps:
            power = Power(context.device)
        with meters.CollectiveBytes() if step == 0 else nullcontext() as counter:
            row = {"step": step + 1, **steps.take()}
        counted = counter if step == 0 else counted
        rows.append(row)
        run.at(step + 1)
        if step + 1 == PAPER_STEPS:
            paper_s = time.perf_counter() - loop
        left = total - step - 1
        phase = "warm-up" if step < settings.warmup_steps else "steady window"
        images_per_s = settings.batch_per_gpu * context.world_size / row["step_s"]
        more = {"total_steps": total, "phase": phase, "seconds_left": left * row["step_s"]}
        run.log_metrics(**row, images_per_s=images_per_s, **more)
        if step >= settings.warmup_steps:
            power.sample()
    return rows, counted, paper_s, power.told()


def _apart(settings, context, run: Folder, steps: Steps, shards: Shards | None) -> dict:
    """What is usual for this rank's profiled steps, and for those with other images or without communication."""
    others = _variants(settings, context, steps, shards) if settings.compare else {}
    # With loader processes in a row of its own: in turn with other steps they would have time to read ahead.
    real = others.pop("real", None) if settings.workers else None
    window = settings.warmup_steps + settings.steps

    def said(number):
        run.at(window + number + 1)
        run.log_metrics(step=window + number + 1, total_steps=window + settings.profile_steps + 1, phase="profiled")

    trace = run.path / f"trace-{context.rank}.json" if settings.trace else None
    profiles, taken = step_timing.rounds(settings.profile_steps, steps, others, context, trace, said)
    rows = step_timing.timeline(profiles, context)
    if rows:
        write_csv(run.path / "timeline.csv", rows[0], rows)
    if real:
        row = [real.take() for _ in range(settings.profile_steps + settings.warmup_steps)]
        taken["real"] = row[settings.warmup_steps :]
    taken["profiled"] = [{f"{name}_s": value for name, value in each.seconds.items()} for each in profiles]
    return {f"{name}_{key}": value for name, rows in taken.items() for key, value in _usual(rows).items()}


def _variants(settings, context, steps: Steps, shards: Shards) -> dict[str, Steps]:
    """The same step with `real` and with `synthetic` images, and on these of a second model that sends nothing."""
    streams = {name: _batches(settings, context, name, shards) for name in ("real", "synthetic")}
    streams[settings.input] = steps.stream
    found = {name: Steps(steps.model, steps.optimiser, stream, context.device) for name, stream in streams.items()}
    group = fake_group()
    model = sharding.apply_settings(network(settings, shards.channels), settings, context, group)
    optimiser = training.optimiser(model, WEIGHT_DECAY)
    return found | {"no_communication": Steps(model, optimiser, streams["synthetic"], context.device, group)}


def network(settings, channels: int = 3) -> nn.Module:
    """The model with its loss, on the meta device: `model(images, labels or masking noise)`."""
    if settings.workload == "mae":
        return mae.build(settings.model, settings.image_size, channels, "meta", settings.patch())
    size = (settings.image_size, channels, "meta", settings.patch(), CLASSES)
    return Classifier(vit.build(settings.model, "benchmark", *size))


def _batches(settings: ThroughputSettings, context, kind: str, shards: Shards | None) -> Iterator[step_timing.Inputs]:
    """Endless (images, labels or masking noise) on the device, `real` from the data set or `synthetic`."""
    patches = (settings.image_size // settings.patch()) ** 2
    channels = shards.channels if shards else 3
    images = _real(settings, context, shards) if kind == "real" else _synthetic(settings, context, channels)
    for number, (pixels, indices) in enumerate(images):
        pixels = pixels.to(context.device, non_blocking=True)
        if settings.workload == "mae":
            second = mask_noise(settings.seed, number, indices, patches)
        else:
            second = torch.as_tensor([int(i) % CLASSES for i in indices])
        yield pixels, second.to(context.device)


def _synthetic(settings, context, channels):
    """Normal noise drawn once on the device: no loader in the measurement."""
    generator = torch.Generator(context.device).manual_seed(settings.seed + context.rank)
    shape = (settings.batch_per_gpu, channels, settings.image_size, settings.image_size)
    pixels = torch.randn(shape, generator=generator, device=context.device)
    while True:
        yield pixels, range(context.rank * settings.batch_per_gpu, (context.rank + 1) * settings.batch_per_gpu)


def _real(settings, context, shards):
    """The train side through the real loader, read from files every epoch as a large set would be."""
    steps = loader.stream(
        shards,
        seed=settings.seed,
        global_batch=settings.batch_per_gpu * context.world_size,
        epochs=10**9,
        image_size=settings.image_size,
        rank=context.rank,
        world=context.world_size,
        workers=settings.workers,
        pin=context.device.type == "cuda",
    )
    for _, _, [(images, indices)] in steps:
        yield normalise(images.to(context.device, non_blocking=True), shards.mean, shards.std), indices.tolist()


def _own(settings, context, steps: Steps, rows, counted) -> dict:
    """This rank's row of ranks.csv: the window, what is held between steps, and what is sent in one."""
    steady = rows[settings.warmup_steps :]
    held = [value for state in steps.optimiser.state.values() for value in state.values() if torch.is_tensor(value)]
    trained = [p for p in steps.model.parameters() if p.requires_grad]
    medians = {f"{n}_s": _median(row[f"{n}_s"] for row in steady) for n in PHASES}
    return {
        "rank": context.rank,
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "step_s": _median(row["step_s"] for row in steady),
        "mean_step_s": float(np.mean([row["step_s"] for row in steady])),
        "first_step_s": rows[0]["step_s"],
        **medians,
        "peak_memory_gib": meters.peak_memory_gib(context.device),
        "parameters_gib": sharding.local_bytes(steps.model.parameters()) / meters.GIB,
        # freed after each step; as large as what is trained
        "gradients_gib": sharding.local_bytes(trained) / meters.GIB,
        "optimiser_gib": sharding.local_bytes(held) / meters.GIB,
        **{f"{name}_bytes": counted.bytes.get(name, 0) for name in ("all_gather", "reduce_scatter", "all_reduce")},
        **{f"{name}_calls": counted.calls.get(name, 0) for name in ("all_gather", "reduce_scatter", "all_reduce")},
    }


def _headline(settings, context, table: list[dict], start_up_s: float, channels: int) -> dict:
    images = settings.batch_per_gpu * context.world_size
    slowest = max(row["step_s"] for row in table)
    paper_s = max((row["paper_window_s"] for row in table if row["paper_window_s"]), default=None)
    size = {"image_size": settings.image_size, "patch_size": settings.patch(), "channels": channels}
    flops = training_flops(settings.model, settings.workload, **size)  # the model's own, without recomputation
    compared = [name for name in ("real", "synthetic", "no_communication") if f"{name}_step_s" in table[0]]
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
        "model_tflops_per_rank": (tflops := flops * settings.batch_per_gpu / slowest / 1e12),
        "matmul_tflops": (peak := min(row["matmul_tflops"] for row in table)),
        "mfu_of_measured_peak": tflops / peak,
        **datasheet_mfu(tflops, meters.device_name(context.device), settings.precision),
        "peak_memory_gib": max(row["peak_memory_gib"] for row in table),
        "synchronised": settings.communication == "on",
        **{f"{n}_gib": max(row[f"{n}_gib"] for row in table) for n in ("parameters", "gradients", "optimiser")},
        **{n: table[0][n] for n in ("all_gather_bytes", "reduce_scatter_bytes", "all_reduce_bytes")},
        **{name: max(row[name] for row in table) for name in table[0] if name.startswith("tracked_")},
        **{name: float(np.mean([row[name] for row in table])) for name in table[0] if name.startswith("profiled_")},
        **{f"{name}_images_per_s": images / max(row[f"{name}_step_s"] for row in table) for name in compared},
        "power_w": _watts(table),
        "power_source": table[0]["power_source"],
        "busy_percent": min((row["busy_percent"] for row in table if row["busy_percent"] is not None), default=None),
    }


def datasheet_mfu(tflops: float, device: str, precision: str) -> dict[str, float]:
    """MFU of the peak in the maker's data sheet, as a column; none for a device that no row of catalog/machines has.

    ``tflops``: a rank's TFLOP/s, counting the model's own operations alone (no recomputation).
    """
    machine = machines.of_device(device)
    peak = getattr(machine, f"peak_{precision}_tflops") if machine else None
    return {"mfu_of_datasheet_peak": tflops / peak} if peak else {}


def _watts(table: list[dict]) -> float | None:
    """Of all GPUs, or of the packages of all nodes, of which every rank there tells the same."""
    if any(row["power_w"] is None for row in table):
        return None
    nodes = {row["host"] if "RAPL" in row["power_source"] else row["rank"]: row["power_w"] for row in table}
    return sum(nodes.values())


def _usual(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over the middle half of the steps, by their length: robust like a median, and parts still add up."""
    ordered = sorted(rows, key=lambda row: row["step_s"])
    middle = ordered[len(rows) // 4 : len(rows) - len(rows) // 4]
    return {name: float(np.mean([row[name] for row in middle])) for name in rows[0]}


def _median(values) -> float:
    return float(np.median(list(values)))
