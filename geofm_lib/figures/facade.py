"""The figures of notebooks 04 and 06, until each is imported from its module. No torch."""

# ruff: noqa: F401
from geofm_lib.figures.claims import claims, reading, verdicts
from geofm_lib.figures.costs import image_costs, measured_runs, strategy_memory, strategy_traffic
from geofm_lib.figures.experiments import base_alone, batch_scaling, prefetch_depths, three_b
from geofm_lib.figures.findings import precision_measured, precision_predicted, replicas, start_up, unseen_predictions
from geofm_lib.figures.plan import predicted_scaling, simulated
from geofm_lib.figures.plan_form import what_if
from geofm_lib.figures.published import (
    parameter_counts,
    published_memory,
    published_memory_by_nodes,
    published_prefetch,
    published_scaling,
)
from geofm_lib.figures.scaling import efficiency, measured_scaling, memory_by_nodes, ranking, strong_scaling
