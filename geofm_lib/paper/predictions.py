"""ViT-1B and ViT-15B as the paper ran them, predicted: `python -m geofm_lib.paper.predictions` writes
reports/predictions.csv.

Their published figures are not in our record, and no number of theirs went into the fit. Conditions are those of the
published rows: the all-token benchmark, 32 images per GPU, start-up inside a window of 30 steps, DDP in fp32,
HYBRID_1GPU without synchronisation, memory of FSDP1 (peak active).
"""

from pathlib import Path

from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.planning import costs
from geofm_lib.planning.reference import AS_PUBLISHED, BATCH, NODES, as_published, divides
from geofm_lib.runs import records

MODELS = ("ViT-1B", "ViT-15B")
MOST_GIB = MACHINES["frontier"].memory_gib


def rows() -> list[dict]:
    """One row a (model, strategy, nodes) that divides; a combination that does not fit has its numbers all the same."""
    return [
        _row(model, name, nodes) for model in MODELS for name in STRATEGIES for nodes in NODES if divides(name, nodes)
    ]


def _row(model: str, strategy: str, nodes: int) -> dict:
    told = as_published(model, strategy, nodes)
    precision = AS_PUBLISHED.get(strategy, {}).get("precision", "bf16")
    held = costs.memory(model, strategy, told["gpus"], BATCH, "classify", precision, stack="fsdp1")
    memory_gib = round(costs.gib(held.peak), 3)
    speeds = {name: round(told[name], 1) for name in ("images_per_s", "low", "high")}
    fits = str(memory_gib <= MOST_GIB).lower()
    return {"model": model, "strategy": strategy, "nodes": nodes, **speeds, "memory_gib": memory_gib, "fits": fits}


if __name__ == "__main__":
    print(records.record("predictions", rows(), Path(__file__).parents[2] / "reports"))
