"""Start the ranks of a run and watch its folder until they end.

The kernel never trains: it writes `settings.json`, starts one process a rank, touches its heartbeat so that the ranks
know it lives, and shows one line of progress. A finished run is read, an unfinished one goes on from its checkpoint.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from geofm_lib import __version__, files
from geofm_lib.data.sources import listing, prepared, probeable
from geofm_lib.jobs.owner import OWNERS
from geofm_lib.jobs.run_folder import HEARTBEATS, LAUNCHER, REQUESTS
from geofm_lib.model.interop import locate
from geofm_lib.runs import branch, follow, results, slurm, unfinished, watch
from geofm_lib.runs.check import check
from geofm_lib.runs.run import SETTINGS, Run, shown
from geofm_lib.settings import (
    JobSettings,
    PrepareSettings,
    PretrainSettings,
    ProbeSettings,
    Resolved,
    SettingsError,
    expanded,
)
from geofm_lib.settings.data import ImageSettings


def launch(settings: JobSettings, needed: bool = False) -> Run:
    """Run the job of these settings, or read it if it has finished; returns the run.

    While another launch is running it, this one shows its progress, then reads the result. `needed`: another run wants
    this one.

    Raises:
        SettingsError: the settings cannot run here, or the folder holds a run with other settings.
        RunFailed: a rank failed or was killed (the run can be launched again).
        RunStopped: a stop was asked for and a checkpoint was written.
    """
    with unfinished.taken(settings) as (settings, checkpoint):
        return _launch(settings, checkpoint, needed)


def _launch(settings: JobSettings, checkpoint: Path | None, needed: bool) -> Run:
    """The same for settings that name one certain encoder; `checkpoint`: the folder of one that was taken for it."""
    run = Run(settings.folder())
    while True:
        _refuse_damage(run)
        check(settings)
        _refuse_other_settings(run, settings)
        if run.finished:
            run.prove()
            _name_to_runner(run)
            print(f"{settings.job}: finished before, read from {shown(run.folder)}", flush=True)
            return run
        turn = follow.turn(run, partial(_refuse_other_settings, run, settings), needed)
        if run.finished:
            continue
        ranks = count_ranks(settings)
        resolved = _resolved(settings, ranks)
        _name_to_runner(run)
        if watch.stop_asked():
            raise watch.RunStopped("a stop was asked for before the ranks were started; run this cell again to go on")
        if mine := turn.take():  # else another launch was faster: follow it
            break
    try:
        _run_ranks(run, settings, resolved, checkpoint, mine.id)
    finally:
        mine.end()
    return run


def _run_ranks(run: Run, settings: JobSettings, resolved: Resolved, checkpoint: Path | None, launch_id: str) -> None:
    """Start the ranks in a folder that is ours, and watch them to their end."""
    _prepare_folder(run.folder, settings, resolved)
    unfinished.put(checkpoint, run.folder)
    branch.keep(run.folder, resolved)
    log_from = (run.folder / "log.txt").stat().st_size if (run.folder / "log.txt").exists() else 0
    processes = start_ranks(run.folder, resolved.ranks, settings.device, launch_id)
    watch.watch(run, processes, resolved.ranks, log_from, launch_id)


def _refuse_damage(run: Run) -> None:
    """Raise SettingsError for a run whose small files cannot be believed; a lost settings.json is rebuilt."""
    if not run.read_json(SETTINGS) and (kept := run.kept_settings):
        with suppress(OSError):  # somebody else's run: `trouble` says it
            files.write_json(run.folder / SETTINGS, kept)
            print(f"{shown(run.folder)}: {SETTINGS} was lost, and is rebuilt from the last checkpoint", flush=True)
    if run.trouble:
        raise SettingsError(f"run_dir: {run.trouble}")


def _resolved(settings: JobSettings, ranks: int) -> Resolved:
    """What the settings came to: the run folders this job reads, made first if they are not there."""
    found: dict[str, Any] = {}
    if isinstance(settings, PrepareSettings):
        found["source"] = listing.signature(settings.dataset)
    asked = settings.asked()
    reads = settings.job in ("pretrain", "probe") or asked.get("input") == "real" or asked.get("compare", False)
    if isinstance(settings, ImageSettings) and reads:  # not a simulation, nor a throughput run on synthetic images
        folder = _data(settings)
        found |= {"data": str(folder), "data_fingerprint": prepared.fingerprint(folder)}
        if isinstance(settings, ProbeSettings):
            _probeable(folder)
    if isinstance(settings, ProbeSettings) and settings.encoder != "random":
        given = settings.encoder or launch_quietly(settings.pretraining()).folder
        if unfinished.names_checkpoint(settings.encoder):
            found["encoder"] = str(settings.folder() / unfinished.TAKEN)
        else:
            found["encoder"] = str(locate.find(expanded(given)).folder)
    if isinstance(settings, PretrainSettings) and settings.init and not branch.of_weights(settings):
        found |= _first_weights(settings)
    if isinstance(settings, PretrainSettings) and settings.branch:
        found |= branch.resolved(settings, found["data_fingerprint"], found.get("init_digest", ""))
    return Resolved(ranks=ranks, **found)


def _probeable(folder: Path) -> None:
    """Refuse a set that cannot be probed before anything is pretrained for it."""
    try:
        probeable.check(folder)
    except ValueError as error:
        raise SettingsError(f"data: {error}") from None


def _first_weights(settings: PretrainSettings) -> dict[str, str]:
    """The files that `init` names, with their digest. A run that has trained keeps what it was started from."""
    run = Run(settings.folder())
    if "init" in run.resolved and any((run.folder / "checkpoint").glob("step-*")):
        return {name: run.resolved[name] for name in ("init", "init_digest")}
    try:
        place = locate.find(expanded(settings.init), settings.init)
        return {"init": str(place.folder), "init_digest": locate.digest(place)}
    except ValueError as error:
        raise SettingsError(f"init: {error}") from None


def _data(settings: ImageSettings) -> Path:
    """The prepared folder that the job reads: the one given, or one that is made or was made before."""
    data = getattr(settings, "data", "")
    if not data or prepared.is_list(data):
        return _prepared(settings.preparation()).folder
    run = Run(expanded(data))
    if run.job and run.status != "finished":  # a copy may hold the data files alone
        why = f"the preparation in '{run.folder}' is {run.status}; run 01_data on it again"
        raise SettingsError(f"data: {run.trouble or why}")
    return run.folder


def _prepared(preparation: PrepareSettings) -> Run:
    """The preparation of a data set: reused while its source is unchanged."""
    run = Run(preparation.folder())
    now = listing.signature(preparation.dataset)
    if run.finished and _content(run.resolved.get("source", "")) != _content(now):
        raise SettingsError(
            f"dataset: '{preparation.dataset}' has changed since '{run.folder}' was made of it; delete that folder, or "
            "prepare it with 01_data into a run_dir of its own and give that as data"
        )
    return launch_quietly(preparation)


def _content(signature: str) -> str:
    """A source's signature without its path: data that moved are the same."""
    return " ".join(re.findall(r"(?:\|[0-9a-f]+)+(?= |$)", signature)) or signature


