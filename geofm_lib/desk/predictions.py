"""ViT-1B and ViT-15B as the paper ran them, predicted: `python -m geofm_lib.desk.predictions` writes
reports/predictions.csv.

Their published figures are not in our record, and no number of theirs went into the fit. Conditions are those of the
published rows: the all-token benchmark, 32 images per GPU, start-up inside a window of 30 steps, DDP in fp32,
HYBRID_1GPU without synchronisation, memory of FSDP1 (peak active).
"""

from pathlib import Path

from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.desk import runs
from geofm_lib.planning import costs
from geofm_lib.planning.planner import predict

MODELS = ("ViT-1B", "ViT-15B")
NODES = (1, 2, 4, 8, 16, 32, 64, 128)
MACHINE, BATCH = "frontier", 32
AS_PUBLISHED = {  # what sets a strategy's published rows apart
    "DDP": {"precision": "fp32"},
    "HYBRID_1GPU": {"synchronised": False},
}


def rows() -> list[dict]:
    """One row a (model, strategy, nodes) that divides; a combination that does not fit has its numbers all the same."""
    machine = MACHINES[MACHINE]
    found = []
    for model in MODELS:
        for name, strategy in STRATEGIES.items():
            for nodes in NODES:
                world = nodes * machine.devices_per_node
                if not strategy.shard_group or world % strategy.shard_group == 0:
                    found.append(_row(model, name, nodes, world, machine.memory_gib))
    return found


def _row(model: str, strategy: str, nodes: int, world: int, most_gib: float) -> dict:
    how = {"precision": "bf16", "synchronised": True} | AS_PUBLISHED.get(strategy, {})
    told = predict(model, strategy, MACHINE, nodes, BATCH, workload="classify", window="paper_30_steps", **how)
    held = costs.memory(model, strategy, world, BATCH, "classify", how["precision"], stack="fsdp1")
    memory_gib = round(costs.gib(held.peak), 3)
    speeds = {name: round(told[name], 1) for name in ("images_per_s", "low", "high")}
    fits = str(memory_gib <= most_gib).lower()
    return {"model": model, "strategy": strategy, "nodes": nodes, **speeds, "memory_gib": memory_gib, "fits": fits}


if __name__ == "__main__":
    print(runs.record("predictions", rows(), Path(__file__).parents[2] / "reports"))
