"""What a training step costs, by arithmetic: parameters, operations, memory held, bytes sent.

Everything follows from the shapes of the weights in ``planning/weights``. A ``workload`` is ``mae`` (family
``pretrain`` with its decoder) or ``classify`` (family ``benchmark`` with 1000 classes, the paper's all-token
benchmark).

>>> parameters("ViT-Base", "classify")
87028840
>>> round(training_flops("ViT-Base", "classify", activation_checkpointing=True) * 32 / 1e12, 3)
4.534

Conventions: one multiply-add is two operations; norms, activations and softmax are not counted (as in torch's
own counter). Bytes are bytes; GiB is 2**30 of them, never called GB. Memory is one rank's, in steady state.
"""

from dataclasses import dataclass
from math import ceil, sqrt

from geofm_lib.catalog.models import Model
from geofm_lib.catalog.strategies import Strategy, resolve
from geofm_lib.catalog.strategies import lookup as strategy_named
from geofm_lib.planning.conditions import BYTES
from geofm_lib.planning.weights import WORKLOADS, Shape, Unit, describe, parameters, units

__all__ = ["WORKLOADS", "communication", "describe", "flops", "gib", "memory", "parameters", "training_flops", "units"]

GIB = 2**30
MASTER = 4  # weights, gradients and optimiser are fp32 in every strategy
ADAMW = 8  # two fp32 moments per trainable parameter


def gib(count: float) -> float:
    """Bytes in GiB."""
    return count / GIB


# --- operations -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flops:
    """Operations for one image. ``recomputed`` is what activation checkpointing adds to a training step."""

    forward: int
    backward: int
    recomputed: int

    def step(self, activation_checkpointing: bool = False) -> int:
        return self.forward + self.backward + (self.recomputed if activation_checkpointing else 0)

    @property
    def model(self) -> int:
        """What a step needs whatever the method: three times the forward pass. The usual base of utilisation."""
        return 3 * self.forward


def flops(model: str | Model, workload: str = "mae", **size) -> Flops:
    """Operations per image, as torch's counter sees them.

    A product costs its forward pass again for each of the two gradients; the attention's backward pass costs 2.5
    times its forward, since fused kernels compute the scores again. No gradient flows into the images. A
    checkpointed plain block stops recomputing before its last product, whose output no gradient needs; the
    benchmark's block needs it for the norm that follows.
    """
    parts = [part for _, part in flops_by_width(model, workload, **size)]
    return Flops(*(sum(getattr(part, name) for part in parts) for name in ("forward", "backward", "recomputed")))


