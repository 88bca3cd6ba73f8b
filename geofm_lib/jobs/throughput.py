"""Job: steady-state step time, memory and communication of one model, strategy and size.

Two windows are kept side by side. `steady`: the median step after warm-up, of the slowest rank, the device waited
for at both ends. `paper_30_steps`: 30 steps by wall clock from the first batch on, start-up inside, as published.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import torch

from geofm_lib import files
from geofm_lib.catalog import machines
from geofm_lib.data import loader, sampler
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import apart, mask_noise, normalise
from geofm_lib.distributed import sharding
from geofm_lib.distributed.context import Context, fake_group
from geofm_lib.jobs import kernels, pace
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.planning.conditions import PAPER_STEPS, gib
from geofm_lib.planning.flops import training_flops
from geofm_lib.profiling import meters, step_timing
from geofm_lib.profiling.devices import matmul_peak
from geofm_lib.profiling.memory_tracker import MemoryTracker, moments
from geofm_lib.profiling.power import Power
from geofm_lib.profiling.step_timing import Group, Inputs, Row, Steps, usual
from geofm_lib.settings import ThroughputSettings

PEAK_S = 0.3  # of matrix products, on all ranks at once
PHASES = ("data", "forward", "backward", "optimiser")
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce")
COMPARED = ("real", "synthetic", "no_communication")
# [B, C, S, S], which images they are, and where they were measured as [B, 1, S, S] if that is not everywhere
Images = Iterator[tuple[torch.Tensor, Sequence[int], torch.Tensor | None]]


def run(settings: ThroughputSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Warm up, measure, break the step down; returns the headline numbers with the conditions they hold under."""
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    reads = settings.input == "real" or settings.compare
    shards = Shards(settings.data, split="train", keep_bytes=0) if reads else None
    if shards:  # too few of them are refused before anything is measured
        sampler.steps_per_epoch(len(shards), settings.batch_per_gpu * context.world_size)
    channels = shards.channels if shards else 3
    images = _inputs(settings, context, channels, shards if settings.input == "real" else None)
    steps = _steps(settings, context, run, channels, images)
    context.barrier()
    start_up_s = time.perf_counter() - began
    peak = matmul_peak(settings.precision, context.device, PEAK_S)
    context.barrier()
    own = _window(settings, context, run, steps) | {"matmul_tflops": peak} | _memory(steps, not settings.compile)
    if settings.profile_steps:
        own |= _breakdown(settings, context, run, steps, shards)
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    table = context.gather({"rank": context.rank, "host": host} | own)
    if not table:
        return {}
    files.write_csv(run.path / "ranks.csv", table[0], table)
    device = meters.device_name(context.device)
    return {"start_up_s": start_up_s} | _headline(settings, table, channels, device)


def _steps(
    settings: ThroughputSettings,
    context: Context,
    run: Folder,
    channels: int,
    stream: Iterator[Inputs],
    group: Group = None,
) -> Steps:
    """Steps of a new model on these inputs; `group`: what it talks through, None for all ranks."""
    network = step_timing.build(settings.workload, settings.model, settings.image_size, channels, settings.patch())
    kernels.choose(network, settings, settings.batch_per_gpu, context, run)
    model = sharding.apply_settings(network, settings, context, group)
    return Steps(model, step_timing.optimiser(model), stream, context.device, group)


