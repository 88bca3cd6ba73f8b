"""The conditions of the paper's published benchmark, once: nodes, batch, window, and what sets two strategies apart."""

from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.planning.planner import predict

PER_NODE = MACHINES["frontier"].devices_per_node
NODES = (1, 2, 4, 8, 16, 32, 64, 128)
BATCH = 32  # images per GPU in every published figure
AS_PUBLISHED = {"DDP": {"precision": "fp32"}, "HYBRID_1GPU": {"synchronised": False}}
"""What sets the rows of a published strategy apart from the others."""
PUBLISHED = {"workload": "classify", "window": "paper_30_steps"}


def as_published(model: str, strategy: str, nodes: int) -> dict:
    """`predict` under the conditions of the published rows of this strategy."""
    return predict(model, strategy, "frontier", nodes, BATCH, **PUBLISHED, **AS_PUBLISHED.get(strategy, {}))


def divides(strategy: str, nodes: int) -> bool:
    """Do the GPUs of so many Frontier nodes divide into this strategy's shard groups?"""
    return nodes * PER_NODE % (STRATEGIES[strategy].shard_group or 1) == 0
