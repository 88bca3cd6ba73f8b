"""The command `geofm`: what it says to someone who has read nothing, and to someone who mistypes."""

import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from types import SimpleNamespace

import pytest

from geofm_lib import cli
from geofm_lib.cli import group
from geofm_lib.runs import slurm, unfinished
from geofm_lib.settings import ThroughputSettings
from tests.support.timing import scaled

HEAVY = ("torch", "pandas", "matplotlib", "papermill", "nbconvert")


@pytest.fixture
def said(capsys, tmp_path, monkeypatch):
    """said(*words) -> (exit code, standard output, standard error); runs go to a folder of their own."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))

    def say(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return say


def sentence(answer):
    """The one sentence of a refused command."""
    code, out, err = answer
    assert code == 2
    assert not out
    assert len(err.splitlines()) == 1, err
    return err


def test_alone_it_says_what_there_is(said):
    code, out, _ = said()
    assert code == 0
    for name in cli.commands.commands:
        assert f"\n  {name} " in out, name
    assert out.count("    geofm ") >= 3, "examples"
    assert "_GEOFM_COMPLETE=bash_source" in out


def test_every_command_is_listed_by_purpose():
    listed = [name for names in group.PURPOSES.values() for name in names]
    assert sorted(listed) == sorted(cli.commands.commands)


@pytest.mark.parametrize("name", cli.commands.commands)
def test_the_help_of_a_command_ends_with_an_example(name, said):
    code, out, _ = said(name, "--help")
    assert code == 0
    assert f"Example:\n    geofm {name}" in out


def test_help_answers_at_once_and_loads_nothing_heavy(root):
    code = (
        f"import sys; from geofm_lib import cli; cli.main(['--help']); print([n for n in {HEAVY} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_and_the_entry_point_are_the_same_command(root):
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"geofm": "geofm_lib.cli:main"}
    done = subprocess.run([sys.executable, "-m", "geofm_lib", "rnu"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean 'run'?" in done.stderr
    assert "Traceback" not in done.stderr


REFUSED = {
    "a mistyped setting": (["run", "02", "-p", "stratgy", "x"], ["'stratgy'", "did you mean 'strategy'?"]),
    "a mistyped value": (["run", "02", "-p", "strategy", "FULL_SHRD"], ["FULL_SHRD", "did you mean 'FULL_SHARD'?"]),
    "a value that cannot be": (["run", "05", "-p", "views", "-1"], ["05_probe.ipynb", "views: '-1' cannot be used"]),
    "a mistyped notebook": (["run", "02_pretrian"], ["'02_pretrian'", "did you mean '02_pretrain'?"]),
    "a notebook elsewhere": (["run", "elsewhere/02_pretrain.ipynb"], ["elsewhere/02_pretrain.ipynb"]),
    "a mistyped option": (["submit", "x.csv", "--sned"], ["--sned", "--send"]),
    "a grid that is not there": (["submit", "x.csv"], ["x.csv", "cannot be read"]),
    "a site that is not there": (["submit", "x.csv", "--site", "mars"], ["batch/mars.sh"]),
    "two ways to run a grid": (
        ["submit", "batch/grids/small.csv", "--here", "--send"],
        ["--here", "choose one"],
    ),
    "a mistyped model": (["plan", "ViT-3", "--machine", "frontier", "--nodes", "2"], ["'ViT-3'", "mean 'ViT-3B'?"]),
    "a machine without nodes": (["plan", "ViT-3B", "--machine", "frontier", "--nodes", "0"], ["nodes"]),
    "no run": (["report", "nothing"], ["'nothing'"]),
    "no pages": (["report"], ["--index"]),
    "a format": (["export", ".", "x", "--format", "onnx"], ["onnx", "vitmae"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence(case, said, root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    words, facts = REFUSED[case]
    found = sentence(said(*words))
    for fact in facts:
        assert fact in found
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_a_wrong_setting_is_refused_within_ten_seconds(root, tmp_path):
    words = [sys.executable, "-m", "geofm_lib", "run", "notebooks/02_pretrain.ipynb", "-p", "stratgy", "x"]
    began = time.monotonic()
    done = subprocess.run(words, cwd=root, env={**os.environ, "GEOFM_RUNS": str(tmp_path)}, capture_output=True)
    assert time.monotonic() - began < scaled(10)
    assert done.returncode == 2


YAML = {  # content -> part of the sentence
    "model: [ViT-Tiny": "is no YAML",
    "- model": "one setting a line",
    "model: [ViT-Tiny]": "one setting a line",
    "modle: ViT-Tiny": "did you mean 'model'?",
}


@pytest.mark.parametrize("content", YAML)
def test_a_wrong_yaml_is_one_sentence(content, said, tmp_path):
    (tmp_path / "p.yaml").write_text(content)
    assert YAML[content] in sentence(said("run", "02", "-f", tmp_path / "p.yaml"))


def test_parameters_reach_the_notebook_as_typed(monkeypatch, tmp_path, said):
    from geofm_lib.report import execute

    given = {}
    monkeypatch.setattr(execute, "run", lambda notebook, parameters, *_: given.update(parameters) or 0)
    (tmp_path / "p.yaml").write_text("base_learning_rate: 1e-3\nepochs: 3\nmodel: ViT-Atto\n")
    code, _, _ = said("run", "02", "-f", tmp_path / "p.yaml", "-p", "epochs", "4")
    assert code == 0
    assert given == {"base_learning_rate": "1e-3", "epochs": "4", "model": "ViT-Atto"}


@pytest.mark.parametrize("name", ["notebooks/02_pretrain.ipynb", "02_pretrain", "02"])
@pytest.mark.parametrize("folder", ["", "notebooks", "batch/grids"])
def test_a_notebook_is_found_from_any_folder_of_the_clone(name, folder, root, monkeypatch):
    from geofm_lib.runs import check

    monkeypatch.chdir(root / folder)
    assert check.find(name).resolve() == root / "notebooks" / "02_pretrain.ipynb"


def test_a_grid_is_read_from_any_folder_of_the_clone(said, root, monkeypatch):
    monkeypatch.chdir(root / "batch" / "grids")
    code, out, err = said("submit", "small.csv")
    assert (code, err) == (0, "")
    assert out.count("batch/slurm.sh notebooks/") == 9


def test_the_plan_has_the_fastest_that_fits_first(said):
    code, out, _ = said("plan", "ViT-3B", "--machine", "frontier", "--nodes", 4, "--images", 990848, "--epochs", 100)
    assert code == 0
    network, conditions, *lines = out.splitlines()
    assert network.startswith("ViT-3B: 3,048,626,944 parameters and 27,096,140 of MAE's decoder; 256 patches an image")
    assert conditions.startswith("MAE pretraining, 32 images per GPU, steady state")
    assert conditions.endswith(
        "bf16, activations computed again in the backward pass; 4 nodes of frontier, 8 ranks each"
    )
    head, *rows = [line.split() for line in lines]
    assert head[0] == "strategy"
    assert head[-1] == "node_hours"
    speeds = [float(row[2].replace(",", "")) for row in rows if row[6] == "yes"]
    assert speeds
    assert speeds == sorted(speeds, reverse=True)
    assert "share_bf16 (at 768, 1280, 2816)" in lines[-1]
    assert "share_bf16 (at 6144); assumed" in lines[-1], "a curve that is fitted and stated says where"
    code, out, _ = said("plan", "ViT-Tiny", "--machine", "laptop", "--nodes", 1, "--numbers")
    assert "share_bf16 at 768 0.8 (x/÷ 1.35) of peak: assumed; achieved share of the bf16 peak" in out
    (first,) = (line for line in out.splitlines() if line.startswith("FULL_SHARD"))
    assert first.split()[2] == "3.087", "slow speeds have digits"


def test_status_of_runs_of_one_and_of_a_grid(said, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "queued", list)
    code, out, _ = said("status")
    assert code == 0
    assert "no runs" in out
    folder = tmp_path / "runs" / "throughput-x"
    folder.mkdir(parents=True)
    settings = ThroughputSettings()
    (folder / "settings.json").write_text(json.dumps({"job": settings.job, "asked": settings.asked(), "resolved": {}}))
    (folder / "environment.json").write_text(json.dumps({"job_started": 0}))
    (folder / "summary.json").write_text(json.dumps({"status": "failed", "error": "a disk is full"}))
    assert "throughput-x" in said("status")[1]
    for name in ("throughput-x", folder):
        code, out, _ = said("status", name)
        assert code == 0
        assert "throughput-x: failed" in out
        assert "a disk is full" in out
    assert "did you mean 'throughput-x'?" in sentence(said("status", "throughput-y"))
    (tmp_path / "grid.csv").write_text("name,notebook,epochs\na,02_pretrain,3\n")
    code, out, _ = said("status", tmp_path / "grid.csv")
    assert code == 0
    assert "1 runs: 1 not sent" in out


def test_images_are_saved_of_a_pretraining_that_rebuilt_some(said, tmp_path):
    folder = tmp_path / "runs" / "pretrain-x"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"job": "pretrain", "asked": {"dataset": "scenes"}}))
    assert "rebuilt none" in sentence(said("report", "pretrain-x", "--rebuilt", tmp_path / "x.jpg"))


def test_an_export_that_cannot_be_is_refused(root, tmp_path):
    words = [sys.executable, "-m", "geofm_lib", "export", str(tmp_path), str(tmp_path / "new"), "--format", "timm"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_of_the_clone_is_exported_from_any_folder(root, monkeypatch):
    said = []
    monkeypatch.setattr(
        unfinished, "take", lambda source, *_: said.append(str(source)) or SimpleNamespace(returncode=0)
    )
    monkeypatch.chdir(root / "notebooks")
    for typed in ("geofm_lib/model", "01_data.ipynb", str(root)):
        cli.main(["export", typed, "new", "--format", "timm"])
    assert said == [str(root / "geofm_lib" / "model"), str(root / "notebooks" / "01_data.ipynb"), str(root)]


def test_names_are_completed(root):
    def completed(*words):
        line = " ".join(["geofm", *words])
        env = {**os.environ, "_GEOFM_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        done = subprocess.run([sys.executable, "-m", "geofm_lib"], cwd=root, env=env, capture_output=True, text=True)
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("ru") == ["run"]
    assert completed("run", "02") == ["02_pretrain"]
    assert "strategy" in completed("run", "02", "-p", "stra")
    assert completed("plan", "ViT-3") == ["ViT-3.6M", "ViT-3B"]
    assert completed("plan", "ViT-3B", "--machine", "front") == ["frontier"]


def test_a_printed_path_can_be_pasted_where_it_was_printed(said, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    for each in ("geofm_lib", "notebooks", "batch", "runs/a b"):
        (clone / each).mkdir(parents=True)
    (clone / "batch" / "slurm.sh").write_text("")
    (clone / "batch" / "g.csv").write_text("name,notebook,images_per_class\none,01_data,5\n")
    (clone / "runs" / "a b" / "settings.json").write_text(json.dumps({"job": "prepare", "asked": {}, "resolved": {}}))
    (clone / "runs" / "a b" / "report.html").write_text("")
    monkeypatch.delenv("GEOFM_RUNS")
    monkeypatch.setattr(slurm, "queued", list)
    for start, typed in (("", "runs/a b"), ("notebooks", "../runs/a b"), ("notebooks", "runs/a b"), ("batch", "a b")):
        monkeypatch.chdir(clone / start)
        code, out, err = said("status", typed)
        assert (code, err) == (0, "")
        page = shlex.split(out.splitlines()[-1])[1]
        assert os.path.isfile(page), "as a shell in this folder reads it"
        assert os.path.isabs(page) == bool(start)
    monkeypatch.chdir(clone / "notebooks")
    code, out, _ = said("submit", "batch/g.csv")
    assert (code, out.splitlines()[0]) == (0, f"cd {clone}")
    assert "sbatch" in out.splitlines()[1]
    assert os.getcwd() == str(clone / "notebooks")
    monkeypatch.chdir(clone)
    assert said("submit", "batch/g.csv")[1].startswith("sbatch")
