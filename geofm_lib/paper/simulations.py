"""Simulated memory beside the published: `python -m geofm_lib.paper.simulations` writes reports/simulated.csv.

One simulation a published peak active memory (of those on 8 and 128 nodes where it depends on them), under its own
conditions; finished ones are read from their run folders. DDP's cannot be traced. `libraries_gib` is what the
libraries of 2023 took beside the tensors (`planning/stacks`), `fsdp1_gib` the arithmetic of the paper's FSDP1; the
difference between FSDP1 and what is simulated here, FSDP2, stands in that module.
"""

from pathlib import Path

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import lookup
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.reference import BATCH
from geofm_lib.planning.sizes import gib
from geofm_lib.planning.stacks import STACKS
from geofm_lib.runs import records
from geofm_lib.runs.launch import launch
from geofm_lib.settings import SimulateSettings

NODES = (None, 8, 128)  # None: a bar that is said to hold for any number
ANY = 64  # ranks that are simulated for such a bar


def points() -> list[dict]:
    """The published rows that are simulated."""
    return [row for row in published.peaks() if row["nodes"] in NODES and not lookup(row["strategy"]).ddp]


def simulated(row: dict) -> dict:
    """A published row's simulation and arithmetic, as a row of the CSV."""
    gpus = row["gpus"] or ANY
    same = {name: row[name] for name in ("model", "strategy", "workload", "precision")}
    told = launch(SimulateSettings(**same, gpus=gpus, batch_per_gpu=BATCH)).summary
    libraries = gib(STACKS["fsdp1"].libraries)
    how = Conditions(row["workload"], row["precision"])
    fsdp1 = rank_memory(row["model"], row["strategy"], gpus, BATCH, how, stack="fsdp1")
    found = {
        "published_gib": row["value"],
        "simulated_gib": told["peak_memory_gib"],
        "libraries_gib": libraries,
        "simulated_over_published": (told["peak_memory_gib"] + libraries) / row["value"],
        "arithmetic_gib": told["predicted_peak_gib"],
        "arithmetic_over_simulated": told["predicted_peak_gib"] / told["peak_memory_gib"],
        "fsdp1_gib": gib(fsdp1.peak),
        "fsdp1_over_published": gib(fsdp1.peak) / row["value"],
    }
    return same | {"gpus": gpus} | {name: round(value, 4) for name, value in found.items()}


if __name__ == "__main__":
    print(records.record("simulated", [simulated(row) for row in points()], Path(__file__).parents[2] / "reports"))