def flops_by_width(model: str | Model, workload: str = "mae", **size) -> list[tuple[float, Flops]]:
    """``flops`` by the equivalent width of the blocks that do them: the encoder's (with all that is outside blocks)
    and, for MAE, the decoder's.

    The equivalent width is that of a plain block (12 width^2 weights) with as many weights, so that ViT-5B's
    narrow blocks with their large MLPs count as what they are: as large as ViT-3B's.
    """
    s = describe(model, workload, **size)
    row, width = s.row, s.row.width
    gated = workload == "classify"
    patch = 2 * s.visible * s.patch_numbers * width
    # The benchmark's norm before the projection is trained, so a gradient does flow through the projection.
    forward, backward, recomputed = patch, (2 if gated else 1) * patch, 0
    hidden = row.gated_mlp_dim if gated else row.mlp_dim
    stacks = [(row.depth, width, hidden, s.visible + 1)]
    outside = 2 * width * s.classes
    if s.decoder:
        narrow, depth, _ = s.decoder
        stacks.append((depth, narrow, 4 * narrow, s.patches + 1))
        outside += 2 * (s.visible + 1) * width * narrow + 2 * s.hidden * narrow * s.patch_numbers
    forward, backward = forward + outside, backward + 2 * outside
    found = []
    for depth, wide, mlp, tokens in stacks:
        last = 2 * tokens * mlp * wide
        weights = 4 * wide * wide + (3 if gated else 2) * mlp * wide
        products = 2 * tokens * weights
        attention = 4 * tokens * tokens * wide
        forward += depth * (products + attention)
        backward += depth * (2 * products + attention * 5 // 2)
        recomputed += depth * (products + attention - (0 if gated else last))
        found.append((sqrt(weights / 12), Flops(forward, backward, recomputed)))
        forward = backward = recomputed = 0
    return found


def training_flops(model: str | Model, workload: str = "mae", activation_checkpointing: bool = False, **size) -> int:
    """Operations of one training step for one image."""
    return flops(model, workload, **size).step(activation_checkpointing)


# --- memory -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank (the fullest), by kind.

    parameters, gradients, optimiser: this rank's fp32 shard, whole. The others are what is held at the fullest
    moment of the backward pass: gradients_by_then (shards of blocks already done), activations (what the forward
    pass kept), block (what the block at work needs on top: its recomputation and gradients of its activations),
    unsharded (gathered weights, gradients on their way to the reduction) and other (libraries, see ``STACKS``).
    """

    parameters: int
    gradients: int
    optimiser: int
    gradients_by_then: int
    activations: int
    block: int
    unsharded: int
    other: int

    @property
    def peak(self) -> int:
        """What is held at the fullest moment."""
        return sum(vars(self).values()) - self.gradients

    @property
    def total(self) -> int:
        """The sum with all gradients there: an upper bound of the peak, reached when they are kept between steps."""
        return sum(vars(self).values()) - self.gradients_by_then

    def in_gib(self) -> dict[str, float]:
        return {name: gib(value) for name, value in vars(self).items()} | {"peak": gib(self.peak)}


@dataclass(frozen=True)
class Stack:
    """What a sharding library has in flight, in blocks (of gathered weights, or of gradients not yet reduced).

    weights: of the block at work, and gathered ahead or not yet given back. first, most: gradients, where the
    backward pass begins and, ``ramp`` blocks later (None: at its end), at most. shards: reduced fp32 gradients on
    their way. reduced: what replicas reduce is kept in bf16 to the end (in fp32 it is the gradient). copies: of all
    weights and gradients, for shard groups of one. libraries: bytes taken from torch's allocator.
    """

    weights: float
    first: float
    most: float
    ramp: int | None
    shards: float
    reduced: bool
    copies: int
    padded: bool
    libraries: int


STACKS = {
    # fully_shard of torch 2.14: this block's weights and the buffer of the next one's; gradients of this block's
    # last product, and the block before's on their way. Read in its source; jobs/simulate checks it.
    "fsdp2": Stack(
        weights=2.0, first=0.28, most=1.28, ramp=1, shards=0, reduced=True, copies=0, padded=True, libraries=0
    ),
    # FSDP1 as published, of 2023 on ROCm. A block that Python has freed stays active until the stream that used it
    # gets there, and the host runs ahead, more and more: published peak active is 7 to 9 blocks above published max
    # allocated for HYBRID_kGPUs, whatever the model. With a shard group of one, the casts of all weights and the bf16
    # gradients wait that way (published: 5 bytes a weight between active and allocated). The authors' own rerun of
    # DDP in 2025 took 0.26 GiB less than the paper's figure for the same: libraries. 0.35 fits all models.
    "fsdp1": Stack(
        weights=4.0,
        first=1.3,
        most=3.2,
        ramp=None,
        shards=1.8,
        reduced=False,
        copies=2,
        padded=False,
        libraries=round(0.35 * GIB),
    ),
}


def memory(
    model: str | Model,
    strategy: str | Strategy,
    world: int,
    batch: int,
    workload: str = "mae",
    precision: str = "bf16",
    activation_checkpointing: bool = True,
    accumulate: bool = False,
    stack: str = "fsdp2",
    backward_prefetch: int = 1,
    **size,
) -> Memory:
    """What one rank of ``world`` holds, with ``batch`` images at once, under AdamW.

    ``accumulate``: several micro-batches a step, so that gradients exist from the first. ``stack``: ``fsdp2``,
    which this project uses, or ``fsdp1``, which the paper did. ``backward_prefetch``: blocks gathered ahead where they
    are gathered again for the backward pass. Not counted: the device's context, the
    communication library's buffers, fragmentation.
    """
    row = strategy_named(strategy) if isinstance(strategy, str) else strategy
    replicas, shard = resolve(row, world)
    compute, how = BYTES[precision], STACKS[stack]
    found = units(model, workload, **size)
    trained = [unit.shard(shard, trainable=True) for unit in found]
    whole = [compute * _gathered(unit, shard, how.padded) for unit in found]
    s = describe(model, workload, **size)
    kept, works = _activations(s, batch, compute, activation_checkpointing)
    last = len(found) - 2  # the block where the backward pass begins; the root comes after all blocks
    gradients_kept = MASTER * sum(trained) if accumulate else 0
    moments = []
    for i in range(last, -1, -1):
        done = sum(trained[i + 1 : last + 1])
        way = min(1.0, (last - i) / (how.ramp or max(1, last)))
        in_flight = (how.first + (how.most - how.first) * way) * whole[i] + how.shards * way * MASTER * trained[i]
        if row.ddp:
            # Buckets for all gradients stand beside them; bf16 copies of weights are kept by the graph unless each
            # block makes them again.
            copies = 0 if compute == MASTER else whole[i] + whole[-1] if activation_checkpointing else sum(whole)
            unsharded = MASTER * sum(trained) + copies
        elif shard == 1 and how.copies:
            unsharded = how.copies * sum(whole) + how.weights * whole[i] + in_flight
        elif shard > 1 and row.reshard_after_forward:
            ahead = min(backward_prefetch, max(i, 1)) - 1  # more than the one that how.weights counts
            unsharded = whole[-1] + (how.weights + ahead) * whole[i] + in_flight
        else:
            unsharded = whole[-1] + sum(whole[: i + 1]) + in_flight
        if how.reduced and replicas > 1 and not row.ddp and compute != MASTER:
            unsharded += compute * done
        by_then = 0 if accumulate else MASTER * done
        moments.append((by_then, sum(kept[: i + 1]) + kept[-1], works[i], round(unsharded)))
    by_then, activations, block, unsharded = max(moments, key=sum)
    return Memory(
        parameters=MASTER * sum(unit.shard(shard) for unit in found) + gradients_kept,
        gradients=0 if accumulate else MASTER * sum(trained),
        optimiser=ADAMW * sum(trained),
        gradients_by_then=by_then,
        activations=activations,
        block=block,
        unsharded=unsharded,
        other=how.libraries,
    )


def block_activations(width: int, hidden: int, heads: int, tokens: int, compute: int, gated: bool) -> int:
    """Bytes that one block keeps of one image for its backward pass, its input included (fused attention).

    Counted per token: plain, the input, both norms' outputs, queries, keys and values, the attention's output,
    the sum after it, and twice the MLP's hidden layer: 8 width + 2 hidden. The benchmark's block has no norm
    before the branches but one after each, and norms on queries and keys, and keeps the attention's output
    twice: 11 width + 4 hidden. Norm statistics and the softmax's normaliser are fp32.
    """
    numbers = 11 * width + 4 * hidden if gated else 8 * width + 2 * hidden
    statistics = 4 + heads * (5 if gated else 1)
    return tokens * (numbers * compute + statistics * 4)


def _activations(s: Shape, batch: int, compute: int, checkpointing: bool) -> tuple[list[int], list[int]]:
    """(bytes kept through the forward pass by each block and, last, outside them; bytes each block needs on top at
    the widest moment of its backward pass), for ``batch`` images.

    That moment is in the MLP: its output and last product's input are gone, the gradients at both sides of its
    activation are there, and the residual branch's.
    """
    gated = s.workload == "classify"
    row, width = s.row, s.row.width
    stacks = [(row.depth, width, row.gated_mlp_dim if gated else row.mlp_dim, row.heads, s.visible + 1)]
    if s.decoder:
        stacks.append((s.decoder[1], s.decoder[0], 4 * s.decoder[0], s.decoder[2], s.patches + 1))
    kept, works = [], []
    for depth, wide, hidden, heads, tokens in stacks:
        saved = block_activations(wide, hidden, heads, tokens, compute, gated)
        entry = wide * tokens * compute
        gradients = tokens * compute * (2 * hidden if gated else wide + hidden)
        kept += depth * [batch * (entry if checkpointing else saved)]
        works += depth * [batch * (gradients + (saved - entry if checkpointing else 0))]
    return [*kept, batch * _outside(s, compute)], works


def _outside(s: Shape, compute: int) -> int:
    """Bytes per image kept outside the blocks while they run backward: images, patches, inputs of norms. What the
    loss kept is gone by then."""
    width, pixels = s.row.width, s.patches * s.patch_numbers
    if s.workload == "classify":
        return 4 * pixels + compute * (2 * pixels + (2 * s.patches + 1) * width)
    return 4 * pixels + compute * (pixels + (s.visible + 1) * width)


# --- communication ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """One kind of collective in one optimiser step, for one rank.

    group: how many ranks take part. calls: how often it is called. payload: bytes of the whole tensors that are
    gathered or reduced (as ``ranks.csv`` counts them). sent: bytes this rank sends, by ring algorithms.
    """

    group: int
    calls: int
    payload: int
    sent: int


def communication(
    model: str | Model,
    strategy: str | Strategy,
    world: int,
    workload: str = "mae",
    precision: str = "bf16",
    micro_batches: int = 1,
    padded: bool = True,
    **size,
) -> dict[str, Traffic]:
    """Bytes of each collective in a step: ``all_gather``, ``reduce_scatter``, ``all_reduce`` (0 where not used).

    Weights are gathered for each micro-batch, twice when they are dropped after the forward pass. Gradients are
    reduced once a step: over the shard group, then over the replicas. DDP's calls are its 25 MiB buckets (fp32).
    ``padded=False`` is FSDP1, which cut one flat weight a block; FSDP2 pads each weight to the shard group.
    """
    row = strategy_named(strategy) if isinstance(strategy, str) else strategy
    replicas, shard = resolve(row, world)
    compute = BYTES[precision]
    found = units(model, workload, **size)
    zero = Traffic(1, 0, 0, 0)
    traffic = {"all_gather": zero, "reduce_scatter": zero, "all_reduce": zero}
    if row.ddp:
        trained = sum(unit.count(trainable=True) for unit in found)
        buckets = ceil(trained * MASTER / (25 * 2**20))
        return traffic | {"all_reduce": _ring(world, buckets, compute * trained, 2)}
    if shard > 1:
        times = micro_batches * (2 if row.reshard_after_forward else 1)
        whole = compute * sum(_gathered(unit, shard, padded) for unit in found)
        traffic["all_gather"] = _ring(shard, times * len(found), times * whole, 1)
        traffic["reduce_scatter"] = _ring(shard, len(found), whole, 1)
    if replicas > 1:
        piece = compute * sum(unit.shard(shard, trainable=True) for unit in found)
        traffic["all_reduce"] = _ring(replicas, len(found), piece, 2)
    return traffic


def _gathered(unit: Unit, shard: int, padded: bool) -> int:
    """Numbers of a unit when it is gathered from its shards."""
    return shard * unit.shard(shard, trainable=True) if padded else unit.count(trainable=True)


def _ring(group: int, calls: int, payload: int, passes: int) -> Traffic:
    """``passes`` turns round the ring: one to gather or to reduce and scatter, two for an all-reduce."""
    return Traffic(group, calls, payload, round(passes * payload * (group - 1) / group))
