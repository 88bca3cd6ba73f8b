"""02's `branch`: the bits of the run that it goes on from, what may change, its ancestry, and a step that failed."""

import json
import shlex
import shutil

import pytest

from geofm_lib.data.sources import prepared
from geofm_lib.figures import pretrain
from geofm_lib.jobs import pretrain_failed
from geofm_lib.jobs.run_folder import Folder, seal
from geofm_lib.report.colophon import colophon
from geofm_lib.runs import branch
from geofm_lib.runs.check import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, ProbeSettings, Resolved, SettingsError
from geofm_lib.settings.branch import FIXED, MAY_CHANGE, ranges, refuse, spelled
from tests.support import packed, ranks

USUAL = {"model": "ViT-Atto", "epochs": 4, "warmup_epochs": 0, "global_batch": 8, "log_every": 1, "image_size": 32}
USUAL |= {"checkpoint_every": 5, "keep_checkpoints": 9, "device": "cpu", "base_learning_rate": 0.004}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(the folder of pretrainings of one rank, three steps an epoch; how each ended)."""
    place = tmp_path_factory.mktemp("branch")
    (place / "images").mkdir()
    packed.textures(place / "images")

    def run(name, source="", stop=None, nan=(), **settings):
        own = {"branch": str(place / source)} if source else USUAL | {"data": str(place / "images")}
        return {"settings": own | settings | {"run_dir": str(place / name)}, "stop": stop, "nan": nan, "launched": True}

    runs = [
        run("whole"),
        run("same", "whole@5"),
        run("lighter", "whole@10", weight_decay=0.9),
        run("ended", "whole"),
        run("longer", "whole", epochs=6),
        run("grandchild", "longer@15", base_learning_rate=0.001, skip_steps="17"),
        run("undisturbed", "longer@15", epochs=8),
        run("stopped", "longer@15", epochs=8, stop=2),
        run("stopped", "longer@15", epochs=8) | {"remove": str(place / "longer")},
        run("seven", nan=[7]),
        run("without seven", "seven@6", skip_steps="7", nan=[7]),
        run("first", nan=[1]),
        run("without first", "first@0", skip_steps="1", nan=[1]),
        run("twice", "whole@5", nan=[8, 9], skip_steps="7"),
        run("beyond", skip_steps="12-13"),
        run("last", skip_steps="12"),
        run("trunk", schedule="constant", base_width=32, rotations=True, train_images=16, epochs=5),
        run("cooled", "trunk@5", cooldown_epochs=2),
        run("cooled in parts", "trunk@5", cooldown_epochs=2, stop=2),
        run("cooled in parts", "trunk@5", cooldown_epochs=2),
    ]
    return place, dict(
        zip((str(k) for k in range(len(runs))), ranks.start("curves", place / "ranks", 1, runs=runs), strict=True)
    ) | {"runs": [each["settings"]["run_dir"].rpartition("/")[2] for each in runs]}


def ended(found, name):
    return [found[1][str(k)] for k, each in enumerate(found[1]["runs"]) if each == name][-1]


def rows(folder):
    return {row["step"]: row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def weights(folder):
    return (folder / "encoder" / "model.safetensors").read_bytes()


def test_without_a_change_it_ends_with_the_bits_of_the_run_itself(found):
    place, _ = found
    assert weights(place / "same") == weights(place / "whole")
    assert rows(place / "same") == {step: loss for step, loss in rows(place / "whole").items() if step > 5}
    began = max(each.stat().st_mtime for each in (place / "whole").rglob("*"))
    assert began <= (place / "same" / "settings.json").stat().st_mtime, "nothing is written into the run branched"
    assert (place / "same" / "checkpoint" / "step-00000005").is_dir(), "from now on it is on its own"


def test_a_change_counts_from_the_next_step(found):
    """Weight decay is kept in a checkpoint too: the new one must win. The first loss is still the run's own."""
    place, _ = found
    lighter, whole = rows(place / "lighter"), rows(place / "whole")
    assert lighter[11] == whole[11]
    assert lighter[12] != whole[12]
    assert Run(place / "lighter").resolved["ancestry"][0]["changed"] == {"weight_decay": [0.05, 0.9]}


def test_training_longer_goes_on_after_the_last_step(found):
    place, _ = found
    assert list(rows(place / "longer" if (place / "longer").exists() else place / "stopped")) == list(range(16, 25))
    assert ended(found, "ended") == "branch: step 12 is the end of 4 epochs; set more epochs to go on"


