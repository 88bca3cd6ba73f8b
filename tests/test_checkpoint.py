"""Checkpoints: resume elsewhere, damage found and named, step 0 harmless."""

import pytest

from tests import ranks


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the folder of checkpoints, what was saved in it) of a training on 2 ranks FULL_SHARD."""
    folder = tmp_path_factory.mktemp("checkpoint")
    told = {"checkpoint": str(folder / "kept"), "strategy": "FULL_SHARD"}
    return folder / "kept", ranks.start("save", folder / "save", 2, **told)


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """Loads in turn on one rank, the later ones after damage."""
    place = str(saved[0])
    last, before = (sorted(saved[0].glob("step-*"))[k] for k in (-1, -2))
    victim = next(last.glob("__1_*.distcp"))
    loads = [
        {"checkpoint": place, "strategy": "DDP"},
        {"checkpoint": place, "strategy": "NO_SHARD", "run": "b"},
        {"checkpoint": place, "strategy": "NO_SHARD", "flip": [str(victim)]},
        {"checkpoint": place, "strategy": "NO_SHARD", "delete": [str(before / ".metadata")]},
        {"checkpoint": place + "-none", "strategy": "NO_SHARD"},
    ]
    return victim.name, ranks.start("load", tmp_path_factory.mktemp("load"), 1, loads=loads)


def test_two_are_kept_and_a_checkpoint_at_step_0_changes_nothing(saved):
    assert saved[1]["first 0"] == saved[1]["first 1"]
    assert sorted(p.name for p in saved[0].glob("step-*")) == ["step-00000001", "step-00000002"]


def test_resumes_bitwise_on_the_same_ranks(saved, tmp_path):
    place = str(saved[0]) + "-from-1"
    found = ranks.start("load", tmp_path, 2, loads=[{"checkpoint": place, "strategy": "FULL_SHARD"}])[0]
    # the losses after two more steps tell that the optimiser's state is the same too
    assert found == {"step": 2, **saved[1]["first 0"]}


def test_resumes_on_other_ranks_and_strategy(saved, elsewhere):
    found, original = elsewhere[1][0], saved[1]["first 0"]
    assert found["step"] == 2 and found["weights"] == original["weights"]
    assert found["losses"] == pytest.approx(original["losses"], rel=1e-5)


def test_another_runs_checkpoint_is_refused(elsewhere):
    assert "belongs to another run (run differ)" in elsewhere[1][1]["error"]


def test_a_flipped_byte_is_named_and_the_one_before_is_used(elsewhere):
    victim, found = elsewhere
    assert found[2]["step"] == 1
    assert victim in found[3]["error"] and ".metadata is missing" in found[3]["error"]


def test_no_checkpoint_is_no_fault(elsewhere):
    assert elsewhere[1][4]["step"] == 0
