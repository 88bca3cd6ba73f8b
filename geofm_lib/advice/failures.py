"""Failures in words, by a table of signatures: what was seen, and what to change.

Out of memory: what a rank raised, or how it was killed, is recognised. What was asked, what it needs and the first
change that fits are arithmetic. The launcher puts the sentence into the run's summary, so that the cell, the page and
the runner's last line all say it.
"""

import re
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from geofm_lib.advice import memory
from geofm_lib.planning.conditions import GIB

CGROUP = Path("/sys/fs/cgroup/memory.max")
NEAR = 0.5  # of what there is: a run that needs less is not thought to have died of memory without a word
LESS = 0.8  # of what did not fit: a change has to take clearly less

# (exception's name or "", pattern in its words, how the sentence begins: "" keeps those words; None too, and says
# nothing more unless the arithmetic finds it near)
OUT_OF_MEMORY = (
    ("OutOfMemoryError", r"", "out of memory"),
    ("MemoryError", r"", "out of memory"),
    ("RuntimeError", r"can't allocate memory", "out of memory"),
    ("OSError", r"Cannot allocate memory", "out of memory"),
    ("", r"^out of host memory", ""),
    ("", r"may have run out of memory", None),  # a signal is all that the kernel's killer leaves, and anybody's kill
)
BY_ARITHMETIC = {known.job: known for known in memory.KNOWN}
CAPACITY = re.compile(r"total capacity of ([\d.]+) ([GM])iB")  # in CUDA's and ROCm's words


class Case(NamedTuple):
    """A run that may have died of memory."""

    settings: memory.Known | None  # None: the arithmetic does not know what ran out
    ranks: int
    environment: Mapping[str, Any]
    error: str

    @property
    def on_gpu(self) -> bool:
        """Was it computed on GPUs?"""
        return self.environment.get("device_type", "cpu") != "cpu"


def explained(
    summary: dict[str, Any], job: str, asked: Mapping[str, Any], ranks: int, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """A failed run's summary, its error in words where the table knows it; the rank's own words stay as ``cause``."""
    error, kind = summary.get("error", ""), summary.get("kind", "")
    if summary.get("status") != "failed" or "cause" in summary:
        return summary
    case = Case(None, ranks, environment, error)
    # Not a probe's memory, nor the host's beside a GPU.
    if (known := BY_ARITHMETIC.get(job)) and (not case.on_gpu or CAPACITY.search(error)):
        case = case._replace(settings=known.model_construct(**asked))
    for name, words, begin in OUT_OF_MEMORY:
        if name in ("", kind) and re.search(words, error) and (begin is not None or _near(case)):
            return {**summary, "error": f"{begin or error}; {_out_of_memory(case)}", "cause": error}
    return summary


def _out_of_memory(case: Case) -> str:
    """What was asked, what it needs, what there is, and what would fit."""
    there, whose = _there(case)
    if case.settings is None:
        return f"{whose}; give the job more memory, or fewer images or workers at once"
    settings, ranks = case.settings, case.ranks
    need, images = memory.peak_gib(settings, ranks), memory.batch(settings, ranks)
    on = f"{ranks} rank{'s' if ranks > 1 else ''}"
    asked = f"{settings.model} under {settings.strategy} on {on} with {images} images a rank"
    beside = "" if case.on_gpu else ", beside Python and torch"
    advice = _advice(memory.first_change(settings, ranks, min(there, LESS * need)), ranks)
    return f"{asked} needs {need:.2f} GiB a rank by arithmetic{beside}; {whose}; {advice}"


def _near(case: Case) -> bool:
    return case.settings is not None and memory.peak_gib(case.settings, case.ranks) > NEAR * _there(case)[0]


def _advice(found: tuple[dict[str, Any], int, float] | None, ranks: int) -> str:
    if found is None:
        return "no strategy, batch or number of ranks would fit: take a smaller model or image_size"
    change, on, held = found
    words = [f"{name}={value}" for name, value in change.items()] + ([f"ranks={on}"] if on != ranks else [])
    return f"{', '.join(words)} would fit ({held:.2f} GiB)"


def _there(case: Case) -> tuple[float, str]:
    """(GiB that a rank has, the same in words): the device's own number, else the least of this machine's limits."""
    if found := CAPACITY.search(case.error):
        gib = float(found[1]) / (1 if found[2] == "G" else 1024)
        return gib, f"its GPU has {gib:.2f} GiB"
    here = max(1, case.ranks // case.environment.get("slurm_nodes", 1))
    limits = [(psutil.virtual_memory().total / here, "the machine has {:.2f} GiB a rank")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "a process may map {:.2f} GiB (ulimit -v), libraries included"))
    with suppress(OSError, ValueError):  # no group of our own, or one without a limit
        limits.append((int(CGROUP.read_text()) / here, "the job has {:.2f} GiB a rank"))
    least, words = min(limits)
    return least / GIB, words.format(least / GIB)
