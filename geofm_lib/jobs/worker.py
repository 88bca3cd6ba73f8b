"""One rank of one run: `python -m geofm_lib.jobs.worker RUN_DIR`, started by the launcher or by srun."""

import errno
import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from geofm_lib.jobs.run_folder import Folder, Pulse, Stopped
from geofm_lib.settings import load

JOBS = {  # imported only when asked for: torch takes seconds
    "prepare": "geofm_lib.jobs.prepare",
    "pretrain": "geofm_lib.jobs.pretrain",
    "throughput": "geofm_lib.jobs.throughput",
    "simulate": "geofm_lib.jobs.simulate",
    "probe": "geofm_lib.jobs.probe",
    "findings": "geofm_lib.jobs.findings",
}


def main(run_dir: Path) -> int:
    """Run this rank's part; 0 when it finished or stopped as asked."""
    faulthandler.enable()
    started = time.time()
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    if "GEOFM_LABEL" in os.environ:  # srun labels lines itself
        sys.stdout, sys.stderr = _Labelled(sys.stdout, rank), _Labelled(sys.stderr, rank)
    pulse = Pulse(run_dir, rank, launcher="GEOFM_LAUNCH" in os.environ)
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "64")  # torch's flight recorder: which collective a rank waits in
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler of a CUDA build says that there is no GPU
    # Slurm preempts with SIGTERM: ask for a clean stop; the ranks agree on it in their next reduction.
    signal.signal(signal.SIGTERM, lambda *_: (run_dir / "stop").touch())
    try:
        summary = _work(run_dir, pulse)
    except Stopped as stop:
        summary = {"status": "stopped", "reason": str(stop)}
    except BaseException as error:  # torch has exceptions that are no Exception
        with suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        code = 1
        try:
            _write_first(
                run_dir,
                {"status": "failed", **_failure(error, run_dir), "rank": rank, "seconds": _since(started)},
            )
            sys.stdout.flush()
        except OSError:  # nor can this be written: the launcher learns it from the exit code
            code = os.EX_IOERR
        os._exit(code)  # other ranks may hold threads of ours in a collective; do not wait for them
    if rank == 0:
        _write_first(run_dir, {**summary, "seconds": _since(started), "started": started})
    return 0


def _work(run_dir: Path, pulse: Pulse) -> dict:
    settings, resolved = load(run_dir)

    from geofm_lib.distributed.context import join, leave
    from geofm_lib.profiling import meters

    module = importlib.import_module(JOBS[settings.job])
    context = join(run_dir, settings.device, getattr(settings, "communication", "on"))
    run = Folder(run_dir, context.is_main, pulse, resolved)
    pulse.waiting = meters.pending_collective
    stored = json.loads((run_dir / "environment.json").read_text())
    hosts = context.gather(os.environ.get("SLURMD_NODENAME") or meters.environment(context.device)["host"])
    nodes = sorted(set(hosts)) if hosts else []
    found = {**meters.environment(context.device), "ranks": context.world_size, "nodes": nodes}
    run.write_json("environment.json", {**stored, **found})
    summary = module.run(settings, context, run)
    leave(context)
    return {"status": "finished", "ranks": context.world_size, **summary}


def _failure(error: BaseException, run_dir: Path) -> dict[str, str]:
    """A sentence for the page; faults of the input speak for themselves, others keep their type and trace."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"the disk of {run_dir} is full ({error}); make room and start again"
    elif isinstance(error, ValueError | OSError) or type(error).__module__.startswith("geofm_lib"):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return {
        "error": text,
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error))[-4000:],
    }


def _write_first(run_dir: Path, summary: dict) -> None:
    """Write summary.json unless another rank has: the first fault is the cause, later ones are its echo."""
    if (run_dir / "orphaned").exists():
        return  # the launcher is gone and the ranks are ending one by one: that is no fault of this one
    fresh = run_dir / f".summary-{os.getpid()}.new"
    fresh.write_text(json.dumps(summary, indent=1) + "\n")
    try:
        os.link(fresh, run_dir / "summary.json")
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _since(start: float) -> float:
    return round(time.time() - start, 2)


class _Labelled:
    """Text stream that puts the rank before each line, as `srun --label` does."""

    def __init__(self, stream, rank: int):
        self.stream, self.label, self.fresh = stream, f"{rank}: ", True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self.stream.write(self.label + line if self.fresh else line)
            self.fresh = line.endswith("\n")
        self.stream.flush()
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
