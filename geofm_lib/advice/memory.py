"""What a rank needs by arithmetic, the first change that would fit, and a death of memory in these words. No torch.

The launcher puts the sentence of `explained` into the run's summary, so that the cell, the page and the runner's last
line all say it.
"""

import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from geofm_lib.catalog.strategies import STRATEGIES, lookup, resolve
from geofm_lib.planning.conditions import GIB, Conditions, gib
from geofm_lib.planning.memory import rank_memory
from geofm_lib.settings import PretrainSettings, ThroughputSettings, objectives

Known = PretrainSettings | ThroughputSettings
KNOWN = (PretrainSettings, ThroughputSettings)  # a probe holds no gradients; what it needs is not predicted
MOST_RANKS = 16384
SHARDED = {"strategy": "FULL_SHARD", "activation_checkpointing": True}
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
BY_ARITHMETIC = {known.job: known for known in KNOWN}
CAPACITY = re.compile(r"total capacity of ([\d.]+) ([GM])iB")  # in CUDA's and ROCm's words


def peak_gib(settings: Known, ranks: int) -> float:
    """GiB at the fullest moment of the fullest of so many ranks."""
    size: dict[str, Any] = {"image_size": settings.image_size, "patch_size": settings.patch()}
    accumulate, how, looks = False, Conditions.of(vars(settings)), 1
    if isinstance(settings, PretrainSettings):
        accumulate = settings.accumulation(ranks) > 1
        looks = 2 if objectives.contrasts(settings.objective) else 1  # its head and cosines are small beside the rest
        if objectives.rebuilds(settings.objective):
            size |= {"mask_ratio": settings.mask_ratio, "decoder": tuple(settings.decoder().values())}
        else:
            size["workload"] = "encoder"
    images = looks * batch(settings, ranks)
    return gib(rank_memory(settings.model, settings.strategy, ranks, images, how, accumulate, **size).peak)


def batch(settings: Known, ranks: int) -> int:
    """Images that a rank holds at once."""
    if isinstance(settings, ThroughputSettings):
        return settings.batch_per_gpu
    return settings.global_batch // ranks // settings.accumulation(ranks)


def strategies_that_fit(settings: Known, ranks: int, limit_gib: float) -> dict[str, float]:
    """{strategy: GiB} of those that fit so many ranks, all else as it is."""
    held = {name: _peak(settings, {"strategy": name}, ranks) for name in STRATEGIES}
    return {name: gib for name, gib in held.items() if gib is not None and gib <= limit_gib}


def first_change(settings: Known, ranks: int, limit_gib: float) -> tuple[dict[str, Any], int, float] | None:
    """The mildest change (see `_changes`) that fits: ({setting: value}, ranks, GiB); None when nothing does."""
    for change, on in _changes(settings, ranks):
        held = _peak(settings, change, on)
        if held is not None and held <= limit_gib:
            return {name: value for name, value in change.items() if value != getattr(settings, name)}, on, held
    return None


def _peak(settings: Known, change: dict[str, Any], ranks: int) -> float | None:
    """GiB after a change; None where it cannot run on so many ranks."""
    other = settings.model_copy(update=change)
    try:
        other.check_ranks(ranks)
    except ValueError:
        return None
    return peak_gib(other, ranks)


def _changes(settings: Known, ranks: int) -> Iterator[tuple[dict[str, Any], int]]:
    """A larger shard group on the same ranks, activation checkpointing, fewer images at once, all, then more ranks."""
    own = resolve(lookup(settings.strategy), ranks)[1]
    groups = {k for k in range(own + 1, ranks) if ranks % k == 0}
    larger = [f"HYBRID_{k}GPUs" for k in sorted(groups)] + (["FULL_SHARD"] if own < ranks else [])
    if ranks > 1 and settings.strategy == "SHARD_GRAD_OP":
        larger = ["FULL_SHARD"]
    yield from (({"strategy": name}, ranks) for name in larger)
    if not settings.activation_checkpointing:
        yield {"activation_checkpointing": True}, ranks
    fewer = list(_fewer(settings, batch(settings, ranks)))
    yield from ((each, ranks) for each in fewer)
    sharded = SHARDED if ranks > 1 else {"activation_checkpointing": True}
    yield from ((sharded | each, ranks) for each in ({}, *fewer))
    more = ranks * 2
    while more <= MOST_RANKS:
        yield SHARDED, more
        yield from ((SHARDED | each, more) for each in fewer[-1:])
        more *= 2


def _fewer(settings: Known, now: int) -> Iterator[dict[str, Any]]:
    """Half as many images at once, and so on. A pretraining takes them in parts: its result stays the same."""
    name = "batch_per_gpu" if isinstance(settings, ThroughputSettings) else "max_batch_per_rank"
    while now > 1:
        now //= 2
        yield {name: now}


def explained(
    summary: dict[str, Any], job: str, asked: Mapping[str, Any], ranks: int, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """A failed run's summary, its error in words where the table knows it; the rank's own words stay as ``cause``."""
    error, kind = summary.get("error", ""), summary.get("kind", "")
    known = [begin for name, words, begin in OUT_OF_MEMORY if name in ("", kind) and re.search(words, error)]
    if summary.get("status") != "failed" or "cause" in summary or not known:
        return summary
    there, whose = _there(ranks, environment, error)
    on_gpu, need = environment.get("device_type", "cpu") != "cpu", 0.0
    said = [known[0] or error, whose, "give the job more memory, or fewer images or workers at once"]
    if job in BY_ARITHMETIC and (not on_gpu or CAPACITY.search(error)):  # not the host's memory beside a GPU
        settings = BY_ARITHMETIC[job].model_construct(**asked)
        need, images = peak_gib(settings, ranks), batch(settings, ranks)
        on, beside = f"{ranks} rank{'s' if ranks > 1 else ''}", "" if on_gpu else ", beside Python and torch"
        what = f"{settings.model} under {settings.strategy} on {on} with {images} images a rank"
        change = _advice(first_change(settings, ranks, min(there, LESS * need)), ranks)
        said = [known[0] or error, f"{what} needs {need:.2f} GiB a rank by arithmetic{beside}", whose, change]
    if known[0] is None and need <= NEAR * there:
        return summary
    return {**summary, "error": "; ".join(said), "cause": error}


def _advice(found: tuple[dict[str, Any], int, float] | None, ranks: int) -> str:
    if found is None:
        return "no strategy, batch or number of ranks would fit: take a smaller model or image_size"
    change, on, held = found
    words = [f"{name}={value}" for name, value in change.items()] + ([f"ranks={on}"] if on != ranks else [])
    return f"{', '.join(words)} would fit ({held:.2f} GiB)"


def _there(ranks: int, environment: Mapping[str, Any], error: str) -> tuple[float, str]:
    """(GiB that a rank has, the same in words): the device's own number, else the least of this machine's limits."""
    if found := CAPACITY.search(error):
        capacity = float(found[1]) / (1 if found[2] == "G" else 1024)
        return capacity, f"its GPU has {capacity:.2f} GiB"
    here = max(1, ranks // environment.get("slurm_nodes", 1))
    limits = [(psutil.virtual_memory().total / here, "the machine has {:.2f} GiB a rank")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "a process may map {:.2f} GiB (ulimit -v), libraries included"))
    with suppress(OSError, ValueError):  # no group of our own, or one without a limit
        limits.append((int(CGROUP.read_text()) / here, "the job has {:.2f} GiB a rank"))
    least, words = min(limits)
    return least / GIB, words.format(least / GIB)
