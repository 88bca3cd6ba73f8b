"""The launcher: reads what is finished, resumes what is not, and leaves no rank behind."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import mask_noise, normalise
from geofm_lib.jobs import pretrain_loss, run_folder
from geofm_lib.model.interop import load
from geofm_lib.runs import start as starting
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run, find_runs, run_table
from geofm_lib.runs.watch import RunFailed
from geofm_lib.settings import PrepareSettings, PretrainSettings, SettingsError
from tests.conftest import need
from tests.support.executions import customised, slow
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

REPO = Path(__file__).parents[1]
STEPS = 24


def test_ranks_share_the_cores_unless_the_user_says_how_many_threads():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for given, threads in (({}, max(1, cores // 2)), ({"OMP_NUM_THREADS": "3"}, 3)):
        starts = starting._local(dict(given), 2, "cpu")
        assert [each["OMP_NUM_THREADS"] for _, each in starts] == [str(threads)] * 2


@pytest.fixture(scope="module")
def prepared():
    return launch(PrepareSettings(images_per_class=6, scene_size=32))


@pytest.fixture(scope="module")
def small(prepared):
    """Settings of a pretraining of 24 steps on 2 ranks."""
    return {
        "data": str(prepared.folder),
        "model": "ViT-Atto",
        "image_size": 32,
        "epochs": 8,
        "warmup_epochs": 1,
        "global_batch": 16,
        "ranks": 2,
        "checkpoint_every": 5,
        "log_every": 1,
    }


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The run nobody disturbed."""
    return launch(PretrainSettings(**small, run_dir=str(tmp_path_factory.mktemp("whole") / "run")))


def start(settings: PretrainSettings, **environment) -> subprocess.Popen:
    """A process of its own that launches the run, as a kernel would."""
    code = f"from geofm_lib.runs.launch import launch\nfrom geofm_lib.settings import *\nlaunch({settings!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=-2
    )


def losses(run: Run) -> list[float]:
    metrics = run.metrics
    assert list(metrics["step"]) == list(range(1, STEPS + 1))  # each step once, also after a resume
    return list(metrics["loss"])


def digest(run: Run) -> bytes:
    return (run.folder / "encoder" / "model.safetensors").read_bytes()


def test_a_finished_run_is_read(whole, small):
    began = time.monotonic()
    again = launch(PretrainSettings(**small, run_dir=str(whole.folder)))
    assert again.summary == whole.summary
    assert time.monotonic() - began < scaled(2)
    assert whole.status == "finished"
    assert whole.summary["steps"] == STEPS
    assert losses(whole)[-1] < losses(whole)[0]
    assert {"commit", "packages", "device", "nodes", "ranks"} <= set(whole.environment)


def test_the_exported_folder_is_read_by_timm_and_rebuilds(whole, small):
    """What the ranks wrote, tensor by tensor: the same features in timm, and a loss like the last one logged."""
    encoder = timm.create_model(f"local-dir:{whole.folder}/encoder", pretrained=True).eval()
    model, config = load.load_autoencoder(whole.folder)
    shards = Shards(small["data"], split="train")
    images, indices = next(batches(shards, [np.arange(32)], image_size=32, transform="probe_test"))
    pixels = normalise(images, config["mean"], config["std"])
    with torch.inference_mode():
        assert torch.equal(encoder(pixels), model.encoder.eval()(pixels))
        loss = model(pixels, mask_noise(0, 0, indices.tolist(), 16)).item()
    assert losses(whole)[0] > 1.1 * loss
    assert loss == pytest.approx(whole.summary["loss"], rel=0.1)


def test_the_loss_is_a_mean_and_the_held_out_one_that_of_one_process(whole, small):
    """Two of 24 steps are the last tenth. Two ranks found what one process finds with the exported folder."""
    found = whole.summary
    assert found["loss_steps"] == 2
    assert found["loss"] == np.mean(losses(whole)[-2:])
    model, _ = load.load_autoencoder(whole.folder)
    train, alone = (
        Shards(small["data"], split="train"),
        SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu")),
    )
    alone.gather, alone.broadcast = lambda value: [value], lambda value: value
    side, images = pretrain_loss.held_out(small["data"])
    for seed in (0, 1):  # which is none of its masks
        asked = PretrainSettings(**small | {"seed": seed})
        again = pretrain_loss.fixed_masks(asked, model, model, train, side, images, alone)
        assert again == {name: pytest.approx(found[name], rel=1e-6) if type(found[name]) is float else found[name]
                         for name in again}  # fmt: skip
    assert (found["held_out_side"], found["held_out_images"], found["trained_on_images"]) == ("test", 48, 48)
    assert found["patch_mean_loss"] == pytest.approx(1, abs=0.02), "each target has mean 0 and variance 1"


