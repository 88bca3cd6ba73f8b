"""Bytes that one rank holds in a training step, by kind, in steady state under AdamW."""

from dataclasses import dataclass
from typing import Any

from geofm_lib.catalog.models import Model
from geofm_lib.catalog.strategies import lookup, resolve
from geofm_lib.planning.activations import activations
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.sizes import MASTER
from geofm_lib.planning.stacks import DDP, STACKS, Moment
from geofm_lib.planning.weights import describe, units

ADAMW = 8  # bytes: two fp32 moments per trainable parameter


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank (the fullest), by kind: the fp32 shard whole, then what the fullest moment adds.

    That moment is in the backward pass, when gradients come and activations go.
    """

    parameters: int
    gradients: int
    optimiser: int
    gradients_by_then: int  # shards of blocks already done
    activations: int  # what the forward pass kept
    block: int  # on top for the block at work: its recomputation, and gradients of its activations
    unsharded: int  # gathered weights, and gradients on their way to the reduction
    other: int  # of the libraries

    @property
    def peak(self) -> int:
        """What is held at the fullest moment."""
        return sum(vars(self).values()) - self.gradients


def rank_memory(
    model: str | Model,
    strategy: str,
    world: int,
    batch: int,
    how: Conditions,
    accumulate: bool = False,
    stack: str = "fsdp2",
    **size: Any,
) -> Memory:
    """What one rank of ``world`` holds, with ``batch`` images at once; ``size`` as in ``weights.describe``.

    ``accumulate``: several micro-batches a step, so that gradients exist from the first. ``stack``: ``fsdp2``, which
    this project uses, or ``fsdp1``, which the paper did. Not counted: the device's context, buffers of the
    communication library, fragmentation.
    """
    row, stacked = lookup(strategy), STACKS[stack]
    replicas, shard = resolve(row, world)
    library = DDP if row.ddp else stacked
    found = units(model, how.workload, **size)
    whole = [how.compute_bytes * unit.gathered(shard, stacked.padded) for unit in found]
    trained = [MASTER * unit.shard(shard, trainable=True) for unit in found]
    s = describe(model, how.workload, **size)
    kept, needed = activations(s, batch, how.compute_bytes, how.activation_checkpointing)
    last = len(found) - 2  # the block where the backward pass begins; the root comes after all blocks
    moments = []
    for at in range(last, -1, -1):
        by_then = 0 if accumulate else sum(trained[at + 1 : last + 1])
        now = Moment(at, last, whole, trained, replicas, shard, row.reshard_after_forward, how.compute_bytes,
                     how.activation_checkpointing, how.backward_prefetch)  # fmt: skip
        moments.append((by_then, sum(kept[: at + 1]) + kept[-1], needed[at], round(library.in_flight(now))))
    by_then, activated, block, unsharded = max(moments, key=sum)
    return Memory(
        parameters=MASTER * sum(unit.shard(shard) for unit in found) + (sum(trained) if accumulate else 0),
        gradients=0 if accumulate else sum(trained),
        optimiser=ADAMW * sum(trained) // MASTER,
        gradients_by_then=by_then,
        activations=activated,
        block=block,
        unsharded=unsharded,
        other=stacked.libraries,
    )
