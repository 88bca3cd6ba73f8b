"""What a statement of the paper came to: ours, its ratio to the published, a verdict, how it was obtained. No torch.

Verdicts follow from numbers by the rules of `catalog.published` (`verdict_of_points`, `verdict_of_counts`), never from
text.
"""

from dataclasses import dataclass
from statistics import median

from geofm_lib.catalog import published


@dataclass(frozen=True)
class Outcome:
    """What a row of claims.csv came to: ours in words with its numbers, over the published (None: no such ratio)."""

    ours: str = "–"
    ratio: float | None = None
    verdict: str = "not measured"
    how: str = ""  # measured, simulated, predicted or counted


def judged(points: list[tuple], how: str, ours: str) -> Outcome:
    """The outcome of points (cell, published, ours), which `ours` describes; "not measured" without any."""
    if not points:
        return Outcome(how=how)
    agreeing, pairs = published.order(points)
    said = f"{ours}: median error {percent(published.median_error(points))}"
    said += f" of {len(points)}" * (len(points) > 1)
    said += f", {agreeing} of {pairs} pairs in the published order" if pairs else ""
    ratio = median(own / theirs for _, theirs, own in points)
    return Outcome(said, ratio, published.verdict_of_points(points), how)


def span(points: list[tuple], unit: str) -> str:
    """The least and the most of ours, in words."""
    values = [own for *_, own in points] or [0.0]
    return f"{number(min(values))} to {number(max(values))} {unit}"


def percent(share: float) -> str:
    """A share in words: 0.0283 is 2.8 %."""
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Three digits, or a whole number in groups of three.

    >>> number(0.82345), number(158667.0)
    ('0.823', '158\\u202f667')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")
