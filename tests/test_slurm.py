"""Notebooks as Slurm jobs, on a real Slurm that the test starts on this machine (`slurm_cluster`).

Bounds stand beside what they bound and are generous: with four ranks on two cores a start takes half a minute.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

from geofm_lib import rights
from geofm_lib.jobs import run_folder
from geofm_lib.runs.run import Run
from tests.support import slurm_jobs
from tests.support.runs import ranks_of
from tests.support.slurm_jobs import losses, submit
from tests.support.timing import scaled, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2")
TWO_BY_ONE = ("--nodes=2", "--ntasks-per-node=1")
# Three minutes, the signal one minute ahead: about 75 paced steps of these 200 in a job.
LONG = {"epochs": 100, "checkpoint_every": 1000, "warmup_epochs": 2}


@pytest.fixture(scope="module")
def prepared(runs_folder):
    """The images of all runs below, made once."""
    return slurm_jobs.prepared()


@pytest.fixture(scope="module", autouse=True)
def chain(cluster, prepared, tmp_path_factory):
    """A pretraining longer than its time limit, sent first: it goes on by itself while the other tests run."""
    folder = tmp_path_factory.mktemp("chain")
    allocation = ("--nodelist=node1", "--ntasks-per-node=2", "--time=3", "--signal=B:USR1@60")
    return submit(cluster, folder, *allocation, pace=1.0, **LONG)


@pytest.fixture(autouse=True)
def own_jobs(cluster, chain):
    """A test's jobs end with it, whatever became of it: they would take the next one's processors."""
    yield
    jobs = cluster.run("squeue", "--noheader", "--format=%i").stdout.split()
    if left := [job for job in jobs if job != chain.number]:
        cluster.run("scancel", *left)
        wait_for(lambda: not set(cluster.run("squeue", "-h", "--format=%i").stdout.split()) & set(left), 60)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """The run of 60 steps on 4 local ranks that nobody disturbed."""
    return slurm_jobs.local(tmp_path_factory.mktemp("whole") / "run", 4, epochs=30)


def page(run: Run) -> str:
    return (run.folder / "report.html").read_text()


def test_the_cluster_has_two_nodes_with_tasks_that_know_their_place(cluster):
    place = "echo $SLURM_PROCID $SLURM_NTASKS $SLURM_NNODES $SLURMD_NODENAME"
    lines = cluster.run("srun", "--quiet", "-N2", "-n4", "bash", "-c", place).stdout.splitlines()
    rows = sorted(line.split() for line in lines)
    assert [row[:3] for row in rows] == [[str(rank), "4", "2"] for rank in range(4)]
    assert {row[3] for row in rows} == {"node1", "node2"}


def test_pretraining_as_a_job_equals_the_same_on_local_ranks(cluster, tmp_path, whole):
    job = submit(cluster, tmp_path, *TWO_BY_TWO, epochs=30)
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    run = job.run
    assert run.status == "finished"
    assert run.summary["ranks"] == 4 == len(run.ranks)
    assert run.environment["nodes"] == ["node1", "node2"], "ranks on both nodes"
    assert losses(run) == losses(whole)
    assert "FINISHED" in page(run)
    assert "<img" in page(run)
    assert json.loads((run.folder / "execution.json").read_text())["status"] == "finished"
    assert "FINISHED" in job.output.read_text()


def test_the_live_page_of_a_job_is_right_at_three_moments_and_no_longer_loads_itself_at_the_end(
    cluster, tmp_path, prepared
):
    job = submit(cluster, tmp_path, *TWO_BY_TWO, pace=0.4, epochs=30)
    live = job.run.folder / "live.html"
    for step in (5, 25, 45):
        job.until_step(step)
        shown = r"RUNNING</strong> pretrain: step (\d+)/60, loss ([\d.]+), images/s \d+, .* left"
        found = job.until(lambda: (f := re.search(shown, live.read_text())) and int(f[1]) >= step and f, 20, "stale")  # noqa: B023
        metrics = job.run.metrics.set_index("step")
        assert found[2] == f"{metrics['loss'][int(found[1])]:.4f}"
        assert 0 <= metrics.index[-1] - int(found[1]) <= scaled(15), "at most a few seconds old"
        text = live.read_text()
        assert '<meta http-equiv="refresh"' in text
        assert re.search(r"\d\.\d\d GiB a rank at most", text), "ranks on both nodes tell theirs"
        assert f"(job {job.number})" in text
        assert "<polyline" in text
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    text = live.read_text()
    assert "FINISHED" in text
    assert "refresh" not in text
    assert (job.run.folder / re.search(r'href="(.*?)"', text)[1]).is_file()
    job.run.prove()
    executed = nbformat.read(job.run.folder / "notebook.ipynb", as_version=4)
    outputs = next(cell for cell in executed.cells if cell.id == "run").outputs
    assert not re.search("data-geofm|image/svg", str(outputs)), "the curve while training is gone"


def test_a_job_whose_settings_cannot_work_fails_with_the_sentence(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--nodes=2", strategy="HYBRID_3GPUs", epochs=2)
    ended = job.wait()
    assert ended["JobState"] == "FAILED"
    assert ended["ExitCode"] == "2:0"
    assert "HYBRID_3GPUs needs a number of ranks that 3 divides; 2 ranks" in job.output.read_text(), "one task a node"
    assert not job.run.folder.exists(), "no half-made run"


SAVE_S = 60  # from SIGTERM to the job's return into the queue
KILL_S = 60  # from a killed rank, a failed node or a full disk to the job's end
SILENT_S = slurm_jobs.TIMEOUT_S + 60  # from a rank's last sign of life to the job's end


HUP, INT = ["--signal=HUP", "--full"], ["--signal=INT"]


def test_terminated_jobs_save_queue_again_and_go_on_to_the_same_losses(cluster, tmp_path, whole):
    """SIGTERM to the ranks, as a preemption sends it; to every process of the job; HUP, INT; then left alone."""
    job = submit(cluster, tmp_path, *TWO_BY_ONE, epochs=30, pace=0.3)
    for restarts, how in enumerate((["--signal=TERM"], ["--signal=TERM", "--full"], HUP, INT), start=1):
        step = job.until_step(11 * restarts)
        with slurm_jobs.timed(f"scancel {' '.join(how)}: queued again"):
            cluster.run("scancel", *how, job.number)
            job.until(lambda n=restarts: job.fields()["Restarts"] == str(n), SAVE_S, f"{how}: not queued again")
        assert job.run.status == "stopped", job.story()
        assert job.run.saved_step >= step, job.story()
        assert "STOPPED" in page(job.run)
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    assert losses(job.run) == pytest.approx(losses(whole), rel=1e-4)
    assert [each["status"] for each in job.run.slices] == [*["stopped"] * 4, "finished"]
    assert len(list((job.run.folder / "slices").iterdir())) == 5


def test_a_job_whose_output_is_full_is_queued_again_too(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--nodes=1", "--ntasks-per-node=1", epochs=500, pace=0.3, output="/dev/full")
    step = job.until_step(3)
    cluster.run("scancel", "--signal=INT", "--full", job.number)
    job.until(lambda: job.fields()["Restarts"] == "1", SAVE_S, "not queued again")
    assert job.run.status in ("stopped", "running"), job.story()
    assert job.run.saved_step >= step
    assert "STOPPED" in page(job.run)


def test_a_killed_a_hung_rank_and_a_failed_node_are_named_and_the_next_job_goes_on(cluster, tmp_path, whole):
    def start():
        return submit(cluster, tmp_path, *TWO_BY_ONE, epochs=30, pace=0.3)

    def ended(job, state, exit_code):
        fields = job.fields()
        assert (fields["JobState"], fields["ExitCode"]) == (state, exit_code), job.story()
        assert job.run.status == "failed", job.story()
        assert "FAILED" in page(job.run), job.story()
        assert not ranks_of(job.run.folder), "ranks left behind"
        return job.run.summary["error"]

    job = start()
    job.until_step(7)
    with slurm_jobs.timed("kill -9 of a rank: job ended"):
        job.signal_rank(1, slurm_jobs.KILL)
        job.wait(KILL_S)
    error = ended(job, "FAILED", "1:0")
    assert "killed by signal 9 (SIGKILL) (node2: task 1: Killed)" in error
    assert job.run.summary["rank"] == 1

    job = start()
    step = job.until_step(11)
    with slurm_jobs.timed(f"SIGSTOP of a rank: job ended ({slurm_jobs.TIMEOUT_S} s of silence allowed)"):
        job.signal_rank(1, slurm_jobs.STOP)
        job.wait(SILENT_S)
    error = ended(job, "FAILED", "1:0")
    silent = rf"no sign of life for {slurm_jobs.TIMEOUT_S} s from rank 1 on node2 \(last step (\d+)\)"
    told = re.search(rf"{silent}; the others wait in gloo:", error)
    assert told, error
    assert int(told.group(1)) > step - 9, error  # a beat is at most 2 s old: 7 steps
    assert job.run.summary["hung"] == [1]
    assert error.split(";")[0] in page(job.run)

    job = start()
    job.until_step(16)
    with slurm_jobs.timed("node down: job stopped and queued again by Slurm"):
        cluster.run("scontrol", "update", "nodename=node2", "state=down", "reason=test")
        job.until(lambda: job.fields()["JobState"] == "PENDING", KILL_S, "the job did not end")
    assert job.run.status == "failed", job.story()
    assert "node2" in job.run.summary["error"], job.story()
    cluster.run("scontrol", "update", "nodename=node2", "state=resume", check=False)  # it may be back by itself
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    assert losses(job.run) == pytest.approx(losses(whole), rel=1e-4)
    told = job.run.slices
    assert [each["status"] for each in told] == ["failed", "failed", "failed", "finished"]
    assert [each["from_step"] for each in told][1:] == [each["to_step"] for each in told][:-1]
    text = page(job.run)
    assert re.search(r"This run took [^<]+ in 4 starts", text)
    assert "rank 1 on node2" in text
    assert "Node failure on node2" in text


def test_a_full_a_vanished_and_a_silent_file_system_end_the_job_with_the_reason(cluster, tmp_path):
    """Three jobs at once: a disk of 2 MiB, a run folder that goes away, and reads that never return."""
    allocation = ("--nodes=1", "--ntasks-per-node=1")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], check=True)
    try:
        full = submit(cluster, tmp_path, *allocation, epochs=100, pace=0.3, run_dir=small / "run")
        gone = submit(cluster, tmp_path, *allocation, epochs=500, pace=0.3, run_dir=tmp_path / "gone")
        mute = submit(cluster, tmp_path, *allocation, epochs=500, pace=0.3, run_dir=tmp_path / "mute")
        gone.until_step(3)
        gone.run.folder.rename(tmp_path / "elsewhere")
        mute.until_step(3)
        (mute.run.folder / "metrics.jsonl").unlink()
        os.mkfifo(mute.run.folder / "metrics.jsonl")  # opening it for reading waits for ever
        with slurm_jobs.timed("a lost file system: job ended"):
            for job, exit_code, reason in ((gone, "1:0", f"the run folder {gone.run.folder} is gone"),
                                           (mute, "74:0", f"has not answered for {slurm_jobs.TIMEOUT_S} s"),
                                           (full, "1:0", "is full")):  # fmt: skip
                fields = job.wait(SILENT_S)
                assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", exit_code), job.story()
                assert reason in job.output.read_text(), job.story()
        for job in (full, gone):  # where there was room for it
            told = Path(re.findall(r"FAILED in .*, (\S+\.html)", job.output.read_text())[-1]).read_text()
            assert "is full" in told or "is gone" in told
        assert full.run.status == "failed"
        assert "is full" in full.run.summary["error"]
        wait_for(lambda: not ranks_of(mute.run.folder), 30, "ranks were left behind", cluster.logs)
    finally:
        wait_for(lambda: not ranks_of(small), 30, "ranks were left on the small disk", cluster.logs)
        subprocess.run(["umount", "--lazy", small], check=True)


def test_no_progress_in_two_jobs_and_a_cancelled_job_stay_out_of_the_queue(cluster, tmp_path):
    """Ranks that need longer to save than they get; beside them a job whose user has changed her mind."""
    (tmp_path / "cancelled").mkdir()
    regretted = submit(cluster, tmp_path / "cancelled", *TWO_BY_ONE, epochs=500, pace=0.3)
    job = submit(cluster, tmp_path, *TWO_BY_ONE, epochs=500, pace=5, checkpoint_every=1000)
    for restarts in (1, 2):
        job.until_step(1)
        run_folder.request(job.run.folder, run_folder.STOP)
        time.sleep(1.5)  # the launcher has seen it, and the ranks, at 5 s a step, have not
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == "srun" and str(job.run.folder) in process.info["cmdline"]:
                process.terminate()
        if restarts == 1:
            job.until(lambda: job.fields()["Restarts"] == "1", SAVE_S, "not queued again")
            assert "before they could save" in job.run.summary["reason"]
    ended = job.wait(SAVE_S)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "1"), job.story()
    assert "no progress in two consecutive jobs" in job.run.summary["error"]
    assert job.run.summary["error"] in page(job.run)

    regretted.until_step(2)
    cluster.run("scancel", regretted.number)
    ended = regretted.wait(SAVE_S)
    time.sleep(5)
    assert (regretted.fields()["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), regretted.story()
    wait_for(lambda: not ranks_of(regretted.run.folder), 30, "ranks were left behind", cluster.logs)


BAD_ROWS = """\
wrong_name,02_pretrian,,,,,,,,,,,,,,,,,,,1,2,0:10:00
wrong_strategy,02_pretrain,,@images,,ViT-Atto,32,HYBRID_3GPUs,2,1,16,,,,,,,,,cpu,1,2,0:10:00
wrong_epochs,02_pretrain,,@images,,ViT-Atto,32,,none,1,16,,,,,,,,,cpu,1,2,0:10:00
"""


STATES = ("not", "waiting", "running", "finished", "stopped", "failed")


def test_a_grid_is_refused_where_it_is_wrong_sent_once_and_told(cluster, root, tmp_path):
    """The shipped small grid and three bad rows."""
    (tmp_path / "grid.csv").write_text((root / "batch" / "grids" / "small.csv").read_text() + BAD_ROWS)
    # A Slurm job has this environment: its commands are found, and its runs lie apart from other tests'.
    env = {**slurm_jobs.environment(tmp_path), "GEOFM_RUNS": str(tmp_path / "runs")}

    def geofm(command, *words):
        words = (env["GEOFM_PYTHON"], "-m", "geofm_lib", command, tmp_path / "grid.csv", *words)
        return cluster.run(*words, cwd=root, env=env, check=False)

    def status():
        rows = [line.split() for line in geofm("status").stdout.splitlines()]
        return {row[0]: row[1] for row in rows if len(row) > 2 and row[1] in STATES}

    def queue():
        return dict(line.split("|") for line in cluster.run("squeue", "--noheader", "--format=%j|%T").stdout.split())

    before = geofm("submit")
    assert before.returncode == 1
    assert before.stdout.count("sbatch --parsable") == 9
    for told in ("row 14, column notebook: there is no notebook '02_pretrian'; did you mean '02_pretrain'?",
                 "row 15, column strategy: HYBRID_3GPUs needs a number of ranks that 3 divides; 2 ranks",
                 "row 16, column epochs: 'none' cannot be used"):  # fmt: skip
        assert told in before.stdout, before.stdout
    assert not (tmp_path / "runs").exists(), "nothing is sent without --send"
    assert not set(queue()) - {"geofm"}, "nothing is sent without --send"

    sent = geofm("submit", "--send").stdout
    assert sent.count(": sent as job ") == 9, sent
    first = status()
    assert len(first) == 9
    assert set(first.values()) <= {"waiting", "running"}
    assert first["probe_pretrained"] == "waiting"
    assert geofm("submit", "--send").stdout.count("in the queue as job") == 9, "sent once"

    wait_for(lambda: list((tmp_path / "runs").glob("prepare-*/summary.json")), 200, "no images", cluster.logs)
    second = status()
    assert second["images"] == "finished"
    assert "waiting" in second.values() or "running" in second.values()
    live = queue()
    for name, state in second.items():
        assert state != "waiting" or live.get(name) in ("PENDING", "RUNNING"), f"{name} is said to be {state}"
    wait_for(lambda: not set(queue()) & set(second), 600, "the grid did not end", cluster.logs)
    third = status()
    assert set(third.values()) == {"finished"}, geofm("status").stdout
    assert "9 runs: 9 finished; 0." in geofm("status").stdout
    assert geofm("submit", "--send").stdout.count("finished before") == 9
    assert not set(queue()) & set(third)


def test_jupyterlab_in_an_allocation_starts_ranks_on_all_its_nodes(cluster, root, tmp_path, prepared):
    # A relative folder, as a user may give one; kernels start elsewhere.
    env = {**slurm_jobs.environment(tmp_path), "GEOFM_RUNS": os.path.relpath(tmp_path / "runs", root)}
    number = cluster.submit(*TWO_BY_ONE, f"--output={tmp_path}/job.txt", "batch/slurm.sh", "jupyter", cwd=root, env=env)
    try:
        note = tmp_path / "runs" / f".{rights.user()}" / "queue" / f"jupyter-{number}.txt"
        wait_for(note.exists, 60, "JupyterLab did not say where it is", cluster.logs)
        assert note.stat().st_mode & 0o077 == 0, "the token is for its owner"
        url, token = re.search(r"(http://\S+)/lab\?token=(\w+)", note.read_text()).groups()

        def ask(path, data=None):
            request = urllib.request.Request(f"{url}/api{path}", data, {"Authorization": f"token {token}"})
            with urllib.request.urlopen(request, timeout=scaled(30)) as answer:
                return json.load(answer)

        def up():
            try:
                return ask("/status")
            except OSError:
                return None

        wait_for(up, 60, "JupyterLab did not start", cluster.logs)
        kernel = ask("/kernels", b"{}")["id"]
        code = f"""\
