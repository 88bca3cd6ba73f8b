"""What a measured step trains, timed steps of it, and the step breakdown.

Profiled steps are taken in turn with the same step under other conditions: so they see the same machine, whatever else
it does.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from geofm_lib.distributed import training
from geofm_lib.distributed.context import Context
from geofm_lib.model import mae, vit
from geofm_lib.profiling import meters, trace

# Of the paper's benchmark (section 5.3): its AdamW. Neither changes the speed.
RATE, WEIGHT_DECAY = 5e-4, 0.002
CLASSES = 1000  # of the paper's benchmark
DRAWN_RANKS, DRAWN_RANGES = 8, 300  # of a timeline: the first ranks, and about how many ranges of each
Inputs = tuple[torch.Tensor, ...]  # images; labels or masking noise; where measured, if not everywhere
Group = dist.ProcessGroup | None  # None: all ranks
Row = dict[str, float]  # step_s, forward_s, ... of one step


class Classifier(nn.Module):
    """The paper's all-token benchmark step: classify, cross-entropy. `vit.build(..., family="benchmark")` inside."""

    def __init__(self, network: vit.ViT):
        super().__init__()
        # fully_shard pads a first dimension to the group: [1, N, D] would grow as many times as there are ranks,
        # where those divide neither N nor D. That is 2.5 GiB for ViT-15B on 1,024. As a matrix they add just the same.
        network.pos_embed = nn.Parameter(network.pos_embed.detach()[0])
        self.network = network
        self.tokens = (network.num_prefix_tokens + network.patch_embed.num_patches,)

    def forward(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the batch, in fp32."""
        compute = next(self.network.parameters()).dtype  # bf16 inside fully_shard's or our own cast
        return F.cross_entropy(self.network(images_BCHW.to(compute)).float(), labels_B)


def build(workload: str, model: str, image_size: int, channels: int = 3, patch_size: int = 0) -> nn.Module:
    """The model with its loss, on the meta device: `model(images, masking noise)` of "mae", else `(images, labels)`.

    ``patch_size`` in pixels a side, 0 for the model's own.
    """
    if workload == "mae":
        return mae.build(model, image_size, channels, "meta", patch_size)
    return Classifier(vit.build(model, "benchmark", image_size, channels, "meta", patch_size, CLASSES))


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as in the paper's benchmark."""
    return training.optimiser(model, WEIGHT_DECAY)


def step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    inputs: Inputs,
    phases: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    group: Group = None,
) -> None:
    """One step of the benchmark: a single micro-batch, no clipping."""
    losses = [lambda: model(*inputs)]
    training.step(model, optimiser, losses, parts=1, rate=RATE, clip=0.0, phases=phases, group=group)


@dataclass
class Steps:
    """Steps of one model on one stream of inputs, each of which is timed."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    stream: Iterator[Inputs]
    device: torch.device
    group: Group = None

    def __post_init__(self) -> None:
        self.phases = meters.Phases(self.device)

    def take(self) -> Row:
        """One step, the device waited for at both ends: step_s, and seconds of each phase such as forward_s."""
        self.phases.take()
        with self.phases("step"):
            with self.phases("data"):
                inputs = next(self.stream)
            self.on(inputs)
        return {f"{name}_s": seconds for name, seconds in self.phases.take().items()}

    def on(self, inputs: Inputs) -> None:
        """One step on these inputs."""
        step(self.model, self.optimiser, inputs, self.phases, self.group)


def rounds(
    count: int, own: Steps, others: dict[str, Steps], context: Context, keep: Path | None, after: Callable[[int], None]
) -> tuple[list[trace.Profile], dict[str, list[Row]]]:
    """Profiles of `count` steps, and the rows of the `others` that are taken in turn with them.

    The first round is not counted: the profiler starts up, and another model meets its first step.

    Args:
        keep: a file for the trace of the last profiled step, None for none.
        after: called with the number of each round that is over.
    """
    profiles: list[trace.Profile] = []
    rows: dict[str, list[Row]] = {name: [] for name in others}
    for number in range(count + 1):
        context.barrier()  # reading the profile before took each rank another time
        profiles.append(trace.profiled(own.take, keep))
        for name, steps in others.items():
            context.barrier()
            rows[name].append(steps.take())
        after(number)
    return profiles[1:], {name: each[1:] for name, each in rows.items()}


def usual(rows: list[Row]) -> Row:
    """Means over the middle half of the steps, by their length: robust like a median, and parts still add up.

    Beside them step_low_s and step_high_s, the shortest and the longest step of that half.
    """
    ordered = sorted(rows, key=lambda row: row["step_s"])
    middle = ordered[len(rows) // 4 : len(rows) - len(rows) // 4]
    found = {name: float(np.mean([row[name] for row in middle])) for name in rows[0]}
    return found | {"step_low_s": middle[0]["step_s"], "step_high_s": middle[-1]["step_s"]}


def timeline(profiles: list[trace.Profile], context: Context) -> list[dict[str, Any]]:
    """Rows of timeline.csv on rank 0, [] elsewhere: of the first ranks, the step that took rank 0 the median time.

    start_s counts from the first rank's beginning, by the clocks of their nodes.
    """
    order = np.argsort([each.seconds["step"] for each in profiles])
    drawn = profiles[context.broadcast(int(order[len(order) // 2]))]
    own = trace.ranges(drawn, DRAWN_RANGES) if context.rank < DRAWN_RANKS else []
    gathered = context.gather([trace.step_of(drawn.events).start, own])
    first = min((began for began, _ in gathered), default=0.0)
    return [
        {"rank": rank, "lane": lane, "name": name, "start_s": began - first + start, "duration_s": duration}
        for rank, (began, ranges) in enumerate(gathered)
        for lane, name, start, duration in ranges
    ]
