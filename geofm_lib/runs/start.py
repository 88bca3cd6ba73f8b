"""Start the ranks of a run: how many there are, by srun or one by one, and what each learns from its environment."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from geofm_lib.advice import waiting
from geofm_lib.runs import slurm, watch
from geofm_lib.settings import JobSettings, SettingsError


def count_ranks(settings: JobSettings) -> int:
    """How many ranks: as asked, else the Slurm tasks, else the GPUs that one short process reports, else 1."""
    tasks = _slurm_tasks() if slurm.in_allocation() else 0
    ranks = settings.ranks or tasks or (1 if settings.device == "cpu" else max(1, _gpus()))
    if tasks and ranks > tasks:
        raise SettingsError(f"ranks: {ranks} were asked for, but this Slurm allocation has {tasks} tasks; use ranks=0")
    try:
        settings.check_ranks(ranks)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return ranks


def _slurm_tasks() -> int:
    """Tasks of the allocation; `salloc -N2` alone says only how many a node may hold: "2(x2),1"."""
    if "SLURM_NTASKS" in os.environ:
        return int(os.environ["SLURM_NTASKS"])
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_TASKS_PER_NODE", ""))
    return sum(int(tasks) * int(nodes or 1) for tasks, nodes in found)


def _gpus() -> int:
    command = [sys.executable, "-m", "geofm_lib.profiling.devices"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    try:
        return int(json.loads(done.stdout)["count"])
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"device: torch cannot be asked for its devices: {done.stderr.strip()[-300:]}") from None


def start_ranks(
    folder: Path, ranks: int, device: str, launch_id: str, secret: dict[str, str] | None = None
) -> list[subprocess.Popen[bytes]]:
    """Start them on a prepared run folder; their output goes to its log.txt. secret: for their environment alone."""
    worker = [sys.executable, "-m", "geofm_lib.jobs.worker", str(folder)]
    base = {**os.environ, **(secret or {}), "GEOFM_LAUNCH": launch_id, "PYTHONUNBUFFERED": "1"}
    base["GEOFM_HEARTBEAT_S"] = str(watch.heartbeat_s(ranks))
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), base.get("PYTHONPATH")]))
    base |= waiting.variables(base)
    base.pop("MPLBACKEND", None)
    starts = _by_srun(base, ranks) if slurm.in_allocation() else _local(base, ranks, device)
    with open(folder / "log.txt", "ab") as log:
        # A session of its own: an interrupt of the kernel must not kill ranks that are about to save.
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        return [subprocess.Popen([*srun, *worker], env=environment, **how) for srun, environment in starts]


def _by_srun(base: dict[str, str], ranks: int) -> list[tuple[list[str], dict[str, str]]]:
    """[(words before the worker's, environment)] of the one process that starts all ranks."""
    for name in [n for n in base if n.startswith("SLURM_CPU_BIND")]:
        del base[name]  # of the batch step; it would bind every rank to that step's cores
    # -n alone: how tasks spread over the nodes is the allocation's business.
    command = ["srun", "--overlap", "--kill-on-bad-exit=1", "--label", f"--ntasks={ranks}"]
    threads = base.get("SLURM_CPUS_PER_TASK")
    command += [f"--cpus-per-task={threads}"] if threads else []
    command += shlex.split(os.environ.get("GEOFM_SRUN", ""))  # the site's own options, from its batch script
    base.setdefault("OMP_NUM_THREADS", threads or "1")
    return [(command, base)]


def _local(base: dict[str, str], ranks: int, device: str) -> list[tuple[list[str], dict[str, str]]]:
    """The same for a process a rank."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    base.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    base.update(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), GEOFM_LABEL="1")
    if sys.platform == "linux":
        base.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: do not depend on its host name resolving
    visible = base.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(i) for i in range(ranks)]
    starts: list[tuple[list[str], dict[str, str]]] = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if device != "cpu" and rank < len(gpus):
            own["CUDA_VISIBLE_DEVICES"] = gpus[rank]  # each rank sees its own GPU as device 0
        starts.append(([], {**base, **own}))
    return starts
