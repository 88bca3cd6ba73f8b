"""Checkpoints: resume elsewhere, damage found and named, step 0 harmless."""

import pytest

from tests import ranks


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    place = folder / "kept"
    told = {"checkpoint": str(place), "do": "save", "strategy": "FULL_SHARD"}
    return place, ranks.start("save_and_load", folder / "save", 2, **told)


def load(saved, tmp_path, world=2, strategy="FULL_SHARD", **more):
    return ranks.start("save_and_load", tmp_path, world, checkpoint=str(saved[0]), do="load", strategy=strategy, **more)


def test_resumes_bitwise_on_the_same_ranks(saved, tmp_path):
    found = load(saved, tmp_path)
    assert found["step"] == 2
    assert found["weights"] == saved[1]["weights"]
    assert found["losses"] == saved[1]["losses"]  # the optimiser's state too, or the second step would differ


def test_resumes_on_other_ranks_and_strategy(saved, tmp_path):
    found = load(saved, tmp_path, world=1, strategy="DDP")
    assert found["weights"] == saved[1]["weights"]
    assert found["losses"] == pytest.approx(saved[1]["losses"], rel=1e-5)


def test_another_runs_checkpoint_is_refused(saved, tmp_path):
    assert "belongs to another run" in load(saved, tmp_path, world=1, strategy="NO_SHARD", run="b")["error"]


def test_a_flipped_byte_is_named_and_the_one_before_is_used(saved, tmp_path):
    """Last in this file: it damages what the others read."""
    place = saved[0]
    steps = sorted(place.glob("step-*"))
    assert [s.name for s in steps] == ["step-00000001", "step-00000002"]  # two are kept
    victim = next(steps[1].glob("__1_*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert load(saved, tmp_path / "one", world=1, strategy="NO_SHARD")["step"] == 1
    (steps[0] / ".metadata").unlink()
    error = load(saved, tmp_path / "two", world=1, strategy="NO_SHARD")["error"]
    assert victim.name in error and ".metadata is missing" in error
