"""The conditions of a step, in one record: what a plan, a prediction and a published row have in common."""

from dataclasses import dataclass

BYTES = {"fp32": 4, "bf16": 2}  # of the precision in which blocks compute and gradients are reduced
WINDOWS = ("steady", "paper_30_steps")
CHOICES = {"workload": ("mae", "classify"), "precision": tuple(BYTES), "window": WINDOWS}
YES_NO = ("activation_checkpointing", "synchronised")


@dataclass(frozen=True)
class Conditions:
    """How a step is run and timed; ValueError in one sentence for what cannot be meant.

    Args:
        workload: ``mae`` (the encoder sees a quarter of the patches) or ``classify`` (the paper's benchmark).
        synchronised: False leaves out the reduction over replicas, as FSDP1 did under HYBRID_1GPU.
        window: ``steady``, or ``paper_30_steps`` with its start-up inside.
        backward_prefetch: blocks gathered ahead in the backward pass; 0: each when it is needed. (Ahead of the forward
            pass nothing has to be asked for: the host runs ahead of the device and gathers the next block by itself.)
    """

    workload: str = "mae"
    precision: str = "bf16"
    activation_checkpointing: bool = True
    synchronised: bool = True
    window: str = "steady"
    backward_prefetch: int = 1

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"There is no {name} '{getattr(self, name)}'; use one of {', '.join(known)}.")
        for name in YES_NO:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; {getattr(self, name)!r} was given.")
        whole_number("backward_prefetch", self.backward_prefetch, least=0)

    def of_memory(self) -> dict:
        """Those that ``costs.memory`` depends on."""
        names = ("workload", "precision", "activation_checkpointing", "backward_prefetch")
        return {name: getattr(self, name) for name in names}


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on; {value!r} was given.")
