"""Steps of a throughput run, and what is found out about them beside the window that counts.

After the window come rounds: a profiled step and, in turn with it, the same step with other images or without
communication. Taken in turn they see the same machine, whatever else it does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from geofm_lib.distributed import training
from geofm_lib.profiling import meters, trace
from geofm_lib.profiling.memory_tracker import Holdings

RATE = 5e-4  # of the paper's benchmark (paper.md, section 5.3); it does not change the speed
DRAWN_RANKS, DRAWN_RANGES = 8, 300  # of a timeline: the first ranks, and about how many ranges of each
Inputs = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Steps:
    """Steps of one model on one stream of (images, labels or masking noise)."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    stream: Iterator[Inputs]
    device: torch.device
    group: dist.ProcessGroup | None = None  # None: all ranks

    def __post_init__(self):
        self.phases = meters.Phases(self.device)

    def take(self) -> dict[str, float]:
        """One step, the device waited for at both ends: step_s, and seconds of each phase such as forward_s."""
        self.phases.take()
        meters.synchronise(self.device)
        with self.phases("step"):
            with self.phases("data"):
                inputs = next(self.stream)
            self.on(inputs)
        return {f"{name}_s": seconds for name, seconds in self.phases.take().items()}

    def on(self, inputs: Inputs) -> None:
        """One step on these images."""
        how = {"parts": 1, "rate": RATE, "clip": 0.0, "phases": self.phases, "group": self.group}
        training.step(self.model, self.optimiser, [lambda: self.model(*inputs)], **how)


def rounds(
    count: int, own: Steps, others: dict[str, Steps], context, keep: Path | None, said: Callable[[int], None]
) -> tuple[list[trace.Profile], dict[str, list[dict[str, float]]]]:
    """Profiles of `count` steps, and the rows of the `others` that are taken in turn with them.

    The first round is not counted: the profiler starts up, and another model meets its first step.
    """
    profiles, rows = [], {name: [] for name in others}
    for number in range(count + 1):
        context.barrier()  # reading the profile before took each rank another time
        profiles.append(trace.profiled(own.take, keep))
        for name, steps in others.items():
            context.barrier()
            rows[name].append(steps.take())
        said(number)
    return profiles[1:], {name: each[1:] for name, each in rows.items()}


def timeline(profiles: list[trace.Profile], context) -> list[dict]:
    """Rows of timeline.csv on rank 0, [] elsewhere: of the first ranks, the step that took rank 0 the median time.

    start_s counts from the first rank's beginning, by the clocks of their nodes.
    """
    order = np.argsort([each.seconds["step"] for each in profiles])
    drawn = profiles[context.broadcast(int(order[len(order) // 2]))]
    began = next(event.start for event in drawn.events if event.kind == "step")
    own = trace.ranges(drawn, DRAWN_RANGES) if context.rank < DRAWN_RANKS else []
    told = context.gather([began, own]) or []
    first = min((start for start, _ in told), default=0.0)
    return [
        {"rank": rank, "lane": lane, "name": name, "start_s": began - first + start, "duration_s": duration}
        for rank, (began, rows) in enumerate(told)
        for lane, name, start, duration in rows
    ]


def held(steps: Steps) -> dict[str, int]:
    """Bytes of each of `holdings.KINDS` at the fullest moment of one more step, and `peak`, their sum.

    Tensors only: not torch's own memory, nor what its allocator or DDP's reducer keep beside them.
    """
    optimiser, inputs = steps.optimiser, next(steps.stream)
    with Holdings() as holdings:
        known = {"parameters": holdings.follow(steps.model.parameters()), "inputs": holdings.follow(inputs)}
        moments = [v for state in optimiser.state.values() for v in state.values() if torch.is_tensor(v)]
        known["optimiser"] = holdings.follow(moments)
        holdings.forget_peak()

        def reduced(*_):
            known["gradients"] = holdings.follow(p.grad for p in steps.model.parameters() if p.grad is not None)

        watch = optimiser.register_step_pre_hook(reduced)
        steps.on(inputs)
        watch.remove()
        return {**holdings.by_kind(**known), "peak": holdings.peak}