from geofm_lib.runs.launch import launch
from geofm_lib.settings import PretrainSettings
run = launch(PretrainSettings(**{slurm_jobs.SMALL | {"epochs": 2, "data": str(prepared.folder)}!r}))
print(run.status, run.environment["nodes"], run.summary["ranks"])"""
        answer = slurm_jobs.run_cell(f"{url.replace('http', 'ws')}/api/kernels/{kernel}/channels", token, code)
        assert "finished ['node1', 'node2'] 2" in answer, answer
    finally:
        cluster.run("scancel", number)
    assert cluster.wait(number, 60)["JobState"] == "CANCELLED"


def test_a_pretraining_longer_than_its_limit_ends_unattended_as_if_uninterrupted(chain, prepared, tmp_path):
    assert chain.wait(800)["JobState"] == "COMPLETED", chain.story()
    restarts = int(chain.fields()["Restarts"])
    told = chain.run.slices
    print("\nslices:", [(each["from_step"], each["to_step"], round(each["ended"] - each["started"])) for each in told])
    assert restarts >= 2
    assert len(told) == restarts + 1
    assert [each["status"] for each in told] == ["stopped"] * restarts + ["finished"]
    assert [each["from_step"] for each in told] == [0, *(each["to_step"] for each in told[:-1])]
    assert losses(chain.run) == losses(slurm_jobs.local(tmp_path / "run", 2, **LONG)), "the same ranks: bitwise"
    names = sorted(path.name for path in (chain.run.folder / "slices").iterdir())
    assert names == [f"notebook-{chain.number}-{restart}.ipynb" for restart in range(restarts + 1)]
    assert f" in {restarts + 1} starts" in page(chain.run)
    assert chain.output.read_text().count(f"queueing job {chain.number} again") == restarts


MACHINERY_S = scaled(15)


def test_papermill_kernel_and_launch_cost_little(cluster, root, tmp_path):
    """The same two ranks by a whole job, and by srun alone on the settings that the job has written.

    The best of five at most: whatever else the machine does at that moment slows the job and the ranks unequally.
    """
    allocation = ("--nodes=1", "--ntasks-per-node=2")
    costs = []
    while len(costs) < 5 and not (costs and min(costs) < MACHINERY_S):
        folder = tmp_path / str(len(costs))
        folder.mkdir()
        began = time.monotonic()
        job = submit(cluster, folder, *allocation, epochs=2)
        assert job.wait()["JobState"] == "COMPLETED", job.story()
        whole = time.monotonic() - began
        bare = folder / "bare"
        bare.mkdir()
        for name in ("settings.json", "environment.json"):
            shutil.copy(job.run.folder / name, bare)
        env = {**slurm_jobs.environment(folder), "PYTHONPATH": str(root)}
        worker = (env["GEOFM_PYTHON"], "-m", "geofm_lib.jobs.worker", str(bare))
        began = time.monotonic()
        cluster.run("srun", "--nodes=1", "--ntasks=2", *worker, cwd=root, env=env, timeout=scaled(200))
        alone = time.monotonic() - began
        assert Run(bare).status == "finished"
        costs.append(whole - alone)
        print(f"\na job: {whole:.1f} s, its ranks alone: {alone:.1f} s, machinery: {whole - alone:.1f} s")
    assert min(costs) < MACHINERY_S
