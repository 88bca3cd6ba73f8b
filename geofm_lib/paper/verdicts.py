"""Verdicts on the paper: six words, and the rules by which numbers lead to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from geofm_lib.catalog.metrics import off

VERDICTS = ("reproduced", "same ordering", "differs", "fitted", "not comparable", "not measured")
OPEN = ("answered", "in part", "not measured")  # of what the paper asks and does not answer
HOW = ("measured", "simulated", "predicted", "counted")  # how ours were obtained; what is fitted has no verdict
NEAR = 0.10  # numbers are reproduced whose median error is at most this, as a share of the published ones
APART = 0.05  # two published numbers are in an order that differ by more than this, as a share of the smaller
IN_ORDER = 0.90  # ours are in the published order when at least this share of such pairs is
Point = tuple[Any, float, float]
"""(cell, published, ours); only points of one cell have an order, for example strategies on the same nodes."""


@dataclass(frozen=True)
class Answer:
    """What a claim came to: ours in words with its numbers, over the published (None: no such ratio), and a verdict."""

    ours: str = "–"
    ratio: float | None = None
    verdict: str = "not measured"
    how: str = ""  # one of HOW, or "fitted"


def of_counts(published: Mapping[str, float], ours: Mapping[str, float]) -> str:
    """The verdict on two tables {name: number}, ``published`` in whole units.

    "reproduced" when every number of ours, rounded down or to the nearest unit, is the published one.

    >>> of_counts({"a": 87}, {"a": 87.03}), of_counts({"a": 87, "b": 635}, {"a": 85.8, "b": 630.8})
    ('reproduced', 'same ordering')
    """
    if not set(published) <= set(ours):
        return "not measured"
    if all(published[name] in (int(ours[name]), round(ours[name])) for name in published):
        return "reproduced"
    theirs, own = (sorted(published, key=table.__getitem__) for table in (published, ours))
    return "same ordering" if theirs == own and len(published) > 1 else "differs"


def order(points: Sequence[Point]) -> tuple[int, int]:
    """(pairs that ours put in the published order, ties not among them; pairs of one cell published APART)."""
    pairs = [
        (a[2] - b[2]) * (a[1] - b[1]) > 0
        for a, b in combinations(points, 2)
        if a[0] == b[0] and max(a[1], b[1]) > (1 + APART) * min(a[1], b[1])
    ]
    return sum(pairs), len(pairs)


def median_error(points: Sequence[Point]) -> float:
    """The median of how far ours are off."""
    return median(off(ours, published) for _, published, ours in points)


def of_points(points: Sequence[Point]) -> str:
    """The verdict on points: values by their median error, order by the pairs of ``order``.

    >>> of_points([("8 nodes", 100, 95), ("8 nodes", 200, 205)])
    'reproduced'
    >>> of_points([("8 nodes", 100, 50), ("8 nodes", 200, 205)])
    'same ordering'
    >>> of_points([("8 nodes", 100, 101), ("8 nodes", 110, 100)])
    'differs'
    """
    if not points:
        return "not measured"
    agreeing, pairs = order(points)
    if agreeing < IN_ORDER * pairs:
        return "differs"
    if median_error(points) <= NEAR:
        return "reproduced"
    return "same ordering" if pairs else "differs"


def judged(points: Sequence[Point], how: str, ours: str) -> Answer:
    """The answer that points give, which ``ours`` describes; "not measured" without any.

    ``how`` "fitted": ours were fitted to these very points, so that nearness says nothing, and there is no verdict.
    """
    if not points:
        return Answer(how=how)
    agreeing, pairs = order(points)
    said = f"{ours}: median error {percent(median_error(points))}"
    said += f" of {len(points)}" * (len(points) > 1)
    said += f", {agreeing} of {pairs} pairs in the published order" if pairs else ""
    ratio = median(own / theirs for _, theirs, own in points)
    return Answer(said, ratio, "fitted" if how == "fitted" else of_points(points), how)


def span(points: Sequence[Point], unit: str) -> str:
    """The least and the most of ours, in words."""
    values = [own for *_, own in points] or [0.0]
    return f"{number(min(values))} to {number(max(values))} {unit}"


def percent(share: float) -> str:
    """A share in words: 0.0283 is 2.8 %."""
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Three digits, or a whole number in groups of three.

    >>> number(0.82345), number(158667.0)
    ('0.823', '158,667')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
