"""Start the ranks of a run and watch its folder until they end.

The kernel never trains: it writes `settings.json`, starts one process a rank (srun inside a Slurm allocation, plain
processes elsewhere, the same environment variables), touches `launcher` so that the ranks know it lives, and shows
one line of progress. A finished run is read, an unfinished one goes on from its checkpoint.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

from geofm_lib import __version__, files
from geofm_lib.catalog import datasets
from geofm_lib.data import sources
from geofm_lib.runs import provenance, records, slurm, watch
from geofm_lib.runs.check import check, encoder_folder
from geofm_lib.runs.run import Run, shown
from geofm_lib.runs.watch import RunFailed, RunStopped
from geofm_lib.settings import JobSettings, ProbeSettings, SettingsError

__all__ = ["RunFailed", "RunStopped", "count_ranks", "launch", "launch_quietly"]

OF_ONE_LAUNCH = ("summary.json", "heartbeat", "stop", "launcher", "orphaned", "hung")  # cleared before the next


def launch(settings: JobSettings) -> Run:
    """Run the job of these settings, or read it if it has finished; returns the run.

    Raises:
        SettingsError: the settings cannot run here, or the folder holds a run with other settings.
        RunFailed: a rank failed or was killed (the run can be launched again).
        RunStopped: a stop was asked for and a checkpoint was written.
    """
    check(settings)
    run = Run(settings.folder().absolute())
    _refuse_other_settings(run, settings)
    if run.status == "finished":
        _tell_runner(run)
        _say(f"{settings.job}: finished before, read from {shown(run.folder)}")
        return run
    if run.status == "running":
        _wait_for_orphans(run)
    ranks = count_ranks(settings)
    resolved = {**_inputs(settings), "ranks": ranks}
    _tell_runner(run)
    if watch.stop_asked():
        raise RunStopped("a stop was asked for before the ranks were started; run this cell again to go on")
    _prepare_folder(run.folder, settings, resolved)
    log_from = (run.folder / "log.txt").stat().st_size if (run.folder / "log.txt").exists() else 0
    watch.watch(run, _start(run.folder, settings, ranks), ranks, log_from)
    return run


def _wait_for_orphans(run: Run) -> None:
    """Ranks whose kernel was killed or restarted end by themselves within seconds; those of a live one are not ours.

    Raises SettingsError while another process is running this folder.
    """
    touched = (run.folder / "launcher").stat().st_mtime_ns
    time.sleep(2 * watch.POLL_S + 1)
    if (run.folder / "launcher").stat().st_mtime_ns != touched:
        raise SettingsError(
            f"run_dir: '{run.folder}' is being run by another process; wait for it or choose another run_dir"
        )
    _say("the ranks of an earlier kernel are ending; waiting for them")
    while run.status == "running":
        time.sleep(watch.POLL_S)


def count_ranks(settings: JobSettings) -> int:
    """How many ranks: as asked, else the Slurm tasks, else the GPUs that one short process reports, else 1."""
    tasks = _slurm_tasks() if slurm.in_allocation() else 0
    ranks = settings.ranks or tasks or (1 if settings.device == "cpu" else max(1, _gpus()))
    if tasks and ranks > tasks:
        raise SettingsError(f"ranks: {ranks} were asked for, but this Slurm allocation has {tasks} tasks; use ranks=0")
    check(settings, ranks)
    return ranks


def _slurm_tasks() -> int:
    """Tasks of the allocation; `salloc -N2` alone says only how many a node may hold: "2(x2),1"."""
    if "SLURM_NTASKS" in os.environ:
        return int(os.environ["SLURM_NTASKS"])
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_TASKS_PER_NODE", ""))
    return sum(int(tasks) * int(nodes or 1) for tasks, nodes in found)


def _gpus() -> int:
    done = subprocess.run(
        [sys.executable, "-m", "geofm_lib.distributed.devices"], capture_output=True, text=True, timeout=120
    )
    try:
        return int(json.loads(done.stdout)["count"])
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"device: torch cannot be asked for its devices: {done.stderr.strip()[-300:]}") from None


def _inputs(settings: JobSettings) -> dict[str, str]:
    """The run folders this job reads, made first if they are not there."""
    found = {}
    needs_data = settings.job in ("pretrain", "probe") or getattr(settings, "input", "") == "real"
    needs_data |= getattr(settings, "compare", False)
    if needs_data:
        prepared = Run(Path(settings.data).absolute()) if settings.data else _prepared(settings)
        if prepared.status != "finished":
            raise SettingsError(
                f"data: the preparation in '{prepared.folder}' is {prepared.status}; run 01_data on it again"
            )
        found = {"data": str(prepared.folder), "data_fingerprint": prepared.summary["fingerprint"]}
    if isinstance(settings, ProbeSettings) and settings.encoder != "random":
        given = settings.encoder or launch_quietly(settings.pretraining()).folder
        found["encoder"] = str(encoder_folder(given).absolute())
    return found


def _prepared(settings) -> Run:
    """The preparation of this data set: reused while its source is unchanged."""
    preparation = settings.preparation()
    run = Run(preparation.folder().absolute())
    if run.status == "finished" and run.resolved.get("source") != sources.signature(settings.dataset):
        raise SettingsError(
            f"dataset: '{settings.dataset}' has changed since '{run.folder}' was made of it; delete that folder, or "
            "prepare it with 01_data into a run_dir of its own and give that as data"
        )
    return launch_quietly(preparation)


def launch_quietly(settings: JobSettings) -> Run:
    """Launch a run that another one needs: the page stays that of the run that asked."""
    kept = os.environ.pop("GEOFM_EXECUTION", None)
    try:
        return launch(settings)
    finally:
        if kept is not None:
            os.environ["GEOFM_EXECUTION"] = kept


def _refuse_other_settings(run: Run, settings: JobSettings) -> None:
    before = run.read_json("settings.json")
    if not before:
        if run.folder.is_dir() and any(run.folder.iterdir()):
            raise SettingsError(f"run_dir: '{run.folder}' holds other files and no run; choose a new or empty folder")
        return
    if before["job"] != settings.job:
        raise SettingsError(f"run_dir: '{run.folder}' holds a {before['job']} run; choose another folder")
    now = settings.results_only()
    changed = [
        f"{n} ({before['asked'].get(n)!r} there, {v!r} now)" for n, v in now.items() if before["asked"].get(n) != v
    ]
    if changed:
        raise SettingsError(
            f"run_dir: '{run.folder}' holds a run with other settings: {', '.join(changed)}; choose another run_dir"
        )


def _prepare_folder(folder: Path, settings: JobSettings, resolved: dict) -> None:
    """settings.json and environment.json of this launch; the ends of earlier launches go to history.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = records.this_slice(Run(folder))
    if ended:
        with open(folder / "history.jsonl", "a") as history:
            history.write(json.dumps(ended) + "\n")
    for name in OF_ONE_LAUNCH:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "beats", ignore_errors=True)
    if settings.job == "prepare":
        resolved = {**resolved, "source": sources.signature(settings.dataset)}
    stored = {"job": settings.job, "asked": settings.asked(), "resolved": resolved, "geofm_version": __version__}
    began = {"job_started": float(os.environ.get("GEOFM_STARTED", time.time())), "from_step": Run(folder).saved_step}
    files.write_json(folder / "environment.json", {**provenance.environment(), **slurm.here(), **began})
    files.write_json(folder / "settings.json", stored)
    (folder / "launcher").touch()


