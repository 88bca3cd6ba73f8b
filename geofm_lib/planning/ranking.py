"""The strategy predicted first beside the one published first, for a model on so many nodes."""

from math import nan
from typing import Any

from geofm_lib.catalog import published
from geofm_lib.planning.planner import as_published, ranked
from geofm_lib.planning.reference import ALIKE, nodes_of

CLOSE = 0.05  # a choice this close to the best published throughput counts as right


def choice(predicted: list[dict[str, Any]], seen: dict[str, float]) -> dict[str, Any]:
    """What the first of the predicted rows that fits is worth among the published images/s of strategies, ``seen``.

    Keys: chosen, best (None where nothing fits, or nothing is published), of_best (then NaN).
    """
    chosen = next((row["strategy"] for row in ranked(predicted) if row["fits"]), None)
    best = max(seen, key=lambda name: seen[name], default=None)
    return {"chosen": chosen, "best": best, "of_best": seen[chosen] / seen[best] if chosen and best else nan}


def first_choice(model: str, nodes: int) -> dict[str, Any]:
    """``choice`` by the planner among the strategies published for this model and nodes, else among all that fit."""
    seen = {name: line[nodes] for name, line in published.scaling(model).items() if nodes in line and name in ALIKE}
    rows = [as_published(model, name, nodes) for name in seen or ALIKE if nodes in nodes_of(name)]
    if seen:
        rows = [row | {"fits": True} for row in rows]  # what was published did fit
    return {"model": model, "nodes": nodes, **choice(rows, seen)}
