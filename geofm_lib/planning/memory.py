"""Bytes that one rank holds in a training step, by kind, in steady state under AdamW.

One class a sharding library says what it has in flight: gathered weights, and gradients not yet reduced. Its numbers
with a fraction are in blocks: of a block's gathered weights, or of its gradients.
"""

from dataclasses import dataclass
from typing import Any

from geofm_lib.catalog.models import Model
from geofm_lib.catalog.strategies import lookup, resolve
from geofm_lib.planning.conditions import GIB, MASTER, Conditions
from geofm_lib.planning.weights import Shape, describe, units

ADAMW = 8  # bytes: two fp32 moments per trainable parameter


def block_activations(width: int, mlp_dim: int, heads: int, tokens: int, compute: int, gated: bool) -> int:
    """Bytes that one block keeps of one image for its backward pass, its input included (fused attention).

    A plain block keeps of each token its input, both norms' outputs, queries, keys, values, the attention's output
    and the sum after it, and the MLP's inner layer twice. The benchmark's block has a norm after each branch instead,
    norms on queries and keys, and keeps the attention's output twice. A test compares both with autograd.
    """
    numbers = 11 * width + 4 * mlp_dim if gated else 8 * width + 2 * mlp_dim  # a token
    statistics = 4 + heads * (5 if gated else 1)  # fp32: of the norms, and the softmax's normaliser
    return tokens * (numbers * compute + statistics * 4)


def activations(s: Shape, batch: int, compute: int, checkpointing: bool) -> tuple[list[int], list[int]]:
    """(kept, needed), bytes for ``batch`` images, ``compute`` of them a number.

    kept: through the forward pass, by each block and, last, outside the blocks. needed: by each block on top, at the
    widest moment of its backward pass. That is in its MLP: the output and the last product's input are gone, the
    gradients at both sides of the activation are there, and the residual branch's.
    """
    gated = s.gated
    row = s.row
    stacks = [(row.depth, row.width, row.gated_mlp_dim if gated else row.mlp_dim, row.heads, s.tokens)]
    if s.decoder:
        narrow, depth, heads = s.decoder
        stacks.append((depth, narrow, 4 * narrow, heads, s.patches + 1))
    kept, needed = [], []
    for depth, wide, mlp_dim, heads, tokens in stacks:
        saved = block_activations(wide, mlp_dim, heads, tokens, compute, gated)
        entry = wide * tokens * compute
        gradients = tokens * compute * (2 * mlp_dim if gated else wide + mlp_dim)
        kept += depth * [batch * (entry if checkpointing else saved)]
        needed += depth * [batch * (gradients + (saved - entry if checkpointing else 0))]
    # Outside the blocks: images (fp32), patches, inputs of norms. What the loss kept is gone by then.
    pixels = s.numbers(s.patches)
    numbers = 2 * pixels + (2 * s.patches + 1) * row.width if gated else pixels + s.tokens * row.width
    return [*kept, batch * (4 * pixels + compute * numbers)], needed


def moved_bytes(s: Shape, how: Conditions) -> float:
    """Bytes that everything but the matrix products reads and writes for one image in a training step.

    A plain block's forward pass moves 14 numbers a token and width: its norms (4), its sums (6), and what fused
    attention reads and writes (4); its activation moves twice the MLP's inner layer. Unfused, attention copies its
    inputs (6) and goes over its scores six times. The backward pass moves twice as much, and checkpointing repeats the
    forward pass.
    """
    row = s.row
    stacks = [(row.depth, row.width, 3 * row.gated_mlp_dim if s.gated else row.mlp_dim, row.heads, s.tokens)]
    if s.decoder:
        narrow, depth, heads = s.decoder
        stacks.append((depth, narrow, 4 * narrow, heads, s.patches + 1))
    numbers = 0
    for depth, wide, inner, heads, tokens in stacks:
        scores = 0 if how.fused_attention else 6 * wide + 6 * heads * tokens
        numbers += depth * tokens * (14 * wide + 2 * inner + scores)
    return (4 if how.activation_checkpointing else 3) * how.compute_bytes * numbers


@dataclass(frozen=True)
class Moment:
    """The backward pass at block ``at``: it begins at block ``last`` and ends at block 0."""

    at: int
    last: int
    whole: list[int]  # bytes of each unit's gathered weights in the compute precision, the root's last
    trained: list[int]  # bytes of this rank's fp32 shard of each
    replicas: int
    shard: int
    reshard: bool
    how: Conditions

    @property
    def block(self) -> int:
        return self.whole[self.at]

    @property
    def root(self) -> int:
        return self.whole[-1]

    def gathered(self, weights: float) -> float:
        """Bytes of gathered weights: ``weights`` blocks where they are gathered again, else all up to this one.

        ``weights`` counts one block gathered ahead; ``backward_prefetch`` may ask for more of them, or for none.
        """
        if self.shard > 1 and self.reshard:
            return self.root + (weights + min(self.how.backward_prefetch, max(self.at, 1)) - 1) * self.block
        return self.root + sum(self.whole[: self.at + 1])


