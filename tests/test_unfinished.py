"""Runs that have not ended: their checkpoints are exported and probed, and nothing of the run is touched."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from geofm_lib import cli, files
from geofm_lib.data.baselines import ridge
from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import normalise
from geofm_lib.distributed import snapshot
from geofm_lib.figures import pretrain
from geofm_lib.jobs import pretrain_probe, run_folder
from geofm_lib.jobs import probe as job
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import mae, vit
from geofm_lib.model.interop import folders, load, locate
from geofm_lib.runs import check, unfinished
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.runs.watch import RunFailed
from geofm_lib.settings import PrepareSettings, PretrainSettings, ProbeSettings, SettingsError
from tests.support import ranks, striped
from tests.support.executions import customised, slow
from tests.support.ranks import REPO
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_1GPU", "HYBRID_2GPUs", "DDP")


def run(place, name, stop=None, copy=None, **more):
    """One row of the program `curves`."""
    usual = {"model": "ViT-Atto", "epochs": 4, "warmup_epochs": 1, "global_batch": 12, "log_every": 1}
    usual |= {"image_size": 32, "data": str(place / "data"), "device": "cpu", "checkpoint_every": 4}
    settings = usual | {"keep_every": 8, "keep_checkpoints": 1, "run_dir": str(place / name)} | more
    return {"settings": settings, "stop": stop} | ({"copy": copy} if copy else {})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pretrainings of 20 steps on 2 ranks: `whole`, which nobody disturbed; `stopped`, as one was after 12; and
    `probed`, which was stopped at a milestone and probed along the way."""
    place = tmp_path_factory.mktemp("unfinished")
    (place / "data").mkdir()
    striped.write(place / "data")

    stopped = run(place, "goes on", stop=12, copy=str(place / "stopped"))
    runs = [run(place, "whole"), stopped, run(place, "goes on")]
    runs += [run(place, "probed", probe_every=5) | more for more in ({"stop": 10}, {"stop": 3}, {})]
    ranks.start("curves", place / "ranks", 2, runs=runs)
    return place


def contents(folder):
    """Everything of a folder: names, bytes, and when each was written."""
    return {str(each): (each.stat().st_mtime_ns, each.is_file() and each.read_bytes()) for each in folder.rglob("*")}


