"""The time of one training step: what it asks for (bytes, operations, messages) over what the machine gives.

``demand`` is arithmetic and knows no machine's speed; ``seconds`` divides it by a machine's row and its ``Speeds``:

    step = compute + update + exposed communication (+ start-up / 30 in the paper's window)

* compute: operations over peak x share, the share achieved growing with the blocks' width; never less than the
  host needs to launch the blocks. A calibrated machine has one share at any width, and beside it the bytes that
  norms, activations and attention move (``activation_share``): narrow blocks are slower by those.
* update: bytes of weights, gradients and moments that AdamW and the casts move, over the memory's bandwidth.
* communication: each kind of collective is calls x latency + bytes over the slowest link that its group crosses.
  Rings pass on through every rank of a group, all-reduces across nodes climb a tree. A node's network is shared by
  all groups that cross it. It gives less the more nodes take part and the more rings meet on its cards (contention).
* exposed: what does not fit beside the compute, and a share of the rest (``overlap``). FSDP1 hid a single group's
  gathers almost wholly, and less where shard groups and replicas take turns. With ``backward_prefetch`` 0 a gather
  waits behind the reduction of the block before, and less of it is hidden (``overlap_late``). More than one block
  ahead hides no more than one.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log2, sqrt
from typing import Any

from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.models import Model
from geofm_lib.catalog.speeds import Known, Speeds, along
from geofm_lib.catalog.strategies import lookup, resolve
from geofm_lib.planning.conditions import MASTER, PAPER_STEPS, Conditions
from geofm_lib.planning.flops import flops_by_width
from geofm_lib.planning.memory import STACKS, moved_bytes
from geofm_lib.planning.weights import describe, units

ADAMW_BYTES = 28  # per number: reads weight, gradient and two moments, writes weight and moments, all fp32
CAST_BYTES = 18  # per number: two casts of the weight to bf16, one of the gradient back (DDP: its buckets' copies)
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
    padded = STACKS[stack].padded
    found = units(model, how.workload, **size)
    traffic = dict.fromkeys(("all_gather", "reduce_scatter", "all_reduce"), Traffic(1, 0, 0, 0))
    if world == 1:  # it needs no wrapper
        return traffic
    if row.ddp:
        trained = sum(unit.count(trainable=True) for unit in found)
        return traffic | {"all_reduce": _ring(world, ceil(trained * MASTER / BUCKET), how.reduce_bytes * trained, 2)}
    if shard > 1:
        times = micro_batches * (2 if row.reshard_after_forward else 1)
        whole = sum(unit.gathered(shard, padded) for unit in found)
        traffic["all_gather"] = _ring(shard, times * len(found), times * how.compute_bytes * whole, 1)
        traffic["reduce_scatter"] = _ring(shard, len(found), how.reduce_bytes * whole, 1)
    if replicas > 1:
        piece = how.reduce_bytes * sum(unit.shard(shard, trainable=True) for unit in found)
        traffic["all_reduce"] = _ring(replicas, len(found), piece, 2)
    return traffic


def _ring(group: int, calls: int, payload: int, passes: int) -> Traffic:
    """``passes`` turns round the ring: one to gather or to reduce and scatter, two for an all-reduce."""
    return Traffic(group, calls, payload, round(passes * payload * (group - 1) / group))


@dataclass(frozen=True)
class Transfer:
    """One kind of collective of a step, for one rank. ``crossing`` groups share a node's network; 0 stays inside."""

    kind: str
    calls: int
    sent: float  # bytes
    group: int
    nodes: int  # from the first to the last of the group
    extent: int  # ranks from the first to the last of the group
    crossing: int
    alone: bool  # has one rank on a node
    late: bool = False  # asked for when it is needed, not before


@dataclass(frozen=True)
class Demand:
    """What one step asks of one rank."""

    how: Conditions
    flops: tuple[tuple[float, float], ...]  # (equivalent width, operations)
    blocks: int
    update_bytes: int
    transfers: tuple[Transfer, ...]
    grouped: bool  # ranks are split into shard groups and replicas, as in all but FULL_SHARD and SHARD_GRAD_OP
    moved_bytes: float = 0.0  # by what is no matrix product: a time of its own where a machine has `activation_share`


@dataclass(frozen=True)
class Step:
    """Seconds of one step. ``communication`` is all of it, ``exposed`` the part that lengthens the step."""

    compute: float
    update: float
    communication: float
    exposed: float
    start_up: float

    @property
    def total(self) -> float:
        return self.compute + self.update + self.exposed + self.start_up


