"""Which sample comes when, and with which random numbers.

Everything random is a pure function of (seed, epoch, sample): never of the number of ranks, of worker
processes or of the step at which a run was resumed. So a run gives the same loss curve on 1, 2 or 4 ranks.
"""

import numpy as np

# One key word per use, so that the crop of an image and its mask come from unrelated streams. Append only:
# a changed number changes every run.
PURPOSES = {"order": 0, "crop": 1, "mask": 2, "probe": 3, "view": 4, "synthetic": 5, "scene": 6,
            "subset": 7, "second_crop": 8, "second_mask": 9, "colour": 10, "second_colour": 11,
            "partner": 12, "season": 13, "mixup": 14}  # fmt: skip


def generator(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """A random generator for one use of one sample in one epoch; about 20 microseconds to make.

    Philox is counter based: (seed, purpose) is its key and (epoch, sample) the high half of its counter. So streams of
    different samples never overlap (each has 2**128 blocks), and none has to be seeded by hashing.

    >>> generator(0, 1, 7, "crop").random() == generator(0, 1, 7, "crop").random()
    True
    """
    if purpose not in PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r} of random numbers; known: {', '.join(PURPOSES)}")
    if min(seed, epoch, sample) < 0:
        raise ValueError(f"seed={seed}, epoch={epoch} and sample={sample} must not be negative")
    return np.random.Generator(np.random.Philox(key=[seed, PURPOSES[purpose]], counter=[0, 0, epoch, sample]))


def order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of all samples in one epoch: a permutation, int64 [samples]."""
    return generator(seed, epoch, 0, "order").permutation(samples)


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Full batches in one epoch; the rest is left out (another rest in each epoch).

    Raises ValueError when not even one batch can be filled.
    """
    if samples < global_batch:
        raise ValueError(
            f"global_batch={global_batch} is more than the {samples} training images; use at most {samples}"
        )
    return samples // global_batch


def rank_slice(
    order: np.ndarray, step: int, global_batch: int, rank: int, world: int, accumulation: int = 1
) -> list[np.ndarray]:
    """What one rank reads in one step: `accumulation` micro-batches, each int64 [global_batch/world/accumulation].

    The union over ranks and micro-batches is order[step*global_batch : (step+1)*global_batch] for any `world`.

    >>> [part.tolist() for part in rank_slice(np.arange(8), 0, 8, rank=1, world=2, accumulation=2)]
    [[2, 3], [6, 7]]
    """
    if global_batch % (world * accumulation):
        raise ValueError(
            f"global_batch={global_batch} is not divisible by {world} ranks x {accumulation} micro-batches; "
            f"use a multiple of {world * accumulation}"
        )
    batch = order[step * global_batch : (step + 1) * global_batch]
    if len(batch) < global_batch:
        raise ValueError(f"step {step} of batches of {global_batch} lies beyond the {len(order)} samples of an epoch")
    return list(batch.reshape(accumulation, world, -1)[:, rank])
