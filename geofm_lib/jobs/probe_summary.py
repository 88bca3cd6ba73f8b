"""What a probe's numbers come to: means, 95 % intervals, and one sentence."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats

from geofm_lib.catalog import metrics

KINDS = ("pretrained", "random")
INTERVALS = "95 %, Student's t, over probe seeds (head, order of images and, for random, the encoder)"


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for a single value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def accuracies(
    rows: list[dict[str, Any]], neighbours: dict[str, list[float]], columns: Sequence[str] = ("top1", "top5")
) -> dict[str, float | None]:
    """Means over seeds in percent, and half their intervals, of features that are pretrained and random.

    ``rows``: of probe.csv, of the last epoch; ``neighbours``: kind -> the same of nearest neighbours, a value a seed.
    ``columns``: those of probe.csv that are measured.
    """
    found: dict[str, float | None] = {}
    for kind in KINDS:
        own = [row for row in rows if row["features"] == kind]
        values = {f"{name}_{kind}": [row[name] for row in own] for name in columns if own}
        for name, each in values.items():
            found |= {f"{name}_mean": sum(each) / len(each), f"{name}_interval": interval(each)}
        if kind in neighbours:
            each = neighbours[kind]
            found |= {f"knn_{kind}": sum(each) / len(each), f"knn_{kind}_interval": interval(each)}
    return found


def verdict(found: dict[str, Any]) -> str:
    """One sentence that reads the summary: against random weights, against histograms, or on its own."""
    key = metrics.of(found)
    own = "pretrained" if f"{key}_pretrained_mean" in found else "random"
    mean = found[f"{key}_{own}_mean"]
    what = "The pretrained encoder's features" if own == "pretrained" else "The features of random weights"
    parts = [
        f"{what} reach {mean:.1f} % {metrics.WORDS[key]} ({found['classes']} classes, chance {found['chance']:.1f} %)"
    ]
    others = {
        "random": (f"{key}_random_mean", f"{key}_random_interval", "the same encoder at random initialisation"),
        "histograms": (f"histograms_{key}", "histograms_interval", "colour and gradient histograms"),
    }
    for name, (other, half, words) in others.items():
        if name == own or found.get(other) is None:
            continue
        gain = mean - found[other]
        # intervals of independent means add in squares
        noise = math.hypot(found.get(f"{key}_{own}_interval") or 0.0, found.get(half) or 0.0)
        clear = "" if abs(gain) > noise else ", which is within the interval: no clear difference"
        side = "above" if gain >= 0 else "below"
        parts.append(f"{abs(gain):.1f} points (± {noise:.1f}) {side} {words}{clear}")
    if untested := found.get("classes_untested"):
        parts.append(f"{len(untested)} classes without a test image are not in it: {', '.join(untested[:5])}")
    return "; ".join(parts) + "."
