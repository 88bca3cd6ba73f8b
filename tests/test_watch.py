"""How a run ends, as the launcher, the runner and a job's script see it: rare cases that test_slurm.py leaves out."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from geofm_lib.data import statistics
from geofm_lib.data.sources import bands, item, pattern, stack
from geofm_lib.jobs import worker
from geofm_lib.jobs.run_folder import heartbeat_timeout_s
from geofm_lib.report import ending
from geofm_lib.runs import heartbeats, life, slurm, watch
from geofm_lib.runs.heartbeats import heartbeat_s
from geofm_lib.runs.run import Run
from tests.support.timing import scaled, wait_for


@pytest.fixture
def run(tmp_path):
    """A run folder as a launch leaves it."""
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps({"job": "pretrain", "asked": {}, "resolved": {}}))
    (tmp_path / "environment.json").write_text(json.dumps({"slurm_job": "7", "slurm_restart": 0, "job_started": 5.0}))
    return Run(tmp_path)


def ended(code: int, *before: str) -> list[subprocess.Popen]:
    """A process that has ended with this code and looks like an srun."""
    process = subprocess.Popen([*before, sys.executable, "-c", f"import os; os._exit({code})"])
    process.wait()
    process.args = ["srun", "worker"]
    return [process]


@pytest.mark.parametrize("code", [253, 1, 137])
def test_a_task_that_ran_out_of_memory_is_named(run, code):
    (run.folder / "log.txt").write_text("srun: error: node2: task 3: Out Of Memory\n")
    echo = {"status": "failed", "kind": "RuntimeError", "error": "Connection closed by peer", "rank": 0}
    (run.folder / "summary.json").write_text(json.dumps(echo))
    with pytest.raises(watch.RunFailed, match="rank 3 failed: out of host memory .node2: task 3: Out Of Memory"):
        watch.watch(run, ended(code), ranks=4)


@pytest.mark.parametrize(
    "fault, told",
    [
        (lambda: pattern.parse("/a"), True),  # raised by a check of ours
        (lambda: item.FULL["none"], False),
        (lambda: bands.natural(3), False),  # a TypeError
        (lambda: stack.bilinear(np.zeros((0, 2)), 3, 3), False),  # what numpy raises
        (lambda: statistics._numbers(["a b"]), False),  # a ValueError of float() in a line of ours
    ],
)
def test_a_sentence_of_a_check_comes_without_frames(run, fault, told):
    try:
        fault()
    except Exception as error:
        summary = {"status": "failed", "rank": 0, **worker._failure(error, run.folder)}
    (run.folder / "log.txt").write_text("0: Traceback")
    with pytest.raises(watch.RunFailed) as shown:
        watch.ended(run, summary)
    assert isinstance(shown.value, watch.RunRefused) == told, "an exit code of its own"
    assert ("Traceback" in str(shown.value)) != told
    assert str(shown.value).startswith("pattern: '/a' begins" if told else "rank 0 failed: ")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(text) leaves the runner's request to stop."""
    monkeypatch.setenv("GEOFM_STOP", str(tmp_path / "asked"))
    return (tmp_path / "asked").write_text


def test_ranks_that_the_same_signal_ended_are_no_failure(run, asked):
    """Slurm signals every process of a job, and ranks that still start have no ears."""
    (run.folder / "log.txt").write_text("srun: error: node1: task 0: Terminated\n")
    asked("")
    with pytest.raises(watch.RunStopped, match="the ranks ended before they could save"):
        watch.watch(run, ended(143), ranks=2)


def test_a_second_request_ends_the_ranks_at_once(run, asked):
    asked("now")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    began = time.monotonic()
    with pytest.raises(watch.RunStopped, match="before they could save; it goes on from its last checkpoint"):
        watch.watch(run, [process], ranks=1)
    assert time.monotonic() - began < scaled(10)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_launcher_is_a_request(run, number, monkeypatch):
    monkeypatch.setattr(watch, "save_s", lambda: 0.5)
    code = f"import os, signal, time; os.kill({os.getpid()}, {int(number)}); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    with pytest.raises(watch.RunStopped):
        watch.watch(run, [process], ranks=1)
    assert (run.folder / "requests" / "stop").exists()


