"""What speaks against a probe: its summary and curves are held against what a good one would show."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

UNTRAINED = 0.7  # of the loss of guessing: above it a head has not been trained far
FEW = 10  # training images a class, below which a probe says little
LOST = 2.0  # points of top-1 lost since the best epoch, from which on a head is overfitted


def doubts(summary: dict[str, Any], curves: pd.DataFrame) -> list[dict[str, str]]:
    """What speaks against a probe: rows of (doubt, evidence, what to do), from its summary and probe.csv."""
    rows = [(doubt, evidence(summary, curves), advice) for doubt, evidence, advice in PROBE]
    return [dict(zip(("doubt", "evidence", "what to do"), row, strict=True)) for row in rows if row[1]]


def _not_above(found: dict[str, Any], other: str, half: str, name: str) -> str:
    """'' when the pretrained encoder is above another by more than the intervals, which add in squares."""
    mean, beside = found.get("top1_pretrained_mean"), found.get(other)
    if mean is None or beside is None:
        return ""
    own, theirs = (found.get(each) or _binomial(found, each) for each in ("top1_pretrained_interval", half))
    if mean - beside > math.hypot(own, theirs):
        return ""
    return f"{mean:.1f} ± {own:.1f} % top-1, {name} {beside:.1f} ± {theirs:.1f} %"


def _binomial(found: dict[str, Any], half: str) -> float:
    """The 95 % half-width over the test images, for a single seed, which has no spread of its own."""
    share = found[half.replace("_interval", "_mean" if half.startswith("top1") else "_top1")] / 100
    return 196 * math.sqrt(share * (1 - share) / found["test_images"])


def _untrained(found: dict[str, Any], _: pd.DataFrame) -> str:
    """LARS moves the weights by a thousandth of the rate a step. 360 steps of the protocol's rate (a thousand images,
    90 epochs) leave the head almost as it began."""
    guessing = math.log(found["classes"])
    steps = f"after {found['head_steps']} steps the loss is {found['loss']:.2f}, and guessing gives {guessing:.2f}"
    return steps if found["loss"] > UNTRAINED * guessing else ""


def _few_images(found: dict[str, Any], _: pd.DataFrame) -> str:
    each = found["train_images"] / found["classes"]
    return f"{each:.1f} training images a class" if each < FEW else ""


def _overfitted(found: dict[str, Any], curves: pd.DataFrame) -> str:
    own = curves[curves["features"] == curves["features"].iloc[0]].groupby("epoch")[["top1", "loss"]].mean()
    best, last = own["top1"].idxmax(), own.index[-1]
    lost = own["top1"][best] - own["top1"][last]
    if lost <= LOST or own["loss"][last] >= own["loss"][best]:
        return ""
    return f"top-1 on the test side fell by {lost:.1f} points after epoch {best} while the training loss kept falling"


Evidence = Callable[[dict[str, Any], pd.DataFrame], str]
PROBE: tuple[tuple[str, Evidence, str], ...] = (
    ("the head is hardly trained", _untrained,
     "raise base_learning_rate (0.1 is for a million images; a few thousand need 10 to 30) or epochs, before anything "
     "else is believed"),
    ("few images a class", _few_images, "label more images, or raise train_ratio in 01; read the intervals first"),
    ("no better than random weights",
     lambda found, _: _not_above(found, "top1_random_mean", "top1_random_interval", "random weights"),
     "pretrain for longer, or on more images, until 02's loss is well below its start; probe at the pretraining's own "
     "image_size and on images like its own"),
    ("no better than histograms",
     lambda found, _: _not_above(found, "histograms_top1", "histograms_interval", "histograms"),
     "colours and gradients alone tell these classes apart as well: pretrain for longer or a larger model, or try the "
     "other pool"),
    ("the head is overfitted", _overfitted, "fewer epochs, more views, or some weight_decay"),
)  # fmt: skip
"""(doubt, its evidence in a summary and curves or "", what to do), in the order in which they are shown."""
