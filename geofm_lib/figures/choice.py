"""04: why the ranking of published cases and the plan for a job of your own may name different strategies. No torch."""

from collections.abc import Callable
from typing import Any

from geofm_lib.planning.conditions import ALIKE, BATCH, FRONTIER, NODES, TABLE_I, WINDOWS, WORKLOADS, nodes_of
from geofm_lib.planning.planner import as_published, first_choice, plan, ranked

CHEAPER = ", whose images need less computing for as much communication"


def asked(settings: Any) -> dict[str, Any]:
    """What 04's settings ask of a plan."""
    return {name: getattr(settings, name) for name in ("model", "machine", "nodes", "batch_per_gpu", "workload")}


def differing(model: str, machine: str, nodes: int, batch_per_gpu: int, workload: str, **how: Any) -> str:
    """A sentence with the steps from ranking to plan that change the choice, one after the other; "" if none does.

    `how`: the other arguments of `plan`. ValueError as there.
    """
    planned = plan(model, machine, nodes, batch_per_gpu, workload=workload, **how)[0]["strategy"]
    if model not in TABLE_I or nodes not in NODES:
        return ""
    named = first_choice(model, nodes)["chosen"]
    if planned == named:
        return ""
    on_frontier = (model, FRONTIER.name, nodes, BATCH)
    steps: tuple[tuple[str, Callable[[], list[dict[str, Any]]]], ...] = (
        ("takes strategies that were not published for this model, too",
         lambda: [as_published(model, name, nodes) for name in ALIKE if nodes in nodes_of(name)]),
        (f"is of the {WINDOWS['steady']}", lambda: plan(*on_frontier, workload="classify")),
        (f"is of {WORKLOADS[workload]}{CHEAPER if workload == 'mae' else ''}",
         lambda: plan(*on_frontier, workload=workload)),
        (f"is of {batch_per_gpu} images per GPU on {machine} as set",
         lambda: plan(model, machine, nodes, batch_per_gpu, workload=workload, **how)),
    )  # fmt: skip
    first, causes = named, []
    for words, rows in steps:
        now = _first(rows)
        if now not in (first, ""):
            causes.append(f"{words} (then {now} is first)")
            first = now
    where = f"{model} on {nodes} node{'s' * (nodes != 1)}"
    return f"For {where} the ranking names {named} and the plan {planned}: the plan {'; '.join(causes)}."


def _first(rows: Callable[[], list[dict[str, Any]]]) -> str:
    """The fastest strategy that fits, "" if none does."""
    try:
        return next((row["strategy"] for row in ranked(rows()) if row["fits"]), "")
    except ValueError:
        return ""
