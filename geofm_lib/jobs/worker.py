"""One rank of one run: `python -m geofm_lib.jobs.worker RUN_DIR`, started by the launcher or by srun."""

import errno
import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from geofm_lib import files, rights, streams
from geofm_lib.jobs import imports, pace
from geofm_lib.jobs.run_folder import END, STOP, Folder, Heartbeat, Stopped, request, seal, stop_signals
from geofm_lib.settings import load
from geofm_lib.settings.masking import mask

PACKAGE = Path(files.__file__).parent
SPARING = ("pretrain", "throughput")  # jobs whose ranks import no more than they use
PRINT_S = 5.0  # a srun that no longer takes lines is waited for so long


def main(run_dir: Path) -> int:
    """Run this rank's part; 0 when it finished or stopped as asked."""
    streams.secure(PRINT_S)
    faulthandler.enable()
    started = time.time()
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    label = f"{rank}: " if "GEOFM_LABEL" in os.environ else ""  # srun labels lines itself
    sys.stdout, sys.stderr = _Labelled(sys.stdout, label), _Labelled(sys.stderr, label)
    heartbeat = Heartbeat(run_dir, rank, launch=os.environ.get("GEOFM_LAUNCH", ""))
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "64")  # torch's flight recorder: which collective a rank waits in
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler of a CUDA build says that there is no GPU
    # Slurm preempts with SIGTERM: ask for a clean stop; the ranks agree on it in their next reduction.
    for number in stop_signals(signal.SIGINT):
        signal.signal(number, lambda *_: _ask_to_stop(run_dir, heartbeat))
    try:
        summary = _work(run_dir, heartbeat)
    except Stopped as stop:
        summary = {"status": "stopped", "reason": str(stop)}
    except BaseException as error:  # torch has exceptions that are no Exception
        with suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        code = 1
        try:
            heartbeat.end_if_taken()
            failed = {"status": "failed", **_failure(error, run_dir), "rank": rank, **_time(run_dir, started)}
            _write_first(run_dir, failed)
            sys.stdout.flush()
        except OSError:  # nor can this be written: the launcher learns it from the exit code
            code = os.EX_IOERR
        os._exit(code)  # other ranks may hold threads of ours in a collective; do not wait for them
    heartbeat.end_if_taken()
    if rank == 0:
        _write_first(run_dir, {**summary, **_time(run_dir, started)})
        with suppress(OSError):  # without room for it, the run is as good, only unproved
            if files.read_json(run_dir / "summary.json")["status"] == "finished":
                seal(run_dir)
    return 0


def _ask_to_stop(run_dir: Path, heartbeat: Heartbeat) -> None:
    heartbeat.end_if_taken()  # it would stop another launch
    with suppress(OSError):  # a full disk is told by whoever must write to it
        request(run_dir, STOP)


def _work(run_dir: Path, heartbeat: Heartbeat) -> dict[str, Any]:
    settings, resolved = load(run_dir)
    if settings.job in SPARING and not settings.asked().get("compile"):
        imports.spare()

    from geofm_lib.distributed.context import join, leave
    from geofm_lib.profiling import meters

    module = importlib.import_module(f"geofm_lib.jobs.{settings.job}")  # now: torch takes seconds
    context = join(run_dir, settings.device, getattr(settings, "communication", "on"))
    run = Folder(run_dir, context.is_main, heartbeat, resolved)
    heartbeat.waiting, heartbeat.memory = meters.pending_collective, partial(meters.peak_memory_gib, context.device)
    stored = files.read_json(run_dir / "environment.json")
    here = meters.environment(context.device)
    nodes = sorted(set(context.gather(os.environ.get("SLURMD_NODENAME") or here["host"])))
    run.write_json("environment.json", {**stored, **here, "ranks": context.world_size, "nodes": nodes})
    summary = module.run(settings, context, run)
    leave(context)
    return {"status": "finished", "ranks": context.world_size, **summary}


def _failure(error: BaseException, run_dir: Path) -> dict[str, Any]:
    """A sentence for the page; faults of the input speak for themselves, others keep their type and trace.

    `told`: the sentence is all that a reader needs; where it was raised stands in the log.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"the disk of {run_dir} is full ({error}); make room and start again"
    elif isinstance(error, OSError):
        text = rights.told(error)
    elif isinstance(error, ValueError) or type(error).__module__.startswith("geofm_lib"):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))[-4000:]
    told = {"told": True} if _is_told(error) else {}
    return {"error": mask(text), "kind": type(error).__name__, **told, "traceback": mask(trace)}


def _is_told(error: BaseException) -> bool:
    """Was an error raised as a sentence, by a check of ours? One out of an operation is a fault of the code."""
    if not isinstance(error, ValueError) and not type(error).__module__.startswith("geofm_lib"):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE) and (last.line or "").startswith("raise")


def _write_first(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json unless another rank has: the first fault is the cause, later ones are its echo."""
    if not (run_dir / END).exists():
        files.write_json(run_dir / "summary.json", summary, replace=False)


def _time(run_dir: Path, started: float) -> dict[str, float]:
    """When this start ended, and how long all starts took, as every reader reckons it."""
    ended, began = time.time(), started
    with suppress(OSError, ValueError):
        began = files.read_json(run_dir / "environment.json").get("began", started)
    this = {"seconds": round(max(0.0, ended - began), 1)}
    return {"ended": round(ended, 3), "seconds": pace.seconds([*pace.earlier(run_dir), this])}


class _Labelled:
    """Text stream that puts the rank before each line, as `srun --label` does, and masks passwords and tokens."""

    def __init__(self, stream: TextIO, label: str):
        self.stream, self.label, self.fresh = stream, label, True

    def write(self, text: str) -> int:
        for line in mask(text).splitlines(keepends=True):
            self.stream.write(self.label + line if self.fresh else line)
            self.fresh = line.endswith("\n")
        self.stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


if __name__ == "__main__":
    ended = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # all is written: taking torch apart takes the better part of a second
