"""A probe (or 08) of a run that has not ended: which checkpoint it is of, its encoder taken out before ranks start.

The probe's `encoder` becomes RUN@STEP, so each checkpoint has a probe of its own, which says so in its name. The
checkpoint's encoder lies in the probe's folder: the run may go on, and may delete what was read.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from geofm_lib import files
from geofm_lib.distributed import manifest
from geofm_lib.model.interop import locate
from geofm_lib.runs.run import Run, find_runs, shown
from geofm_lib.settings import EncoderSettings, JobSettings, SettingsError, at_step, expanded, runs_root
from geofm_lib.settings.places import instead

TAKEN = "encoder"  # in the probe's folder
_held: set[Path] = set()  # folders of probes for which this process has an encoder that is not put yet


def names_checkpoint(encoder: str) -> bool:
    """Does it mean a checkpoint: RUN@STEP, or a run that has some and has not ended?"""
    path, step = at_step(encoder)
    return step is not None or (encoder not in ("", "random") and locate.unfinished(expanded(path)))


def check(encoder: str) -> None:
    """ValueError, one sentence, for RUN@STEP where the run has no such checkpoint."""
    path, step = at_step(encoder)
    there = locate.steps(expanded(path))
    if step is None:
        return
    if step in there:
        if fault := manifest.small_fault(locate.checkpoint(expanded(path), step)):
            others = ", ".join(str(each) for each in there if each != step)
            way = f"give another of its steps, {others}" if others else "give another run"
            raise ValueError(f"the checkpoint of step {step} in '{path}' is damaged ({fault}); {way}")
        return
    if not expanded(path).is_dir():
        raise ValueError(f"there is no run '{path}'{instead(encoder) or f'; give the folder of a run before @{step}'}")
    if not there:
        raise ValueError(f"'{path}' has no checkpoint, so none of step {step}; give its folder alone")
    raise ValueError(f"'{path}' has no checkpoint of step {step}, but those of {', '.join(map(str, there))}; give one")


def is_taken(settings: JobSettings) -> bool:
    """Is the checkpoint's encoder in the probe's folder, or about to be put there? Then the run may delete its own."""
    return settings.folder() in _held or (settings.folder() / TAKEN / locate.SETTINGS).is_file()


@contextmanager
def taken(settings: JobSettings) -> Iterator[tuple[JobSettings, Path | None]]:
    """(settings of a probe of one certain checkpoint, the folder to `put` in its own; None: nothing is to be put).

    Of a run without a step it is the checkpoint of a probe that was begun and can go on, else the newest good one.
    Other settings come back as they are. SettingsError where the checkpoint cannot be had.
    """
    if not isinstance(settings, EncoderSettings) or not names_checkpoint(settings.encoder):
        yield settings, None
        return
    path, step = at_step(settings.encoder)
    if step is None:
        step = _begun(settings, path)
    newest = locate.steps(expanded(path))[-1:] if step is None else [step]
    known = _of(settings, path, newest[0]) if newest else settings
    if newest and is_taken(known):
        _same(known, expanded(path), newest[0])
        yield known, None
        return
    with _taken_out(settings, path, step) as (folder, found):
        known = _of(settings, path, found)
        _held.add(known.folder())
        try:
            yield known, folder
        finally:
            _held.discard(known.folder())


def put(folder: Path | None, run: Path) -> None:
    """Put what was `taken` into the probe's folder."""
    if folder and not (run / TAKEN / locate.SETTINGS).is_file():  # else a launch that was followed has put the same
        folder.replace(run / TAKEN)


def _of(settings: EncoderSettings, path: str, step: int) -> EncoderSettings:
    return settings.model_copy(update={"encoder": f"{path}@{step}"})


def _begun(settings: EncoderSettings, path: str) -> int | None:
    """The step of the same probe that was begun on a checkpoint of this run and has not finished."""
    runs = [Run(settings.folder())] if settings.run_dir else find_runs(runs_root(), settings.job)
    for run in reversed(runs):
        _, step = at_step(str(run.settings.get("encoder", "")))
        if step is None or run.finished or not is_taken(same := _of(settings, path, step)):
            continue
        there = type(settings).model_construct(**run.settings)
        if same.folder() == run.folder and there.results_only() == same.results_only():
            print(f"encoder: the probe of step {step} in {shown(run.folder)} was begun and goes on", flush=True)
            return step
    return None


def _same(settings: JobSettings, run: Path, step: int) -> None:
    """SettingsError when the run has another checkpoint of that step now than the one that was taken."""
    there, now = "", ""
    with suppress(OSError, ValueError, KeyError):
        there = files.read_json(settings.folder() / TAKEN / locate.SETTINGS)["checkpoint"]["digest"]
        now = files.read_json(locate.checkpoint(run, step) / "manifest.json")["digest"]
    if now not in ("", there):  # "": the run has deleted it
        raise SettingsError(
            f"encoder: the checkpoint of step {step} in '{run}' is not the one that '{settings.folder()}' was made "
            f"of (digest {there[:12]} there, {now[:12]} now); choose another run_dir"
        )


def take(source: Path, target: Path, kind: str, step: int | None, **how: Any) -> subprocess.CompletedProcess[str]:
    """`distributed/snapshot` in a process of its own, as torch stays out of this one; RunFailed if it was killed."""
    words = [sys.executable, "-m", "geofm_lib.distributed.snapshot", str(source), str(target), kind]
    done = subprocess.run([*words, *([] if step is None else [str(step)])], check=False, **how)
    if done.returncode < 0:
        from geofm_lib.runs.watch import RunFailed  # which rests on grids, and they on this module

        raise RunFailed(
            f"writing '{target}' was ended by signal {-done.returncode}; if nobody sent it, the machine may have run "
            "out of memory. What it left is not whole: delete that folder if it is there, and run the same again"
        )
    return done


def _clear(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left."""
    for left in folder.glob(f".taken-{os.uname().nodename}-*"):
        number = left.name.split("-")[-2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _taken_out(settings: EncoderSettings, path: str, step: int | None) -> Iterator[tuple[Path, int]]:
    """(folder of the encoder in a checkpoint, its step), beside the probe's folder while that has not begun."""
    run, beside = expanded(path), settings.folder().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        _clear(beside)
        place = Path(tempfile.mkdtemp(prefix=f".taken-{os.uname().nodename}-{os.getpid()}-", dir=beside))
    except OSError as error:
        raise SettingsError(f"run_dir: '{beside}' cannot be written ({error.strerror}); choose another") from None
    try:
        done = take(run, place / TAKEN, "geofm", step, capture_output=True, text=True)
        if done.returncode:
            raise SettingsError(f"encoder: {done.stderr.strip().splitlines()[-1]}")
        found = files.read_json(place / TAKEN / locate.SETTINGS)["checkpoint"]
        print(done.stderr + f"encoder: step {found['step']} of {found['of']} of {shown(run)} is probed", flush=True)
        yield place / TAKEN, int(found["step"])
    finally:
        shutil.rmtree(place, ignore_errors=True)
