"""The blind test: what was predicted of two models before anybody here had seen their published numbers.

``reports/predictions.csv`` is of COMMIT and is never written again. The published rows came into
``catalog/published/figures.csv`` afterwards; the present planner is fitted to them, and plays no part here.
"""

from statistics import median, quantiles
from typing import Any

from geofm_lib.catalog import metrics, published
from geofm_lib.planning.conditions import ALIKE, TABLE_I
from geofm_lib.planning.planner import CLOSE, choice
from geofm_lib.runs import results

MODELS = ("ViT-1B", "ViT-15B")
COMMIT, DATE = "3ce5472", "2026-11-23"
Rows = list[dict[str, Any]]
Pairs = dict[tuple[str, str, int], tuple[float, float]]
WHY = {
    "ViT-1B": "Two groups of a node were taken to be as fast as one (predicted 1 % apart). Rings that meet on the same "
    "network cards slow each other, which the planner did not know.",
    "ViT-15B": "What rings lose on each other was charged to the one ring of SHARD_GRAD_OP as well, which loses less.",
}
"""Why a choice was missed, as the refit shows it (reports/LOG.md)."""


def throughput(*models: str) -> Rows:
    """Each published point of these models (none: of both): published, predicted, low and high images/s."""
    seen = {model: published.scaling(model) for model in models or MODELS}
    return [
        {"model": model, "strategy": name, "nodes": nodes, "published": seen[model][name][nodes],
         **{column: float(row[key]) for column, key in _SPEEDS.items()}}
        for (model, name, nodes), row in _predictions().items()
        if model in seen and nodes in seen[model].get(name, {})
    ]  # fmt: skip


def memory() -> Rows:
    """Each published peak in GiB, and as predicted; ``nodes`` is None for a bar, which holds for any number of them."""
    found = _predictions()
    most = {(model, name): row for (model, name, _), row in found.items()}
    peaks = [row for model in MODELS for row in published.peaks(model=model)]
    pairs = [(row, found.get((row["model"], row["strategy"], row["nodes"]))) for row in peaks]
    return [
        {"model": row["model"], "strategy": row["strategy"], "nodes": row["nodes"], "published": row["value"],
         "predicted": float((own or most[row["model"], row["strategy"]])["memory_gib"])}
        for row, own in pairs if found
    ]  # fmt: skip


def pairs() -> Pairs:
    """(model, strategy, nodes) -> (published, predicted) images/s."""
    return {(row["model"], row["strategy"], row["nodes"]): (row["published"], row["predicted"]) for row in throughput()}


def choices(points: Pairs) -> Rows:
    """For each model and number of nodes: the strategy predicted first, the best published, and what ours is worth.

    Among strategies in bf16 that synchronise; what was published did fit.
    """
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for (model, name, nodes), (seen, ours) in points.items():
        if name in ALIKE:
            row = {"strategy": name, "published": seen, "images_per_s": ours, "fits": True}
            cells.setdefault((model, nodes), []).append(row)
    found = [
        {"model": model, "nodes": nodes, **choice(rows, {row["strategy"]: row["published"] for row in rows})}
        for (model, nodes), rows in cells.items()
    ]
    return sorted(found, key=lambda row: (list(TABLE_I).index(row["model"]), row["nodes"]))


def missed(points: Pairs) -> Rows:
    """The choices that are worth less than 95 % of the best."""
    return [row for row in choices(points) if row["of_best"] < 1 - CLOSE]


def errors(rows: Rows) -> list[float]:
    """How far what was predicted of each row is off, as a share of what is published."""
    return [metrics.off(row["predicted"], row["published"]) for row in rows]


def errors_of(points: Pairs) -> list[float]:
    """The same of pairs."""
    return [metrics.off(ours, seen) for seen, ours in points.values()]


def inside(row: dict[str, Any]) -> bool:
    """Does the published number lie in the predicted interval?"""
    return row["low"] <= row["published"] <= row["high"]


def score() -> dict[str, float]:
    """The blind test in numbers; memory is of the lines against nodes, the bars apart. {} without predictions."""
    rows, peaks, points = throughput(), memory(), pairs()
    if not rows:
        return {}
    off, lines = errors(rows), [row for row in peaks if row["nodes"]]
    return {
        "points": len(rows), "median": median(off), "p90": quantiles(off, n=10)[-1], "inside": sum(map(inside, rows)),
        "peaks": len(lines), "memory_median": median(errors(lines)), "bars": len(peaks) - len(lines),
        "bars_median": median(errors([row for row in peaks if not row["nodes"]])),
        "cells": len(choices(points)), "right": len(choices(points)) - len(missed(points)),
    }  # fmt: skip


_SPEEDS = {"predicted": "images_per_s", "low": "low", "high": "high"}


def _predictions() -> dict[tuple[str, str, int], dict[str, str]]:
    return {(row["model"], row["strategy"], int(row["nodes"])): row for row in results.read("predictions")}
