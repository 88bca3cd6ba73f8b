"""Changing the strategy or the number of ranks changes nothing but speed and memory: real ranks on CPU (gloo)."""

import json

import pytest
import safetensors.torch

from geofm_lib.catalog.strategies import lookup, resolve
from geofm_lib.distributed import sharding
from geofm_lib.distributed.sharding import SMALL
from geofm_lib.jobs.simulate import simulate
from geofm_lib.model import mae
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.steps import step_traffic
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings, PretrainSettings, SimulateSettings
from tests.support import encoders, packed, ranks

pytestmark = pytest.mark.timeout(900)  # the first test waits for all ranks to train

WORLDS = (1, 2, 4)
DEPTHS = (0, 1, 2)
PARTS = {1: None, 2: 10, 4: 10}  # micro-batches a step -> after how many steps the run is stopped
NAMES = ("DDP", "NO_SHARD", "FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_1GPU", "HYBRID_2GPUs", "HYBRID_4GPUs")
REFUSED = [("HYBRID_2GPUs", 1), ("HYBRID_4GPUs", 1), ("HYBRID_4GPUs", 2)]
STRATEGIES = {world: [n for n in NAMES if (n, world) not in REFUSED] for world in WORLDS}
# (precision, activation checkpointing): all four on 2 ranks; on 1 and 4 the other two are left to `make test-long`.
USUAL, OTHER = (("fp32", False), ("bf16", True)), (("fp32", True), ("bf16", False))
HOW = {1: USUAL, 2: USUAL + OTHER, 4: USUAL}
# (strategy, precision) under which views are compared: every strategy alone, a few of them beside MAE
COMPARED = {
    world: {
        "contrastive": [(name, "fp32") for name in STRATEGIES[world]] + [("FULL_SHARD", "bf16")] * (world == 2),
        "both": [(name, "fp32") for name in ("DDP", "HYBRID_2GPUs" if world > 1 else "FULL_SHARD")],
    }
    for world in WORLDS
}
TOGETHER = {"FULL_SHARD": {"precision": "bf16", "activation_checkpointing": True}, "HYBRID_1GPU": {}}
HELD = {2: ("FULL_SHARD",), 4: ("FULL_SHARD", "HYBRID_2GPUs")}
_SMALL = {"model": "ViT-Atto", "image_size": 32, "batch_per_gpu": 4}
SIMULATED = {2: _SMALL | {"workload": "mae", "precision": "fp32"}, 4: _SMALL | {"workload": "classify"}}
# All are held against fp32 on one process. bf16 rounds to 8 bits of mantissa, 2^-9 = 0.2 % at most each time; errors
# of that size in weights and activations partly cancel in a loss over thousands of pixels, less in a gradient norm.
TOLERANCE = {("fp32", "losses"): 1e-5, ("fp32", "norms"): 1e-5, ("bf16", "losses"): 2e-3, ("bf16", "norms"): 2e-2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(place):
    """What each number of ranks came to: every strategy, the gathers at each depth of prefetch, and 54 steps of the
    pretraining job, stopped on 4 ranks and resumed on 2, and with accumulation on 1."""
    data = launch(PrepareSettings(images_per_class=6, scene_size=32))
    recipe = {"data": str(data.folder), "model": "ViT-Atto", "image_size": 32, "epochs": 9, "warmup_epochs": 1}
    recipe |= {"global_batch": 8, "log_every": 1, "checkpoint_every": 100}

    def run(name, stop=None, **settings):
        return {"settings": {**recipe, **settings, "run_dir": str(place / name)}, "stop": stop}

    curves = {
        4: [run("four", strategy="FULL_SHARD"), run("moved", stop=20, strategy="FULL_SHARD")],
        2: [run("two", strategy="SHARD_GRAD_OP"), run("moved", strategy="HYBRID_2GPUs")],
        1: [run(f"parts {k}", stop, strategy="NO_SHARD", max_batch_per_rank=8 // k) for k, stop in PARTS.items()],
    }
    five = {"data": str(packed.textures(place / "five", bands=5)), "band_groups": "0,3|1,2|4", "epochs": 2}
    for world in (2, 1):
        curves[world].append(run(f"groups on {world}", **five))
    dated = {"data": str(packed.dated(place / "dated")), "objective": "both", "positives": "dates", "epochs": 1}
    curves[2].append(run("dates on 2", strategy="FULL_SHARD", **dated))
    curves[1] += [run("dates on 1", **dated), run("dates again", stop=2, **dated), run("dates again", **dated)]
    init = encoders.autoencoder(place / "init" / "source")
    out = {}
    for world in (4, 2, 1):  # in this order, since a run moves from 4 to 2
        equality = {"strategies": STRATEGIES[world], "how": HOW[world]}
        programs = {"equality": equality, "curves": {"runs": curves[world]}}
        programs["masked"] = {"strategies": STRATEGIES[world], "others": ["bf16"] if world == 2 else []}
        programs["first_weights"] = {"strategies": STRATEGIES[world], "init": str(init), "place": str(place / "init")}
        programs["contrasted"] = {"strategies": COMPARED[world], "steps": 1 if world == 4 else 2}
        if world in SIMULATED:
            programs["held"] = {"strategies": HELD[world], "settings": SIMULATED[world]}
        if world == 2:
            programs |= {"prefetch": {"depths": DEPTHS}, "unsynchronised": {}}
            programs["together"] = {"hows": TOGETHER, "least": [0, 100_000, SMALL]}
        out[world] = ranks.start_all(programs, place / f"on {world}", world)
    return out


@pytest.fixture(scope="module")
def results(found):
    return {world: each["equality"] for world, each in found.items()}


@pytest.mark.parametrize("world", WORLDS)
def test_every_strategy_gives_the_single_process_curve(results, world):
    reference = results[1]["trained"]["plain/fp32/False"]
    assert reference["losses"][4] < reference["losses"][0]
    check_equal(results[world]["trained"], reference, world, HOW[world])


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 4])
def test_so_it_does_in_the_combinations_left_out_above(results, place, world):
    found = ranks.start("equality", place / f"others on {world}", world, strategies=STRATEGIES[world], how=OTHER)
    check_equal(found["trained"], results[1]["trained"]["plain/fp32/False"], world, OTHER)
    assert all(each["replicas_equal"] for each in found["trained"].values())


@pytest.mark.parametrize("world", WORLDS)
def test_what_was_not_measured_counts_alike_on_any_ranks_and_in_any_micro_batches(found, world):
    """Images have whole, partial or no targets: the loss stays a mean over images, whoever holds them."""
    reference = found[1]["masked"]["plain"]
    assert all(0.2 < share < 0.9 for share in reference["shares"])
    seen = {name: each for name, each in found[world]["masked"].items() if name != "plain"}
    assert len(seen) == len(STRATEGIES[world]) * (3 if world == 2 else 2)
    for name, each in seen.items():
        precision = name.split("/")[1]
        for key in ("losses", "norms"):
            assert each[key] == pytest.approx(reference[key], rel=TOLERANCE[precision, key]), (world, name, key)
        assert each["shares"] == pytest.approx(reference["shares"], rel=1e-6), (world, name)
        assert each["replicas_equal"]


@pytest.mark.parametrize("objective", ["contrastive", "both"])
@pytest.mark.parametrize("world", WORLDS)
def test_views_are_told_from_those_of_all_ranks_under_every_strategy(found, world, objective):
    """InfoNCE over the global batch, its gradient too: a rank that knew its own images alone would be far off."""
    reference = found[1]["contrasted"][f"{objective}/plain"]
    own = {name: each for name, each in found[world]["contrasted"].items() if name.startswith(objective)}
    assert len(own) == len(COMPARED[world][objective]) + (world == 1)
    for name, each in own.items():
        allowed = 2e-2 if name.endswith("bf16") else 1e-5  # cosines are divided by a temperature of 0.1
        for key in ("losses", "norms"):
            beside = reference[key][: len(each[key])]
            assert each[key] == pytest.approx(beside, rel=allowed), (world, name, key)
        assert each["replicas_equal"]


def check_equal(trained, reference, world, how):
    """Every strategy was tried in every way, and all agree with the unwrapped process."""
    assert trained.keys() - {"plain/fp32/False"} == {f"{n}/{p}/{c}" for n in STRATEGIES[world] for p, c in how}
    for name, found in trained.items():
        for key in ("losses", "norms"):
            allowed = TOLERANCE[name.split("/")[1], key]
            assert found[key] == pytest.approx(reference[key], rel=allowed), (world, name, key)


def test_init_gives_the_same_bits_on_any_ranks_under_any_strategy(found):
    """At another size, on 13 bands: what is copied, interpolated, spread over bands, and what is drawn."""
    reference = found[1]["first_weights"]["NO_SHARD"]
    assert len(set(reference.values())) > 30
    for world in WORLDS:
        for strategy, weights in found[world]["first_weights"].items():
            assert weights == reference, (world, strategy)


@pytest.mark.parametrize("world", [2, 4])
def test_replicas_hold_the_same_bits_after_every_step(results, world):
    """FSDP1's HYBRID_1GPU never reduced gradients over the replicas; this is the test that would have shown it."""
    assert all(found["replicas_equal"] for found in results[world]["trained"].values())


def test_replicas_that_are_never_reduced_are_told_apart(found):
    assert found[2]["unsynchronised"] is False


@pytest.mark.parametrize("world", WORLDS)
def test_a_loss_that_is_no_number_stops_every_rank_before_any_weight_moves(results, world):
    found = results[world]["guard"]
    assert [each["own"] == "nan" for each in found] == [False] * (world - 1) + [True]
    assert all(each["all"] == "nan" and not each["moved"] for each in found)
    assert all("encoder.patch_embed.proj.weight" in each["names"] for each in found)


@pytest.mark.parametrize("name, world", REFUSED)
def test_ranks_that_a_shard_group_does_not_divide_are_refused(name, world):
    with pytest.raises(ValueError, match=f"{name} needs a number of ranks that {name[7]} divides; {world} rank"):
        resolve(lookup(name), world)


@pytest.mark.parametrize("world", [2, 4])
def test_the_meter_counts_the_bytes_of_the_arithmetic(results, world):
    for strategy, counted in results[world]["bytes"].items():
        expected = step_traffic("ViT-Atto", strategy, world, Conditions(precision="fp32"), image_size=32, patch_size=8)
        for kind, traffic in expected.items():
            found = counted.get(kind, 0)
            if kind == "all_reduce":  # the gradient norm's scalars are reduced too
                assert traffic.payload <= found <= traffic.payload + 4096, (strategy, kind)
            else:
                assert found == traffic.payload, (strategy, kind)


def test_the_depth_of_prefetch_moves_gathers_and_nothing_else(found):
    """Depth 0 gathers a block when its own pass begins, 1 one block earlier (BACKWARD_PRE), 2 two."""
    by_depth = found[2]["prefetch"]
    assert len({by_depth[str(depth)]["loss"] for depth in DEPTHS}) == 1
    for depth in DEPTHS:
        events = by_depth[str(depth)]["events"]
        turn = events.index("F3") + 1
        for block in range(4):
            for way, past, before in (("F", events[:turn], block), ("B", events[turn:], 3 - block)):
                computed = sum(event[0] == way for event in past[: past.index(f"G{block}")])
                assert computed == max(0, before - depth), (depth, way, block, events)


def test_blocks_gathered_as_one_train_the_same_bits(found):
    model = mae.build("ViT-Atto", 32, 3, "meta", 8)  # four blocks of 50,000 parameters, and two
    assert [[len(unit) for unit in sharding._units(model, least)] for least in (0, 90_000, SMALL)] == [
        [1] * 6, [2, 2, 2], [4, 2]]  # fmt: skip
    for strategy, (usual, *others) in found[2]["together"].items():
        assert others == [usual] * 2, strategy


@pytest.fixture(scope="module")
def fifty(found, place):
    """Metrics of each run of the pretraining job."""
    return {f.parent.name: Run(f.parent).metrics for f in place.glob("*/metrics.jsonl")}


@pytest.mark.parametrize("name", ["two", "four", "moved"])
def test_fifty_steps_are_the_same_on_any_ranks_and_after_moving(found, fifty, name):
    assert found[4]["curves"][1] == "a stop was asked for; saved at step 20 of 54"  # `moved` went on from there
    assert found[2]["curves"] == ["finished"] * 4
    reference = fifty["parts 1"]
    assert list(fifty[name]["step"]) == list(range(1, len(reference) + 1))
    assert len(reference) >= 50
    assert reference["loss"].iloc[-1] < 0.9 * reference["loss"].iloc[0]
    assert list(fifty[name]["loss"]) == pytest.approx(list(reference["loss"]), rel=1e-4)


def test_groups_of_bands_are_the_same_tokens_on_any_ranks(fifty):
    one, two = (list(fifty[f"groups on {world}"]["loss"]) for world in (1, 2))
    assert len(one) == 6
    assert two == pytest.approx(one, rel=1e-5)


def test_dates_of_places_are_the_same_pairs_on_any_ranks_and_after_a_stop(found, fifty, place):
    losses = {name: list(fifty[f"dates {name}"]["loss"]) for name in ("on 1", "on 2", "again")}
    assert len(losses["on 1"]) == 3
    assert found[1]["curves"][-2:] == ["a stop was asked for; saved at step 2 of 3", "finished"]
    assert losses["again"] == losses["on 1"], "to the bit"
    assert losses["on 2"] == pytest.approx(losses["on 1"], rel=1e-5)
    encoder = place / "dates on 2" / "encoder"
    weights = safetensors.torch.load_file(encoder / "model.safetensors")
    assert not any("projector" in name for name in weights)
    assert json.loads((encoder / "config.json").read_text())["objective"] == "both"


@pytest.mark.parametrize("name", ["parts 2", "parts 4"])
def test_accumulation_changes_nothing(fifty, name):
    micro_batches = PretrainSettings(global_batch=8, max_batch_per_rank=8 // int(name[-1])).accumulation(1)
    assert micro_batches == int(name[-1])
    assert list(fifty[name]["loss"]) == pytest.approx(list(fifty["parts 1"]["loss"])[:10], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "strategy, precision, checkpointing, holes",
    [("FULL_SHARD", "fp32", False, False), ("FULL_SHARD", "fp32", False, True), ("DDP", "bf16", True, True)],
)
def test_compiled_blocks_train_the_same(tmp_path, strategy, precision, checkpointing, holes):
    how = {"precision": precision, "activation_checkpointing": checkpointing}
    found = ranks.start("compiled", tmp_path, 2, strategy=strategy, how=how, holes=holes)
    plain, compiled = found["False"], found["True"]
    assert compiled["names"] == plain["names"]  # one checkpoint fits both
    assert compiled["replicas_equal"]
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=TOLERANCE[precision, "losses"])


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_of_compiled_blocks_stays_that_of_plain_ones_over_3000_steps(tmp_path, precision):
    """Others saw it drift apart after thousands of steps: a whole schedule on images that can be learned."""
    images = launch(PrepareSettings(images_per_class=16, scene_size=32, run_dir=str(tmp_path / "images")))
    asked = {"data": str(images.folder), "model": "ViT-Atto", "image_size": 32, "global_batch": 16}
    asked |= {"epochs": 375, "warmup_epochs": 10, "log_every": 1, "checkpoint_every": 3000, "precision": precision}
    asked |= {"attention": "fused", "linear": "matmul"}
    names = {str(compile): {"compile": compile, "run_dir": str(tmp_path / str(compile))} for compile in (False, True)}
    ranks.start("curves", tmp_path / "ranks", 1, runs=[{"settings": asked | own} for own in names.values()])
    found = [Run(tmp_path / name).metrics["loss"] for name in names]
    assert len(found[0]) == len(found[1]) == 3000
    assert found[0].iloc[-100:].mean() < 0.9 * found[0].iloc[:20].mean()
    assert (found[1] / found[0] - 1).abs().max() < 1e-3


@pytest.mark.parametrize("world, strategy", [(world, name) for world, names in HELD.items() for name in names])
def test_a_simulation_is_what_real_ranks_hold_and_send(found, world, strategy):
    """Fake ranks against two real steps: bytes of each collective exactly, memory within 5 % (it is exact too)."""
    settings = SimulateSettings(**SIMULATED[world], strategy=strategy, gpus=world)
    seen, traced = found[world]["held"][strategy], simulate(settings)
    assert traced.bytes
    assert traced.bytes == seen["bytes"]
    assert traced.calls == seen["calls"]
    for kind, size in traced.memory.whole.items():
        assert size
        assert size == pytest.approx(seen["counted"][kind], rel=0.05)
    assert traced.memory.peak == pytest.approx(seen["peak"], rel=0.05)
    expected = step_traffic("ViT-Atto", strategy, world, Conditions.of(vars(settings)), image_size=32)
    assert {name: each.payload for name, each in expected.items() if each.calls} == traced.bytes
