"""Failures in words, by tables of signatures: what was seen, and what to change.

Out of memory: what a rank raised, or how it was killed, is recognised; what was asked, what it needs and the first
change that fits are arithmetic. The launcher puts the sentence into the run's summary, so the cell, the page and the
runner's last line all say it. A poor probe: its summary and curves are held against what a good one would show.
"""

import math
import re
import resource
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil

from geofm_lib.runs import memory_advice
from geofm_lib.planning.costs import GIB
from geofm_lib.settings import JOBS

UNTRAINED = 0.7  # of the loss of guessing: above it a head has not been trained far
FEW = 10  # training images a class, below which a probe says little
LOST = 2.0  # points of top-1 lost since the best epoch, from which on a head is overfitted
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


# ---------------------------------------------------------------- a poor probe


def probe_doubts(summary: dict, curves: pd.DataFrame) -> list[dict]:
    """What speaks against a probe: rows of (doubt, evidence, what to do), from its summary and probe.csv."""
    rows = [(doubt, evidence(summary, curves), advice) for doubt, evidence, advice in PROBE]
    return [dict(zip(("doubt", "evidence", "what to do"), row, strict=True)) for row in rows if row[1]]


def _like_random(found: dict, _) -> str:
    return _not_above(found, "top1_random_mean", "top1_random_interval", "random weights")


def _like_histograms(found: dict, _) -> str:
    return _not_above(found, "histograms_top1", "histograms_interval", "histograms")


def _not_above(found: dict, other: str, half: str, name: str) -> str:
    """Is the pretrained encoder above another by more than the intervals, which add in squares?"""
    mean, beside = found.get("top1_pretrained_mean"), found.get(other)
    if mean is None or beside is None:
        return ""
    own, theirs = (found.get(each) or _binomial(found, each) for each in ("top1_pretrained_interval", half))
    if mean - beside > math.hypot(own, theirs):
        return ""
    return f"{mean:.1f} ± {own:.1f} % top-1, {name} {beside:.1f} ± {theirs:.1f} %"


def _binomial(found: dict, half: str) -> float:
    """The 95 % half-width over the test images, for a single seed, which has no spread of its own."""
    share = found[half.replace("_interval", "_mean" if half.startswith("top1") else "_top1")] / 100
    return 196 * math.sqrt(share * (1 - share) / found["test_images"])


def _untrained(found: dict, _) -> str:
    """LARS moves the weights by a thousandth of the rate a step: a thousand images at 90 epochs, 360 steps of the
    protocol's rate, leave the head almost as it began."""
    guessing = math.log(found["classes"])
    steps = f"after {found['head_steps']} steps the loss is {found['loss']:.2f}, and guessing gives {guessing:.2f}"
    return steps if found["loss"] > UNTRAINED * guessing else ""


def _few_images(found: dict, _) -> str:
    each = found["train_images"] / found["classes"]
    return f"{each:.1f} training images a class" if each < FEW else ""


def _overfitted(found: dict, curves: pd.DataFrame) -> str:
    own = curves[curves["features"] == curves["features"].iloc[0]].groupby("epoch")[["top1", "loss"]].mean()
    best, last = own["top1"].idxmax(), own.index[-1]
    lost = own["top1"][best] - own["top1"][last]
    if lost <= LOST or own["loss"][last] >= own["loss"][best]:
        return ""
    return f"top-1 on the test side fell by {lost:.1f} points after epoch {best} while the training loss kept falling"


PROBE = (
    ("the head is hardly trained", _untrained,
     "raise base_learning_rate (0.1 is for a million images; a few thousand need 10 to 30) or epochs, before anything "
     "else is believed"),
    ("few images a class", _few_images, "label more images, or raise train_ratio in 01; read the intervals first"),
    ("no better than random weights", _like_random,
     "pretrain for longer, or on more images, until 02's loss is well below its start; probe at the pretraining's own "
     "image_size and on images like its own"),
    ("no better than histograms", _like_histograms,
     "colours and gradients alone tell these classes apart as well: pretrain for longer or a larger model, or try the "
     "other pool"),
    ("the head is overfitted", _overfitted, "fewer epochs, more views, or some weight_decay"),
)  # fmt: skip
"""(doubt, its evidence in a summary and curves or "", what to do), in the order in which they are told."""
