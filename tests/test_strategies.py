"""catalog/strategies.py, catalog/models.py and catalog/machines.py: the rows, and what is said to a wrong name."""

import pytest

from geofm_lib.catalog import machines, models
from geofm_lib.catalog.strategies import STRATEGIES, lookup, resolve


@pytest.mark.parametrize(
    "name, mesh, reshard",
    [
        ("FULL_SHARD", (1, 16), True),
        ("SHARD_GRAD_OP", (1, 16), False),
        ("NO_SHARD", (16, 1), False),
        ("DDP", (16, 1), False),
        ("HYBRID_1GPU", (16, 1), True),
        ("HYBRID_2GPUs", (8, 2), True),
        ("HYBRID_16GPUs", (1, 16), True),
    ],
)
def test_every_strategy_is_two_numbers(name, mesh, reshard):
    assert resolve(STRATEGIES[name], 16) == mesh
    assert STRATEGIES[name].reshard_after_forward is reshard
    assert STRATEGIES[name].ddp is (name == "DDP")


def test_any_hybrid_is_understood():
    assert resolve(lookup("HYBRID_32GPUs"), 64) == (2, 32)
    assert lookup("HYBRID_1GPUs") is STRATEGIES["HYBRID_1GPU"]


@pytest.mark.parametrize(
    "name, world, words",
    [
        ("HYBRID_3GPUs", 4, "a number of ranks that 3 divides; 4 ranks were asked for. Use HYBRID_2GPUs, HYBRID_4GPUs"),
        ("HYBRID_4GPUs", 2, "Use HYBRID_2GPUs or FULL_SHARD"),
        ("HYBRID_2GPUs", 1, "1 rank was asked for. Use NO_SHARD"),
    ],
)
def test_ranks_that_do_not_fit_are_named_with_the_fix(name, world, words):
    with pytest.raises(ValueError, match=words):
        resolve(lookup(name), world)


@pytest.mark.parametrize(
    "name, hint", [("FULL_SHRAD", "FULL_SHARD"), ("full_shard", "FULL_SHARD"), ("odd", "Known are F")]
)
def test_an_unknown_strategy_is_refused_with_a_suggestion(name, hint):
    with pytest.raises(ValueError, match=f"There is no strategy '{name}'.*{hint}"):
        lookup(name)


def test_strategies_can_be_told_apart():
    rows = STRATEGIES.values()
    assert len({row.colour for row in rows}) == len({row.marker for row in rows}) == len(rows)


def test_model_rows_are_whole():
    for row in models.MODELS.values():
        assert row.width % row.heads == 0, row.name
        assert row.width % 4 == 0, row.name
        assert row.decoder_width % row.decoder_heads == 0, row.name
        assert row.decoder_width % 4 == 0, row.name
    with pytest.raises(ValueError, match="did you mean 'ViT-Base'"):
        models.lookup("ViT-Bas")


@pytest.mark.parametrize("size, patch, words", [(65, 8, "example 64 or 72"), (4, 8, "8 or 16"), ((64, 60), 8, "64x60")])
def test_an_image_that_the_patch_does_not_divide(size, patch, words):
    with pytest.raises(ValueError, match=words):
        models.grid(size, patch)


def test_masking_leaves_something_on_both_sides():
    assert [models.visible_patches(n, 0.75) for n in (256, 64, 2)] == [64, 16, 1]
    assert models.visible_patches(4, 0.99) == 1
    assert models.visible_patches(4, 0.01) == 3
    with pytest.raises(ValueError, match="between 0 and 1"):
        models.visible_patches(4, 1.0)


def test_every_machine_names_its_source():
    assert {"frontier", "laptop", "8xA100", "8xH100"} <= set(machines.MACHINES)
    assert all(row.source for row in machines.MACHINES.values())
    assert all(row.devices_per_node >= 1 for row in machines.MACHINES.values())
    assert machines.lookup("frontier").devices_per_node == 8
    with pytest.raises(ValueError, match="no machine 'summit'"):
        machines.lookup("summit")