@pytest.mark.parametrize(
    "now, words",
    [({"epochs": 9}, "epochs (8 there, 9 now)"), ({"model": "ViT-Femto"}, "model ('ViT-Atto' there, 'ViT-Femto' now)")],
)
def test_other_settings_in_the_same_folder_are_named(whole, small, now, words):
    before = {f: f.read_bytes() for f in whole.folder.rglob("*") if f.is_file()}
    with pytest.raises(SettingsError, match=re.escape(f"other settings: {words}")):
        launch(PretrainSettings(**{**small, **now}, run_dir=str(whole.folder)))
    assert {f: f.read_bytes() for f in whole.folder.rglob("*") if f.is_file()} == before


def test_what_only_changes_speed_may_differ(whole, small):
    assert launch(PretrainSettings(**{**small, "strategy": "DDP"}, run_dir=str(whole.folder))).status == "finished"


def test_a_folder_with_other_files_is_left_alone(tmp_path, small):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds other files"):
        launch(PretrainSettings(**small, run_dir=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupt_saves_and_the_next_launch_goes_on(whole, small, tmp_path):
    settings = PretrainSettings(**small, run_dir=str(tmp_path / "run"))
    process = start(settings)
    run = Run(tmp_path / "run")
    wait_for(lambda: len(run.metrics) > 3)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=scaled(60))[0].decode()
    assert process.returncode != 0
    assert "The run stopped" in output
    assert run.status == "stopped"
    assert not ranks_of(run.folder)
    stopped_at = len(run.metrics)
    assert (run.folder / "checkpoint" / "latest").read_text() == f"step-{stopped_at:08d}"
    launch(settings)
    assert losses(run) == losses(whole)
    assert digest(run) == digest(whole)
    told = ("loss", "loss_steps", "held_out_loss", "trained_on_loss", "patch_mean_loss")
    assert [run.summary[each] for each in told] == [whole.summary[each] for each in told]
    assert json.loads((run.folder / "history.jsonl").read_text())["status"] == "stopped"
    first, second = (each["seconds"] for each in run.slices)
    assert run.summary["seconds"] == run.seconds == pytest.approx(first + second, abs=0.051)


@pytest.mark.long  # test_many_ranks moves the job itself from 4 ranks to 2; this is the launcher's side
def test_resumes_on_other_ranks_and_strategy(whole, small, tmp_path):
    """Stopped on 2 ranks FULL_SHARD, finished on 1 rank NO_SHARD: the same curve."""
    settings = PretrainSettings(**small, run_dir=str(tmp_path / "run"))
    process = start(settings)
    run = Run(tmp_path / "run")
    wait_for(lambda: len(run.metrics) > 6)
    run_folder.request(run.folder, run_folder.STOP)
    process.communicate(timeout=scaled(60))
    assert run.status == "stopped"
    launch(settings.model_copy(update={"ranks": 1, "strategy": "NO_SHARD", "max_batch_per_rank": 4}))
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)


def kill_and_resume(settings: PretrainSettings, moments: list[int], dice: random.Random) -> tuple[Run, int]:
    """kill -9 of a random rank soon after each of `moments` (steps), then to the end undisturbed.

    Returns the run and how many kills fell into the writing of a checkpoint.
    """
    run, writing = Run(settings.folder()), 0
    for already in moments:
        began, process = time.time(), start(settings)
        wait_for(lambda already=already, began=began: _reached(run, already, began))
        time.sleep(dice.random() * 0.3)
        dice.choice(ranks_of(run.folder)).kill()
        killed = time.monotonic()
        writing += any((run.folder / "checkpoint").glob("*.part"))  # the launcher takes it away when it concludes
        output = process.communicate(timeout=scaled(30))[0].decode()
        assert time.monotonic() - killed < scaled(30)
        assert not ranks_of(run.folder)
        assert "killed by signal 9" in output
        assert run.status == "failed"
    launch(settings)
    return run, writing


def _reached(run: Run, step: int, began: float) -> bool:
    """Has a start later than `began` done more than `step` steps?"""
    metrics = run.metrics
    return len(metrics) > 0 and metrics["step"].iloc[-1] > step and metrics["time"].iloc[-1] > began


