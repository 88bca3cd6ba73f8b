"""How a step is run and timed: what a plan, a prediction and a published row have in common; and how the paper did.

Sizes are in bytes. A GiB is 2**30 of them and never called GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.metrics import counted
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}  # one number, by the precision in which blocks compute or gradients are reduced
MASTER = BYTES["fp32"]  # weights, gradients and moments are fp32 in every strategy
WORKLOADS = {"mae": "MAE pretraining", "classify": "the paper's benchmark (all tokens)"}
WINDOWS = {"steady": "steady state, start-up not counted", "paper_30_steps": "30 steps with start-up"}
CHOICES = {
    "workload": tuple(WORKLOADS),
    "precision": tuple(BYTES),
    "reduce_dtype": tuple(BYTES),
    "window": tuple(WINDOWS),
}


@dataclass(frozen=True)
class Conditions:
    """How a step is run and timed; ValueError in one sentence for a value that is not possible."""

    workload: str = "mae"  # the encoder sees a quarter of the patches; or "classify", the paper's benchmark
    precision: str = "bf16"
    activation_checkpointing: bool = True
    synchronised: bool = True  # False leaves out the reduction over replicas, as FSDP1 did under HYBRID_1GPU
    window: str = "steady"  # or "paper_30_steps", with its start-up inside
    # Blocks gathered ahead in the backward pass; 0: each when it is needed. The forward pass has no such number: the
    # host runs ahead of the device, so the next block is gathered early anyway.
    backward_prefetch: int = 1
    reduce_dtype: str = "bf16"  # of gradients, as the paper did; where blocks compute in fp32 it is fp32 always
    fused_attention: bool = True  # False: scores are written and read, as before torch 2; counted where speeds ask

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"There is no {name} '{getattr(self, name)}'; use one of {', '.join(known)}.")
        for name in ("activation_checkpointing", "synchronised", "fused_attention"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; {getattr(self, name)!r} was given.")
        whole_number("backward_prefetch", self.backward_prefetch, least=0)

    @classmethod
    def of(cls, row: Mapping[str, Any], **more: Any) -> "Conditions":
        """Those that stand in a published row or in a run's settings; the others keep their defaults."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row} | more)

    def told(self, batch: int) -> str:
        """Workload, images per GPU and window in words, as they stand beside every number that rests on them."""
        return f"{WORKLOADS[self.workload]}, {counted(batch, 'image')} per GPU, {WINDOWS[self.window]}"

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number in the precision of blocks, and of the weights that are gathered for them."""
        return BYTES[self.precision]

    @property
    def reduce_bytes(self) -> int:
        """Bytes of one number of a gradient that is reduced."""
        return max(self.compute_bytes, BYTES[self.reduce_dtype])


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on; {value!r} was given.")


def gib(count: float) -> float:
    """Bytes in GiB."""
    return count / GIB


FRONTIER = MACHINES["frontier"]
NODES = (1, 2, 4, 8, 16, 32, 64, 128)
BATCH = 32  # images per GPU in every published figure
PAPER_STEPS = 30  # of the published window, start-up inside
IMAGES = DATASETS["millionaid"].unlabelled  # what the paper pretrains on
TABLE_I = {row.name: row.published_params_M for row in MODELS.values() if row.published_params_M}
"""The paper's models, and their parameters as printed, in millions."""

BENCHMARK = Conditions(workload="classify", window="paper_30_steps")
EXCEPTIONS: dict[str, dict[str, Any]] = {"DDP": {"precision": "fp32"}, "HYBRID_1GPU": {"synchronised": False}}
"""What sets the published rows of a strategy apart from the others."""
ALIKE = tuple(name for name in STRATEGIES if name not in EXCEPTIONS)
"""Strategies whose published numbers can be ranked: same precision, and gradients reduced over all ranks."""


def conditions(strategy: str) -> Conditions:
    """The conditions of the published throughput of a strategy."""
    return replace(BENCHMARK, **EXCEPTIONS.get(strategy, {}))


def nodes_of(strategy: str) -> list[int]:
    """Those of NODES whose GPUs divide into this strategy's shard groups."""
    group = STRATEGIES[strategy].shard_group or 1
    return [nodes for nodes in NODES if nodes * FRONTIER.devices_per_node % group == 0]
