"""Notebooks as Slurm jobs, on a real Slurm that the test starts on this machine (`slurm_cluster`)."""

import json

import time

import nbformat
import pytest
import slurm_jobs
from slurm_jobs import losses, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2")


@pytest.fixture(scope="module")
def whole(runs_folder, tmp_path_factory):
    """The run of 60 steps on 4 local ranks that nobody disturbed."""
    return slurm_jobs.local(tmp_path_factory.mktemp("whole") / "run", 4, epochs=30)


def test_the_cluster_has_two_nodes_with_tasks_that_know_their_place(cluster):
    place = "echo $SLURM_PROCID $SLURM_NTASKS $SLURM_NNODES $SLURMD_NODENAME"
    lines = cluster.run("srun", "-N2", "-n4", "bash", "-c", place).stdout.splitlines()
    rows = sorted(line.split() for line in lines)
    assert [row[:3] for row in rows] == [[str(rank), "4", "2"] for rank in range(4)]
    assert {row[3] for row in rows} == {"node1", "node2"}


def test_pretraining_as_a_job_equals_the_same_on_local_ranks(cluster, tmp_path, whole):
    job = submit(cluster, tmp_path, *TWO_BY_TWO, epochs=30)
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    run = job.run
    assert run.status == "finished" and run.summary["ranks"] == 4 == len(run.ranks)
    assert run.environment["nodes"] == ["node1", "node2"], "ranks on both nodes"
    assert losses(run) == losses(whole)
    page = (run.folder / "report.html").read_text()
    assert "FINISHED" in page and "<img" in page
    assert json.loads((run.folder / "execution.json").read_text())["status"] == "finished"
    assert "FINISHED" in job.output.read_text()


def test_a_job_whose_settings_cannot_work_fails_with_the_sentence(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--nodes=2", strategy="HYBRID_3GPUs", epochs=2)
    ended = job.wait()
    assert ended["JobState"] == "FAILED" and ended["ExitCode"] == "1:0"
    assert "HYBRID_3GPUs needs a number of ranks that 3 divides; 2 ranks" in job.output.read_text(), "one task a node"
    assert not job.run.folder.exists(), "no half-made run"


SAVE_S = 60  # from a signal to the job's return into the queue; on an idle machine about 10


def test_terminated_jobs_save_queue_again_and_go_on_to_the_same_losses(cluster, tmp_path, whole):
    """SIGTERM to the ranks, as a preemption sends it; then to every process of the job; then left alone."""
    job = submit(cluster, tmp_path, *TWO_BY_TWO, epochs=30, pace=0.5)
    seen = []
    for restarts, how in enumerate((["--signal=TERM"], ["--signal=TERM", "--full"]), start=1):
        step = job.until_step(12 * restarts)
        began = time.monotonic()
        cluster.run("scancel", *how, job.number)
        job.until(lambda n=restarts: job.fields()["Restarts"] == str(n), SAVE_S, f"{how}: not queued again")
        seen.append((step, time.monotonic() - began))
        assert job.run.status == "stopped", job.story()
        assert "STOPPED" in (job.run.folder / "report.html").read_text()
    print("step and seconds until queued again:", seen)
    assert job.wait()["JobState"] == "COMPLETED", job.story()
    assert losses(job.run) == losses(whole)