def test_killed_ranks_end_the_run_and_it_resumes_bitwise(whole, small, tmp_path):
    """Three random moments, checkpoint writing (every fifth step) included."""
    settings = PretrainSettings(**small, run_dir=str(tmp_path / "run"))
    run, _ = kill_and_resume(settings, [2, 9, 16], random.Random(4))
    assert losses(run) == losses(whole)
    assert digest(run) == digest(whole)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twelve_kills(small, tmp_path):
    """A checkpoint after every step, so that many of the kills fall into writing one."""
    longer = {**small, "epochs": 48, "checkpoint_every": 1}
    undisturbed = launch(PretrainSettings(**longer, run_dir=str(tmp_path / "whole")))
    steps, dice = undisturbed.summary["steps"], random.Random(5)
    moments = sorted(dice.sample(range(0, steps - 32, 4), 12))  # of which each lies well before the end
    run, writing = kill_and_resume(PretrainSettings(**longer, run_dir=str(tmp_path / "run")), moments, dice)
    assert list(run.metrics["loss"]) == list(undisturbed.metrics["loss"])
    assert len(run.metrics) == steps
    assert digest(run) == digest(undisturbed)
    assert writing > 0
    print(f"12 kills, {writing} of them while a checkpoint was being written")


FULL_DISK = """
import json, subprocess, sys
from geofm_lib.runs.launch import launch
from geofm_lib.runs.watch import RunFailed
from geofm_lib.settings import PretrainSettings
settings = PretrainSettings(**json.loads(sys.argv[1]))
disk = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", settings.run_dir]
subprocess.run(disk, check=True)
try:
    launch(settings)
except RunFailed as error:
    said = str(error)
kept = sorted(f.name for f in settings.folder().glob("checkpoint/*"))
subprocess.run([*disk[:4], "remount,size=90m", *disk[5:]], check=True)
run = launch(settings)
encoder = (run.folder / "encoder" / "model.safetensors").read_bytes().hex()
print(json.dumps({"said": said, "kept": kept, "losses": list(run.metrics["loss"]), "encoder": encoder}))
"""


def test_a_disk_that_fills_up_during_a_checkpoint_spoils_nothing(whole, small, tmp_path):
    """On a disk of 9 MiB one checkpoint fits and two do not; with room again the run goes on to the same bits."""
    need("unshare")
    (tmp_path / "run").mkdir()
    asked = json.dumps({**small, "run_dir": str(tmp_path / "run")})
    command = ["unshare", "-rm", sys.executable, "-c", FULL_DISK, asked]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=scaled(200))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "step-00000010 could not be written (" in told["said"]
    assert "the disk is full" in told["said"]
    assert "step-00000005 before it is intact" in told["said"]
    assert told["kept"] == ["latest", "step-00000005"]
    assert told["losses"] == losses(whole)
    assert bytes.fromhex(told["encoder"]) == digest(whole)


