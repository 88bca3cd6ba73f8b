"""The conditions of a step, in one record: what a plan, a prediction and a published row have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from geofm_lib.planning.sizes import BYTES

WINDOWS = ("steady", "paper_30_steps")
CHOICES = {"workload": ("mae", "classify"), "precision": tuple(BYTES), "window": WINDOWS}
YES_NO = ("activation_checkpointing", "synchronised")


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

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"There is no {name} '{getattr(self, name)}'; use one of {', '.join(known)}.")
        for name in YES_NO:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; {getattr(self, name)!r} was given.")
        whole_number("backward_prefetch", self.backward_prefetch, least=0)

    @classmethod
    def of(cls, row: Mapping[str, Any], **more: Any) -> "Conditions":
        """Those that stand in a published row or in a run's settings; the others keep their defaults."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row} | more)

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number in the precision of blocks and reductions."""
        return BYTES[self.precision]


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on; {value!r} was given.")
