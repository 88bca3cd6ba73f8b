"""ViT-1B and ViT-15B as the paper ran them, predicted: `python -m geofm_lib.paper.predictions` writes
reports/predictions.csv.

Their published figures are not in our record, and no number of theirs went into the fit. Conditions are those of the
published rows: the all-token benchmark, 32 images per GPU, start-up inside a window of 30 steps, DDP in fp32,
HYBRID_1GPU without synchronisation, memory of FSDP1 (peak active).
"""

from pathlib import Path

from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.planner import as_published
from geofm_lib.planning.reference import BATCH, FRONTIER, conditions, nodes_of
from geofm_lib.planning.sizes import gib
from geofm_lib.runs import records

MODELS = ("ViT-1B", "ViT-15B")


def rows() -> list[dict]:
    """One row a (model, strategy, nodes) that divides; a combination that does not fit has its numbers all the same."""
    return [_row(model, name, nodes) for model in MODELS for name in STRATEGIES for nodes in nodes_of(name)]


def _row(model: str, strategy: str, nodes: int) -> dict:
    told = as_published(model, strategy, nodes)
    held = rank_memory(model, strategy, told["gpus"], BATCH, conditions(strategy), stack="fsdp1")
    memory_gib = round(gib(held.peak), 3)
    speeds = {name: round(told[name], 1) for name in ("images_per_s", "low", "high")}
    fits = str(memory_gib <= FRONTIER.memory_gib).lower()
    return {"model": model, "strategy": strategy, "nodes": nodes, **speeds, "memory_gib": memory_gib, "fits": fits}


if __name__ == "__main__":
    print(records.record("predictions", rows(), Path(__file__).parents[2] / "reports"))