def test_a_loss_that_is_no_number_stops_the_run_and_the_command_in_its_message_works(small, tmp_path):
    """The command is given to a shell, as it is printed, from another folder."""
    odd = {**small, "base_learning_rate": 1e30, "clip_grad_norm": 0.0, "warmup_epochs": 0, "epochs": 2}
    place = tmp_path / "a run"
    with pytest.raises(RunFailed, match=r"step \d+: the loss .* at learning rate .*Lower base_learning_rate") as caught:
        launch(PretrainSettings(**odd, run_dir=str(place)))
    step = int(re.search(r"step (\d+)", str(caught.value)).group(1))
    evidence = json.loads((place / "not-finite" / f"step-{step:08d}.json").read_text())
    assert [row["rank"] for row in evidence["ranks"]] == [0, 1]
    images = [image for row in evidence["ranks"] for image in row["images"]]
    assert len(set(images)) == 16
    assert evidence["ranks"][0]["gradients_not_finite"]
    before = json.loads((place / "not-finite" / f"step-{step - 1:08d}" / "manifest.json").read_text())
    assert before["step"] == step - 1
    command = str(caught.value).splitlines()[0].rpartition(": ")[2]
    assert f" -p branch '{place}@0' -p base_learning_rate 0.001 -p clip_grad_norm 1.0" in command
    here = {**os.environ, "GEOFM_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = find_runs(tmp_path / "runs", "pretrain")
    assert run.status == "finished"
    assert run.metrics["loss"].iloc[-1] < run.metrics["loss"].iloc[0]
    page = (run.folder / "report.html").read_text()
    assert "branch of" in page
    assert "base_learning_rate 1e+30 -&gt; 0.001" in page


# Of the time until the first step, then steps of the start that is killed.
BRANCH_KILLS = [
    (0.0, "rank"),
    (0.3, "rank"),
    (0.6, "rank"),
    (0.9, "launcher"),
    (1, "rank"),
    (4, "rank"),
    (9, "launcher"),
    (2, "rank"),
    (17, "rank"),
    (6, "launcher"),
]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_while_branching(whole, small, tmp_path):
    """kill -9 of a rank or of the launcher, while it begins and later on: the bits of a branch left alone.

    Then the run that was branched is deleted, and it goes on without. Checkpoints are slow until then: ranks outlive
    their launcher by 12 s, in which they must not come to the end.
    """
    copy, dice = tmp_path / "parent", random.Random(6)
    shutil.copytree(whole.folder, copy)
    settings = {"branch": f"{copy}@20", "epochs": 130}
    undisturbed = launch(PretrainSettings(**settings, run_dir=str(tmp_path / "undisturbed")))
    start_s = undisturbed.metrics["time"].iloc[0] - undisturbed.environment["began"]
    slowly = customised(tmp_path, slow(1))
    run, early = Run(tmp_path / "run"), 0
    for moment, victim in BRANCH_KILLS:
        began = time.time()
        process = start(PretrainSettings(**settings, run_dir=str(run.folder)), **slowly)
        if isinstance(moment, int):
            wait_for(lambda moment=moment, began=began: _done(run, began) >= moment)
        else:
            wait_for(lambda: len(ranks_of(run.folder)) == 2)
            time.sleep(moment * start_s)
        early += not list(run.folder.glob("checkpoint/step-*/manifest.json"))
        ranks = ranks_of(run.folder)
        assert (process.poll(), len(ranks), run.summary) == (None, 2, {})  # it lives
        (process if victim == "launcher" else dice.choice(ranks)).kill()
        process.communicate(timeout=scaled(60))
        wait_for(lambda: not ranks_of(run.folder), seconds=60)
        assert not run.finished
    shutil.rmtree(copy)
    launch(PretrainSettings(**settings, run_dir=str(run.folder)))
    assert 0 < early < len(BRANCH_KILLS)
    assert list(run.metrics["step"]) == list(range(21, 391))
    assert list(run.metrics["loss"]) == list(undisturbed.metrics["loss"])
    assert digest(run) == digest(undisturbed)
    assert run.slices[0]["from_step"] == 20
    print(f"{len(BRANCH_KILLS)} kills, {early} of them before the branch had a checkpoint of its own")


def _done(run: Run, began: float) -> int:
    """How many steps a start later than `began` has done."""
    metrics = run.metrics
    return int((metrics["time"] > began).sum()) if len(metrics) else 0


@pytest.mark.long  # test_execute kills a kernel that is the launcher
def test_ranks_end_when_their_launcher_is_killed(whole, small, tmp_path):
    settings = PretrainSettings(**{**small, "epochs": 2000}, run_dir=str(tmp_path / "run"))
    process = start(settings)
    run = Run(tmp_path / "run")
    wait_for(lambda: len(run.metrics) > 3)
    assert len(ranks_of(run.folder)) == 2
    process.kill()
    wait_for(lambda: not ranks_of(run.folder), seconds=30)
    assert not (run.folder / "summary.json").exists()
    assert run.status == "killed"


def test_a_rank_that_raises_ends_all_with_its_own_words(prepared, small, tmp_path):
    """A data shard cut short: the rank that reads past its end says so, the other one ends too."""
    copy = tmp_path / "data"
    shutil.copytree(prepared.folder, copy)
    shard = min((copy / "shards").glob("*.tar"))
    os.truncate(shard, shard.stat().st_size * 3 // 4)
    began = time.monotonic()
    with pytest.raises(RunFailed, match=r"^[^\n]*is damaged[^\n]*\nRun folder: [^\n]*$"):
        launch(PretrainSettings(**{**small, "data": str(copy)}, run_dir=str(tmp_path / "run")))
    assert time.monotonic() - began < scaled(60)
    assert not ranks_of(tmp_path / "run")
    assert "Traceback" in Run(tmp_path / "run").log_tail(100)
    assert Run(tmp_path / "run").status == "failed"


def test_table_has_a_row_for_each_run(whole):
    table = run_table(whole.folder.parent)
    assert table.loc[0, "status"] == "finished"
    assert table.loc[0, "model"] == "ViT-Atto"
    assert table.loc[0, "images_per_s"] > 0
