"""What the paper says: its numbers, its claims, and the words a comparison may end in.

The paper is arXiv 2404.11706. Both tables are plain CSV files beside this module:

- `published/figures.csv`: every number behind its figures that its authors made public, one row each, as they
  gave it (never converted: a memory axis that says GB but counts GiB is a row that says so). `certainty` is how
  sure the number is, `conditions_certainty` how sure the conditions in the row are (H read in primary material,
  M strong indirect evidence, L a guess).
- `published/claims.csv`: every table, figure and claim of the paper, and what we found out about its numbers.

What a throughput number means stands in its row (workload, precision, activation checkpointing, synchronised or
not, window), so no reader has to know that one strategy's name needs special care.
"""

import csv
from itertools import combinations
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).with_name("published")
"""Where the CSV files stand."""

VERDICTS = ("reproduced", "same ordering", "differs", "not comparable", "not measured")
"""The five words a comparison with the paper may end in."""

PREFETCH_DEPTHS = {"None+limit_all_gathers": 0, "BACKWARD_PRE+limit_all_gathers": 1}
"""The prefetch figure's settings that FSDP2 has, and how many blocks they gather ahead in the backward pass."""

NEAR = 0.10
"""Numbers are reproduced whose median error is at most this, as a share of the published ones."""

APART = 0.05
"""Two published numbers are in an order when they differ by more than this, as a share of the smaller."""

IN_ORDER = 0.90
"""Ours are in the published order when at least this share of such pairs is."""

WHOLE = ("nodes", "gpus", "params_M")
YES_NO = ("activation_checkpointing", "synchronised")


def rows(**where: object) -> list[dict]:
    """All published numbers, or those whose columns equal `where`.

    `nodes`, `gpus` and `params_M` are whole numbers (None where the source gives none), `value` is a float,
    `activation_checkpointing` and `synchronised` are True or False; everything else is text.

    >>> [row["value"] for row in rows(model="ViT-3B", strategy="NO_SHARD", nodes=128, metric="throughput")]
    [8457.0]
    """
    table = [_typed(row) for row in _read("figures.csv")]
    unknown = sorted(set(where) - set(table[0]))
    if unknown:
        raise ValueError(f"published rows have no column {unknown[0]!r}; they have {', '.join(table[0])}.")
    return [row for row in table if all(row[name] == value for name, value in where.items())]


def claims(kind: str | None = None) -> list[dict]:
    """Every table, figure, claim and finding, or those of one `kind`; columns as in `claims.csv`.

    `check` names the computation that gives the verdict; where it is empty, `verdict` holds it.
    """
    return [row for row in _read("claims.csv") if kind is None or row["kind"] == kind]


def scaling(model: str) -> dict[str, dict[int, float]]:
    """images/s of the weak-scaling figure of `model`: {strategy: {nodes: images/s}}; empty where none is public."""
    lines: dict[str, dict[int, float]] = {}
    for row in rows(model=model, metric="throughput"):
        if row["figure"].startswith("weak scaling"):
            lines.setdefault(row["strategy"], {})[row["nodes"]] = row["value"]
    return lines


def peaks(**where: object) -> list[dict]:
    """Published peak active memory, GiB, without that of the authors' own log, which the paper does not show."""
    found = rows(metric="GPU memory peak active", **where)
    return [row for row in found if not row["figure"].startswith("author log")]


def prefetch() -> dict[str, dict[int, dict]]:
    """The bars of the prefetch figure whose settings FSDP2 has: {strategy: {blocks gathered ahead: row}}.

    FSDP2 limits its all-gathers always, so only the settings with limit_all_gathers have a counterpart.
    """
    bars: dict[str, dict[int, dict]] = {}
    for row in rows(metric="throughput"):
        strategy, _, setting = row["strategy"].partition(" | prefetch=")
        if setting in PREFETCH_DEPTHS:
            bars.setdefault(strategy, {})[PREFETCH_DEPTHS[setting]] = row | {"strategy": strategy}
    return bars


def verdict_of_counts(published: dict[str, float], ours: dict[str, float]) -> str:
    """One of VERDICTS for two tables {name: number}, `published` in whole units.

    "reproduced" when every number of ours, rounded down or to the nearest unit, is the published one.

    >>> verdict_of_counts({"a": 87}, {"a": 87.03}), verdict_of_counts({"a": 87, "b": 635}, {"a": 85.8, "b": 630.8})
    ('reproduced', 'same ordering')
    """
    if not set(published) <= set(ours):
        return "not measured"
    if all(published[name] in (int(ours[name]), round(ours[name])) for name in published):
        return "reproduced"
    same = sorted(published, key=published.get) == sorted(published, key=ours.get)
    return "same ordering" if same and len(published) > 1 else "differs"


def order(points: list[tuple]) -> tuple[int, int]:
    """(pairs that ours put in the published order, pairs that have one) of points (cell, published, ours).

    Two points are a pair within a cell, for example the strategies of one model on so many nodes, when their published
    values differ by more than APART. Ours agree when they differ the same way; a tie does not.
    """
    pairs = [
        (a[2] - b[2]) * (a[1] - b[1]) > 0
        for a, b in combinations(points, 2)
        if a[0] == b[0] and max(a[1], b[1]) > (1 + APART) * min(a[1], b[1])
    ]
    return sum(pairs), len(pairs)


def verdict_of_points(points: list[tuple]) -> str:
    """One of VERDICTS for points (cell, published, ours): values by their median error, order by the pairs of `order`.

    >>> verdict_of_points([("8 nodes", 100, 95), ("8 nodes", 200, 205)])
    'reproduced'
    >>> verdict_of_points([("8 nodes", 100, 50), ("8 nodes", 200, 205)])
    'same ordering'
    >>> verdict_of_points([("8 nodes", 100, 101), ("8 nodes", 110, 100)])
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


def median_error(points: list[tuple]) -> float:
    """Median of |ours / published - 1|."""
    return median(abs(ours / published - 1) for _, published, ours in points)


def _read(name: str) -> list[dict]:
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _typed(row: dict) -> dict:
    row = dict(row, value=float(row["value"]))
    row |= {name: int(row[name]) if row[name] else None for name in WHOLE}
    return row | {name: row[name] == "yes" if row[name] else None for name in YES_NO}
