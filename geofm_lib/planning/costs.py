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
from geofm_lib.planning.weights import WORKLOADS, Shape, Unit, describe, parameters, units

__all__ = ["WORKLOADS", "communication", "describe", "flops", "gib", "memory", "parameters", "training_flops", "units"]

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}  # of the precision in which blocks compute and gradients are reduced
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
    hidden = row.gated_hidden if gated else row.mlp_hidden
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

    parameters, gradients, optimiser: this rank's fp32 shard. activations: what the forward pass keeps for the
    backward pass. block: what one block needs on top while it runs backward (its recomputation, and gradients of
    its activations). unsharded: gathered weights, and gradients on their way to the reduction.
    """

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    block: int
    unsharded: int

    @property
    def peak(self) -> int:
        """The larger of two moments: the backward pass begins (all activations, no gradients yet) or ends (all
        gradients, one block's activations)."""
        held = self.parameters + self.optimiser + self.unsharded + self.block
        return held + max(self.activations, self.gradients)

    @property
    def total(self) -> int:
        """The sum of all kinds: an upper bound of the peak, reached when gradients are kept between steps."""
        return sum(vars(self).values())

    def in_gib(self) -> dict[str, float]:
        return {name: gib(value) for name, value in vars(self).items()} | {"peak": gib(self.peak)}


def memory(
    model: str | Model,
    strategy: str | Strategy,
    world: int,
    batch: int,
    workload: str = "mae",
    precision: str = "bf16",
    activation_checkpointing: bool = True,
    accumulate: bool = False,
    **size,
) -> Memory:
    """What one rank of ``world`` holds, with ``batch`` images at once, under AdamW.

    ``accumulate``: several micro-batches a step, so that gradients exist from the first. Not counted: the
    device's context, the communication library's buffers, fragmentation.
    """
    row = strategy_named(strategy) if isinstance(strategy, str) else strategy
    _, shard = resolve(row, world)
    found = units(model, workload, **size)
    own = sum(unit.shard(shard) for unit in found)
    trained = sum(unit.shard(shard, trainable=True) for unit in found)
    kept, inside = _activations(describe(model, workload, **size), batch, BYTES[precision], activation_checkpointing)
    gathered = _unsharded(found, row, BYTES[precision], activation_checkpointing)
    return Memory(
        parameters=MASTER * own + (MASTER * trained if accumulate else 0),
        gradients=0 if accumulate else MASTER * trained,
        optimiser=ADAMW * trained,
        activations=kept,
        block=inside,
        unsharded=gathered,
    )


def _unsharded(found: list[Unit], row: Strategy, compute: int, checkpointing: bool) -> int:
    """Gathered weights and gradients that are not yet reduced."""
    total = sum(unit.count(trainable=True) for unit in found)  # fixed positions are never gathered
    largest = max(unit.count(trainable=True) for unit in found)
    root = found[-1].count(trainable=True)
    if row.ddp:
        # Buckets for all gradients stand beside them; the bf16 copies of weights are kept by the graph unless
        # each block makes them again.
        copies = 0 if compute == MASTER else (largest + root if checkpointing else total) * compute
        return MASTER * total + copies
    # One block in use, the next one gathered, the buffer it came in, its gradients, and those being reduced.
    weights = root + 2 * largest if row.reshard_after_forward else total
    return compute * (weights + 3 * largest)


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


def _activations(s: Shape, batch: int, compute: int, checkpointing: bool) -> tuple[int, int]:
    """(kept through the forward pass, needed on top by one block in its backward pass), for ``batch`` images."""
    gated = s.workload == "classify"
    row, width = s.row, s.row.width
    stacks = [(row.depth, width, row.gated_hidden if gated else row.mlp_hidden, row.heads, s.visible + 1)]
    if s.decoder:
        stacks.append((s.decoder[1], s.decoder[0], 4 * s.decoder[0], s.decoder[2], s.patches + 1))
    kept, inside = _outside(s, compute), 0
    for depth, wide, hidden, heads, tokens in stacks:
        saved = block_activations(wide, hidden, heads, tokens, compute, gated)
        entry = wide * tokens * compute
        # The widest moment of a backward pass: gradients at both sides of the MLP's activation.
        gradients = tokens * compute * (wide + (4 if gated else 2) * hidden)
        kept += depth * (entry if checkpointing else saved)
        inside = max(inside, gradients + (saved - entry if checkpointing else 0))
    return batch * kept, batch * inside


def _outside(s: Shape, compute: int) -> int:
    """Bytes per image kept outside the blocks: images, patches, norms, and with MAE prediction and target."""
    width, numbers = s.row.width, s.patch_numbers
    images = 4 * s.patches * numbers
    if s.workload == "classify":
        return images + s.patches * compute * (2 * numbers + 3 * width) + 3 * (s.patches + 1) * width * compute
    tokens = (s.visible + 1) * compute
    encoder = s.visible * compute * numbers + 2 * tokens * width
    if not s.decoder:
        return images + encoder
    narrow = s.decoder[0]
    decoder = (s.patches + 1) * compute * 3 * narrow + s.hidden * (narrow * compute + numbers * (compute + 8))
    return 2 * images + encoder + tokens * narrow + decoder


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
    **size,
) -> dict[str, Traffic]:
    """Bytes of each collective in a step: ``all_gather``, ``reduce_scatter``, ``all_reduce`` (0 where not used).

    Weights are gathered for each micro-batch, twice when they are dropped after the forward pass. Gradients are
    reduced once a step: over the shard group, then over the replicas. DDP's calls are its 25 MiB buckets (fp32).
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
        whole = compute * shard * sum(unit.shard(shard, trainable=True) for unit in found)
        traffic["all_gather"] = _ring(shard, times * len(found), times * whole, 1)
        traffic["reduce_scatter"] = _ring(shard, len(found), whole, 1)
    if replicas > 1:
        piece = compute * sum(unit.shard(shard, trainable=True) for unit in found)
        traffic["all_reduce"] = _ring(replicas, len(found), piece, 2)
    return traffic


def _ring(group: int, calls: int, payload: int, passes: int) -> Traffic:
    """``passes`` turns round the ring: one to gather or to reduce and scatter, two for an all-reduce."""
    return Traffic(group, calls, payload, round(passes * payload * (group - 1) / group))
