"""Start the ranks of a run and watch its folder until they end.

The kernel never trains: it writes `settings.json`, starts one process a rank, touches its heartbeat so that the ranks
know it lives, and shows one line of progress. A finished run is read, an unfinished one goes on from its checkpoint.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from geofm_lib import __version__, files
from geofm_lib.catalog.readouts import DATES
from geofm_lib.data.sources import listing, pairs, prepared, probeable, rows
from geofm_lib.jobs.owner import OWNERS
from geofm_lib.jobs.run_folder import HEARTBEATS, LAUNCHER, REQUESTS
from geofm_lib.model.interop import locate
from geofm_lib.runs import branch, follow, results, slurm, start, unfinished, watch
from geofm_lib.runs.check import check
from geofm_lib.runs.run import NEEDED, SETTINGS, Run, shown
from geofm_lib.settings import (
    TRUE_SETTINGS,
    EncoderSettings,
    JobSettings,
    PrepareSettings,
    PretrainSettings,
    Resolved,
    SettingsError,
    TransferSettings,
    expanded,
)
from geofm_lib.settings.data import ImageSettings
from geofm_lib.settings.masking import masked


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
        _name_to_runner(run)
        turn = follow.turn(run, partial(_refuse_other_settings, run, settings), needed)
        if run.finished:
            continue
        ranks = start.count_ranks(settings)
        resolved = _resolved(settings, ranks)
        if watch.stop_asked():
            raise watch.RunStopped("a stop was asked for before the ranks were started; run this cell again to go on")
        if mine := turn.take():  # else another launch was faster: follow it
            break
    try:
        word = "unknown" if turn.last and turn.last.ended else "killed"  # of a launch that left no summary
        _run_ranks(run, settings, resolved, checkpoint, mine.id, word)
    finally:
        mine.end()
    return run


def _run_ranks(
    run: Run, settings: JobSettings, resolved: Resolved, checkpoint: Path | None, launch_id: str, before: str
) -> None:
    """Start the ranks in a folder that is ours, and watch them to their end."""
    true = _prepare_folder(run.folder, settings, resolved, before)
    unfinished.put(checkpoint, run.folder)
    branch.keep(run.folder, resolved)
    log_from = (run.folder / "log.txt").stat().st_size if (run.folder / "log.txt").exists() else 0
    secret = {TRUE_SETTINGS: json.dumps(true)} if masked(true) != true else {}
    processes = start.start_ranks(run.folder, resolved.ranks, settings.device, launch_id, secret)
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
    reads = (
        settings.job in ("pretrain", "probe", "transfer") or asked.get("input") == "real" or asked.get("compare", False)
    )
    if isinstance(settings, ImageSettings) and reads:  # not a simulation, nor a throughput run on synthetic images
        folder = _data(settings)
        found |= {"data": str(folder), "data_fingerprint": prepared.fingerprint(folder)}
        if isinstance(settings, EncoderSettings):
            asked_for = getattr(settings, "protocol", "") or getattr(settings, "task", "")
            _probeable(folder, "data", asked_for)
        if isinstance(settings, PretrainSettings) and settings.probe_every:
            found["probe_data"] = str(_probed_along(settings, folder))
    if isinstance(settings, TransferSettings) and settings.encoder == "random":  # a grid's rows have it meanwhile
        raise SettingsError("encoder: random weights are the arms scratch and untrained of any run; name an encoder")
    if isinstance(settings, EncoderSettings) and settings.encoder != "random":
        given = settings.encoder or launch_quietly(settings.pretraining()).folder
        if unfinished.names_checkpoint(settings.encoder):
            found["encoder"] = str(settings.folder() / unfinished.TAKEN)
        else:
            found["encoder"] = str(locate.find(expanded(given)).folder)
    if isinstance(settings, PretrainSettings) and settings.init and not branch.of_weights(settings):
        found |= _first_weights(settings)
    if isinstance(settings, PretrainSettings) and settings.branch:
        found |= branch.resolved(settings, found["data_fingerprint"], found.get("init_digest", ""))
    came_to = Resolved(ranks=ranks, **found)
    if isinstance(settings, PretrainSettings):
        _steps(settings, came_to)
    return came_to


def _steps(settings: PretrainSettings, came_to: Resolved) -> None:
    """Refuse what the images, which may be prepared only now, leave no step for, or have no bands for."""
    try:
        settings.groups(*prepared.bands(Path(came_to.data)))
        settings.steps(prepared.train_images(Path(came_to.data)), came_to.parent.get("step", 0))
    except ValueError as error:
        raise SettingsError(str(error)) from None


NEEDED_BY: dict[str, Callable[[Path], object]] = {
    DATES: partial(pairs.check, side="test"),
    "segment": partial(prepared.refuse_without, "masks"),
    "detect": partial(prepared.refuse_without, "boxes"),
}  # else labels


def _probeable(folder: Path, name: str, asked_for: str = "") -> None:
    """Refuse a set that has not what a protocol or task looks at, before anything is pretrained for it."""
    try:
        NEEDED_BY.get(asked_for, probeable.check)(folder)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def _probed_along(settings: PretrainSettings, data: Path) -> Path:
    """The prepared folder that `probe_every` looks at: labelled, and of images of the kind that are trained on."""
    folder = expanded(settings.probe_data) if settings.probe_data else data
    _probeable(folder, "probe_data" if settings.probe_data else "probe_every")
    (own, _), (theirs, _) = rows.kind(data), rows.kind(folder)
    if own != theirs:
        raise SettingsError(f"probe_data: its images have {theirs} bands, and those of the training {own}; give others")
    return folder


def _first_weights(settings: PretrainSettings) -> dict[str, str]:
    """The files that `init` names, with their digest. A run that has trained keeps what it was started from."""
    run = Run(settings.folder())
    if "init" in run.resolved and run.trained:
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
    if run.job and run.status == "running":
        with _needed(run.folder):
            follow.turn(run, lambda: None, needed=True)
    if run.job and not run.finished:  # a copy may hold the data files alone
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
    with _needed(settings.folder()):
        return launch(settings, needed=True)


@contextmanager
def _needed(folder: Path) -> Iterator[None]:
    """While this block runs, the runner shows the progress of the run in this folder, which is not its page's run."""
    kept = os.environ.pop("GEOFM_EXECUTION", None)
    if kept is None:  # or in such a block already
        yield
        return
    try:
        Path(kept, NEEDED).write_text(str(folder))
        yield
    finally:
        Path(kept, NEEDED).unlink(missing_ok=True)
        os.environ["GEOFM_EXECUTION"] = kept


