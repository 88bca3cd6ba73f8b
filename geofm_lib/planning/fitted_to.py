"""Under which conditions a machine's speeds were fitted, and what sets a plan apart from them."""

from collections.abc import Iterable
from typing import Any

from geofm_lib.catalog import machines
from geofm_lib.catalog.metrics import counted
from geofm_lib.planning.conditions import BENCHMARK, FRONTIER, NODES, Conditions
from geofm_lib.planning.points import Point

WORDS: dict[str, Any] = {
    "workload": "workload {}",
    "precision": "precision {}",
    "activation_checkpointing": {True: "activations computed again", False: "activations kept"},
}
PUBLISHED: dict[str, Any] = {"workload": [BENCHMARK.workload], "precision": ["bf16", "fp32"], "nodes": NODES[-1],
             "activation_checkpointing": [BENCHMARK.activation_checkpointing]}  # fmt: skip
"""Of the rows of Frontier."""


def of_points(points: Iterable[Point]) -> dict[str, Any]:
    """The conditions of some points, as they stand in the file of a machine's row."""
    points = list(points)
    found: dict[str, Any] = {name: sorted({getattr(each.how, name) for each in points}) for name in WORDS}
    return found | {"nodes": max(each.nodes for each in points)}


def differing(machine: str, how: Conditions, nodes: int) -> str:
    """What of a plan the machine's speeds were not fitted to, in a sentence; '' where nothing is, or is known."""
    known: dict[str, Any] = PUBLISHED if machine == FRONTIER.name else (machines.own(machine) or {}).get("fitted", {})
    said = [f"{_word(name, getattr(how, name))} (fitted: {', '.join(_word(name, each) for each in known[name])})"
            for name in WORDS if name in known and getattr(how, name) not in known[name]]  # fmt: skip
    if nodes > (most := known.get("nodes", nodes)):
        said.append(f"{counted(nodes, 'node')} (fitted: {most} at most{', so the network is assumed' * (most == 1)})")
    return (
        f"Other than what {machine} was fitted to, so perhaps farther off than told: {', '.join(said)}." if said else ""
    )


def _word(name: str, value: Any) -> str:
    word = WORDS[name]
    return word[value] if isinstance(word, dict) else word.format(value)
