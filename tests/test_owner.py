"""A run folder has one owner at a time: claims, signs of life whatever the clocks say, and launches in one moment."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from geofm_lib import files
from geofm_lib.jobs import owner
from geofm_lib.runs import check, follow, life, overview, watch
from geofm_lib.runs import launch as launch_module
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, SettingsError
from tests.support.runs import beating, ranks_of
from tests.support.timing import scaled, wait_for

REPO = Path(__file__).parents[1]
SHIFTS = (3600, -3600, 60, -60)  # seconds that another machine's clock is ahead


@pytest.fixture
def run(tmp_path):
    """The folder of a run that began on another machine and has not ended."""
    return begun(tmp_path / "run")


def begun(folder: Path) -> Run:
    (folder / "heartbeats").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"job": "pretrain", "asked": {}, "resolved": {}}))
    owner.take(folder, 0)
    claim = folder / "owners" / "0001.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "user": "anna", "host": "node3", "process": []}))
    for name in ("launcher", "0"):
        (folder / "heartbeats" / name).write_text("{}")
    return Run(folder)


@pytest.fixture
def soon(monkeypatch):
    """Bounds of a second, so that a test need not wait for a minute."""
    monkeypatch.setattr(life, "LOOK_S", 0.6)
    monkeypatch.setattr(life, "silence_s", lambda: 0.8)


def test_of_many_claims_at_once_one_wins(tmp_path):
    """Twice: a folder that nobody had, and one whose owner is dead."""
    for after in (0, 1):
        barrier, won = threading.Barrier(16), []

        def claim(after=after, barrier=barrier, won=won):
            barrier.wait()
            won.append(owner.take(tmp_path, after))

        threads = [threading.Thread(target=claim) for _ in range(16)]
        [each.start() for each in threads]
        [each.join() for each in threads]
        winners = [each for each in won if each]
        assert len(winners) == 1
        assert winners[0] == owner.newest(tmp_path)
        assert winners[0].number == after + 1
    assert owner.taken(tmp_path, f"{1:04d}-x")
    assert not owner.taken(tmp_path, f"{2:04d}-x")
    assert not [each for each in (tmp_path / "owners").iterdir() if each.name.startswith(".")]


def test_a_claim_that_was_made_counts_though_the_file_system_says_it_was_there(tmp_path, monkeypatch):
    """NFS sends a request again when the answer was lost, and then hears that the name is taken: by itself."""

    def link(source, target, real=os.link):
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    assert owner.take(tmp_path, 0) == owner.newest(tmp_path)


def test_a_claim_that_cannot_be_read_still_counts(run):
    for content in ("", "{", "[]", json.dumps({"id": 7})):
        (run.folder / "owners" / "0001.json").write_text(content)
        assert (run.owner.number, run.owner.who, run.owner.ended) == (1, "somebody", False)
    run.owner.end()
    assert run.owner.ended
    assert owner.take(run.folder, run.owner.number).number == 2


def test_only_processes_of_this_machine_are_known_to_be_dead():
    boot, space, number, started = owner.this_process()
    assert not owner.is_dead((boot, space, number, started))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    dead = boot, space, child.pid, owner._state(child.pid)[1]
    assert owner.is_dead(dead), "its parent has not asked how it ended"
    child.wait()
    assert owner.is_dead(dead)
    assert owner.is_dead((boot, space, number, "1")), "its number was given to another process"
    for unknown in (("another boot", *dead[1:]), (boot, "another container", *dead[2:]), (), (boot, space, "x", "1")):
        assert not owner.is_dead(unknown)


def test_clocks_are_never_compared(tmp_path, soon):
    """Of runs that live on machines whose clocks are wrong, and of the same runs when they are dead."""
    runs = [begun(tmp_path / str(shift)) for shift in SHIFTS]
    with contextlib.ExitStack() as alive:
        for run, shift in zip(runs, SHIFTS, strict=True):
            alive.enter_context(beating(run.folder, shift=shift))
        turns, began = [follow.Turn(run) for run in runs], time.monotonic()
        while time.monotonic() - began < 2 * life.silence_s():
            assert not any(turn.free() for turn in turns)
            time.sleep(0.1)
        assert [run.status for run in runs] == ["running"] * 4
        assert [turn.take() for turn in turns] == [None] * 4
    began = time.monotonic()
    wait_for(lambda: all([turn.free() for turn in turns]))
    assert 0.9 * life.silence_s() < time.monotonic() - began < scaled(1) + life.silence_s()
    life._SEEN.clear()
    life.first_look(run.folder for run in runs)
    began = time.monotonic()
    assert [run.status for run in runs] == ["killed"] * 4
    assert time.monotonic() - began < scaled(1) + life.LOOK_S
    assert [turn.take().number for turn in turns] == [2] * 4
    assert [turn.take() for turn in turns] == [None] * 4


def test_a_rank_that_lives_keeps_the_folder_when_its_launcher_does_not(run, soon):
    turn = follow.Turn(run)
    with beating(run.folder, "0"):
        for _ in range(12):
            time.sleep(0.1)
            assert not turn.free()


def test_an_observer_that_stood_still_has_seen_no_silence(run, monkeypatch):
    """The machine slept, or the file system did not answer: then nobody could be seen."""
    clock = [0.0]
    monkeypatch.setattr(life, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    signs = life.Life(run.folder)
    clock[0] = 1000.0
    assert signs.look() == life.STEP_S
    for _ in range(49):
        clock[0] += 2
        signs.look()
    assert signs.silent == life.STEP_S + 98
    (run.folder / "heartbeats" / "0").write_text("{ }")
    assert signs.look() == 0.0


def test_many_runs_are_looked_at_together_and_ended_ones_never(tmp_path, monkeypatch):
    monkeypatch.setattr(life, "LOOK_S", 1.0)
    for each in range(8):
        begun(tmp_path / f"run{each}")
    files.write_json(tmp_path / "run0" / "summary.json", {"status": "finished"})
    Run(tmp_path / "run1").owner.end()
    began = time.monotonic()
    assert [Run(tmp_path / name).status for name in ("run0", "run1")] == ["finished", "unknown"]
    assert time.monotonic() - began < 0.5
    with beating(tmp_path / "run2"):
        text = overview.of_all(tmp_path)
    assert time.monotonic() - began < scaled(3)
    assert "1 finished" in text
    assert "5 killed" in text
    assert "1 running" in text


def test_an_older_run_has_no_owner_and_is_read_and_taken_as_before(tmp_path, soon):
    old = begun(tmp_path)
    for each in (tmp_path / "owners").iterdir():
        each.unlink()
    with beating(tmp_path):
        assert old.status == "running"
        assert not follow.Turn(old).free()
    files.write_json(tmp_path / "summary.json", {"status": "stopped"})
    assert old.status == "stopped"
    assert follow.Turn(old).take().number == 1


HEARTBEAT = """
import sys, time
from pathlib import Path
from geofm_lib.jobs.run_folder import Folder, Heartbeat
folder = Path(sys.argv[1])
run = Folder(folder, True, Heartbeat(folder, 0, sys.argv[2]))
print("up", flush=True)
time.sleep(float(sys.argv[3]))
run.write_json("result.json", {})
time.sleep(60)
"""


@pytest.mark.parametrize("busy_s", [60, 0.5], ids=["by its heartbeat", "before it writes"])
def test_a_rank_ends_when_its_folder_has_another_owner(run, busy_s):
    with beating(run.folder):
        words = [sys.executable, "-c", HEARTBEAT, str(run.folder), run.owner.id, str(busy_s)]
        rank = subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, env={**os.environ, "GEOFM_HEARTBEAT_S": "2"})
        rank.stdout.readline()
        owner.take(run.folder, 1)
        began = time.monotonic()
        assert rank.wait(scaled(20)) == owner.TAKEN
        assert time.monotonic() - began < scaled(3)
    assert not (run.folder / "result.json").exists()
    assert not list(run.folder.glob("requests/*"))


def test_a_launcher_that_was_given_up_ends_its_ranks_and_writes_nothing(run):
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    owner.take(run.folder, 1)
    before = {each: each.stat().st_mtime_ns for each in run.folder.rglob("*")}
    with pytest.raises(watch.RunFailed, match="is now being run by .* on .* since 20"):
        watch.watch(run, [rank], ranks=1, launch="0001-abc")
    assert rank.wait() == -signal.SIGKILL
    assert {each: each.stat().st_mtime_ns for each in run.folder.rglob("*")} == before


def test_who_follows_is_told_whose_run_it_is_and_how_it_ended(run, soon, capsys, tmp_path):
    def later(what):
        threading.Timer(0.3, what).start()

    def end(**summary):
        files.write_json(run.folder / "summary.json", summary)
        run.owner.end()

    with beating(run.folder):
        later(lambda: end(status="failed", error="the loss is nan", rank=1))
        with pytest.raises(watch.RunFailed, match="rank 1 failed: the loss is nan"):
            follow.turn(run, lambda: None, needed=False)
        said = capsys.readouterr().out
        assert f"{run.folder} is being run by anna on node3 since 20" in said
        assert "starts no ranks of its own" in said
        assert follow.turn(run, lambda: None, needed=False).take().number == 2, "it has ended: no need to wait"
        (run.folder / "summary.json").unlink()
        later(lambda: end(status="stopped", reason="as asked"))
        with pytest.raises(watch.RunStopped, match="as asked"):
            follow.turn(run, lambda: None, needed=False)
        owner.take(run.folder, 2)
        (run.folder / "summary.json").unlink()
        later(lambda: end(status="stopped", reason="as asked"))
        assert follow.turn(run, lambda: None, needed=True).take().number == 4, "another run wants it: it goes on here"
    with beating(run.folder):
        (run.folder / "summary.json").unlink()

        def refuse():
            raise SettingsError("run_dir: other settings")

        later(lambda: files.write_json(run.folder / "settings.json", {"job": "probe"}))
        with pytest.raises(SettingsError, match="other settings"):
            follow.turn(run, refuse, needed=False)


def test_who_follows_hears_a_request_to_stop(run, monkeypatch, tmp_path):
    """It ends alone; the run that it follows goes on."""
    monkeypatch.setenv("GEOFM_STOP", str(tmp_path / "stop"))
    with beating(run.folder):
        threading.Timer(0.3, (tmp_path / "stop").touch).start()
        with pytest.raises(watch.RunStopped, match="a stop was asked for while this launch waited for"):
            follow.turn(run, lambda: None, needed=False)
    assert not list(run.folder.glob("requests/*"))


def test_a_folder_that_is_claimed_between_two_looks_is_no_foreign_one(tmp_path, monkeypatch):
    """Seen in pairs of launches: no claim at the first look, files of the other launch at the second."""
    settings = PretrainSettings(run_dir=str(tmp_path / "run"))
    run, looked = Run(settings.folder()), Run.stored.fget

    def stored(self):
        found = looked(self)
        owner.take(run.folder, 0)
        (run.folder / "heartbeats").mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(Run, "stored", property(stored))
    launch_module._refuse_other_settings(run, settings)
    (run.folder / "owners" / "0001.json").unlink()
    monkeypatch.setattr(Run, "stored", property(looked))
    with pytest.raises(SettingsError, match="holds other files and no run"):
        launch_module._refuse_other_settings(run, settings)


def test_data_that_are_being_prepared_are_waited_for(run, soon, capsys, monkeypatch, tmp_path):
    """Given by their folder, too; the runner is told whose progress to show."""
    monkeypatch.setenv("GEOFM_EXECUTION", str(tmp_path))
    settings, shown = PretrainSettings(data=str(run.folder)), []
    (run.folder / "settings.json").write_text(json.dumps({"job": "prepare", "asked": {}, "resolved": {}}))
    files.write_json(run.folder / "environment.json", {})

    def finish():
        shown.append((tmp_path / "needed").read_text())
        files.write_json(run.folder / "summary.json", {"status": "finished"})
        run.owner.end()

    with beating(run.folder):
        check._check_data(settings.data)
        assert overview.followed(run).endswith(f"(run by {run.owner.who})")
        threading.Timer(0.3, finish).start()
        assert launch_module._data(settings) == run.folder
    assert shown == [str(run.folder)]
    assert not (tmp_path / "needed").exists()
    assert "is being run by anna" in capsys.readouterr().out
    (run.folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="is not a run folder of 01_data"):
        check._check_data(settings.data)


SMALL = {"images_per_class": 6, "model": "ViT-Atto", "image_size": 32, "epochs": 3}
SMALL |= {"warmup_epochs": 1, "global_batch": 16, "ranks": 1, "log_every": 1, "checkpoint_every": 5}
SMALL |= {"attention": "fused", "linear": "matmul"}  # each folder of runs measures its own, and busy machines differ
ASKED = {seed: (PretrainSettings(**SMALL, seed=seed), b"") for seed in (1, 2)}


def start(settings: PretrainSettings, runs: Path, shift: float = 0.0) -> subprocess.Popen:
    """A process that launches the run, as a kernel would; `shift`: seconds that its clock is ahead."""
    code = f"import time\nnow = time.time\ntime.time = lambda: now() + {shift}\n"
    code += f"from geofm_lib.runs.launch import launch\nfrom geofm_lib.settings import *\nlaunch({settings!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPO, env={**os.environ, "GEOFM_RUNS": str(runs)},
                            stdout=subprocess.PIPE, stderr=-2, text=True)  # fmt: skip


class Watch:
    """The launches whose ranks live in each run folder at one time, sampled as long as the block runs."""

    def __init__(self, runs: Path):
        self.runs, self.over, self.together = runs, threading.Event(), []
        self.thread = threading.Thread(target=self._sample)

    def _sample(self):
        while not self.over.wait(0.5):
            live = set()
            for process in ranks_of(self.runs):
                try:
                    live.add((process.cmdline()[-1], process.environ()["GEOFM_LAUNCH"]))
                except (psutil.Error, KeyError):
                    continue
            folders = [folder for folder, _ in live]
            self.together += [each for each in live if folders.count(each[0]) > 1]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def bits(folder: Path) -> bytes:
    return (folder / "encoder" / "model.safetensors").read_bytes()


def claims(folder: Path) -> int:
    return len(list((folder / "owners").glob("*.json")))


@pytest.fixture(scope="module")
def results(runs_folder):
    """{seed: settings, bits} of runs that nobody disturbed."""
    return {seed: (settings, bits(launch(settings).folder)) for seed, (settings, _) in ASKED.items()}


def at_once(runs: Path, results: dict, seeds: tuple[int, ...], shift: float = 0.0) -> list[str]:
    """Launch these in one moment over a set that is not prepared; what each has said, when all have their bits.

    shift: of the last one's clock.
    """
    with Watch(runs) as sampled:
        shifts = [0.0] * (len(seeds) - 1) + [shift]
        processes = [start(results[seed][0], runs, own) for seed, own in zip(seeds, shifts, strict=True)]
        said = [each.communicate(timeout=scaled(200))[0] for each in processes]
    assert [each.returncode for each in processes] == [0] * len(seeds), "\n".join(said)
    assert not sampled.together
    folders = {seed: runs / results[seed][0].name() for seed in seeds}
    assert all(bits(folders[seed]) == results[seed][1] for seed in seeds if results[seed][1])
    prepared = [each for each in runs.iterdir() if each.name.startswith("prepare-")]
    assert [claims(each) for each in (*folders.values(), *prepared)] == [1] * (len(folders) + 1)
    return said


def test_three_launches_in_one_moment(tmp_path):
    """Two of the same run and one of another seed, over one set that is not prepared. (Their bits: below.)"""
    said = at_once(tmp_path, ASKED, (1, 1, 2), shift=-3600.0)
    assert sum("prepare: " in each and "is being run by" in each for each in said) == 2
    assert sum("pretrain: " in each for each in said) == 1, "one of the two that are the same"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["same run", "one unprepared set"])
def test_ten_pairs_in_one_moment(results, tmp_path, seeds):
    def launch_both(pair):
        began = time.monotonic()
        said = at_once(tmp_path / str(pair), results, seeds, shift=(0.0, *SHIFTS)[pair % 5])
        waited = sum("is being run by" in each for each in said)
        print(f"{seeds} pair {pair}: {waited} waited, {time.monotonic() - began:.0f} s", flush=True)

    with ThreadPoolExecutor(4) as pool:  # pairs beside one another, which makes their moments less alike
        list(pool.map(launch_both, range(10)))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["kernel", "ranks", "waiter"])
def test_who_waits_goes_on_when_the_owner_is_killed(results, tmp_path, victim):
    """kill -9 while another launch follows: of the kernel (it takes over), the ranks (told), the waiter (no matter)."""
    settings, _ = results[1]
    settings = settings.model_copy(update={"epochs": 300, "checkpoint_every": 20})
    whole = bits(launch(settings).folder)
    run = Run(tmp_path / settings.name())
    with Watch(tmp_path) as sampled:
        first = start(settings, tmp_path)
        wait_for(lambda: len(run.metrics) > 3)
        second = start(settings, tmp_path)
        while "pretrain: " not in (line := second.stdout.readline()):
            assert line, "it ended"
        assert "is being run by" in line
        killed = time.monotonic()
        {"kernel": first, "ranks": ranks_of(run.folder)[0], "waiter": second}[victim].kill()
        said = {each: each.communicate(timeout=scaled(300))[0] for each in (first, second)}
        took = time.monotonic() - killed
    assert not sampled.together
    assert not ranks_of(tmp_path)
    if victim == "ranks":
        assert "killed by signal 9" in said[first]
        assert "killed by signal 9" in said[second], "who follows hears the same"
        assert run.status == "failed"
        launch_again = start(settings, tmp_path)
        assert launch_again.wait(scaled(200)) == 0
    elif victim == "kernel":
        assert "goes on from step" in said[second]
        assert (second.returncode, claims(run.folder)) == (0, 2)
        print(f"taken over and finished {took:.0f} s after the kill")
    else:
        assert (first.returncode, claims(run.folder)) == (0, 1)
    assert bits(run.folder) == whole


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_runners_in_one_moment(tmp_path):
    """Of two `geofm run` of one run, the second shows the first one's progress; both end well, with a page."""
    asked = [word for name, value in SMALL.items() for word in ("-p", name, str(value))]
    words = [sys.executable, "-m", "geofm_lib", "run", "02", *asked]
    env = {**os.environ, "GEOFM_RUNS": str(tmp_path)}
    with Watch(tmp_path) as sampled:
        both = [subprocess.Popen(words, cwd=REPO, env=env, stdout=-1, stderr=-2, text=True) for _ in range(2)]
        said = [each.communicate(timeout=scaled(300))[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], "\n".join(said)
    assert not sampled.together
    assert all("02_pretrain.ipynb: FINISHED" in each for each in said)
    assert sum("(run by " in each for each in said) == 1
    (run,) = tmp_path.glob("pretrain-*")
    assert claims(run) == 1
    assert "FINISHED" in (run / "report.html").read_text().upper()