def _refuse_other_settings(run: Run, settings: JobSettings) -> None:
    before = run.stored
    if not before:
        foreign = {each.name for each in run.folder.glob("*")} - {OWNERS}
        if foreign and run.owner is None:  # asked after the look: a launch in this moment claims before it writes
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


def _prepare_folder(folder: Path, settings: JobSettings, resolved: Resolved, word: str) -> dict[str, Any]:
    """settings.json and environment.json of this launch; the ends of earlier launches go to history.jsonl.

    word: the status of the last launch if it left no summary. Returns settings.json with its secrets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    ended = run.slice(run.summary.get("status") or word)
    if ended:
        before = run.read_rows("history.jsonl")  # whole rows, whatever a crash left of the last one
        files.write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in [*before, ended]))
    for name in (files.SUMS, "summary.json"):
        (folder / name).unlink(missing_ok=True)
    for name in (HEARTBEATS, REQUESTS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(exist_ok=True)
    came_to = resolved.model_dump(exclude_unset=True)
    stored = {
        "job": settings.job,
        "asked": settings.model_dump(mode="json"),
        "resolved": came_to,
        "geofm_version": __version__,
    }
    from_step = max(run.saved_step, resolved.parent.get("step", 0))
    began = {"job_started": float(os.environ.get("GEOFM_STARTED", time.time())), "from_step": from_step}
    began |= {"began": time.time()}
    files.write_json(folder / SETTINGS, masked(stored))
    files.write_json(folder / "environment.json", {**results.environment(), **slurm.here(), **began})
    (folder / LAUNCHER).touch()
    return stored


def _name_to_runner(run: Run) -> None:
    """Leave word for the runner (report/execute) which run this notebook is about."""
    if "GEOFM_EXECUTION" in os.environ:
        Path(os.environ["GEOFM_EXECUTION"], "run").write_text(str(run.folder))
