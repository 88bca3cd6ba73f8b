"""Job: MAE pretraining by the libraries that one would use instead, and by ours, on this machine.

Each implementation is a process of its own. They take their steps in turn: in a round everyone takes one, while the
others wait. So a machine that changes its speed changes it for all, and ratios are of steps of the same rounds.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from geofm_lib import files
from geofm_lib.catalog.peers import CONFIGS, FAST, MASK_RATIO, OURS, PEERS, ours
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import pace
from geofm_lib.jobs.peers_process import Asked, started
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model.interop import peers
from geofm_lib.planning.flops import training_flops
from geofm_lib.profiling import meters
from geofm_lib.profiling.devices import matmul_peak
from geofm_lib.settings import PeersSettings
from geofm_lib.settings.peers import listed

PEAK_S = 0.5  # of matrix products
DRAWS = 10_000  # of the bootstrap over rounds
EQUAL = 1e-4  # relative, of losses in fp32 of the same weights, images and masks
PROFILED = (f"{OURS}: all off", OURS)
RATIO = ("ratio_to_best_peer", "low", "high")
Row = dict[str, Any]


def run(settings: PeersSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Measure every cell; writes peers.csv, rounds.csv and profile.csv, returns the conditions."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = {name: version(name) for name in PEERS if peers.installed(name)}
    cells = [Cell(settings, context, config, precision, list(here)) for config, precision in settings.cells()]
    tables: dict[str, list[Row]] = {"peers": [], "rounds": [], "profile": []}
    speed, done, rounds = pace.Pace(), 0, settings.warmup_steps + settings.steps
    for cell in cells:
        for number, took in enumerate(cell.rounds()):
            done += 1
            speed.took(1, sum(took.values()))
            run.at(done)
            run.log_metrics(
                step=done,
                total_steps=rounds * len(cells),
                phase=f"{cell.config} {cell.precision}{'' if number >= settings.warmup_steps else ', warm-up'}",
                **{f"{name}_s": round(seconds, 4) for name, seconds in took.items()},
                seconds_left=speed.left(rounds * len(cells) - done),
            )
        for name, rows in cell.tables().items():
            tables[name] += [{"config": cell.config, "precision": cell.precision, **row} for row in rows]
            if rows:
                files.write_csv(run.path / f"{name}.csv", list(tables[name][0]), tables[name])
    return {
        "device": meters.device_name(context.device),
        "device_type": context.device.type,
        "torch": torch.__version__,
        "versions": here,
        "left_out": [name for name in PEERS if name not in here],
        "threads": torch.get_num_threads(),
        "warmup_steps": settings.warmup_steps,
        "measured_steps": settings.steps,
    }


class Cell:
    """One config in one precision: rounds of steps, then what they came to."""

    def __init__(self, settings: PeersSettings, context: Context, config: str, precision: str, here: list[str]):
        self.settings, self.config, self.precision, self.here = settings, config, precision, here
        self.device = context.device
        told = config, precision, str(context.device), settings.threads, settings.seed
        named: dict[str, dict[str, Any]] = {name: {} for name in here} | ours(config in listed(settings.stages))
        self.asked = {name: Asked(name, how, *told) for name, how in named.items()}
        self.taken: dict[str, list[dict[str, float]]] = {name: [] for name in self.asked}
        self.kernels: dict[str, str] = {}
        self.memory: dict[str, float] = {}
        self.profiles: list[Row] = []
        self.peak = 0.0  # TFLOP/s of a matrix product

    def rounds(self) -> Iterator[dict[str, float]]:
        """Seconds of each implementation's step, round by round, warm-up first."""
        self.peak = matmul_peak(self.precision, self.device, PEAK_S)
        with ExitStack() as stack:
            waiting = {name: stack.enter_context(started(each)) for name, each in self.asked.items()}
            processes = {name: process.ready() for name, process in waiting.items()}
            self.kernels = {name: process.ask("build") for name, process in processes.items()}
            names = list(processes)
            for number in range(self.settings.warmup_steps + self.settings.steps):
                first = number % len(names)  # another begins each time
                for name in names[first:] + names[:first]:
                    self.taken[name].append(processes[name].ask("step"))
                yield {name: steps[-1]["step_s"] for name, steps in self.taken.items()}
            self.memory = {name: process.ask("memory") for name, process in processes.items()}
            for name in filter(processes.__contains__, PROFILED):
                self.profiles += [{"implementation": name, **row} for row in processes[name].ask("profile")]

    def tables(self) -> dict[str, list[Row]]:
        """Rows of peers.csv, rounds.csv and profile.csv; ValueError where losses in fp32 are not equal."""
        losses = {name: steps[0]["loss"] for name, steps in self.taken.items()}
        if self.precision == "fp32":
            must_be_equal(losses, self.config)
        counted = {name: steps[self.settings.warmup_steps :] for name, steps in self.taken.items()}
        seconds = {name: [step["step_s"] for step in steps] for name, steps in counted.items()}
        rows = compared(seconds, self.config, self.peak, self.here)
        more: dict[str, dict[str, Any]] = {"peak_memory_gib": self.memory, "loss": losses, "kernels": self.kernels}
        rows = [row | {column: found[row["implementation"]] for column, found in more.items()} for row in rows]
        each = [(name, k, s) for name, steps in seconds.items() for k, s in enumerate(steps, 1)]
        rounds = [{"implementation": name, "round": k, "step_s": s} for name, k, s in each]
        return {"peers": rows, "rounds": rounds, "profile": self.profiles}