def test_a_branch_cools_a_constant_rate_down_and_goes_on_with_its_bits(found):
    """One trunk gives several horizons: two steps an epoch here, of the 16 images that the seed draws."""
    place, _ = found
    rates = {name: Run(place / name).metrics["learning_rate"].tolist() for name in ("trunk", "cooled")}
    assert [rate / 0.004 * 32 for rate in rates["trunk"]] == pytest.approx([1.0] * 10)
    assert [rate / 0.004 * 32 for rate in rates["cooled"]] == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25])
    assert ended(found, "cooled in parts") == "finished"
    assert weights(place / "cooled in parts") == weights(place / "cooled") != weights(place / "trunk")
    assert rows(place / "cooled in parts") == rows(place / "cooled")
    assert rows(place / "cooled")[6] == rows(place / "trunk")[6]
    with pytest.raises(SettingsError, match="^cooldown_epochs: a cosine falls by itself; set schedule=constant"):
        PretrainSettings(cooldown_epochs=1)
    with pytest.raises(SettingsError, match="^cooldown_epochs: 41 are more than the 40 epochs there are"):
        PretrainSettings(cooldown_epochs=41, schedule="constant")
    with pytest.raises(ValueError, match="^train_images: 200 are more than the 99 of the train side; use fewer"):
        PretrainSettings(train_images=200).steps(99)


def test_a_branch_that_was_stopped_goes_on_without_the_run_that_it_came_from(found):
    place, _ = found
    assert found[1]["7"] == "a stop was asked for; saved at step 17 of 24"
    assert ended(found, "stopped") == "finished"
    assert not (place / "longer").exists()
    assert weights(place / "stopped") == weights(place / "undisturbed")
    assert rows(place / "stopped") == rows(place / "undisturbed")
    again = PretrainSettings(branch=str(place / "longer@15"), epochs=8, run_dir=str(place / "stopped"))
    assert (again.model, again.global_batch, again.base_learning_rate) == ("ViT-Atto", 8, 0.004)
    check(again)
    with pytest.raises(SettingsError, match="^branch: there is no run folder '.*longer'$"):
        PretrainSettings(branch=str(place / "longer@15"), epochs=9, run_dir=str(place / "stopped"))


def test_a_branch_of_a_branch_tells_all_its_ancestors(found):
    place, _ = found
    run = Run(place / "grandchild")
    first, second = run.resolved["ancestry"]
    assert (first["run"], first["step"], first["changed"]) == (str(place / "whole"), 12, {"epochs": [4, 6]})
    assert (second["step"], list(second["changed"])) == (15, ["base_learning_rate", "skip_steps"])
    manifest = json.loads((place / "whole" / "checkpoint" / "step-00000012" / "manifest.json").read_text())
    assert first["digest"] == manifest["digest"]
    assert list(rows(run.folder)) == [16, 18], "17 is left out"
    assert list(run.ancestors["step"]) == list(range(1, 16))
    assert list(dict.fromkeys(run.ancestors["run"])) == ["whole", "longer"]
    curve = pretrain.loss(run)
    assert "over 18 steps. Those until step 15, in grey, are of whole and longer." in curve.alt
    assert list(curve.table["step"]) == [*range(1, 17), 18]
    assert "At the branch it goes from 1.46e−05 to 2.09e−06." in pretrain.learning_rate(run).alt
    page = colophon(run)._repr_html_()
    assert f"longer at step 15 (manifest SHA-256 {second['digest']}): base_learning_rate 0.004 -&gt; 0.001" in page
    assert f"before that {place / 'whole'} at step 12" in page


@pytest.mark.long  # test_checkpoint has the loading; this is the job
def test_an_ancestor_of_other_ranks_and_strategy(found, tmp_path):
    place, _ = found
    settings = {"branch": str(place / "whole@5"), "strategy": "NO_SHARD", "run_dir": str(tmp_path / "run")}
    assert ranks.start("curves", tmp_path, 2, runs=[{"settings": settings, "launched": True}]) == ["finished"]
    whole = {step: loss for step, loss in rows(place / "whole").items() if step > 5}
    assert rows(tmp_path / "run") == pytest.approx(whole, rel=1e-4)


