"""Two users share a folder of runs: each reads what the other lets them, and is told by name what they do not."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from geofm_lib import rights
from geofm_lib.runs.launch import launch
from geofm_lib.settings import PrepareSettings
from tests.support.users import user

ONE, TWO = 61_001, 61_002  # who have no name here
READ = """
import os, sys
from pathlib import Path
from geofm_lib import cli
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run, run_table
from geofm_lib.settings import PrepareSettings, PretrainSettings, SettingsError, own_folder, runs_root
def said(settings):
    try:
        return launch(settings).status
    except SettingsError as error:
        return str(error)
folder, run = sys.argv[1], PrepareSettings(images_per_class=2, scene_size=24)
print("RUN", said(run))
print("DATA", said(PretrainSettings(data=folder, run_dir=str(runs_root() / "mine"), epochs=0 + 1, warmup_epochs=0,
                                    global_batch=100_000, model="ViT-Atto", image_size=16, patch_size=8, ranks=1))
      if sys.argv[2] == "closed" else "")
print("TABLE", list(run_table(runs_root())["status"]))
cli.main(["status"])
cli.main(["status", folder])
print("WATCH", cli.main(["watch", folder]))
os.environ["GEOFM_RUNS"] = str(runs_root().parent / "theirs")
print("OWN", own_folder("queue"), os.access(own_folder("queue").parents[1], os.W_OK))
"""


@pytest.fixture
def place():
    """A folder that everybody may use, with a folder of runs in which nobody removes what is another's."""
    with tempfile.TemporaryDirectory(prefix="geofm-users-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "runs").mkdir()
        os.chmod(Path(folder) / "runs", 0o1777)
        yield Path(folder)
        for uid in (ONE, TWO):
            shutil.rmtree(Path(tempfile.gettempdir()) / f"geofm-home-{uid}", ignore_errors=True)


def test_a_run_is_read_by_others_or_told_as_closed_to_them(place, monkeypatch):
    if os.geteuid():
        pytest.skip("only root can be two other users; no GPU is needed")
    runs = {"GEOFM_RUNS": str(place / "runs")}
    monkeypatch.setenv("GEOFM_RUNS", runs["GEOFM_RUNS"])
    folder = launch(PrepareSettings(images_per_class=2, scene_size=24)).folder
    for each in (folder, *folder.rglob("*")):
        os.chown(each, ONE, ONE)
    read = user(TWO, 0o022, [sys.executable, "-c", READ, str(folder), "open"], **runs)
    assert read.returncode == 0, read.stderr
    assert "RUN finished" in read.stdout
    assert "TABLE ['finished']" in read.stdout
    assert "WATCH 0" in read.stdout
    assert f"OWN {tempfile.gettempdir()}/geofm-{TWO}/queue True" in read.stdout, "the folder of runs is not theirs"
    closed = user(ONE, 0o022, ["chmod", "-R", "go-rwx", str(folder)])  # what umask 077 would have left
    assert closed.returncode == 0
    read = user(TWO, 0o022, [sys.executable, "-c", READ, str(folder), "closed"], **runs)
    assert read.returncode == 0, read.stderr
    advice = f"'{folder}' belongs to user {ONE} and cannot be read by others: they can `chmod -R go+rX {folder}`"
    assert f"RUN run_dir: {advice}" in read.stdout
    assert f"DATA {advice}" in read.stdout
    assert "TABLE ['private']" in read.stdout
    assert "WATCH 2" in read.stdout
    assert advice in read.stderr
    assert read.stdout.count(advice) == 4, read.stdout
    assert "Traceback" not in read.stdout + read.stderr
    user(ONE, 0o022, ["bash", "-c", re.search(r"`(chmod .*?)`", read.stdout)[1]])  # the advice, as it is printed
    assert "RUN finished" in user(TWO, 0o022, [sys.executable, "-c", READ, str(folder), "open"], **runs).stdout


@pytest.mark.long
@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("users", [(ONE, TWO), (TWO, ONE)])
def test_two_users_run_one_notebook_after_the_other(place, users, umask):
    words = [sys.executable, "-m", "geofm_lib", "run", "01", "-p", "images_per_class", "2", "-p", "scene_size", "24"]
    runs = {"GEOFM_RUNS": str(place / "runs")}
    first, second = (user(each, umask, words, seconds=300, **runs) for each in users)
    assert first.returncode == 0, first.stderr
    own = user(users[1], umask, [*words, "-p", "seed", "3"], seconds=300, **runs)
    assert own.returncode == 0, own.stderr
    assert not list((place / "runs").glob(".[eq]*")), "nothing that both write"
    assert {f".{users[0]}", f".{users[1]}"} <= {each.name for each in (place / "runs").glob(".*")}
    if umask == 0o022:
        assert second.returncode == 0, second.stderr
        page = Path(second.stdout.splitlines()[-1].split(", ")[-1])
        assert page.is_file()
        assert page.stat().st_uid == users[1], "the other's page is left as it was"
    else:
        assert second.returncode == 2
        assert f"belongs to user {users[0]} and cannot be read by others: they can `chmod -R go+rX" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    status = user(users[1], umask, [sys.executable, "-m", "geofm_lib", "status"], **runs)
    assert ("1 private" in status.stdout) == (umask == 0o077)
    assert "1 finished" in status.stdout or "2 finished" in status.stdout


def test_an_owner_has_a_name_or_a_number(tmp_path):
    (tmp_path / "x").write_text("")
    assert rights.owner(tmp_path / "x") == rights.user()
    if os.geteuid() == 0:
        os.chown(tmp_path / "x", ONE, ONE)
        assert rights.owner(tmp_path / "x") == f"user {ONE}"
