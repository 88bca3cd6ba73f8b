"""Sizes in bytes. A GiB is 2**30 of them and never called GB."""

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}  # one number, by the precision in which blocks compute and gradients are reduced
MASTER = BYTES["fp32"]  # weights, gradients and moments are fp32 in every strategy


def gib(count: float) -> float:
    """Bytes in GiB."""
    return count / GIB