def compared(seconds: dict[str, list[float]], config: str, peak: float, others: list[str]) -> list[Row]:
    """A row an implementation: images/s of its median step, its ratio to the best peer, TFLOP/s and share of the peak.

    The best peer is the one of `others` with the shortest median step. low and high hold 95 % of the ratios of medians
    over rounds drawn with replacement, the same rounds for both. Without others the three are None.
    """
    best = min(others, key=lambda name: float(np.median(seconds[name])), default=None)
    rounds = len(next(iter(seconds.values())))
    draws = np.random.default_rng(0).integers(0, rounds, (DRAWS, rounds))
    found = []
    for name, own in seconds.items():
        row = CONFIGS[config].under("fast" if name == FAST else "standard")
        flops = training_flops(
            row.model, image_size=row.image_size, patch_size=row.patch_size, decoder=row.decoder, mask_ratio=MASK_RATIO
        )
        images = row.batch / float(np.median(own))
        ratio: tuple[float | None, ...] = (None, None, None)
        if best:
            drawn = [np.median(np.array(each)[draws], axis=1) for each in (seconds[best], own)]
            low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
            ratio = float(np.median(seconds[best]) / np.median(own)), float(low), float(high)
        tflops = flops * images / 1e12
        found.append(
            {
                "implementation": name,
                "images_per_s": images,
                **dict(zip(RATIO, ratio, strict=True)),
                "model_tflops": tflops,
                "mfu_of_measured_peak": tflops / peak,
                "matmul_tflops": peak,
            }
        )
    return found


def must_be_equal(losses: dict[str, float], config: str) -> None:
    """ValueError where an implementation's first loss in fp32 is not that of ours: then it trains something else.

    The recipe with a smaller decoder is another model, and has a loss of its own.
    """
    for name, loss in losses.items():
        if name == FAST:
            continue
        away = abs(loss / losses[OURS] - 1)
        if not away <= EQUAL:
            raise ValueError(f"{name} begins with a loss of {loss:.7g} on '{config}' in fp32, where {OURS} has "
                             f"{losses[OURS]:.7g}: {away:.1g} apart, more than {EQUAL:g}, so they do not train the "
                             "same; this version of it is not supported.")  # fmt: skip
