"""What a sharding library has in flight in the backward pass: gathered weights, and gradients not yet reduced.

One class a library. Numbers with a fraction are in blocks: of a block's gathered weights, or of its gradients.
"""

from dataclasses import dataclass

from geofm_lib.planning.sizes import GIB, MASTER


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
    compute: int  # bytes of a number in the compute precision
    checkpointing: bool
    prefetch: int  # blocks gathered ahead

    @property
    def block(self) -> int:
        return self.whole[self.at]

    @property
    def root(self) -> int:
        return self.whole[-1]

    def gathered(self, weights: float) -> float:
        """Bytes of gathered weights: ``weights`` blocks where they are gathered again, else all up to this one.

        ``weights`` counts one block gathered ahead; ``prefetch`` may ask for more of them, or for none.
        """
        if self.shard > 1 and self.reshard:
            return self.root + (weights + min(self.prefetch, max(self.at, 1)) - 1) * self.block
        return self.root + sum(self.whole[: self.at + 1])


class Fsdp2:
    """``fully_shard`` of torch 2.14, as read in its source; ``jobs/simulate`` checks it."""

    padded = True  # each weight to a multiple of the shard group
    libraries = 0
    weights = 2.0  # this block's, and the buffer of the next one's
    last_product = 0.28  # gradients of a block's last product
    on_the_way = 1.0  # gradients of the block before, to their reduction

    def in_flight(self, now: Moment) -> float:
        gradients = self.last_product + (self.on_the_way if now.at < now.last else 0)
        held = now.gathered(self.weights) + gradients * now.block
        if now.replicas > 1 and now.compute != MASTER:  # reduced over replicas in bf16, and kept so to the end
            held += now.compute * sum(now.trained[now.at + 1 : now.last + 1]) // MASTER
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
        casts = now.block + now.root if now.checkpointing else sum(now.whole)
        return sum(now.trained) + (0 if now.compute == MASTER else casts)


STACKS: dict[str, Fsdp1 | Fsdp2] = {"fsdp2": Fsdp2(), "fsdp1": Fsdp1()}
DDP = Ddp()
