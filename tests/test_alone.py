"""One rank alone needs no wrapper: the same bits as under the strategy's own, and checkpoints that fit both."""

import pytest
import torch
from torch import nn

from geofm_lib.distributed import casts, sharding
from geofm_lib.jobs.simulate import simulate
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.steps import step_traffic
from geofm_lib.settings import SimulateSettings
from tests.support import ranks

HOWS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "recomputed": {"precision": "bf16", "activation_checkpointing": True},
}
PARTS = (1, 4)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Trainings of both kinds, and what each kind loads of the other's checkpoints."""
    folder = tmp_path_factory.mktemp("alone")
    return ranks.start("alone", folder, 1, hows=HOWS, parts=PARTS, place=str(folder))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("how", HOWS)
def test_without_the_wrapper_a_rank_trains_the_same_bits(found, how, parts):
    wrapped, bare = found["trained"][f"{how}/{parts}"]
    assert bare["losses"] == wrapped["losses"]
    assert bare["norms"] == wrapped["norms"]
    assert bare["weights"] == wrapped["weights"]


@pytest.mark.parametrize("kind", ["wrapped", "bare"])
def test_a_checkpoint_of_either_kind_goes_on_under_the_other(found, kind):
    assert found["loaded"][kind] == {"step": 2, **found["saved"][kind]["first 0"]}


def test_both_kinds_write_the_same_weights(found):
    assert found["saved"]["bare"] == found["saved"]["wrapped"]


@pytest.mark.parametrize("more", [{}, {"precision": "fp32"}, {"activation_checkpointing": False}])
def test_the_arithmetic_of_one_rank_is_what_is_traced(more):
    asked = {"model": "ViT-Femto", "image_size": 128, "patch_size": 8, "workload": "classify", "gpus": 1}
    settings = SimulateSettings(**asked | {"strategy": "FULL_SHARD"} | more)
    traced, how = simulate(settings), Conditions.of(vars(settings))
    size = {"image_size": 128, "patch_size": 8}
    held = rank_memory("ViT-Femto", settings.strategy, 1, settings.batch_per_gpu, how, **size)
    assert traced.memory.peak == pytest.approx(held.peak, rel=0.05)
    assert traced.bytes == {}
    assert not any(each.payload for each in step_traffic("ViT-Femto", settings.strategy, 1, how, **size).values())


def test_micro_batches_share_the_casts_of_a_step_and_no_others():
    layer = nn.Linear(2, 2)
    casts.compute_in(layer, torch.bfloat16, cast_inputs=True)
    seen = []
    layer.register_forward_pre_hook(lambda module, _: seen.append(module.weight))
    for part in (0, 1, 2, 0):
        sharding.micro_batch(layer, part, 3)
        layer(torch.ones(1, 2)).sum().backward()
    sharding.micro_batch(layer, 0, 1)
    layer(torch.ones(1, 2))
    with torch.no_grad():
        layer(torch.ones(1, 2))
    first = [next(k for k, other in enumerate(seen) if other is each) for each in seen]
    assert first == [0, 0, 0, 3, 4, 5]
    assert torch.equal(layer.weight.grad, torch.full((2, 2), 4.0))
    assert layer.weight.dtype == torch.float32
