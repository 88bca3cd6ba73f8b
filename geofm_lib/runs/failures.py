"""Failures in words, by a table of signatures: what was seen, and what to change.

Out of memory: what a rank raised, or how it was killed, is recognised. What was asked, what it needs and the first
change that fits are arithmetic. The launcher puts the sentence into the run's summary, so that the cell, the page and
the runner's last line all say it.
"""

import re
import resource
from contextlib import suppress
from pathlib import Path

import psutil

from geofm_lib.planning.sizes import GIB
from geofm_lib.runs import memory_advice
from geofm_lib.settings import JOBS

CGROUP = Path("/sys/fs/cgroup/memory.max")
NEAR = 0.5  # of what there is: a run that needs less is not thought to have died of memory without a word
LESS = 0.8  # of what did not fit: a change has to take clearly less

# (exception's name or "", pattern in its words, how the sentence begins: "" keeps those words; None too, and tells
# nothing more unless the arithmetic finds it near)
OUT_OF_MEMORY = (
    ("OutOfMemoryError", r"", "out of memory"),
    ("MemoryError", r"", "out of memory"),
    ("RuntimeError", r"can't allocate memory", "out of memory"),
    ("OSError", r"Cannot allocate memory", "out of memory"),
    ("", r"^out of host memory", ""),
    ("", r"may have run out of memory", None),  # a signal is all that the kernel's killer leaves, and anybody's kill
)
CAPACITY = re.compile(r"total capacity of ([\d.]+) ([GM])iB")  # in CUDA's and ROCm's words


def explained(run, summary: dict) -> dict:
    """A failed run's summary, its error in words where the table knows it; the rank's own words stay as ``cause``."""
    error, kind = summary.get("error", ""), summary.get("kind", "")
    if summary.get("status") != "failed" or "cause" in summary:
        return summary
    for name, words, begin in OUT_OF_MEMORY:
        if name in ("", kind) and re.search(words, error) and (begin is not None or _near(run)):
            return {**summary, "error": f"{begin or error}; {out_of_memory(run, error)}", "cause": error}
    return summary


def out_of_memory(run, error: str = "") -> str:
    """What was asked, what it needs, what there is, and what would fit."""
    there, whose = _there(run, error)
    if not _by_arithmetic(run, error):
        return f"{whose}; give the job more memory, or fewer images or workers at once"
    settings, ranks = _asked(run)
    need = memory_advice.peak_gib(settings, ranks)
    images = memory_advice.batch(settings, ranks)
    asked = f"{settings.model} under {settings.strategy} on {_ranks(ranks)} with {images} images a rank"
    beside = "" if _on_gpu(run) else ", beside Python and torch"
    found = memory_advice.first_change(settings, ranks, min(there, LESS * need))
    return f"{asked} needs {need:.2f} GiB a rank by arithmetic{beside}; {whose}; {_advice(found, ranks)}"


def _by_arithmetic(run, error: str) -> bool:
    """Does the arithmetic know what it was that ran out? Not a probe's memory, nor the host's beside a GPU."""
    return JOBS.get(run.job) in memory_advice.KNOWN and (not _on_gpu(run) or CAPACITY.search(error) is not None)


def _near(run) -> bool:
    return _by_arithmetic(run, "") and memory_advice.peak_gib(*_asked(run)) > NEAR * _there(run, "")[0]


def _asked(run) -> tuple:
    """(settings, ranks)"""
    return JOBS[run.job].model_construct(**run.settings), run.resolved.get("ranks", 1)


def _advice(found: tuple[dict, int, float] | None, ranks: int) -> str:
    if found is None:
        return "no strategy, batch or number of ranks would fit: take a smaller model or image_size"
    change, on, held = found
    words = [f"{name}={value}" for name, value in change.items()] + ([f"ranks={on}"] if on != ranks else [])
    return f"{', '.join(words)} would fit ({held:.2f} GiB)"


def _ranks(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks > 1 else ''}"


def _there(run, error: str) -> tuple[float, str]:
    """(GiB that a rank has, the same in words): the device's own number, else the least of this machine's limits."""
    if found := CAPACITY.search(error):
        gib = float(found[1]) / (1 if found[2] == "G" else 1024)
        return gib, f"its GPU has {gib:.2f} GiB"
    here = max(1, run.resolved.get("ranks", 1) // run.environment.get("slurm_nodes", 1))
    limits = [(psutil.virtual_memory().total / here, "the machine has {:.2f} GiB a rank")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "a process may map {:.2f} GiB (ulimit -v), libraries included"))
    with suppress(OSError, ValueError):  # no group of our own, or one without a limit
        limits.append((int(CGROUP.read_text()) / here, "the job has {:.2f} GiB a rank"))
    least, words = min(limits)
    return least / GIB, words.format(least / GIB)


def _on_gpu(run) -> bool:
    return run.environment.get("device_type", "cpu") != "cpu"