def _inputs(settings: ThroughputSettings, context: Context, channels: int, shards: Shards | None) -> Iterator[Inputs]:
    """Endless (images, labels or masking noise) on the device; without shards the images are synthetic."""
    batch, side, device = settings.batch_per_gpu, settings.image_size, context.device
    if shards:
        images = _real(settings, context, shards)
    else:  # normal noise drawn once on the device: no loader in the measurement
        generator = torch.Generator(device).manual_seed(settings.seed + context.rank)
        noise = torch.randn((batch, channels, side, side), generator=generator, device=device)
        images = repeat((noise, range(context.rank * batch, (context.rank + 1) * batch), None))
    for number, (pixels, indices, valid) in enumerate(images):
        if settings.workload == "mae":
            second = mask_noise(settings.seed, number, indices, (side // settings.patch()) ** 2)
        else:
            second, valid = torch.as_tensor([i % step_timing.CLASSES for i in indices]), None
        yield (pixels, second.to(device)) if valid is None else (pixels, second.to(device), valid)


def _real(settings: ThroughputSettings, context: Context, shards: Shards) -> Images:
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
        pixels, valid = apart(images.to(context.device, non_blocking=True), shards.masked)
        yield normalise(pixels, shards.mean, shards.std), indices.tolist(), valid


def _window(settings: ThroughputSettings, context: Context, run: Folder, steps: Steps) -> dict[str, Any]:
    """Warm-up and steady window: median seconds, those of PAPER_STEPS steps, bytes of the first step, power."""
    began, total = time.perf_counter(), settings.warmup_steps + settings.steps
    sent, paper_s, speed = meters.CollectiveBytes(), None, pace.Pace()
    rows: list[Row] = []
    for number in range(1, total + 1):
        warm = number > settings.warmup_steps
        if number == settings.warmup_steps + 1:
            power = Power(context.device)
        with sent if number == 1 else nullcontext():
            rows.append(steps.take())
        step_s = rows[-1]["step_s"]
        speed.took(1, step_s)
        run.at(number)
        if number == PAPER_STEPS:
            paper_s = time.perf_counter() - began
        run.log_metrics(
            step=number,
            **rows[-1],
            images_per_s=settings.batch_per_gpu * context.world_size / step_s,
            total_steps=total,
            phase="steady window" if warm else "warm-up",
            seconds_left=speed.left(total - number),
        )
        if warm:
            power.sample()
    steady = rows[settings.warmup_steps :]
    return {
        "step_s": _median(steady, "step_s"),
        "mean_step_s": _mean(steady, "step_s"),
        **{name: value for name, value in usual(steady).items() if name in ("step_low_s", "step_high_s")},
        "first_step_s": rows[0]["step_s"],
        **{f"{name}_s": _median(steady, f"{name}_s") for name in PHASES},
        **{f"{name}_bytes": sent.bytes.get(name, 0) for name in COLLECTIVES},
        **{f"{name}_calls": sent.calls.get(name, 0) for name in COLLECTIVES},
        "paper_window_s": paper_s,
        **power.mean(),
    }


def _memory(steps: Steps, tracked: bool) -> dict[str, float]:
    """GiB: the peak so far, what is kept from step to step, and, if `tracked`, every kind at the peak of one more step.

    Tracked are tensors only: not torch's own memory, nor what its allocator or DDP's reducer keep beside them.
    """
    weights = list(steps.model.parameters())
    found = {
        "peak_memory_gib": meters.peak_memory_gib(steps.device),
        "parameters_gib": gib(sharding.local_bytes(weights)),
        # freed after each step; as large as what is trained
        "gradients_gib": gib(sharding.local_bytes([weight for weight in weights if weight.requires_grad])),
        "optimiser_gib": gib(sharding.local_bytes(moments(steps.optimiser))),
    }
    if tracked:
        inputs = next(steps.stream)
        with MemoryTracker() as tracker:
            memory = tracker.of_step(lambda: steps.on(inputs), steps.model, steps.optimiser, inputs)
        found |= {f"tracked_{kind}_gib": gib(size) for kind, size in memory.at_peak.items()}
        found["tracked_peak_gib"] = gib(memory.peak)
    return found


def _breakdown(
    settings: ThroughputSettings, context: Context, run: Folder, steps: Steps, shards: Shards | None
) -> dict[str, float]:
    """What is usual for this rank's profiled steps, and for those with other images or without communication."""
    others = _compared(settings, context, run, steps, shards) if settings.compare and shards else {}
    # With loader processes in a row of its own: in turn with other steps they would have time to read ahead.
    real = others.pop("real", None) if settings.workers else None
    window = settings.warmup_steps + settings.steps

    def after(number: int) -> None:
        run.at(window + number + 1)
        run.log_metrics(step=window + number + 1, total_steps=window + settings.profile_steps + 1, phase="profiled")

    keep = run.path / f"trace-{context.rank}.json" if settings.trace else None
    profiles, taken = step_timing.rounds(settings.profile_steps, steps, others, context, keep, after)
    drawn = step_timing.timeline(profiles, context)
    if drawn:
        files.write_csv(run.path / "timeline.csv", drawn[0], drawn)
    if real:
        taken["real"] = [real.take() for _ in range(settings.warmup_steps + settings.profile_steps)]
        del taken["real"][: settings.warmup_steps]
    taken["profiled"] = [{f"{name}_s": value for name, value in each.seconds.items()} for each in profiles]
    return {f"{kind}_{name}": value for kind, rows in taken.items() for name, value in usual(rows).items()}


def _compared(
    settings: ThroughputSettings, context: Context, run: Folder, steps: Steps, shards: Shards
) -> dict[str, Steps]:
    """COMPARED: the same step with real and with synthetic images, and the latter of a model that sends nothing."""
    channels = shards.channels
    found = {
        "real": replace(steps, stream=_inputs(settings, context, channels, shards)),
        "synthetic": replace(steps, stream=_inputs(settings, context, channels, None)),
    }
    found[settings.input] = steps
    alone = _steps(settings, context, run, channels, found["synthetic"].stream, fake_group())
    return found | {"no_communication": alone}


def _headline(settings: ThroughputSettings, table: list[dict[str, Any]], channels: int, device: str) -> dict[str, Any]:
    images = settings.batch_per_gpu * len(table)
    slowest = max(row["step_s"] for row in table)
    paper_s = max((row["paper_window_s"] for row in table if row["paper_window_s"]), default=None)
    size: dict[str, Any] = {"image_size": settings.image_size, "patch_size": settings.patch(), "channels": channels}
    flops = training_flops(settings.model, settings.workload, **size)  # the model's own, without recomputation
    tflops = flops * settings.batch_per_gpu / slowest / 1e12
    peak = min(row["matmul_tflops"] for row in table)
    compared = [name for name in COMPARED if f"{name}_step_s" in table[0]]
    widest = ("peak_memory_gib", "parameters_gib", "gradients_gib", "optimiser_gib")
    return {
        "window": "steady",
        "warmup_steps": settings.warmup_steps,
        "measured_steps": settings.steps,
        "step_s": slowest,
        "mean_step_s": _mean(table, "mean_step_s"),
        "images_per_s": images / slowest,
        "paper_30_steps_images_per_s": PAPER_STEPS * images / paper_s if paper_s else None,
        "global_batch": images,
        "model_tflops_per_rank": tflops,
        "matmul_tflops": peak,
        "mfu_of_measured_peak": tflops / peak,
        **datasheet_mfu(tflops, device, settings.precision),
        "synchronised": settings.communication == "on",
        **{name: max(row[name] for row in table) for name in table[0] if name in widest or name.startswith("tracked_")},
        **{f"{name}_bytes": table[0][f"{name}_bytes"] for name in COLLECTIVES},
        **{name: _mean(table, name) for name in table[0] if name.startswith("profiled_")},
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


def _watts(table: list[dict[str, Any]]) -> float | None:
    """Of all GPUs, or of the packages of all nodes, of which every rank there says the same."""
    if any(row["power_w"] is None for row in table):
        return None
    nodes = {row["host"] if "RAPL" in row["power_source"] else row["rank"]: row["power_w"] for row in table}
    return sum(nodes.values())


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float:
    return float(np.mean([row[column] for row in rows]))


def _median(rows: Sequence[dict[str, Any]], column: str) -> float:
    return float(np.median([row[column] for row in rows]))