def _start(folder: Path, settings: JobSettings, ranks: int) -> list[subprocess.Popen]:
    """The rank processes: one srun for all inside an allocation, else one process each."""
    worker = [sys.executable, "-m", "geofm_lib.jobs.worker", str(folder)]
    base = {**os.environ, "GEOFM_LAUNCH": uuid.uuid4().hex[:8], "PYTHONUNBUFFERED": "1"}
    base["GEOFM_BEAT_S"] = str(watch.beat_s(ranks))
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), base.get("PYTHONPATH")]))
    base.pop("MPLBACKEND", None)
    with open(folder / "log.txt", "ab") as log:
        if slurm.in_allocation():
            for name in [n for n in base if n.startswith("SLURM_CPU_BIND")]:
                del base[name]  # of the batch step; it would bind every rank to that step's cores
            # -n alone: how tasks spread over the nodes is the allocation's business.
            command = ["srun", "--overlap", "--kill-on-bad-exit=1", "--label", f"--ntasks={ranks}"]
            threads = base.get("SLURM_CPUS_PER_TASK")
            command += [f"--cpus-per-task={threads}"] if threads else []
            command += shlex.split(os.environ.get("GEOFM_SRUN", ""))  # the site's own options, from its batch script
            base.setdefault("OMP_NUM_THREADS", threads or "1")
            return [_popen([*command, *worker], base, log)]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        base["OMP_NUM_THREADS"] = str(max(1, cores // ranks))
        base.update(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), GEOFM_LABEL="1")
        if sys.platform == "linux":
            base.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: do not depend on its host name resolving
        visible = base.get("CUDA_VISIBLE_DEVICES", "")
        gpus = visible.split(",") if visible else [str(i) for i in range(ranks)]
        processes = []
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if settings.device != "cpu" and rank < len(gpus):
                own["CUDA_VISIBLE_DEVICES"] = gpus[rank]  # each rank sees its own GPU as device 0
            processes.append(_popen(worker, {**base, **own}, log))
        return processes


def _popen(command: list[str], environment: dict[str, str], log) -> subprocess.Popen:
    # A session of its own: an interrupt of the kernel must not kill ranks that are about to save.
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _tell_runner(run: Run) -> None:
    """Leave word for the runner (desk/execute) which run this notebook is about."""
    if "GEOFM_EXECUTION" in os.environ:
        Path(os.environ["GEOFM_EXECUTION"], "run").write_text(str(run.folder))


def _say(text: str) -> None:
    print(text, flush=True)
