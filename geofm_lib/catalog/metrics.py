"""What numbers are called on a page, and with how many digits they are told."""

import math
from collections.abc import Sequence

MINUS = "\u2212"

# A probe's; the key begins their names in summaries and probe.csv.
WORDS = {"top1": "top-1", "top5": "top-5", "map": "mAP", "recall1": "recall at 1", "recall10": "recall at 10",
         "miou": "mIoU", "map50": "mAP at 0.5"}  # fmt: skip
LONG = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "map": "mean average precision",
        "recall1": "recall at 1", "recall10": "recall at 10", "miou": "mean intersection over union",
        "map50": "mean average precision at an IoU of 0.5"}  # fmt: skip

# Names in files, as a page's tables call them; settings keep their names, since these are typed.
NAMES = {
    "images_per_s": "images/s", "step_s": "seconds a step", "n_train": "training images", "n_test": "test images",
    "interval_kind": "what the interval is over", "images_seen": "images seen", "flops": "FLOPs",
    "parameters_m": "million parameters", "core_hours": "core-hours", "watt_hours": "watt-hours",
    "node_hours": "node-hours", "effective_rank": "effective rank", "std": "standard deviation",
    "mean_stored": "mean, as stored", "std_stored": "standard deviation, as stored", "grad_norm": "gradient norm",
    "learning_rate": "learning rate", "learning_rate_now": "learning rate", "busy_percent": "busy, %",
}  # fmt: skip
UNITS = {"_per_s": "/s", "_s": ", s", "_gib": ", GiB", "_bytes": ", bytes", "_calls": ", calls", "_share": ", share",
         "_percent": ", %", "_low": ", low", "_high": ", high", "_interval": ", interval"}  # fmt: skip


def heading(name: object) -> str:
    """A column's name in words, with its unit.

    >>> heading("images_per_s"), heading("profiled_forward_s"), heading("base_learning_rate")
    ('images/s', 'profiled forward, s', 'base_learning_rate')
    """
    text = str(name)
    end = next((each for each in UNITS if text.endswith(each) and text.islower()), None)
    words = f"{text.removesuffix(end).replace('_', ' ')}{UNITS[end]}" if end else text
    return NAMES.get(text, words)


def of(summary: dict) -> str:
    """The key of the metric that a probe's summary is in; older ones, and most, are in top-1."""
    return summary.get("metric", "top1")


def two_seeds(values: Sequence[float]) -> str:
    """What two seeds gave, which are no interval.

    >>> two_seeds([60.12, 61.9])
    'two seeds: 60.1, 61.9'
    """
    return "two seeds: " + ", ".join(f"{value:.1f}" for value in values)


def number(value: float, digits: int = 3) -> str:
    """A number as every page tells it: `digits` significant digits, whole numbers whole, thousands in groups.

    >>> number(288.17), number(11_107.3), number(3200.0), number(9.9998), number(0.0015)
    ('288', '11,100', '3,200', '10.0', '0.0015')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    if value == int(value) and abs(value) < 1e10:
        text = f"{int(value):,}"
    elif not 1e-4 <= abs(value) < 1e6 or math.isclose(float(f"{value:.{digits}g}"), value, rel_tol=1e-9):
        text = f"{value:.{digits}g}"  # very large or small, or an exact value
    else:
        text = fixed(value, places(value, digits))
    return text.replace("-", MINUS)


def fixed(value: float, places: int) -> str:
    """A number with so many places behind the point, or rounded before it where they are negative.

    >>> fixed(1234.5, -1), fixed(0.72617, 3)
    ('1,230', '0.726')
    """
    return f"{round(value, places):,.{max(0, places)}f}".replace("-", MINUS)


def counted(count: int, word: str, several: str = "") -> str:
    """A count with its noun: 1 node, 1,200 images; ``several`` where its plural has more than an s."""
    return f"{count:,} {word if count == 1 else several or word + 's'}"


def off(ours: float, seen: float = 1.0) -> float:
    """How far a number is from what was seen, as a share of that: |ours / seen - 1|."""
    return abs(ours / seen - 1)


def rough(value: float) -> str:
    """Two significant digits, for what is known no better, as a prediction.

    >>> rough(10380.2), rough(0.0714), rough(96.4)
    ('10,000', '0.071', '96')
    """
    return fixed(value, places(value)) if math.isfinite(value) and value else f"{value:g}"


def places(value: float, digits: int = 2) -> int:
    """Places behind the point with which a number, as half an interval, has so many significant digits.

    >>> places(0.01234), places(156.0), places(0.0996)
    (3, -1, 2)
    """
    found = digits - 1 - math.floor(math.log10(abs(value)))
    return found - (round(abs(value), found) >= 10 ** (digits - found))  # 0.0996 is 0.10


def plus_minus(value: float, half: float | None, unit: str = "") -> str:
    """A value with its half interval: two significant digits of that, and no digit of the value below it.

    >>> plus_minus(0.72617, 0.01234), plus_minus(1234.5, 156.0, " images/s"), plus_minus(0.72617, None)
    ('0.726 ± 0.012', '1,230 ± 160 images/s', '0.726')
    """
    if half is None or not math.isfinite(half) or half <= 0:
        return f"{number(value)}{unit}"
    return " ± ".join(fixed(each, places(half)) for each in (value, half)) + unit


def with_ends(value: float, low: float, high: float) -> tuple[str, str, str]:
    """A value and the ends of its interval, with the digits that half of it allows.

    >>> with_ends(288.17, 279.34, 298.4), with_ends(2206.0, 1911.0, 2546.0)
    (('288.2', '279.3', '298.4'), ('2,210', '1,910', '2,550'))
    """
    both = (value, low, high)
    if not all(map(math.isfinite, both)) or high <= low:
        return number(value), number(low), number(high)
    last = min(places((high - low) / 2), 5 - math.floor(math.log10(max(map(abs, both)))))  # six digits say enough
    return tuple(fixed(each, last) for each in both)  # type: ignore[return-value]


def interval(value: float, low: float, high: float) -> str:
    """A value and its interval in words.

    >>> interval(3.531, 2.21, 9.24)
    '3.5 (2.2 to 9.2)'
    """
    return "{} ({} to {})".format(*with_ends(value, low, high))
