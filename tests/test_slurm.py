"""Notebooks as Slurm jobs, on a real Slurm that the test starts on this machine (`slurm_cluster`)."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import slurm_cluster

from geofm_lib.desk.runs import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(420)]

SMALL = {"dataset": "scenes", "images_per_class": 8, "model": "ViT-Atto", "image_size": 32, "global_batch": 16,
         "epochs": 3, "warmup_epochs": 1, "device": "cpu", "log_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    if absent := slurm_cluster.missing():
        pytest.skip(f"{', '.join(absent)} not installed: apt install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="geofm-slurm-", dir="/tmp") as folder:
        with slurm_cluster.start(Path(folder) / "c") as running:
            yield running
        assert not slurm_cluster.left_behind(running), "the cluster left processes behind"


@pytest.fixture
def submit(cluster, root, tmp_path):
    """submit(NOTEBOOK, allocation, **settings) -> (job's fields, its output, the run) once the job has ended."""

    def submitted(notebook, allocation, **values):
        run_dir, output = tmp_path / "run", tmp_path / "job.txt"
        parameters = [word for name, value in {**SMALL, **values, "run_dir": run_dir}.items()
                      for word in ("-p", name, value)]  # fmt: skip
        environment = {"GEOFM_PYTHON": sys.executable, "GEOFM_RUNS": os.environ["GEOFM_RUNS"], "OMP_NUM_THREADS": "1"}
        number = cluster.submit(*allocation, f"--output={output}", "batch/slurm.sh", f"notebooks/{notebook}.ipynb",
                                *parameters, cwd=root, env=environment)  # fmt: skip
        job = cluster.wait(number, 300)
        return job, output.read_text() if output.exists() else cluster.logs(), Run(run_dir)

    return submitted


def test_the_cluster_has_two_nodes_with_tasks_that_know_their_place(cluster):
    place = "echo $SLURM_PROCID $SLURM_NTASKS $SLURM_NNODES $SLURMD_NODENAME"
    lines = cluster.run("srun", "-N2", "-n4", "bash", "-c", place).stdout.splitlines()
    rows = sorted(line.split() for line in lines)
    assert [row[:3] for row in rows] == [[str(rank), "4", "2"] for rank in range(4)]
    assert {row[3] for row in rows} == {"node1", "node2"}


@pytest.mark.parametrize(
    ("allocation", "ranks"),
    [(["--nodes=1", "--ntasks-per-node=2"], 2), (["--nodes=2", "--ntasks-per-node=2"], 4)],
    ids=["one node", "two nodes"],
)
def test_pretraining_as_a_job(submit, allocation, ranks):
    job, output, run = submit("02_pretrain", allocation)
    assert job["JobState"] == "COMPLETED", output + run.log_tail()
    assert run.status == "finished"
    assert run.summary["ranks"] == ranks and len(run.ranks) == ranks
    assert len(run.environment["nodes"]) >= 1
    assert run.metrics["loss"].notna().all() and run.metrics["step"].is_monotonic_increasing
    page = (run.folder / "report.html").read_text()
    assert "FINISHED" in page and "<img" in page
    assert json.loads((run.folder / "execution.json").read_text())["status"] == "finished"
    assert "FINISHED" in output


def test_a_job_whose_settings_cannot_work_fails_with_the_sentence(submit):
    job, output, run = submit("02_pretrain", ["--nodes=2"], strategy="HYBRID_3GPUs")
    assert job["JobState"] == "FAILED" and job["ExitCode"] != "0:0"
    assert "HYBRID_3GPUs needs a number of ranks that 3 divides; 2 ranks" in output, "one task a node"
    assert not run.folder.exists(), "no half-made run"


def test_the_frontier_script_sets_its_environment_and_starts_the_runner(root, tmp_path):
    """Run with stand-ins for the site's commands that only say how they were called."""
    for name in ("module", "sbcast", "srun", "python"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\n[ "${0##*/}" != python ] || env\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "USER": "me", "CRAY_LD_LIBRARY_PATH": "/cray/lib",
                   "SLURM_SUBMIT_DIR": str(root), "SLURM_JOB_ID": "77", "SLURM_NNODES": "8", "SLURM_CPUS_PER_TASK": "7",
                   "GEOFM_ENV": "/orion/geofm.tar.gz"}  # fmt: skip
    command = ["bash", "batch/frontier.sh", "notebooks/03_throughput.ipynb", "-p", "strategy", "HYBRID_2GPUs"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert "python -m geofm_lib.desk.execute notebooks/03_throughput.ipynb -p strategy HYBRID_2GPUs" in done.stdout
    assert "sbcast --force --preserve /orion/geofm.tar.gz /mnt/bb/me/geofm.tar.gz" in done.stdout
    assert "srun --ntasks=8 --ntasks-per-node=1" in done.stdout
    for line in ("SRUN_CPUS_PER_TASK=7", "MIOPEN_USER_DB_PATH=/tmp/miopen-77", "LD_LIBRARY_PATH=/cray/lib",
                 "NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3", "FI_MR_CACHE_MONITOR=kdreg2"):  # fmt: skip
        assert f"\n{line}\n" in done.stdout
    del environment["GEOFM_ENV"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode and "set GEOFM_ENV" in done.stderr
