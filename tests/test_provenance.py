"""What `+changes` after a commit means: code that differs from it, and no settings that a notebook was run with."""

import json
import shutil
import subprocess

import pytest

from geofm_lib.runs import results
from tests.conftest import ROOT, need

NAME = "notebooks/02_pretrain.ipynb"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A git repository with a module, a grid, a page and a real notebook, all committed."""
    need("git")
    for name in ("geofm_lib", "notebooks", "batch/grids", "reports"):
        (tmp_path / name).mkdir(parents=True)
    code, other = ("geofm_lib/mae.py", "pyproject.toml", "batch/slurm.sh"), ("README.md", "reports/measured.csv")
    for name in (*code, *other, "batch/grids/small.csv"):
        (tmp_path / name).write_text("old\n")
    shutil.copyfile(ROOT / NAME, tmp_path / NAME)
    who = ["-c", "user.name=anna", "-c", "user.email=anna@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "--no-verify", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    return tmp_path


def edited(clone, change, indent=1):
    """The notebook after `change(cells by id, notebook)`."""
    notebook = json.loads((clone / NAME).read_text())
    change({cell["id"]: cell for cell in notebook["cells"]}, notebook)
    (clone / NAME).write_text(json.dumps(notebook, indent=indent))


def run_in_jupyterlab(cells, notebook):
    """Edited settings, outputs, numbers, a kernel's metadata, and the empty cell that Shift-Enter adds."""
    cells["parameters"]["source"] = [line + "\n" for line in "".join(cells["parameters"]["source"]).splitlines()]
    cells["parameters"]["source"][1] = "epochs: int = 3  # mine\n"
    cells["run"] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["done"]}]}
    cells["run"]["metadata"]["trusted"] = True
    notebook["metadata"]["kernelspec"]["display_name"] = "my kernel"
    notebook["cells"].append({"id": "9", "cell_type": "code", "source": [], "metadata": {}, "outputs": []})
    notebook["cells"].insert(2, {**cells["run"], "id": "8", "metadata": {"tags": ["injected-parameters"]}})


@pytest.mark.parametrize("name", ["README.md", "reports/measured.csv", "batch/grids/small.csv"])
def test_words_results_and_grids_are_no_code(clone, name):
    assert len(results.commit()) == 10
    (clone / name).write_text("new\n")
    (clone / "geofm_lib" / "untracked.txt").touch()
    assert len(results.commit()) == 10


@pytest.mark.parametrize("name", ["geofm_lib/mae.py", "pyproject.toml", "batch/slurm.sh"])
@pytest.mark.parametrize("how", ["written", "staged", "deleted"])
def test_changed_code_is_told(clone, name, how):
    (clone / name).unlink() if how == "deleted" else (clone / name).write_text("new\n")
    if how == "staged":
        subprocess.run(["git", "add", "."], cwd=clone, check=True)
    assert results.commit().endswith("+changes")
    assert len(results.commit()) == 18


def test_a_notebook_that_was_run_with_other_settings_is_no_changed_code(clone):
    edited(clone, run_in_jupyterlab, indent=2)
    assert len(results.commit()) == 10


@pytest.mark.parametrize("change", ["text", "code", "added", "gone", "order", "broken", "deleted"])
def test_a_notebook_with_other_cells_is_changed_code(clone, change):
    def cells(by_id, notebook):
        run_in_jupyterlab(by_id, notebook)
        if change in ("text", "code"):
            name = "run" if change == "code" else notebook["cells"][0]["id"]
            by_id[name]["source"] = ["other = 1"]
        elif change == "added":
            notebook["cells"].append({"cell_type": "code", "source": ["x = 1"], "metadata": {}, "outputs": []})
        elif change == "gone":
            notebook["cells"].remove(by_id["result"])
        else:
            notebook["cells"].reverse()

    edited(clone, cells)
    if change == "broken":
        (clone / NAME).write_text("{")
    if change == "deleted":
        (clone / NAME).unlink()
    assert results.commit().endswith("+changes")


def test_outside_of_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.commit() == "unknown"
