"""Bytes that one rank sends in a training step, by collective."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from geofm_lib.catalog.models import Model
from geofm_lib.catalog.strategies import lookup, resolve
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.sizes import MASTER
from geofm_lib.planning.stacks import STACKS
from geofm_lib.planning.weights import units

BUCKET = 25 * 2**20  # bytes of fp32 gradients that DDP reduces at once: torch's default bucket_cap_mb


@dataclass(frozen=True)
class Traffic:
    """One kind of collective in one optimiser step, for one rank."""

    group: int  # how many ranks take part
    calls: int
    payload: int  # bytes of the whole tensors that are gathered or reduced, as ``ranks.csv`` counts them
    sent: int  # bytes this rank sends, by ring algorithms


def step_traffic(
    model: str | Model,
    strategy: str,
    world: int,
    how: Conditions,
    micro_batches: int = 1,
    stack: str = "fsdp2",
    **size: Any,
) -> dict[str, Traffic]:
    """``all_gather``, ``reduce_scatter`` and ``all_reduce`` of a step, zero where a strategy does not use them.

    Weights are gathered for each micro-batch, twice when they are dropped after the forward pass. Gradients are
    reduced once a step: over the shard group, then over the replicas. ``size`` as in ``weights.describe``.
    """
    row = lookup(strategy)
    replicas, shard = resolve(row, world)
    compute, padded = how.compute_bytes, STACKS[stack].padded
    found = units(model, how.workload, **size)
    zero = Traffic(1, 0, 0, 0)
    traffic = {"all_gather": zero, "reduce_scatter": zero, "all_reduce": zero}
    if row.ddp:
        trained = sum(unit.count(trainable=True) for unit in found)
        return traffic | {"all_reduce": _ring(world, ceil(trained * MASTER / BUCKET), compute * trained, 2)}
    if shard > 1:
        times = micro_batches * (2 if row.reshard_after_forward else 1)
        whole = compute * sum(unit.gathered(shard, padded) for unit in found)
        traffic["all_gather"] = _ring(shard, times * len(found), times * whole, 1)
        traffic["reduce_scatter"] = _ring(shard, len(found), whole, 1)
    if replicas > 1:
        piece = compute * sum(unit.shard(shard, trainable=True) for unit in found)
        traffic["all_reduce"] = _ring(replicas, len(found), piece, 2)
    return traffic


def _ring(group: int, calls: int, payload: int, passes: int) -> Traffic:
    """``passes`` turns round the ring: one to gather or to reduce and scatter, two for an all-reduce."""
    return Traffic(group, calls, payload, round(passes * payload * (group - 1) / group))
