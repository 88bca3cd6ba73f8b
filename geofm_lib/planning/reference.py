"""The conditions of the paper's published benchmark, each in one place."""

from dataclasses import replace
from typing import Any

from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.planning.conditions import Conditions

FRONTIER = MACHINES["frontier"]
NODES = (1, 2, 4, 8, 16, 32, 64, 128)
BATCH = 32  # images per GPU in every published figure
PAPER_STEPS = 30  # of the published window, start-up inside
IMAGES = DATASETS["millionaid"].unlabelled  # what the paper pretrains on
TABLE_I = {row.name: row.published_params_M for row in MODELS.values() if row.published_params_M}
"""The paper's models, and their parameters as printed, in millions."""

BENCHMARK = Conditions(workload="classify", window="paper_30_steps")
EXCEPTIONS: dict[str, dict[str, Any]] = {"DDP": {"precision": "fp32"}, "HYBRID_1GPU": {"synchronised": False}}
"""What sets the published rows of a strategy apart from the others."""
ALIKE = tuple(name for name in STRATEGIES if name not in EXCEPTIONS)
"""Strategies whose published numbers can be ranked: same precision, and gradients reduced over all ranks."""


def conditions(strategy: str) -> Conditions:
    """The conditions of the published throughput of a strategy."""
    return replace(BENCHMARK, **EXCEPTIONS.get(strategy, {}))


def nodes_of(strategy: str) -> list[int]:
    """Those of NODES whose GPUs divide into this strategy's shard groups."""
    group = STRATEGIES[strategy].shard_group or 1
    return [nodes for nodes in NODES if nodes * FRONTIER.devices_per_node % group == 0]
