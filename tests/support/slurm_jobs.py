"""What the tests on Slurm share: jobs of a small pretraining whose steps take as long as a test needs.

Real steps of so small a model take milliseconds, and how many depends on the machine. A rank that finds
`sitecustomize.py` below on its path sleeps `GEOFM_TEST_PACE` seconds in each step, so that a job can be signalled in
the middle of its training and 300 steps take the same time everywhere. Nothing of the library knows of it.
"""

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import websocket

from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings
from tests.support.slurm_cluster import Cluster
from tests.support.timing import scaled, wait_for

ROOT = Path(__file__).parents[2]
# 32 images to train on, 2 steps an epoch
SMALL = {"dataset": "scenes", "images_per_class": 4, "model": "ViT-Atto", "image_size": 32, "global_batch": 16,
         "warmup_epochs": 1, "device": "cpu", "log_every": 1, "checkpoint_every": 5}  # fmt: skip
TIMEOUT_S = round(scaled(15))  # instead of 60, so that a test need not wait for it
PACED = """\
import os, time
if "GEOFM_LAUNCH" in os.environ:
    from geofm_lib.jobs.run_folder import Folder
    at = Folder.at
    def slowly(self, step):
        at(self, step)
        time.sleep(float(os.environ.get("GEOFM_TEST_PACE", 0)))
    Folder.at = slowly
"""


@dataclass
class Job:
    """A submitted notebook: its number, its run and the file of its output."""

    cluster: Cluster
    number: str
    run: Run
    output: Path

    def fields(self) -> dict[str, str]:
        """JobState, ExitCode, Restarts and the rest of `scontrol show job`."""
        return self.cluster.job(self.number)

    def story(self) -> str:
        """What a failed test should show."""
        text = self.output.read_text() if self.output.exists() else self.cluster.logs()
        return f"{self.fields()}\n{text}\n{self.run.log_tail(40)}"

    def wait(self, seconds: float = 300) -> dict[str, str]:
        """Its fields once it has ended."""
        return self.cluster.wait(self.number, seconds)

    def until(self, condition, seconds: float, message: str):
        """The condition's value once it is true."""
        return wait_for(condition, seconds, message, self.story)

    def until_step(self, step: int, seconds: float = 200) -> int:
        """The last logged step once it is at least `step` and the ranks of the present start have done it."""

        def reached():
            rows, where = self.run.metrics, self.run.environment
            if (where.get("slurm_job"), str(where.get("slurm_restart"))) != (self.number, self.fields()["Restarts"]):
                return 0
            mine = rows[rows["time"] > where["job_started"]] if len(rows) else rows
            return len(mine) and mine["step"].iloc[-1] >= step and mine["step"].iloc[-1]

        return int(self.until(reached, seconds, f"step {step} was not reached"))

    def signal_rank(self, rank: int, number: int) -> None:
        """A signal to one rank's process, as from a person on its node."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "geofm_lib.jobs.worker" in words and str(self.run.folder) in words:
                    if process.name() != "srun" and process.environ().get("SLURM_PROCID") == str(rank):
                        process.send_signal(number)
                        return
        raise AssertionError(f"no process of rank {rank}\n{self.story()}")


def submit(
    cluster, folder: Path, *allocation, notebook="02_pretrain", script="batch/slurm.sh", pace=0.0, output="", **values
) -> Job:
    """sbatch SCRIPT NOTEBOOK with these settings; the run and the job's output (or where it is) lie in `folder`."""
    run_dir = values.pop("run_dir", folder / "run")
    settings = {**(SMALL if notebook == "02_pretrain" else {}), **values, "run_dir": run_dir}
    words = [word for name, value in settings.items() for word in ("-p", name, value)]
    output = f"--output={output or folder / 'job-%j.txt'}"
    number = cluster.submit(*allocation, output, script, f"notebooks/{notebook}.ipynb", *words,
                            cwd=ROOT, env=environment(folder, pace))  # fmt: skip
    return Job(cluster, number, Run(Path(run_dir)), folder / f"job-{number}.txt")


def environment(folder: Path, pace: float = 0.0) -> dict[str, str]:
    """Variables of a job: this interpreter, the session's runs, short bounds, paced steps."""
    slow = folder / "slow"
    slow.mkdir(exist_ok=True)
    (slow / "sitecustomize.py").write_text(PACED)
    return {"GEOFM_PYTHON": sys.executable, "GEOFM_RUNS": os.environ["GEOFM_RUNS"], "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(slow), "GEOFM_TEST_PACE": str(pace), "GEOFM_LIVE_S": "1",
            "GEOFM_HEARTBEAT_TIMEOUT_S": str(TIMEOUT_S)}  # fmt: skip


def prepared() -> Run:
    """The images of all these runs."""
    return launch(PretrainSettings(**SMALL).preparation())


def local(folder: Path, ranks: int, **values) -> Run:
    """The same pretraining by processes of this machine, never disturbed."""
    return launch(PretrainSettings(**{**SMALL, **values, "ranks": ranks, "run_dir": str(folder)}))


def losses(run: Run) -> list[float]:
    """The loss of every step; each must be there once."""
    metrics = run.metrics
    assert list(metrics["step"]) == list(range(1, len(metrics) + 1))
    return list(metrics["loss"])


@contextlib.contextmanager
def timed(what: str):
    """Print how long this took (pytest -s shows it)."""
    began = time.monotonic()
    yield
    print(f"\n{what} after {time.monotonic() - began:.1f} s")


def run_cell(url: str, token: str, code: str) -> str:
    """Run code in a kernel of a Jupyter server by its own protocol; what it printed, or its error."""
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "test", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
    socket = websocket.create_connection(url, header={"Authorization": f"token {token}"}, timeout=scaled(200))
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    socket.send(json.dumps(message))
    printed = []
    while True:
        answer = json.loads(socket.recv())
        if answer["parent_header"].get("msg_id") != "1":
            continue
        if answer["msg_type"] == "stream":
            printed.append(answer["content"]["text"])
        if answer["msg_type"] == "error":
            printed.append(answer["content"]["evalue"])
        if answer["msg_type"] == "execute_reply":
            socket.close()
            return "".join(printed)


KILL, STOP = signal.SIGKILL, signal.SIGSTOP