def launch_quietly(settings: JobSettings) -> Run:
    """Launch a run that another one needs: the page stays that of the run that asked."""
    kept = os.environ.pop("GEOFM_EXECUTION", None)
    try:
        return launch(settings, needed=True)
    finally:
        if kept is not None:
            os.environ["GEOFM_EXECUTION"] = kept


def _refuse_other_settings(run: Run, settings: JobSettings) -> None:
    before = run.stored
    if not before:
        if run.folder.is_dir() and {each.name for each in run.folder.iterdir()} - {OWNERS}:
            raise SettingsError(f"run_dir: '{run.folder}' holds other files and no run; choose a new or empty folder")
        return
    if before["job"] != settings.job:
        raise SettingsError(f"run_dir: '{run.folder}' holds a {before['job']} run; choose another folder")
    # A setting that was not known then has the value that means what was done then: its default.
    there, now = type(settings).model_construct(**before["asked"]).results_only(), settings.results_only()
    data, known = expanded(now.get("data", "")), run.resolved.get("data_fingerprint")
    if now.get("data") and prepared.is_prepared(data) and prepared.fingerprint(data) == known:
        now["data"] = there["data"]  # the same images, perhaps at another place
    changed = [f"{n} ({there.get(n)!r} there, {v!r} now)" for n, v in now.items() if there.get(n) != v]
    if changed:
        others = f"other settings: {', '.join(changed)}; choose another run_dir"
        raise SettingsError(f"run_dir: '{run.folder}' holds a run with {others}")


def _prepare_folder(folder: Path, settings: JobSettings, resolved: Resolved) -> None:
    """settings.json and environment.json of this launch; the ends of earlier launches go to history.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    ended = run.slice(run.summary.get("status", "killed"))
    if ended:
        before = run.read_rows("history.jsonl")  # whole rows, whatever a crash left of the last one
        files.write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in [*before, ended]))
    for name in (files.SUMS, "summary.json"):
        (folder / name).unlink(missing_ok=True)
    for name in (HEARTBEATS, REQUESTS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    came_to = resolved.model_dump(exclude_unset=True)
    stored = {"job": settings.job, "asked": settings.asked(), "resolved": came_to, "geofm_version": __version__}
    began = {"job_started": float(os.environ.get("GEOFM_STARTED", time.time())), "from_step": Run(folder).saved_step}
    files.write_json(folder / SETTINGS, stored)
    files.write_json(folder / "environment.json", {**results.environment(), **slurm.here(), **began})
    (folder / LAUNCHER).touch()


def _name_to_runner(run: Run) -> None:
    """Leave word for the runner (report/execute) which run this notebook is about."""
    if "GEOFM_EXECUTION" in os.environ:
        Path(os.environ["GEOFM_EXECUTION"], "run").write_text(str(run.folder))


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
    command = [sys.executable, "-m", "geofm_lib.profiling.devices"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    try:
        return int(json.loads(done.stdout)["count"])
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"device: torch cannot be asked for its devices: {done.stderr.strip()[-300:]}") from None


def start_ranks(folder: Path, ranks: int, device: str, launch_id: str) -> list[subprocess.Popen[bytes]]:
    """Start them on a prepared run folder; their output goes to its log.txt."""
    worker = [sys.executable, "-m", "geofm_lib.jobs.worker", str(folder)]
    base = {**os.environ, "GEOFM_LAUNCH": launch_id, "PYTHONUNBUFFERED": "1"}
    base["GEOFM_HEARTBEAT_S"] = str(watch.heartbeat_s(ranks))
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), base.get("PYTHONPATH")]))
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
    base["OMP_NUM_THREADS"] = str(max(1, cores // ranks))
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
