"""A run as a Workflow Run RO-Crate: valid by its own validator, with what ran, and without anybody's name."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from geofm_lib import cli, files
from geofm_lib.jobs import run_folder
from geofm_lib.report.public import Public
from geofm_lib.runs.run import Run

WITHOUT = {  # what is only recommended, and why it is not there
    "ro-crate-1.1_22.3",  # a publisher: who publishes it writes that
    "ro-crate-1.1_31.2",  # an address of whoever ran it
    "ro-crate-1.1_24.1",  # no list of one value, where other runs have several
    "process-run-crate-0.5_3.2",  # an address of the program: the notebook lies in the crate
    "process-run-crate-0.5_5.1",
}
HOME = os.path.expanduser("~")
HOST = "nid00123.example.org"
MINE = f"/home/hildegard/data/{'x' * 3}/images.tar"
ASKED = {"dataset": MINE, "image_size": 64, "model": "ViT-Atto", "norm_pix_loss": True, "base_learning_rate": 1e-3}
CELL = nbformat.v4.new_code_cell("x = 1", execution_count=1)
CELL.outputs = [nbformat.v4.new_output("stream", text="printed by hildegard")]


def made(folder, status="finished", seal=True, **more):
    """A run folder with everything in it that nobody else should read."""
    folder.mkdir(parents=True)
    resolved = {"ranks": 2, "data": f"{HOME}/runs/prepare-mine"}
    files.write_json(folder / "settings.json", {"job": "pretrain", "asked": ASKED | more, "resolved": resolved})
    where = {"host": HOST, "launcher_host": HOST, "nodes": [HOST], "device": "CPU", "ranks": 2, "commit": "abc1234567"}
    where |= {"packages": {"geofm": "0.1.0", "torch": "2.14.1"}, "job_started": 1.7e9, "began": 1.7e9 + 5}
    files.write_json(folder / "environment.json", where)
    error = {} if status == "finished" else {"error": f"'{MINE}' is gone, said hildegard on {HOST}; token=t0kent0ken"}
    if status:
        files.write_json(folder / "summary.json", {"status": status, "ended": 1.7e9 + 60, "seconds": 55.0, **error})
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.5}\n')
    (folder / "ranks.csv").write_text(f"rank,host,step_s\n0,{HOST},0.5\n")
    (folder / "reconstruction.npz").write_bytes(b"pictures")
    (folder / "report.html").write_text(f"<img src='data:image/png;base64,AAAA/home/x+/a=='> {MINE} on {HOST}")
    (folder / "encoder").mkdir()
    (folder / "encoder" / "model.safetensors").write_bytes(b"\x00\xffweights")
    (folder / "encoder" / "odd.bin").write_bytes(f"made in {HOME}/x".encode())
    (folder / "log.txt").write_text(f"{MINE} t0kent0ken")
    (folder / "owners").mkdir()
    files.write_json(
        folder / "owners" / "0001.json", {"id": "0001-a", "user": "hildegard", "host": HOST, "process": []}
    )
    (folder / "owners" / "0001.ended").write_text("")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Does it?"), CELL])
    notebook.metadata["papermill"] = {"input_path": MINE}
    nbformat.write(notebook, folder / "notebook.ipynb")
    if seal:
        run_folder.seal(folder)
    return Run(folder)


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/hildegard")
    monkeypatch.setattr(__name__ + ".HOME", "/home/hildegard")


def crate(run, to):
    assert cli.main(["report", "--crate", str(run.folder), "--to", str(to)]) == 0
    with zipfile.ZipFile(to) as packed:
        found = {name: packed.read(name) for name in packed.namelist()}
    graph = json.loads(found["ro-crate-metadata.json"])["@graph"]
    return found, {each["@id"]: each for each in graph}


def named(entities, kind):
    return [each for each in entities.values() if each["@type"] == kind]


def issues(file):
    """What RO-Crate's own validator says, [severity, check, message] each; a skip where it is not installed."""
    python = os.environ.get("GEOFM_ROC_VALIDATOR") or str(Path(".venv/validator/bin/python").absolute())
    if not shutil.which(python):
        pytest.skip("roc-validator is not installed: .ci/run puts it into .venv/validator")
    import rocrate

    context = Path(rocrate.__file__).with_name("data") / "ro-crate.jsonld"
    script = Path(__file__).with_name("support") / "validate_crate.py"
    done = subprocess.run([python, script, context, file], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_crate_of_a_run_says_what_ran_and_names_nobody(tmp_path):
    found, entities = crate(made(tmp_path / "run"), tmp_path / "out.zip")
    assert set(found) == {"ro-crate-metadata.json", "README.md", "notebook.ipynb", "settings.json", "environment.json",
                          "summary.json", "metrics.jsonl", "ranks.csv", "encoder/model.safetensors"}  # fmt: skip
    text = b"".join(found.values())
    for private in ("hildegard", HOST, "/home", "t0kent0ken", str(tmp_path), "printed by"):
        assert private.encode() not in text, private
    assert json.loads(found["settings.json"])["asked"] == ASKED | {"dataset": "images.tar"}
    assert found["ranks.csv"].decode().splitlines()[1].startswith("0,node")
    assert found["encoder/model.safetensors"] == b"\x00\xffweights"
    (action,) = named(entities, "CreateAction")
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert (action["startTime"], action["endTime"]) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:14:20+00:00")
    assert action["instrument"] == {"@id": "notebook.ipynb"} == entities["./"]["mainEntity"]
    values = {entities[each["@id"]]["name"]: entities[each["@id"]]["value"] for each in action["object"]}
    assert values == ASKED | {"dataset": "images.tar"}
    assert {each["@id"] for each in action["result"]} == set(found) - {
        "ro-crate-metadata.json",
        "README.md",
        "notebook.ipynb",
    }
    assert entities["summary.json"]["sha256"]
    assert entities["#setting-model"]["description"] == "a row of catalog/models.py"
    assert "abc1234567" in entities["notebook.ipynb"]["version"]
    assert entities[action["agent"]["@id"]]["name"] == "whoever ran it (not named here)"
    assert "not known" in entities[entities["./"]["license"]["@id"]]["name"]
    assert not json.loads(found["notebook.ipynb"])["cells"][1]["outputs"]


@pytest.mark.parametrize("status", ["finished", pytest.param("failed", marks=pytest.mark.long)])
def test_it_is_valid_by_its_own_validator(tmp_path, status):
    crate(made(tmp_path / "run", status=status, seal=status == "finished"), tmp_path / "out.zip")
    found = issues(tmp_path / "out.zip")
    assert not [each for each in found if each[0] == "REQUIRED"]
    assert {each[1] for each in found} <= WITHOUT, "what is only recommended"


def test_a_run_that_failed_is_told_with_its_reason(tmp_path):
    _, entities = crate(made(tmp_path / "run", status="failed", seal=False), tmp_path / "out.zip")
    (action,) = named(entities, "CreateAction")
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"].startswith("failed: 'images.tar' is gone, said somebody on node")
    assert "token=***" in action["error"]


def test_the_built_in_scenes_may_be_shown(tmp_path):
    found, entities = crate(made(tmp_path / "run", dataset="scenes"), tmp_path / "out.zip")
    assert {"report.html", "reconstruction.npz"} <= set(found)
    assert found["report.html"].startswith(b"<img src='data:image/png;base64,AAAA/home/x+/a=='> images.tar on node")
    assert entities["./"]["license"] == {"@id": "https://spdx.org/licenses/BSD-3-Clause"}


PATHS = {
    "/a/b/c.tar": "c.tar",
    "'/lustre/orion/abc123/x y'": "'x y'",
    "~/x/y.tar": "y.tar",
    "file:///srv/x/y": "y",
    r'"line\n/scratch/me/x\t/a/b"': r'"line\nx\tb"',  # as in a JSON string
    "node:/data/me/x --to=/a/b/ 'https://host/a/b' s3://b/c/d": "node:x --to=folder 'https://host/a/b' s3://b/c/d",
    "runs/pretrain/x, 3/4, a / b and/or https://example.org/a/b, </td></tr>": None,
    "root mean square": None,
}


@pytest.mark.parametrize("text", PATHS)
def test_paths_lose_their_folders_and_nothing_else(tmp_path, text):
    assert Public(Run(tmp_path)).text(text) == (PATHS[text] or text)


def test_this_machines_name_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "login17")
    assert Public(Run(tmp_path)).text("on login17, login170") == "on node1, login170"