class Fsdp2:
    """``fully_shard`` of torch 2.14, as read in its source; ``jobs/simulate`` checks it."""

    padded = True  # each weight to a multiple of the shard group
    libraries = 0
    weights = 2.0  # this block's, and the buffer of the next one's
    last_product = 0.28  # gradients of a block's last product
    on_the_way = 1.0  # gradients of the block before, to their reduction, in its precision

    def in_flight(self, now: Moment) -> float:
        wider = now.how.reduce_bytes / now.how.compute_bytes
        gradients = self.last_product + (self.on_the_way * wider if now.at < now.last else 0)
        held = now.gathered(self.weights) + gradients * now.block
        if now.replicas > 1 and now.how.reduce_bytes != MASTER:  # reduced over replicas in bf16, kept to the end
            held += now.how.reduce_bytes * sum(now.trained[now.at + 1 : now.last + 1]) // MASTER
        return held


class Fsdp1:
    """FSDP1 as published, of 2023 on ROCm.

    A block that Python has freed stays active until the stream that used it gets there, and the host runs ahead, more
    and more. Published peak active is 7 to 9 blocks above published max allocated for HYBRID_kGPUs, whatever the
    model. With a shard group of one, the casts of all weights and the bf16 gradients wait that way (published: 5 bytes
    a weight between active and allocated).
    """

    padded = False  # one flat weight a block
    libraries = round(0.35 * GIB)  # fits all models; the authors' rerun of DDP in 2025 took 0.26 GiB less
    weights = 4.0  # of this block, gathered ahead or not yet given back
    first, most = 1.3, 3.2  # gradients where the backward pass begins, and at its end
    shards = 1.8  # reduced fp32 gradients on their way, at the end
    copies = 2  # of all weights and gradients, for shard groups of one

    def in_flight(self, now: Moment) -> float:
        way = (now.last - now.at) / max(1, now.last)
        gradients = (self.first + (self.most - self.first) * way) * now.block
        gradients += self.shards * way * now.trained[now.at]
        if now.shard == 1:
            return self.copies * sum(now.whole) + self.weights * now.block + gradients
        return now.gathered(self.weights) + gradients


class Ddp:
    """``DistributedDataParallel``, the same beside either library: buckets for all gradients, and casts of weights.

    The graph keeps the bf16 copies of all weights, unless each block makes its own again.
    """

    def in_flight(self, now: Moment) -> float:
        return sum(now.trained) + self.casts(now)

    def casts(self, now: Moment) -> int:
        if now.how.compute_bytes == MASTER:
            return 0
        return now.block + now.root if now.how.activation_checkpointing else sum(now.whole)


class Alone:
    """One rank, without a wrapper: the graph keeps bf16 copies of all weights, unless blocks make their own again."""

    def in_flight(self, now: Moment) -> float:
        return Fsdp2.last_product * now.block + DDP.casts(now)


STACKS: dict[str, Fsdp1 | Fsdp2] = {"fsdp2": Fsdp2(), "fsdp1": Fsdp1()}
DDP, ALONE = Ddp(), Alone()


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
    """What one rank of ``world`` holds, with ``batch`` images at once.

    ``size``: as in ``weights.describe``; its ``workload``, such as "encoder", wins over that of the conditions.
    ``accumulate``: several micro-batches a step, so that gradients exist from the first. ``stack``: ``fsdp2``, which
    this project uses, or ``fsdp1``, which the paper did. Not counted: the device's context, buffers of the
    communication library, fragmentation.
    """
    row, stacked = lookup(strategy), STACKS[stack]
    replicas, shard = resolve(row, world)
    library: Fsdp1 | Fsdp2 | Ddp | Alone = DDP if row.ddp else stacked
    if world == 1 and stack == "fsdp2":
        library = ALONE
    found = units(model, workload := size.pop("workload", how.workload), **size)
    whole = [how.compute_bytes * unit.gathered(shard, stacked.padded) for unit in found]
    trained = [MASTER * unit.shard(shard, trainable=True) for unit in found]
    s = describe(model, workload, **size)
    kept, needed = activations(s, batch, how.compute_bytes, how.activation_checkpointing)
    last = len(found) - 2  # the block where the backward pass begins; the root comes after all blocks
    moments = []
    for at in range(last, -1, -1):
        by_then = 0 if accumulate else sum(trained[at + 1 : last + 1])
        now = Moment(at, last, whole, trained, replicas, shard, row.reshard_after_forward, how)
        moments.append((by_then, sum(kept[: at + 1]) + kept[-1], needed[at], round(library.in_flight(now))))
    weights, own = MASTER * sum(unit.shard(shard) for unit in found), sum(trained)
    always = (weights + own, 0) if accumulate else (weights, own)
    return Memory(*always, ADAMW * own // MASTER, *max(moments, key=sum), stacked.libraries)