def weights(folder):
    return load_file(folder / "model.safetensors") | load_file(folder / "decoder.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_milestones_are_kept_beside_the_newest(place):
    assert locate.steps(place / "stopped") == [8, 12]
    assert locate.steps(place / "whole") == locate.steps(place / "goes on") == [8, 16, 20]


def test_a_checkpoint_is_the_model_of_its_step_and_the_run_is_not_touched(place, tmp_path):
    before = contents(place / "stopped")
    line = snapshot.take(str(place / "stopped"), str(tmp_path / "newest"), "geofm")
    assert line.endswith("with its decoder, step 12 of 20 of a run that has not ended"), line
    assert contents(place / "stopped") == before
    config = json.loads((tmp_path / "newest" / "config.json").read_text())
    manifest = json.loads((place / "stopped" / "checkpoint" / "step-00000012" / "manifest.json").read_text())
    which = {"run": "stopped", "step": 12, "of": 20, "digest": manifest["digest"], "ended": False}
    assert config["checkpoint"] == which
    assert folders.origin(load.load_encoder(tmp_path / "newest")[1]) == "step 12 of 20 of a run that has not ended"
    # the last checkpoint of a run is what the run itself exports
    snapshot.take(str(place / "whole"), str(tmp_path / "last"), "geofm", "20")
    assert same(weights(tmp_path / "last"), weights(place / "whole" / "encoder"))
    assert not same(weights(tmp_path / "newest"), weights(tmp_path / "last"))
    snapshot.take(str(place / "whole"), str(tmp_path / "finished"), "geofm")
    assert "checkpoint" not in json.loads((tmp_path / "finished" / "config.json").read_text())


def test_a_run_that_was_looked_at_ends_with_the_bits_of_one_that_was_not(place):
    assert same(weights(place / "goes on" / "encoder"), weights(place / "whole" / "encoder"))


def test_probes_along_the_training_change_nothing_of_it_and_survive_a_resume(place):
    assert same(weights(place / "probed" / "encoder"), weights(place / "whole" / "encoder"))
    table = Run(place / "probed").read_csv("probe_along.csv")
    assert list(table["step"]) == [0, 5, 10, 15, 20], "and 10, at which it was stopped before it was probed"
    assert set(table["train_images"]) == set(table["test_images"]) == {60}
    assert (table["seconds"] > 0).all()
    assert table["chance"].tolist() == pytest.approx([100 / 6] * 5, abs=1e-3)
    # the last point by hand: the exported encoder through 05's features, and the baseline's ridge regression
    encoder, config = load.load_encoder(place / "probed")
    sides = {}
    for side in ("train", "test"):
        images = Shards(place / "data", side)
        pixels, _ = next(batches(images, [range(60)], image_size=32, transform="probe_test"))
        with torch.no_grad():
            found = vit.features(encoder, normalise(pixels, config["mean"], config["std"])).numpy()
        sides[side] = found, images.labels
    scores = ridge(*sides["train"], sides["test"][0])
    assert table["top1"].iloc[-1] == pytest.approx(100 * (scores.argmax(1) == sides["test"][1]).mean(), abs=2)
    figure = pretrain.probe_along(Run(place / "probed"))
    for words in ("top-1 accuracy of 60 test images", "before the first step", "5 probes took", "chance 16.7 %"):
        assert words in figure.alt
    assert "probe_every" in str(pretrain.probe_along(Run(place / "whole")))


@torch.no_grad()
def test_features_along_the_training_are_those_that_a_probe_takes():
    model, images = mae.build("ViT-Atto", 32, seed=0), torch.randn(3, 3, 32, 32)
    assert torch.allclose(model.features(images), vit.features(model.encoder, images), atol=1e-5)


def test_probes_along_start_anew_where_rows_are_of_other_images(place, tmp_path):
    row = {"step": 4, "top1": 1.0, "data": "of another set"}
    files.write_csv(tmp_path / "probe_along.csv", row, [row])
    settings = PretrainSettings(**run(place, "x", probe_every=8)["settings"])
    model = mae.build("ViT-Atto", 32, seed=0)
    along = pretrain_probe.Along(settings, Folder(tmp_path), one_rank(), model, [0.5] * 3, [0.2] * 3)
    along.go_on(4)
    assert along.rows == []
    with pytest.raises(SettingsError, match="probe_data: it is for probe_every, which is 0"):
        PretrainSettings(probe_data="x")


def test_weights_that_were_killed_on_their_way_are_told(place, tmp_path, monkeypatch, capsys):
    """By the kernel that lacks memory, usually, which leaves no word."""
    monkeypatch.setattr(
        unfinished.subprocess, "run", lambda words, **how: subprocess.CompletedProcess(words, -9, "", "")
    )
    with pytest.raises(
        RunFailed, match="was ended by signal 9; if nobody sent it, the machine may have run out of memory"
    ):
        launch(probe(place, place / "stopped", run_dir=str(tmp_path / "probe")))
    assert cli.main(["export", str(place / "stopped"), str(tmp_path / "encoder"), "--format", "timm"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"writing '{tmp_path / 'encoder'}' was ended by signal 9")


@pytest.mark.long
@pytest.mark.parametrize("more", [{"strategy": each} for each in STRATEGIES] + [{"precision": "bf16"}], ids=str)
def test_probes_along_change_nothing_under_any_strategy(place, tmp_path, more):
    both = [run(place, tmp_path / name, probe_every=every, **more) for name, every in (("a", 0), ("b", 3))]
    ranks.start("curves", tmp_path / "ranks", 2, runs=both)
    assert same(weights(tmp_path / "a" / "encoder"), weights(tmp_path / "b" / "encoder"))


def test_what_cannot_be_taken_is_one_sentence(place, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(place / "stopped", run)
    with pytest.raises(ValueError, match=r"no checkpoint of step 4, but those of 8, 12; keep_every"):
        snapshot.read(run, 4)
    (run / "checkpoint" / "step-00000012" / "__1_0.distcp").write_bytes(b"")
    with pytest.raises(ValueError, match=r"step 12 in .* \(__1_0.distcp has changed .*\); give another step"):
        snapshot.read(run, 12)
    assert snapshot.read(run).config["checkpoint"]["step"] == 8
    assert "step 12 cannot be used (__1_0.distcp has changed" in capsys.readouterr().err
    (run / "checkpoint" / "step-00000008" / ".metadata").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint that can be used \(12: .*; 8: .metadata is missing\)"):
        snapshot.read(run)
    shutil.rmtree(run / "checkpoint")
    (run / "settings.json").write_text('{"job": "pretrain"}')
    with pytest.raises(ValueError, match=r"has not written a checkpoint yet; wait for its first one"):
        snapshot.take(str(run), str(tmp_path / "target"), "geofm")


def test_what_is_deleted_while_it_is_read_is_read_all_the_same(place, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(place / "stopped", run)
    found, expected = snapshot.manifest.first_fault, snapshot.read(run).encoder

    def deletes(*arguments):
        shutil.rmtree(run / "checkpoint" / "step-00000012")
        return found(*arguments)

    monkeypatch.setattr(snapshot.manifest, "first_fault", deletes)
    assert same(snapshot.read(run).encoder, expected)


def test_readers_and_retention_at_once(tmp_path, place):
    """Checkpoints come and go as fast as a disk allows: every reader gets a whole one."""
    run, over = tmp_path / "run", threading.Event()
    shutil.copytree(place / "stopped" / "checkpoint" / "step-00000012", run / "checkpoint" / "step-00000001")

    def writes():
        step = 1
        while not over.is_set():
            part, final = run / "checkpoint" / "part", locate.checkpoint(run, step + 1)
            shutil.copytree(locate.checkpoint(run, step), part)
            os.rename(part, final)
            shutil.rmtree(locate.checkpoint(run, step))
            step += 1

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        expected = snapshot.read(place / "stopped", 12).encoder
        assert all(same(snapshot.read(run).encoder, expected) for _ in range(5))
    finally:
        over.set()
        writer.join()


def one_rank():
    alone = {"rank": 0, "world_size": 1, "is_main": True, "device": torch.device("cpu")}
    return SimpleNamespace(**alone, gather=lambda each: [each], broadcast=lambda each: each, barrier=lambda: None)


def probe(place, encoder, **more):
    usual = {"data": str(place / "data"), "image_size": 32, "epochs": 2, "warmup_epochs": 1, "views": 1, "batch": 32}
    usual |= {"probe_seeds": 1, "ranks": 1, "device": "cpu", "compare_random": False, "compare_histograms": False}
    usual |= {"protocol": "paper"}
    return ProbeSettings(encoder=str(encoder), **(usual | more))


def test_a_probe_is_of_one_checkpoint_by_name(place, tmp_path, monkeypatch):
    """The launcher's side without ranks: which checkpoint, where its encoder lies, and when it is not taken again."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    run = place / "stopped"
    (tmp_path / f".taken-{os.uname().nodename}-{2**30}-x" / "encoder").mkdir(parents=True)
    with unfinished.taken(probe(place, run)) as (settings, folder):
        assert settings.encoder == f"{run}@12"
        with monkeypatch.context() as changed:
            changed.setattr(locate, "steps", lambda run: [])
            check.check(settings)  # the run has deleted it, and it is taken
        assert "stopped_12" in settings.name()
        settings.folder().mkdir()
        unfinished.put(folder, settings.folder())
    assert list(tmp_path.iterdir()) == [settings.folder()], "and not what a launcher that was killed had left"
    with unfinished.taken(probe(place, f"{run}@12")) as (again, folder):
        assert (again, folder) == (settings, None)
    config = settings.folder() / "encoder" / "config.json"
    other = json.loads(config.read_text())
    other["checkpoint"]["digest"] = "0123456789ab" + "0" * 52
    config.write_text(json.dumps(other))
    with (
        pytest.raises(SettingsError, match=r"is not the one that .* was made of \(digest 0123456789ab there"),
        unfinished.taken(settings),
    ):
        pass
    with pytest.raises(SettingsError, match="encoder: '.*' has no checkpoint of step 4, but those of 8, 12"):
        check.check(probe(place, f"{run}@4"))
    check.check(probe(place, run))
    for encoder, words in (
        (f"{tmp_path}/no@3", "there is no run '.*/no'"),
        (f"{tmp_path}@3", "'.*' has no checkpoint, so"),
    ):
        with pytest.raises(SettingsError, match=f"encoder: {words}"):
            check.check(probe(place, encoder))
    with pytest.raises(SettingsError, match="init: '.*@8' is a checkpoint of a run; export it first: geofm export "):
        check.check(PretrainSettings(init=f"{run}@8", data=str(place / "data")))


def test_the_summary_says_which_step_was_probed(place, tmp_path):
    snapshot.take(str(place / "stopped"), str(tmp_path / "encoder"), "geofm", "8")
    run = Folder(tmp_path)
    found = job.run(probe(place, tmp_path / "encoder"), one_rank(), run)
    assert found["encoder"] == "stopped@8"
    assert found["encoder_checkpoint"] == "step 8 of 20 of a run that has not ended"
    assert found["verdict"].startswith("The features of step 8 of 20 of a run that has not ended reach ")


@pytest.mark.long
def test_a_run_that_stopped_at_60_percent_is_probed_while_it_goes_on(tmp_path, monkeypatch):
    """And ends with the bits of a run that nobody looked at."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    data = launch(PrepareSettings(images_per_class=12, scene_size=32)).folder
    usual = {"model": "ViT-Atto", "image_size": 32, "epochs": 40, "global_batch": 16, "ranks": 2, "device": "cpu"}
    usual |= {"data": str(data), "checkpoint_every": 1, "keep_checkpoints": 1, "log_every": 1}
    whole = launch(PretrainSettings(**usual, run_dir=str(tmp_path / "whole")))
    settings = PretrainSettings(**usual, run_dir=str(tmp_path / "run"))
    total = whole.summary["steps"]

    def started(**environment):
        code = f"from geofm_lib.runs.launch import launch\nfrom geofm_lib.settings import *\nlaunch({settings!r})"
        return subprocess.Popen([sys.executable, "-c", code], cwd=REPO, env={**os.environ, **environment})

    run = Run(settings.folder())
    process = started()
    wait_for(lambda: run.saved_step >= 0.6 * total, 300)
    run_folder.request(run.folder, run_folder.STOP)
    process.wait(scaled(60))
    stopped = run.saved_step
    assert run.status == "stopped"
    first = launch(probe(data, run.folder, data=str(data)))  # while it is stopped
    assert first.summary["encoder"] == f"run@{stopped}"
    process = started(**customised(tmp_path, slow(0.2)))  # else it is through before the probe has begun
    wait_for(lambda: run.saved_step > stopped, 60)
    second = launch(probe(data, run.folder, data=str(data)))  # while it goes on, a checkpoint a step
    assert stopped < int(second.summary["encoder"].split("@")[1]) < total
    assert second.summary["encoder_checkpoint"].endswith(f"of {total} of a run that has not ended")
    assert process.wait(scaled(300)) == 0
    assert run.status == "finished"
    for name in ("model.safetensors", "decoder.safetensors"):
        assert (run.folder / "encoder" / name).read_bytes() == (whole.folder / "encoder" / name).read_bytes()
    third = launch(probe(data, run.folder, data=str(data)))
    assert len({each.folder for each in (first, second, third)}) == 3
    assert "encoder_checkpoint" not in third.summary


@pytest.mark.long
def test_a_probe_that_is_killed_goes_on(place, tmp_path):
    """Killed with its launcher again and again, on 2 ranks: its curves are those of one that nobody disturbed."""
    more = {"ranks": 2, "views": 0, "epochs": 40, "probe_seeds": 2, "compare_random": True}
    whole = launch(probe(place, place / "whole", **more, run_dir=str(tmp_path / "whole")))
    settings = probe(place, place / "whole", **more, run_dir=str(tmp_path / "run"))
    run, dice, kept = Run(settings.folder()), random.Random(0), set()

    def names():
        return frozenset(each.name for each in run.folder.glob("kept/*/*"))

    for _ in range(4):
        code = f"from geofm_lib.runs.launch import launch\nfrom geofm_lib.settings import *\nlaunch({settings!r})"
        process, before = subprocess.Popen([sys.executable, "-c", code], cwd=REPO), names()
        wait_for(lambda before=before: names() - before, 120)
        time.sleep(dice.uniform(0, 1.5))
        for each in ranks_of(tmp_path):
            each.kill()
        process.kill()
        process.wait()
        kept.add(names())
    assert len(kept) > 1
    again = launch(settings)
    assert again.read_csv("probe.csv").equals(whole.read_csv("probe.csv"))
    assert not (run.folder / "kept").exists()
    measured = [key for key in whole.summary if key.startswith(("top", "knn", "loss", "verdict", "head"))]
    assert [again.summary[key] for key in measured] == [whole.summary[key] for key in measured]