def test_an_exit_code_that_is_no_known_signal_is_told(run):
    with pytest.raises(watch.RunFailed, match="killed by signal 125 .unknown."):
        watch.watch(run, ended(253), ranks=4)
    assert run.status == "failed"


def test_a_node_that_is_slow_to_answer_changes_no_outcome(run, monkeypatch):
    monkeypatch.setattr(slurm, "down_nodes", lambda: "node2 of this job does not answer")
    (run.folder / "summary.json").write_text(json.dumps({"status": "stopped", "reason": "saved at step 9"}))
    with pytest.raises(watch.RunStopped, match="saved at step 9"):
        watch.watch(run, ended(0), ranks=4)
    own = {"status": "failed", "kind": "NotFinite", "error": "the loss is nan", "rank": 3}
    (run.folder / "summary.json").write_text(json.dumps(own))
    with pytest.raises(watch.RunFailed, match="the loss is nan"):
        watch.watch(run, ended(1), ranks=4)
    (run.folder / "summary.json").unlink()
    with pytest.raises(watch.RunFailed, match="node2 of this job does not answer; the run goes on from step 0"):
        watch.watch(run, ended(1), ranks=4)


def test_a_rank_that_does_not_end_after_its_summary_is_ended(run, monkeypatch):
    monkeypatch.setenv("GEOFM_HEARTBEAT_TIMEOUT_S", "1")
    (run.folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    watch.watch(run, [process], ranks=1)
    assert time.monotonic() - began < scaled(20)
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("left, given", [(None, 240), (600, 555), (300, 255), (60, 40)])
def test_ranks_may_save_for_as_long_as_the_job_has_left(monkeypatch, left, given):
    monkeypatch.setattr(slurm, "seconds_left", lambda: left)
    assert watch.save_s() == given


def test_heartbeats_of_very_many_ranks_still_come_in_time():
    assert heartbeat_s(8) == 2.0
    assert heartbeat_s(100_000) == heartbeat_timeout_s() / 6 < life.OLD_S


def test_a_silent_rank_is_given_up_after_the_bound_and_before_its_first_step_after_ten_minutes(run, monkeypatch):
    now = 0.0
    monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setenv("GEOFM_HEARTBEAT_TIMEOUT_S", "60")

    def heard(rank, step):
        text = json.dumps({"node": "node1", "step": step, "waiting": ""})
        (run.folder / "heartbeats" / str(rank)).write_text(text)

    ranks = heartbeats.Heartbeats(run.folder, 2)
    heard(0, 0)
    heard(1, 0)
    now = 1.0
    assert ranks.silent(set()) == ()
    now = 600.0
    assert ranks.silent(set()) == (), "both may still import or compile"
    now = 611.0
    assert ranks.silent(set()) == (0, 1)
    now = 622.0
    heard(0, 7)
    assert ranks.silent(set()) == (1,), "one of them has done steps"
    now = 633.0
    assert ranks.silent({1}) == (), "it has ended"
    assert "rank 1 on node1 (last step 0)" in ranks.sentence((1,))


def starts(run, monkeypatch, tmp_path, progress):
    """What the runner says after each start of job 7: progress is the checkpoint each came to, None for no ranks."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    told, saved = [], 0
    for start, step in enumerate(progress):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(start))
        where = {"slurm_job": "7", "slurm_restart": start, "job_started": 5.0, "from_step": saved}
        (run.folder / "environment.json").write_text(json.dumps(where))
        if step is not None:
            whole = run.folder / "checkpoint" / f"step-{step:08d}"
            whole.mkdir(parents=True, exist_ok=True)
            (whole / "manifest.json").touch()
            saved = step
        told.append(ending.no_progress(run if step is not None else None))
    return told


def test_only_two_starts_in_a_row_without_progress_end_a_job(run, monkeypatch, tmp_path):
    told = starts(run, monkeypatch, tmp_path, [5, 5, 9, None, 12, None, None])
    assert [bool(each) for each in told] == [False, False, False, False, False, False, True]
    assert "7-5 and 7-6): no ranks were started" in told[-1]


def test_two_starts_that_save_nothing_new_are_told_with_their_step(run, monkeypatch, tmp_path):
    told = starts(run, monkeypatch, tmp_path, [4, 4, 4])
    assert told[:2] == ["", ""]
    assert "both began at step 4 and saved no later one" in told[2]
    assert run.status == "failed"
    assert run.summary["error"] == told[2]


def test_the_end_of_an_earlier_launch_is_not_believed(run, tmp_path):
    """A disk that is full before the ranks start leaves the summary of the launch before, which said stopped."""
    (run.folder / "summary.json").write_text(json.dumps({"status": "stopped", "reason": "long ago"}))
    fault = "OSError: No space left on device"
    assert ending.judge(tmp_path, "OSError", fault, run, launched=False, asked=False) == ("failed", fault)
    assert ending.judge(tmp_path, "OSError", fault, run, launched=True, asked=False)[0] == "stopped"


RUNNER = """
import os, signal, sys, time
time.sleep(float(os.environ["DEAF_S"]))  # it imports
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
end = time.monotonic() + float(os.environ["PATIENCE_S"])
while not heard and time.monotonic() < end:
    time.sleep(0.05)
sys.exit(int(os.environ["CODE"]) if heard else 3)
"""


@pytest.fixture
def script(root, tmp_path):
    """script(answers of squeue, of scontrol, deaf seconds, code) -> (code, output) of run.sh told to stop at once."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sleep").write_text(f"#!/bin/sh\nexec /bin/sleep {scaled(1)}\n")  # whatever is asked for
    (tmp_path / "runner.py").write_text(RUNNER)
    (commands / "python").write_text(
        f"#!/bin/sh\ntouch {tmp_path}/started\nexec {sys.executable} {tmp_path}/runner.py\n"
    )

    def stub(name, answers):
        count = tmp_path / f"{name}.count"
        count.write_text("")
        cases = "".join(f"{k}) {answer};; " for k, answer in enumerate(answers, 1))
        (commands / name).write_text(f"#!/bin/bash\necho >> {count}\ncase $(wc -l < {count}) in {cases}esac\n")

    def call(squeue, scontrol=("exit 0",), deaf=0.0, code=75, number=signal.SIGUSR1, stdout=subprocess.PIPE):
        stub("squeue", squeue)
        stub("scontrol", scontrol)
        for file in commands.iterdir():
            file.chmod(0o755)
        env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "CODE": str(code)}
        env |= {"DEAF_S": str(deaf), "PATIENCE_S": str(scaled(20))}
        (tmp_path / "started").unlink(missing_ok=True)
        process = subprocess.Popen(["bash", "batch/run.sh", "python", "x.ipynb"], cwd=root, text=True, env=env,
                                   stdout=stdout)  # fmt: skip
        wait_for((tmp_path / "started").exists)
        process.send_signal(number)
        said, _ = process.communicate(timeout=scaled(60))
        return process.returncode, said

    return call


def test_a_job_goes_back_into_the_queue_though_slurm_is_slow_to_answer(script):
    code, said = script(["exit 1", "echo RUNNING", "echo RUNNING"], ["exit 1", "exit 0"])
    assert code == 0
    assert said.count("queueing job 7 again") == 2


def test_a_job_whose_output_is_full_or_gone_goes_back_into_the_queue(script, tmp_path):
    with open("/dev/full", "w") as full:
        assert script(["echo RUNNING"], number=signal.SIGHUP, stdout=full)[0] == 0
    reader, gone = os.pipe()
    os.close(reader)
    with os.fdopen(gone, "w") as pipe:
        assert script(["echo RUNNING"], number=signal.SIGINT, stdout=pipe)[0] == 0
    assert len((tmp_path / "scontrol.count").read_text().splitlines()) == 1


def test_a_stop_in_the_first_seconds_is_heard_and_a_cancelled_job_stays_out(script):
    code, said = script(["echo COMPLETING"], deaf=scaled(1.2))
    assert code == 75
    assert "job 7 is COMPLETING, so it is not queued again" in said
    assert script(["echo RUNNING"], code=1) == (1, ""), "a failure is no reason to try again"
