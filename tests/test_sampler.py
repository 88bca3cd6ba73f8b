"""Order, crops and masks are functions of (seed, epoch, sample), never of the number of ranks."""

import numpy as np
import pytest

from geofm_lib.data import sampler


def test_order_is_a_permutation_of_seed_and_epoch():
    first = sampler.order(3, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert first.dtype == np.int64
    assert (first == sampler.order(3, 1, 1000)).all()
    assert (first != sampler.order(3, 2, 1000)).any()
    assert (first != sampler.order(4, 1, 1000)).any()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_ranks_share_each_step_of_one_order(world, accumulation):
    order, batch = sampler.order(0, 0, 100), 24
    for step in range(sampler.steps_per_epoch(100, batch)):
        parts = [sampler.rank_slice(order, step, batch, rank, world, accumulation) for rank in range(world)]
        assert all(len(rank) == accumulation for rank in parts)
        union = sorted(np.concatenate([micro for rank in parts for micro in rank]))
        assert union == sorted(order[step * batch : (step + 1) * batch])


def test_streams_differ_by_epoch_sample_and_purpose():
    keys = [(0, 0, 0, "crop"), (0, 0, 1, "crop"), (0, 1, 0, "crop"), (1, 0, 0, "crop"), (0, 0, 0, "mask")]
    draws = {key: sampler.generator(*key).random() for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert all(sampler.generator(*key).random() == value for key, value in draws.items())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: sampler.rank_slice(np.arange(10), 0, 10, 0, 4), "not divisible by 4 ranks"),
        (lambda: sampler.rank_slice(np.arange(10), 1, 10, 0, 1), "beyond the 10 samples"),
        (lambda: sampler.steps_per_epoch(10, 16), "use at most 10"),
        (lambda: sampler.generator(0, 0, 0, "crops"), "unknown purpose 'crops'"),
        (lambda: sampler.generator(-1, 0, 0, "crop"), "must not be negative"),
    ],
)
def test_refusals_say_the_fix(call, words):
    with pytest.raises(ValueError, match=words):
        call()
