"""Changing the strategy or the number of ranks changes nothing but speed and memory: real ranks on CPU (gloo)."""

import pytest

from geofm_lib.planning import costs
from tests import ranks

STRATEGIES = {
    1: ["FULL_SHARD", "NO_SHARD", "DDP"],
    2: ["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "DDP", "HYBRID_1GPU", "HYBRID_2GPUs"],
    4: ["FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_2GPUs", "DDP"],
}
# bf16 has 8 bits of mantissa: 2^-8 = 0.4 % per rounding; sums over ranks round in another order each time.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    return {w: ranks.start("equality", folder / str(w), w, strategies=s) for w, s in STRATEGIES.items()}


@pytest.mark.parametrize("world", STRATEGIES)
def test_every_strategy_gives_the_single_process_curve(results, world):
    for name, found in results[world]["trained"].items():
        precision = name.split("/")[1]
        reference = results[1]["trained"][f"NO_SHARD/{precision}/False"]
        for key in ("losses", "norms"):
            assert found[key] == pytest.approx(reference[key], rel=TOLERANCE[precision]), (world, name, key)


@pytest.mark.parametrize("world", [2, 4])
def test_replicas_hold_the_same_bits_after_every_step(results, world):
    """FSDP1's HYBRID_1GPU never reduced gradients over the replicas; this is the test that would have told."""
    assert all(found["replicas_equal"] for found in results[world]["trained"].values())


@pytest.mark.parametrize("world", [2, 4])
def test_the_meter_counts_the_bytes_of_the_arithmetic(results, world):
    for strategy, counted in results[world]["bytes"].items():
        expected = costs.communication("ViT-Atto", strategy, world, precision="fp32", image_size=32, patch_size=8)
        for kind, traffic in expected.items():
            found = counted.get(kind, 0)
            if kind == "all_reduce":  # the gradient norm's scalars are reduced too
                assert traffic.payload <= found <= traffic.payload + 4096, (strategy, kind)
            else:
                assert found == traffic.payload, (strategy, kind)
