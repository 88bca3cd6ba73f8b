"""What the paper says: its numbers and its claims.

The paper is arXiv 2404.11706. Both tables are plain CSV files beside this module:

- `published/figures.csv`: every number behind its figures that its authors made public, one row each, never converted:
  a memory axis that says GB but counts GiB is a row that says so. `certainty` is that of the number,
  `conditions_certainty` that of its conditions: H read in primary material, M strong indirect evidence, L a guess.
- `published/claims.csv`: every table, figure and claim of the paper, and what we found out about its numbers.

What a throughput number means stands in its row (workload, precision, activation checkpointing, synchronised or
not, window), so no reader has to know that one strategy's name needs special care.
"""

import csv
from pathlib import Path

FOLDER = Path(__file__).with_name("published")
PREFETCH_DEPTHS = {"None+limit_all_gathers": 0, "BACKWARD_PRE+limit_all_gathers": 1}
"""The prefetch figure's settings that FSDP2 has, and how many blocks they gather ahead in the backward pass."""


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


def _read(name: str) -> list[dict]:
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _typed(row: dict) -> dict:
    row = dict(row, value=float(row["value"]))
    row |= {name: int(row[name]) if row[name] else None for name in ("nodes", "gpus", "params_M")}
    yes_no = ("activation_checkpointing", "synchronised")
    return row | {name: row[name] == "yes" if row[name] else None for name in yes_no}
