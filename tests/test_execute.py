"""The runner and plain papermill: bad settings stop in seconds, and a page never claims more than happened."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from geofm_lib import rights
from geofm_lib.report import ending, execute, kernel
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

REPO = Path(__file__).parents[1]
PRETRAIN = REPO / "notebooks" / "02_pretrain.ipynb"


def test_a_kernel_that_is_ended_is_not_interrupted():
    """Or it may print "KeyboardInterrupt caught in kernel" under a finished run."""
    kernels = kernel.Kernels()
    with pytest.raises(RuntimeError, match="No kernel is running"):
        asyncio.run(kernels._async_interrupt_kernel())
    kernels.shutting_down = True
    asyncio.run(kernels._async_interrupt_kernel())


@pytest.fixture(scope="module")
def small():
    """Parameters of a pretraining of 12 steps on 2 ranks, as typed."""
    data = launch(PrepareSettings(images_per_class=6, scene_size=32)).folder
    return {
        "data": str(data),
        "model": "ViT-Atto",
        "image_size": "32",
        "epochs": "4",
        "warmup_epochs": "1",
        "global_batch": "16",
        "ranks": "2",
        "checkpoint_every": "2",
        "log_every": "1",
    }


def typed(parameters: dict) -> list[str]:
    return [word for pair in parameters.items() for word in ("-p", *pair)]


def runner(notebook: Path, parameters: dict, **more) -> subprocess.Popen:
    command = [sys.executable, "-m", "geofm_lib", "run", str(notebook), *typed(parameters)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=-2, text=True, env={**os.environ, **more})


BAD = {
    "an unknown name": ({"stratgy": "FULL_SHARD"}, "unknown setting 'stratgy'; did you mean 'strategy'?"),
    "a shard group that does not divide": ({"strategy": "HYBRID_3GPUs", "ranks": "4"}, "3 divides; 4 ranks"),
}


@pytest.mark.parametrize("case", BAD)
def test_papermill_stops_at_bad_settings(case, tmp_path):
    parameters, sentence = BAD[case]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(PRETRAIN), str(tmp_path / "out.ipynb"), *typed(parameters)],
        cwd=REPO,
        env={**os.environ, "GEOFM_RUNS": str(tmp_path / "runs")},
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < scaled(15)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_notebook_that_refuses_what_it_was_given_has_a_page_and_no_run_folder(tmp_path, monkeypatch):
    """`geofm run` refuses such settings before (tests/test_cli.py); a notebook can still raise its own."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    state, error, page, code = execute.execute(PRETRAIN, {"epochs": "0"})
    assert (state, code) == ("failed", 2)
    assert "epochs: '0' cannot be used" in error
    assert "FAILED" in page.read_text().upper()
    assert "cannot be used" in page.read_text()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [f".{rights.user()}"]  # and no run folder


def test_finishes_with_a_page_and_reads_the_second_time(small, tmp_path):
    folder = tmp_path / "run"
    first = runner(PRETRAIN, {**small, "run_dir": str(folder)})
    output = first.communicate(timeout=scaled(120))[0]
    assert first.returncode == 0, output
    run = Run(folder)
    assert run.status == "finished"
    assert (folder / "notebook.ipynb").is_file()
    page = (folder / "report.html").read_text()
    assert "FINISHED" in page.upper()
    assert "<img" in page
    assert "<script" not in page
    ended = (folder / "summary.json").stat().st_mtime
    second = runner(PRETRAIN, {**small, "run_dir": str(folder)})
    assert "FINISHED" in second.communicate(timeout=scaled(60))[0]
    assert (folder / "summary.json").stat().st_mtime == ended


def test_a_killed_kernel_is_told_and_resumed(small, tmp_path):
    folder = tmp_path / "run"
    process = runner(PRETRAIN, {**small, "epochs": "60", "run_dir": str(folder)})
    run = Run(folder)
    wait_for(lambda: len(run.metrics) > 3)
    kernels = [c for c in psutil.Process(process.pid).children() if "ipykernel_launcher" in " ".join(c.cmdline())]
    kernels[0].kill()
    output = process.communicate(timeout=scaled(60))[0]
    assert process.returncode == 137
    assert "KILLED" in output
    assert "KILLED" in (folder / "report.html").read_text().upper()
    wait_for(lambda: not ranks_of(folder), seconds=30)
    reached = len(run.metrics)
    process = runner(PRETRAIN, {**small, "epochs": "60", "run_dir": str(folder)})
    wait_for(lambda: len(run.metrics) > reached)
    steps = list(run.metrics["step"])
    assert steps == list(range(1, len(steps) + 1))  # it went on, it did not begin again beside
    process.send_signal(signal.SIGTERM)  # as Slurm would: save and stop
    output = process.communicate(timeout=scaled(60))[0]
    assert process.returncode == ending.EXIT_CODES["stopped"]
    assert "STOPPED" in output
    assert run.status == "stopped"
    assert "STOPPED" in (folder / "report.html").read_text().upper()


def test_an_exit_inside_a_cell_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    code = [nbformat.v4.new_code_cell(source) for source in ("import sys; sys.exit(0)", "print('never')")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Is this a success?"), *code])
    nbformat.write(notebook, tmp_path / "exit.ipynb")
    state, error, page, code = execute.execute(tmp_path / "exit.ipynb", {})
    assert (state, code) == ("failed", 1)
    assert "ended early" in error
    assert "FAILED" in page.read_text().upper()


@pytest.mark.long
@pytest.mark.parametrize("by", ["launch", "ranks"])
def test_what_is_refused_while_its_data_are_prepared_ends_with_2(by, tmp_path, monkeypatch):
    """Steps that the images, prepared by the same command, do not give; and images of which none can be used."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    asked = {
        "launch": {"images_per_class": "2", "global_batch": "1000", "ranks": "1"},
        "ranks": {"dataset": str(tmp_path / "images")},
    }[by]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    process = runner(PRETRAIN, asked)
    output = process.communicate(timeout=scaled(120))[0]
    assert process.returncode == 2, output
    assert {"launch": "global_batch: 1000 images are more than", "ranks": "dataset: none of the 1 images"}[by] in output
    assert list((tmp_path / "runs").glob("prepare-*")), "it was refused only then"
    assert "Traceback" not in output


def test_what_the_runner_knows_is_kept(small, tmp_path):
    """execution.json of a failed run: a rank's own error reaches the page."""
    folder = tmp_path / "run"
    spoilt = {"base_learning_rate": "1e30", "clip_grad_norm": "0", "warmup_epochs": "0"}
    process = runner(PRETRAIN, {**small, **spoilt, "run_dir": str(folder)})
    output = process.communicate(timeout=scaled(120))[0]
    assert process.returncode == 1
    assert "not finite" in output
    facts = json.loads((folder / "execution.json").read_text())
    assert facts["status"] == "failed"
    assert "not finite" in facts["error"]
    page = (folder / "report.html").read_text()
    assert "FAILED" in page.upper()
    assert "not finite" in page