@lru_cache(maxsize=4096)
def demand(
    model: str | Model, strategy: str, world: int, per_node: int, batch: int, how: Conditions, **size: Any
) -> Demand:
    """What a step of ``batch`` images per rank asks for; ValueError when the strategy does not divide ``world``.

    ``synchronised=False`` leaves out the reduction over the replicas, as FSDP1 did with a shard group of one.
    ``size`` as in ``weights.describe``.
    """
    row = lookup(strategy)
    replicas, shard = resolve(row, world)
    found = units(model, how.workload, **size)
    # Unpadded, as FSDP1 sent it in the figures behind the speeds. FSDP2 pads each weight to the group. That is up to
    # 3 % more on 256 ranks. On 1,024 it is 2 % for ViT-15B, 6 to 9 % for ViT-3B and 5B, 18 to 31 % for smaller ones.
    traffic = step_traffic(model, strategy, world, how, stack="fsdp1", **size)
    transfers = []
    for kind, each in traffic.items():
        over_replicas = kind == "all_reduce"
        if each.group == 1 or (over_replicas and not how.synchronised):
            continue
        extent = world if over_replicas else shard
        apart = shard if over_replicas else 1  # ranks between neighbours of a group
        nodes = ceil(extent / per_node)
        crossing = min(apart, per_node) if nodes > 1 else 0
        where = (each.group, nodes, extent, crossing, apart >= per_node)
        if kind == "all_gather" and row.reshard_after_forward and how.backward_prefetch == 0:
            half = (kind, each.calls // 2, each.sent / 2, *where)  # once for each pass
            transfers += [Transfer(*half), Transfer(*half, late=True)]
        else:
            transfers.append(Transfer(kind, each.calls, each.sent, *where))
    parts = flops_by_width(model, how.workload, **size)
    work = tuple((width, batch * part.step(how.activation_checkpointing)) for width, part in parts)
    update = (ADAMW_BYTES + CAST_BYTES) * sum(unit.shard(shard, trainable=True) for unit in found)
    moved = batch * moved_bytes(describe(model, how.workload, **size), how)
    return Demand(how, work, len(found) - 1, update, tuple(transfers), row.shard_group is not None, moved)


def seconds(asked: Demand, machine: Machine, speeds: Speeds) -> Step:
    """The seconds of a step on a machine."""
    value = speeds.value
    peak = 1e12 * {"bf16": machine.peak_bf16_tflops, "fp32": machine.peak_fp32_tflops}[asked.how.precision]
    curve = speeds.curve[f"share_{asked.how.precision}"]
    compute = sum(operations / (peak * along(curve, width)) for width, operations in asked.flops)
    if "activation_share" in value:
        compute += asked.moved_bytes / (1e9 * machine.memory_gb_s * value["activation_share"])
    compute = max(compute, asked.blocks * value["block_launch_s"])
    update = asked.update_bytes / (1e9 * machine.memory_gb_s * value["memory_share"])
    taken = [(each.late, _collective(each, machine, value)) for each in asked.transfers]
    late = sum(each for is_late, each in taken if is_late)
    ahead = sum(each for is_late, each in taken if not is_late)
    hidden = value["overlap_grouped" if asked.grouped else "overlap"] * min(ahead, compute)
    if late:
        hidden += value["overlap_late"] * min(late, compute - min(ahead, compute))
    start_up = value["start_up_s"] / PAPER_STEPS if asked.how.window == "paper_30_steps" else 0.0
    return Step(compute, update, ahead + late, ahead + late - hidden, start_up)


def spread(asked: Demand, machine: Machine, step: Step, known: Known) -> float:
    """Standard deviation of log(total): what each error of the numbers behind it would move, and a run's own.

    Of a fitted machine each independent error is known, with the numbers that it moves together (``Known.moved``). Of
    others the parts have spreads of their own, weighed by what they add to the step; that of the compute is the spread
    of the achieved share at the width that does most of the work.
    """
    run, spreads = known.values.value["run"], known.spreads
    if known.moved:
        by = (max(abs(log(seconds(asked, machine, each).total / step.total)) for each in ways) for ways in known.moved)
        return sqrt(run**2 + sum(each**2 for each in by))
    width = max(asked.flops, key=lambda each: each[1])[0]
    points = spreads.curve[f"share_{asked.how.precision}"]
    own = [spreads.value[name] for name in ("memory_share", "group_share", "start_up_s")]
    spreads_of = (along(points, max(width, points[0][0])), *own)
    parts = zip((step.compute, step.update, step.exposed, step.start_up), spreads_of, strict=True)
    return sqrt(run**2 + sum((part / step.total * each) ** 2 for part, each in parts))


def _collective(each: Transfer, machine: Machine, value: dict[str, float]) -> float:
    if each.crossing:
        if machine.network_gb_s is None:
            raise ValueError(f"The machine '{machine.name}' cannot be planned for: its network_gb_s is not known.")
        # A group of several ranks per node goes through all its network cards, so the rings of such groups meet there.
        # In a group with one rank per node, each rank has the card of its own GPU.
        rings = 1 if each.alone else each.crossing
        alone = value["group_share"] / rings
        shared = value["network_share"] / each.crossing
        contention = 1 + rings * (each.nodes / value["contention_nodes"]) ** 2
        rate = 1e9 * machine.network_gb_s * min(alone, shared) / contention
        hop = value["hop_s"]
    else:
        rate = 1e9 * machine.links_gb_s[min(k for k in machine.links_gb_s if k >= each.extent)] * value["link_share"]
        hop = value["link_hop_s"]
    tree = each.kind == "all_reduce" and each.crossing
    hops = 2 * log2(min(each.nodes, each.group)) if tree else (each.group - 1) * (2 if each.kind == "all_reduce" else 1)
    return each.calls * hops * hop + each.sent / rate
