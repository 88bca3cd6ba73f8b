"""What a probe's numbers come to: means, 95 % intervals, and one sentence."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

KINDS = ("pretrained", "random")
INTERVALS = "95 %, Student's t, over probe seeds (head, order of images and, for random, the encoder)"
BINOMIAL = "95 %, binomial, over test images (the method draws nothing from a seed)"


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for a single value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def accuracies(rows: list[dict[str, Any]], neighbours: dict[str, list[float]]) -> dict[str, float | None]:
    """Means over seeds in percent, and half their intervals, of features that are pretrained and random.

    ``rows``: of probe.csv, of the last epoch; ``neighbours``: kind -> top-1 of nearest neighbours, one value a seed.
    """
    found: dict[str, float | None] = {}
    for kind in KINDS:
        own = [row for row in rows if row["features"] == kind]
        values = {f"{top}_{kind}": [row[top] for row in own] for top in ("top1", "top5") if own}
        for name, each in values.items():
            found |= {f"{name}_mean": sum(each) / len(each), f"{name}_interval": interval(each)}
        if kind in neighbours:
            each = neighbours[kind]
            found |= {f"knn_{kind}": sum(each) / len(each), f"knn_{kind}_interval": interval(each)}
    return found


def share(hits: np.ndarray) -> tuple[float, float]:
    """(mean of hits in percent, half its 95 % binomial interval)."""
    mean = float(hits.mean())
    return 100 * mean, 100 * 1.96 * math.sqrt(mean * (1 - mean) / len(hits))


def verdict(found: dict[str, Any]) -> str:
    """One sentence that reads the summary: against random weights, against histograms, or on its own."""
    own = "pretrained" if "top1_pretrained_mean" in found else "random"
    mean = found[f"top1_{own}_mean"]
    what = "The pretrained encoder's features" if own == "pretrained" else "The features of random weights"
    parts = [f"{what} reach {mean:.1f} % top-1 ({found['classes']} classes, chance {found['chance']:.1f} %)"]
    others = {"random": ("top1_random_mean", "top1_random_interval", "the same encoder at random initialisation")}
    others["histograms"] = ("histograms_top1", "histograms_interval", "colour and gradient histograms")
    for name, (key, half, words) in others.items():
        if name == own or found.get(key) is None:
            continue
        gain = mean - found[key]
        # intervals of independent means add in squares
        noise = math.hypot(found.get(f"top1_{own}_interval") or 0.0, found.get(half) or 0.0)
        clear = "" if abs(gain) > noise else ", which is within the interval: no clear difference"
        side = "above" if gain >= 0 else "below"
        parts.append(f"{abs(gain):.1f} points (± {noise:.1f}) {side} {words}{clear}")
    return "; ".join(parts) + "."
