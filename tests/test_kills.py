"""`kill -9` of what `test_launch` leaves alive: the runner, its kernel, and whoever writes the weights at the end.

Of 35 kills 12 are of ranks at random moments and 10 of launcher or ranks during a branch (both `test_launch`). Nine are
of runner, kernel and ranks at three moments, two of `geofm export`, and two of ranks whose objective compares views.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from geofm_lib import files
from geofm_lib.model.interop import load
from geofm_lib.runs.launch import launch
from geofm_lib.settings import PretrainSettings
from tests.support.executions import PRETRAIN, Execution, customised, pretraining, slow
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def slower(seconds: float) -> str:
    """Besides slow checkpoints: weights that a rank writes for half a minute, and `geofm export` for seconds.

    Ranks outlive their launcher by 12 to 14 s, in which they must come neither to the next moment nor to the end.
    """
    return f"""{slow(seconds)}
if "GEOFM_LAUNCH" in os.environ or "geofm_lib.distributed.snapshot" in sys.orig_argv:
    from geofm_lib.model.interop import folders
    write = folders.write_tensors
    def slowly(tensors):
        for each in tensors:
            time.sleep(0.5 if "GEOFM_LAUNCH" in os.environ else 0.05)
            yield each
    folders.write_tensors = lambda file, tensors, layout: write(file, slowly(tensors), layout)
"""


MOMENTS = {
    "training": lambda run, began: len(run.metrics) > 10,
    "saving": lambda run, began: newer(run.folder.glob("checkpoint/*.part"), began),
    "exporting": lambda run, began: newer(run.folder.glob("encoder/.model.safetensors*.new"), began),
}


def newer(found, began: float) -> bool:
    """Has a start later than `began` written one of them? What an earlier one left does not count."""
    with contextlib.suppress(FileNotFoundError):
        return any(each.stat().st_mtime > began for each in found)
    return False


def runner(began: Execution) -> psutil.Process:
    return psutil.Process(began.process.pid)


VICTIMS = {
    "runner": runner,
    "kernel": lambda began: next(each for each in runner(began).children() if "ipykernel" in " ".join(each.cmdline())),
    "a rank": lambda began: ranks_of(began.run.folder)[-1],
}


@pytest.fixture(scope="module")
def small():
    """Kernels are given: each place of runs measures its own, and on a busy machine they are not always the same."""
    found = pretraining() | {"attention": "fused", "linear": "matmul", "epochs": 24, "checkpoint_every": 8}
    return {**found, "data": str(found["data"])}


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The run that nobody disturbed."""
    return launch(PretrainSettings(**small, run_dir=str(tmp_path_factory.mktemp("whole") / "run")))


def bits(folder: Path) -> bytes:
    return (folder / "encoder" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_while_it_trains_saves_and_exports(victim, whole, small, tmp_path):
    """One run, killed at each of these moments in turn, then left alone: the bits of a run that nobody disturbed."""
    custom = slower(0.5 if victim == "a rank" else 5)  # the launcher ends the other ranks at once
    for moment, there in MOMENTS.items():
        now = time.time()
        began = Execution(tmp_path, PRETRAIN, {**small, "run_dir": tmp_path / "run"}, custom=custom)
        end = time.monotonic() + scaled(90)
        while not there(began.run, now):
            assert began.process.poll() is None, began.end()
            assert time.monotonic() < end, moment
            time.sleep(0.005)
        VICTIMS[victim](began).kill()
        assert began.end() == {"runner": -9, "kernel": 137}.get(victim, 1), began.output
        if victim != "runner":
            assert began.says in ("failed", "killed")
        assert began.run.status == ("failed" if "rank" in victim else "killed")
        if moment == "exporting":
            with pytest.raises(ValueError, match="encoder"):
                load.load_encoder(began.run.folder)
    last = Execution(tmp_path, PRETRAIN, {**small, "run_dir": tmp_path / "run"}, custom="")
    assert last.end() == 0, last.output
    run = last.run
    run.prove()
    assert last.says == "finished"
    assert len(run.slices) == len(MOMENTS) + 1
    assert list(run.metrics["step"]) == list(range(1, whole.summary["steps"] + 1))
    assert list(run.metrics["loss"]) == list(whole.metrics["loss"])
    assert bits(run.folder) == bits(whole.folder)


@pytest.mark.parametrize("victim", ["the command", "its process"])
def test_an_export_that_is_killed_is_never_taken_for_a_whole_one(victim, whole, tmp_path, monkeypatch):
    """What it left is refused by a reader and by the same command; written again elsewhere it has the same bits."""
    for name, value in customised(tmp_path, slower(0)).items():
        monkeypatch.setenv(name, value)
    target = tmp_path / "exported"
    words = [sys.executable, "-m", "geofm_lib", "export", str(whole.folder), str(target), "--format", "geofm"]
    before = files.digest(whole.folder / "SHA256SUMS")
    first = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(target.glob(".model.safetensors*.new")))
    inner = psutil.Process(first.pid).children()
    (inner[0] if victim == "its process" else psutil.Process(first.pid)).kill()
    first.wait(scaled(30))
    if victim == "its process":
        assert first.returncode == 2
        (said,) = first.stderr.read().splitlines()
        assert said.startswith(f"writing '{target}' was ended by signal 9; if nobody sent it, the machine may have run")
        with pytest.raises(ValueError, match="exported"):
            load.load_encoder(target)
        again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
        assert f"{target} exists and holds something" in again.stderr
        shutil.rmtree(target)
        subprocess.run(words, cwd=tmp_path, check=True)
    psutil.wait_procs(inner, scaled(60))  # the command was killed, and what it had started ends by itself
    files.prove(target)
    assert (target / "model.safetensors").read_bytes() == bits(whole.folder)
    assert files.digest(whole.folder / "SHA256SUMS") == before


@pytest.mark.parametrize("objective", ["contrastive", "both"])
def test_views_of_a_run_whose_rank_was_killed_are_those_of_one_that_nobody_disturbed(objective, small, tmp_path):
    asked = {**small, "objective": objective, "ranks": 2}
    undisturbed = launch(PretrainSettings(**asked, run_dir=str(tmp_path / "whole" / "run")))
    began = Execution(tmp_path, PRETRAIN, {**asked, "run_dir": tmp_path / "run"}, custom=slower(0.5))
    wait_for(lambda: len(began.run.metrics) > 10, seconds=90)
    ranks_of(began.run.folder)[-1].kill()
    assert began.end() == 1, began.output
    last = Execution(tmp_path, PRETRAIN, {**asked, "run_dir": tmp_path / "run"}, custom="")
    assert last.end() == 0, last.output
    assert list(last.run.metrics["loss"]) == list(undisturbed.metrics["loss"])
    assert bits(last.run.folder) == bits(undisturbed.folder)
