"""What numbers are called on a page, and with how many digits they are told."""

import math
from collections.abc import Sequence

# A probe's; the key begins their names in summaries and probe.csv.
WORDS = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
LONG = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "map": "mean average precision"}


def of(summary: dict) -> str:
    """The key of the metric that a probe's summary is in; older ones, and most, are in top-1."""
    return summary.get("metric", "top1")


def two_seeds(values: Sequence[float]) -> str:
    """What two seeds gave, which are no interval.

    >>> two_seeds([60.12, 61.9])
    'two seeds: 60.1, 61.9'
    """
    return "two seeds: " + ", ".join(f"{value:.1f}" for value in values)


def rough(value: float) -> str:
    """Two significant digits, for what is known no better, as a prediction.

    >>> rough(10380.2), rough(0.0714), rough(96.4)
    ('10,000', '0.071', '96')
    """
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    places = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def plus_minus(value: float, half: float | None, unit: str = "") -> str:
    """A value with its half interval: two significant digits of that, and no digit of the value below it.

    >>> plus_minus(0.72617, 0.01234), plus_minus(1234.5, 156.0, " images/s"), plus_minus(0.72617, None)
    ('0.726 ± 0.012', '1230 ± 160 images/s', '0.726')
    """
    if half is None or not math.isfinite(half) or half <= 0:
        return f"{value:.3g}{unit}"
    places = 1 - math.floor(math.log10(half))
    places -= round(half, places) >= 10 ** (2 - places)  # 0.0996 is 0.10
    return " ± ".join(f"{round(each, places):.{max(0, places)}f}" for each in (value, half)) + unit
