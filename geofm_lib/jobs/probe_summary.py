"""What a probe's numbers come to: means, 95 % intervals, and one sentence."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats

from geofm_lib.catalog import metrics
from geofm_lib.catalog.readouts import GAIN, SUPERVISED, UNTRAINED

KINDS = ("pretrained", "random")
INTERVALS = "95 %, Student's t, over probe seeds (head, order of images and, for random, the encoder)"


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for fewer than three values, which say too little of it.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 3:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def accuracies(
    rows: list[dict[str, Any]], neighbours: dict[str, list[float]], columns: Sequence[str] = ("top1", "top5")
) -> dict[str, Any]:
    """Means over seeds in percent, and half their intervals or both values of two seeds, by kind of features.

    ``rows``: of probe.csv, of the last epoch; ``neighbours``: kind -> the same of nearest neighbours, a value a seed.
    ``columns``: those of probe.csv that are measured.
    """
    found: dict[str, Any] = {}
    for kind in KINDS:
        own = [row for row in rows if row["features"] == kind]
        values = {f"{name}_{kind}": [row[name] for row in own] for name in columns if own}
        for name, each in values.items():
            found |= {f"{name}_mean": sum(each) / len(each), f"{name}_interval": interval(each)}
            found |= {f"{name}_values": each} if len(each) == 2 else {}
        if kind in neighbours:
            each = neighbours[kind]
            found |= {f"knn_{kind}": sum(each) / len(each), f"knn_{kind}_interval": interval(each)}
    return found


def support(classes: Sequence[str], train: Sequence[float], test: Sequence[float]) -> dict[str, Any]:
    """What there is to learn from: train, test hold the images of each class on either side.

    fewest_train: images of fewest_class, the class with the fewest that has any. unlearned: class -> test images, of
    those without a training image; untested: those without a test image.
    """
    counted = list(zip(classes, map(int, train), map(int, test), strict=True))
    fewest = min(((known, name) for name, known, _ in counted if known), default=(0, ""))
    return {
        "fewest_train": fewest[0],
        "fewest_class": fewest[1],
        "unlearned": {name: tested for name, known, tested in counted if tested and not known},
        "classes_untested": [name for name, _, tested in counted if not tested],
    }


def unlearned(found: dict[str, Any]) -> str:
    """Which classes have test images and no training image, in words; "" for none."""
    classes = found.get("unlearned") or {}
    if not classes:
        return ""
    name, count = next(iter(classes.items()))
    images = f"{count} test image{'s' * (count != 1)}"
    if len(classes) == 1:
        said = f"class '{name}' has {images} and no training image: "
    else:
        said = f"{len(classes)} classes, such as '{name}' ({images}), have test images and no training image: "
    top = metrics.of(found) == "top1"
    return said + ("their images count as wrong" if top else "how they are ranked is left to chance")


def fast(rows: list[dict[str, Any]], key: str, splits: int, asked: int) -> dict[str, Any]:
    """The numbers of the fast protocol in the summary, under its first readout, and its answer in words.

    rows: of accuracy.csv, the job's. splits: how many there are, of `asked`.
    """
    first = {name: rows[0][name] for name in ("protocol", "normalisation", "shot")}
    whole = [row for row in rows if row["interval_kind"] and all(row[n] == value for n, value in first.items())]
    whole = [row for row in whole if not row["layer"].startswith("block")]
    gains = [row for row in whole if row["metric"].endswith(GAIN)]
    own = [row for row in whole if row["metric"] == key]
    head = own[0]
    found: dict[str, Any] = {"splits": splits, "readout": head["pooling"], "fast_intervals": head["interval_kind"]}
    found |= {f"fast_{name}": head[name] for name in ("value", "low", "high")}
    if gains:
        found |= {"gain": gains[0]["value"], "gain_low": gains[0]["low"], "gain_high": gains[0]["high"]}
        found |= {"gain_interval": gains[0]["interval_kind"]}
    words = metrics.WORDS[key]
    if beside := [row["value"] for row in own if row["model"] == "histograms"]:
        found["fast_histograms"] = beside[0]
    if trained := next((row for row in rows if row["objective"] == SUPERVISED), None):
        found["fast_supervised"] = trained["value"]
    where = f"{splits} split{'s' * (splits > 1)}" + (" (no other can be drawn)" if splits < asked else "")
    parts = [
        f"{row['value']:+.1f} points ({row['low']:+.1f} to {row['high']:+.1f}) of {words} under {row['pooling']}: "
        f"{value:.1f} %, untrained {value - row['value']:.1f} %"
        for row in gains
        for value in [_value(own, row)]
    ]
    if not gains:
        parts = [f"{row['value']:.1f} % {words} under {row['pooling']}" for row in own if row["objective"] == UNTRAINED]
    said = ("Pretraining adds " if gains else "Untrained: ") + "; ".join(parts)
    if beside:
        said += f"; histograms {beside[0]:.1f} %"
    if trained:
        said += f"; trained on the labels from scratch {trained['value']:.1f} %"
    return found | {"answer": f"{said} ({where}, logistic regression, 95 % intervals over test images)"}


def _value(rows: list[dict[str, Any]], gain: dict[str, Any]) -> float:
    """What the encoder itself reaches, of whose gain this is."""
    same = ("pooling", "pretraining_run", "objective")
    return next(row["value"] for row in rows if all(row[name] == gain[name] for name in same))


def verdict(found: dict[str, Any]) -> str:
    """What the summary says: the fast protocol's answer, then the paper's, and what is left out of either."""
    parts, key = list[str](), metrics.of(found)
    if any(f"{key}_{kind}_mean" in found for kind in KINDS):
        parts += _paper(found, key)
    if words := unlearned(found):
        parts.append(words)
    if untested := found.get("classes_untested"):
        parts.append(f"{len(untested)} classes without a test image are not in it: {', '.join(untested[:5])}")
    if bare := found.get("unlabelled"):
        parts.append(f"{bare} image{'s' * (bare != 1)} without a label {'are' if bare != 1 else 'is'} left out")
    sentences = [*filter(None, [found.get("answer")]), *(["; ".join(parts)] if parts else [])]
    return ". ".join(each[0].upper() + each[1:] for each in sentences) + "."


def _paper(found: dict[str, Any], key: str) -> list[str]:
    """The paper's protocol: against random weights, against histograms, or on its own."""
    own = "pretrained" if f"{key}_pretrained_mean" in found else "random"
    mean = found[f"{key}_{own}_mean"]
    what = "The pretrained encoder's features" if own == "pretrained" else "The features of random weights"
    if own == "pretrained" and (origin := found.get("encoder_checkpoint")):
        what = f"The features of {origin}"
    if "answer" in found:  # of the fast protocol, whose accuracy is another
        what = f"Under the paper's protocol {what[0].lower()}{what[1:]}"
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
        gain, mine, theirs = mean - found[other], found.get(f"{key}_{own}_interval"), found.get(half)
        side = "above" if gain >= 0 else "below"
        if mine is None or theirs is None:
            told = [_seeds(found, each) for each in (f"{key}_{own}_mean", other)]
            apart = max(told[0][0]) < min(told[1][0]) or min(told[0][0]) > max(told[1][0])
            clear = "" if apart else ": no clear difference"
            spread = f"{told[0][1]} against {told[1][1]}"
        else:
            noise = math.hypot(mine, theirs)  # intervals of independent means add in squares
            clear = "" if abs(gain) > noise else ", which is within the interval: no clear difference"
            spread = f"± {noise:.1f}"
        parts.append(f"{abs(gain):.1f} points ({spread}) {side} {words}{clear}")
    return parts


def _seeds(found: dict[str, Any], name: str) -> tuple[list[float], str]:
    """What is known of a mean without its interval: values, and the same in words."""
    stem = name.removesuffix("_mean")
    if values := found.get(f"{stem}_values"):
        return values, metrics.two_seeds(values)
    half = found.get("histograms_interval" if name.startswith("histograms") else f"{stem}_interval") or 0.0
    told = f"{found[name]:.1f} ± {half:.1f}" if half else f"one seed: {found[name]:.1f}"
    return [found[name] - half, found[name] + half], told
