"""bf16 means the same everywhere: real ranks on CPU (gloo), held against fp32 on one process."""

import pytest

from tests.support import ranks
from tests.test_many_ranks import STRATEGIES, WORLDS

pytestmark = pytest.mark.timeout(900)

NEAR = 0.01  # of fp32's gradient; rounding weights and activations to bf16 once makes 0.008
RECOMPUTED = {"plain": {}, "recomputed": {"activation_checkpointing": True}}
OTHER = {"other kernels": {"kernels": ["plain", "convolution"], "activation_checkpointing": True}}


def test_the_gradient_is_fp32s_in_few_and_many_micro_batches(tmp_path):
    found = ranks.start(
        "gradients", tmp_path, 2, batch=128, strategies=["DDP", "FULL_SHARD"], parts=[1, 64], hows=RECOMPUTED | OTHER
    )
    assert len(found) == 12
    for name, each in found.items():
        assert each["types"] == ["torch.float32"]
        assert each["off"] < NEAR, (name, each)


@pytest.mark.long
@pytest.mark.parametrize("world", WORLDS)
def test_the_whole_grid_of_gradients(tmp_path, world):
    """A global batch of 256 in 1 to 256 micro-batches, under every strategy."""
    parts = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k * world <= 256]
    asked = {"batch": 256, "strategies": STRATEGIES[world], "parts": parts, "hows": RECOMPUTED}
    found = ranks.start("gradients", tmp_path, world, **asked)
    assert len(found) == 2 * len(parts) * len(STRATEGIES[world])
    print(world, "ranks:", {name: round(each["off"], 5) for name, each in found.items()})
    assert max(each["off"] for each in found.values()) < NEAR


@pytest.mark.long
def test_reduction_in_bf16_is_less_exact_and_the_paper_s(tmp_path):
    asked = {"batch": 256, "strategies": ["FULL_SHARD"], "parts": [128], "hows": {"bf16": {"reduce_dtype": "bf16"}}}
    found = ranks.start("gradients", tmp_path, 2, **asked)["FULL_SHARD/128/bf16"]
    assert NEAR < found["off"] < 0.1


@pytest.mark.long
def test_fifty_steps_are_the_same_under_every_strategy(tmp_path):
    curves = {}
    for world in WORLDS:
        found = ranks.start("fifty", tmp_path / str(world), world, strategies=STRATEGIES[world], parts=[1, 4])
        curves |= {f"{world}/{name}": losses for name, losses in found.items()}
    apart = [max(at) / min(at) - 1 for at in zip(*curves.values(), strict=True)]
    print("largest distance of", len(curves), "curves:", max(apart))
    assert len(apart) == 50
    assert max(apart) < 1e-3