def command(message):
    """{setting: value} of the command that a message ends with."""
    words = shlex.split(message[message.rindex(": ") + 2 :])
    start = words.index("run")
    assert words[start - 1].endswith("geofm")
    assert words[start + 1] == "02_pretrain"
    assert words[start + 2 :: 3] == ["-p"] * ((len(words) - start - 2) // 3)
    return dict(zip(words[start + 3 :: 3], words[start + 4 :: 3], strict=True))


def test_images_that_spoil_a_step_are_named_and_left_out(found):
    place, _ = found
    said = ended(found, "seven")
    assert "step 7: the loss of rank 0 is not finite" in said
    assert "Its images are at fault (the next ones give a loss of " in said
    assert command(said) == {"branch": str(place / "seven@6"), "skip_steps": "7"}
    kept = json.loads((place / "seven" / "not-finite" / "step-00000007.json").read_text())
    assert len(kept["ranks"][0]["names"]) == 8
    assert all(name.endswith(".tif") for name in kept["ranks"][0]["names"])
    assert ended(found, "without seven") == "finished"
    before, after = rows(place / "seven"), rows(place / "without seven")
    whole = rows(place / "whole")
    assert before == {step: whole[step] for step in range(1, 7)}
    assert list(after) == [8, 9, 10, 11, 12]
    assert after[8] == pytest.approx(whole[8], abs=0.2)
    assert Run(place / "without seven").resolved["ancestry"][0]["checkpoint"].endswith("not-finite/step-00000006")


def test_the_first_step_is_begun_again_from_its_first_weights(found):
    place, _ = found
    assert command(ended(found, "first")) == {"branch": str(place / "first@0"), "skip_steps": "1"}
    assert ended(found, "without first") == "finished"
    assert list(rows(place / "without first")) == list(range(2, 13))
    assert Run(place / "without first").resolved["ancestry"][0]["checkpoint"] == ""


def test_steps_left_out_stay_left_out_in_the_next_command(found):
    """The next images of step 8 fail as well, so that the weights are suspected: from before, at a lower rate."""
    place, _ = found
    said = command(ended(found, "twice"))
    assert said == {"branch": str(place / "twice@5"), "base_learning_rate": "0.0004"}
    settings = PretrainSettings(**USUAL, skip_steps="3,7-8")
    told = pretrain_failed.advised(Folder(place / "twice", is_main=False), settings, 6, 9, {6: 1.0}, 1.5)
    assert command(told) == {"branch": str(place / "twice@6"), "skip_steps": "3,7-9"}


ADVICE = [  # steps saved, the losses, that of the next images -> branched step and changes
    ([5], {5: 0.9, 6: 0.8, 7: 1.1}, 0.9, 5, {"skip_steps": "8"}),  # the weights before 8 could not be saved
    ([5, 7], {5: 0.9, 6: 0.8, 7: 1.1}, float("nan"), 5, {"base_learning_rate": "0.0004"}),
    ([5, 7], {5: 0.9, 6: 3.0, 7: 9.0}, 99.0, 0, {"base_learning_rate": "0.0004"}),  # 5 was spoilt too
    ([7], {7: 1.1}, float("inf"), 0, {"base_learning_rate": "0.0004"}),
    ([7], {7: 1.1}, None, 7, {"skip_steps": "8"}),  # it was the last step
]


@pytest.mark.parametrize("saved, losses, after, step, changes", ADVICE)
def test_what_was_at_fault_decides_the_advice(tmp_path, saved, losses, after, step, changes):
    for each in saved:
        (tmp_path / "checkpoint" / f"step-{each:08d}").mkdir(parents=True)
    told = pretrain_failed.advised(Folder(tmp_path), PretrainSettings(**USUAL), 7, 8, losses, after)
    assert command(told) == {"branch": f"{tmp_path}@{step}"} | changes


@pytest.mark.parametrize(
    "statistics, done, after, words",
    [
        ({"mean": [0.3, -6.8e37], "std": [0.1, 1e38], "left_out": 0}, 7, float("nan"), "the std of a band is 1e+38"),
        ({"mean_stored": [-6.8e37], "std_stored": [1.0], "left_out": 0}, 0, float("inf"), "of a band is -6.8e+37"),
        ({"mean": [0.3], "std": [0.1], "left_out": 3}, 0, float("nan"), "the numbers of 3 images"),
        ({"mean": [0.3], "std": [0.1], "left_out": 3}, 7, float("nan"), ""),
        ({"mean": [0.3], "std": [0.1], "left_out": 0}, 0, float("nan"), ""),
        ({"mean": [-6.8e37], "std": [1e38], "left_out": 0}, 0, 1.1, ""),
        ({"mean": [-6.8e37], "std": [1e38], "left_out": 0}, 0, None, ""),
        (None, 0, float("nan"), ""),
    ],
)
def test_fill_that_was_packed_as_data_is_at_fault_not_the_images_of_a_step(tmp_path, statistics, done, after, words):
    if statistics is not None:
        (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    told = pretrain_failed.fill_in(tmp_path, done, after)
    assert words in told and bool(told) == bool(words)
    assert "with nodata" in told or not words


def test_a_rate_far_above_the_default_is_not_lowered_step_by_step(tmp_path):
    wild = PretrainSettings(**USUAL | {"base_learning_rate": 1e30}, clip_grad_norm=0)
    told = command(pretrain_failed.advised(Folder(tmp_path), wild, 1, 2, {1: 1.5}, float("nan")))
    assert told == {"branch": f"{tmp_path}@0", "base_learning_rate": "0.001", "clip_grad_norm": "1.0"}


def test_a_branch_whose_first_weights_were_spoilt_begins_again_where_it_began(tmp_path):
    source = tmp_path / "checkpoint"
    source.mkdir()
    last = {"run": "/runs/a", "step": 6, "checkpoint": str(source), "changed": {"epochs": [4, 8]}}
    run = Folder(tmp_path, resolved=Resolved(ancestry=[last]))
    told = command(pretrain_failed.advised(run, PretrainSettings(**USUAL), 7, 8, {7: 1.5}, float("nan")))
    assert told == {"branch": "/runs/a@6", "epochs": "8", "base_learning_rate": "0.0004"}


def test_steps_to_leave_out(found):
    assert spelled(ranges("9, 1-3,4,2-6")) == "1-6,9"
    assert PretrainSettings(skip_steps=[3, 4]).skip_steps == "3-4"
    for wrong in ("0", "5-3", "a", "1-", True):
        with pytest.raises(SettingsError, match="^skip_steps: .*names no steps; they count from 1"):
            PretrainSettings(skip_steps=wrong)
    assert ended(found, "beyond") == "skip_steps: step 13 is beyond the last one, 12; name others"
    assert list(rows(found[0] / "last")) == list(range(1, 12))


def test_every_setting_of_a_result_may_change_or_has_a_reason_why_not():
    results = set(PretrainSettings().results_only()) - {"branch", "data"}
    assert results == {*MAY_CHANGE, *FIXED}
    assert not {*MAY_CHANGE} & {*FIXED}


def test_names_of_other_runs_stay():
    assert PretrainSettings().name() == "pretrain-ViT-Femto-FULL_SHARD-d1d595"


OTHER = {"model": "ViT-Femto", "patch_size": 16, "image_size": 64, "decoder_width": 32, "decoder_depth": 1}
OTHER["recipe"] = "fast"
OTHER |= {"decoder_heads": 1, "dataset": "a", "images_per_class": 3, "global_batch": 4, "seed": 1, "mask_ratio": 0.5}
OTHER |= {
    "train_images": 8,
    "rotations": True,
    "base_width": 32,
    "norm_pix_loss": False,
    "crop_scale_min": 0.5,
    "init": "a",
    "init_bands": "new",
    "objective": "both",
    "band_groups": "0|1-2",
}
COMPARED = {"projection": 64, "positives": "dates", "temperature": 0.5, "colour_jitter": 0.1, "contrast_weight": 0.5}
COMPARED |= {"group_masks": "consistent"}


@pytest.mark.parametrize("name", [name for name in FIXED if name not in COMPARED])
def test_what_may_not_change_is_one_sentence(found, name):
    with pytest.raises(
        SettingsError, match=f"^branch: {name} is .* and cannot become .*{FIXED[name]}; leave"
    ) as caught:
        PretrainSettings(branch=str(found[0] / "whole@5"), **{name: OTHER[name]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", COMPARED)
def test_nor_may_how_views_are_compared(name):
    now = PretrainSettings.model_construct(branch="there@5", objective="both", **{name: COMPARED[name]})
    with pytest.raises(SettingsError, match=f"^branch: {name} is .* in 'there@5' and cannot become .*{FIXED[name]}"):
        refuse(now, {"objective": "both"})


def test_what_a_notebook_leaves_at_its_default_is_as_there(found):
    cell = PretrainSettings.parameters_cell()
    names: dict = {}
    exec(cell, names)
    place = str(found[0] / "whole@5")
    own = PretrainSettings.from_notebook(names | {"In": ["", cell], "branch": place, "epochs": 9})
    assert (own.base_learning_rate, own.model, own.epochs) == (0.004, "ViT-Atto", 9)
    injected = "# Parameters\nbranch = 'a'\nbase_learning_rate = 0.001"
    own = PretrainSettings.from_notebook(names | {"In": ["", cell, injected], "branch": place})
    assert (own.base_learning_rate, own.epochs) == (0.001, 4)
    same = PretrainSettings(branch=f"{place[:-1]}05", base_learning_rate=0.001, model="ViT-Atto", epochs=4)
    assert same.name() == own.name(), "what is said twice is the same run"


def test_what_cannot_be_branched_is_one_sentence(found, tmp_path):
    place, _ = found
    whole = place / "whole"
    for text, words in [
        (place / "nowhere@5", "there is no run folder"),
        (place / "images", "is no run folder, it has no settings.json"),
        (f"{whole}@7", "has no checkpoint of step 7; it has those of 5, 10, 12, or branch from step 0"),
        (f"{place / 'same'}@0", "is a branch itself, which began at step 5; give that step or later"),
    ]:
        with pytest.raises(SettingsError, match=f"^branch: .*{words}"):
            check(PretrainSettings(branch=str(text), run_dir=str(tmp_path / "run")))
    with pytest.raises(SettingsError, match="^skip_steps: step 4 was trained before the branched step 5"):
        check(PretrainSettings(branch=f"{whole}@5", skip_steps="4-6"))
    with pytest.raises(SettingsError, match="^branch: .* was trained on other images .*give its own prepared folder"):
        branch.resolved(PretrainSettings(branch=f"{whole}@5", run_dir=str(tmp_path / "run")), "0123", "")
    (tmp_path / "settings.json").write_text('{"job": "probe", "asked": {}}')
    with pytest.raises(SettingsError, match="is a probe run, and only a pretraining .02. can be branched"):
        PretrainSettings(branch=str(tmp_path))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(
        SettingsError, match="settings.json cannot be read .*move the folder away and start that run again"
    ):
        PretrainSettings(branch=str(tmp_path))


def test_a_curve_that_is_not_what_was_written_is_not_taken(found, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(found[0] / "whole", copy)
    seal(copy)
    (copy / "metrics.jsonl").write_text((copy / "metrics.jsonl").read_text().replace("1", "2", 1))
    settings = PretrainSettings(branch=f"{copy}@5", run_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="metrics.jsonl is not what was written"):
        branch.resolved(settings, prepared.fingerprint(found[0] / "images"), "")


def test_the_last_good_checkpoint_is_taken_where_no_step_is_named(found, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(found[0] / "whole", copy)
    settings = PretrainSettings(branch=str(copy), epochs=9, run_dir=str(tmp_path / "run"))
    known = prepared.fingerprint(found[0] / "images")
    assert branch.resolved(settings, known, "")["branch"] == f"{copy}@12"
    file = copy / "checkpoint" / "step-00000012" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert branch.resolved(settings, known, "")["branch"] == f"{copy}@10"
    assert "step-00000012 is damaged (__0_0.distcp has changed" in capsys.readouterr().out


def test_what_a_branch_cannot_do_is_refused_before_ranks_start(found, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(found[0] / "whole", copy)
    for text, how, told in (
        (f"{copy}@12", {}, "^branch: step 12 is the end of 4 epochs; set more epochs to go on$"),
        (f"{copy}@5", {"skip_steps": "13"}, "^skip_steps: step 13 is beyond the last one, 12; name others$"),
        (f"{copy}@10", {}, "^branch: .*step-00000010 cannot be branched .__0_0.distcp has changed.*another step$"),
    ):
        settings = PretrainSettings(branch=text, run_dir=str(tmp_path / "run"), **how)
        if text.endswith("@10"):
            check(settings)
            file = copy / "checkpoint" / "step-00000010" / "__0_0.distcp"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(SettingsError, match=told):
            check(settings)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match="^encoder: the checkpoint of step 10 in .* is damaged .*5, 12$"):
        check(ProbeSettings(encoder=f"{copy}@10", run_dir=str(tmp_path / "probe")))