def refused(tmp_path, capsys, *words):
    assert cli.main(["report", *map(str, words)]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    return said.err


def test_what_cannot_be_is_one_sentence(tmp_path, capsys, monkeypatch):
    run = made(tmp_path / "run")
    (tmp_path / "other").mkdir()
    assert "there is no run" in refused(tmp_path, capsys, "--crate", tmp_path / "other")
    assert "--index" in refused(tmp_path, capsys, "--crate")
    assert "--crate takes one run" in refused(tmp_path, capsys, run.folder, "--to", "x.zip")
    assert "is one zip file" in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path / "x")
    (tmp_path / "there.zip").write_text("mine")
    assert "is there already" in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path / "there.zip")
    assert (tmp_path / "there.zip").read_text() == "mine"
    assert "is no folder" in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path / "there.zip" / "x.zip")
    within = f"is a folder: name the file in it, --to {tmp_path}/{run.folder.name}.crate.zip"
    assert within in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path)
    assert "make that folder" in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path / "new" / "x.zip")
    assert not (tmp_path / "new").exists(), "no folder is made on the way"
    (run.folder / "metrics.jsonl").write_text("changed")
    assert "not what was written" in refused(tmp_path, capsys, "--crate", run.folder)
    live = made(tmp_path / "live", status="", seal=False)
    monkeypatch.setattr(Run, "status", property(lambda self: "running"))
    assert "is running: make its crate when it has ended" in refused(tmp_path, capsys, "--crate", live.folder)
    assert not list(tmp_path.glob("*.crate.zip"))


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys, monkeypatch):
    run = made(tmp_path / "run")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path).name != "closed")
    assert "closed" in refused(tmp_path, capsys, "--crate", run.folder, "--to", tmp_path / "closed" / "x.zip")


def test_without_the_package_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "geofm_lib.report.crate_entities", raising=False)
    monkeypatch.setitem(sys.modules, "rocrate.model", None)
    run = made(tmp_path / "run")
    assert "pip install -e '.[crate]' -c constraints.txt" in refused(tmp_path, capsys, "--crate", run.folder)
