"""The studies whose results stay in the repository: each gives the rows of one CSV file under reports/.

Runs that have finished are read from their folders, so a study that was stopped goes on where it was.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES, lookup
from geofm_lib.paper.readme_table import measured
from geofm_lib.planning.conditions import BATCH, FRONTIER, conditions, gib, nodes_of
from geofm_lib.planning.memory import STACKS, rank_memory
from geofm_lib.planning.planner import as_published
from geofm_lib.runs import grid, results
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, ProbeSettings, SimulateSettings

Rows = list[dict[str, Any]]

UNPUBLISHED = ("ViT-1B", "ViT-15B")
"""Models whose throughput is not in our record; no number of theirs went into the fit."""
SIMULATED_NODES = (None, 8, 128)
"""Nodes of the published peaks that are simulated; None is a bar that is said to hold for any number."""
ANY = 64  # ranks that are simulated for such a bar
GRIDS = ("experiments", "prefetch_small", "scaling_small")
CONDITIONS = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing",
              "forward_prefetch", "backward_prefetch", "seed", "warmup_steps", "steps")  # fmt: skip
NUMBERS = ("step_s", "images_per_s", "peak_memory_gib", "model_tflops_per_rank")
TRACED = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing")
SMALL = ("ViT-Atto", "ViT-Femto", "ViT-Pico")
SAME: dict[str, Any] = {"images_per_class": 100, "ranks": 2}
# 600 steps
RECIPE: dict[str, Any] = {"epochs": 30, "warmup_epochs": 3.0, "global_batch": 40, "base_learning_rate": 3e-3}
PROBE: dict[str, Any] = {"views": 4, "base_learning_rate": 30.0, "compare_random": False, "compare_histograms": False}


def predictions() -> Rows:
    """ViT-1B and ViT-15B as the paper ran them, by the planner: every (model, strategy, nodes) that divides.

    Memory is that of FSDP1 (peak active); a combination that does not fit has its numbers all the same.
    """
    return [_predicted(model, name, nodes) for model in UNPUBLISHED for name in STRATEGIES for nodes in nodes_of(name)]


def _predicted(model: str, strategy: str, nodes: int) -> dict[str, Any]:
    found = as_published(model, strategy, nodes)
    held = rank_memory(model, strategy, found["gpus"], BATCH, conditions(strategy), stack="fsdp1")
    memory_gib = round(gib(held.peak), 3)
    speeds = {name: round(found[name], 1) for name in ("images_per_s", "low", "high")}
    fits = str(memory_gib <= FRONTIER.memory_gib).lower()
    return {"model": model, "strategy": strategy, "nodes": nodes, **speeds, "memory_gib": memory_gib, "fits": fits}


def unseen() -> Rows:
    """Published throughput, each model's predicted by a fit to the other models: every published point.

    The planner's speeds are fitted to these figures, so its predictions of them would prove little.
    """
    from geofm_lib.planning import calibrate  # loads scipy

    table = calibrate.points()
    errors, _ = calibrate.left_out(table)
    keys = [(row["model"], row["strategy"], row["nodes"]) for row in table]
    return [
        {"model": key[0], "strategy": key[1], "nodes": key[2], "published_images_per_s": row["value"],
         "predicted_images_per_s": round(row["value"] * (1 + errors[key]), 1)}
        for key, row in zip(keys, table, strict=True)
    ]  # fmt: skip


def simulated() -> Rows:
    """A simulation of each published peak active memory, under its own conditions; DDP's cannot be traced.

    ``libraries_gib`` is what the libraries of 2023 took beside the tensors, ``fsdp1_gib`` the arithmetic of the
    paper's FSDP1. How it differs from FSDP2, which is simulated, stands in ``planning/memory``.
    """
    return [_simulated(row) for row in simulated_points()]


def simulated_points() -> Rows:
    """The published rows that are simulated: on 8 and 128 nodes, where memory depends on them."""
    return [row for row in published.peaks() if row["nodes"] in SIMULATED_NODES and not lookup(row["strategy"]).ddp]


def _simulated(row: dict[str, Any]) -> dict[str, Any]:
    gpus = row["gpus"] or ANY
    same = {name: row[name] for name in ("model", "strategy", "workload", "precision")}
    traced = launch(SimulateSettings(**same, gpus=gpus, batch_per_gpu=BATCH)).summary
    libraries = gib(STACKS["fsdp1"].libraries)
    fsdp1 = rank_memory(row["model"], row["strategy"], gpus, BATCH, conditions(row["strategy"]), stack="fsdp1")
    found = {
        "published_gib": row["value"],
        "simulated_gib": traced["peak_memory_gib"],
        "libraries_gib": libraries,
        "simulated_over_published": (traced["peak_memory_gib"] + libraries) / row["value"],
        "arithmetic_gib": traced["predicted_peak_gib"],
        "arithmetic_over_simulated": traced["predicted_peak_gib"] / traced["peak_memory_gib"],
        "fsdp1_gib": gib(fsdp1.peak),
        "fsdp1_over_published": gib(fsdp1.peak) / row["value"],
    }
    return same | {"gpus": gpus} | {name: round(value, 4) for name, value in found.items()}


def sizes() -> Rows:
    """Do larger models probe better? Three small ones on the built-in scenes, pretrained and probed alike."""
    return [_size(model) for model in SMALL]


def _size(model: str) -> dict[str, Any]:
    trained = launch(PretrainSettings(model=model, **SAME, **RECIPE))
    probe = launch(ProbeSettings(model=model, encoder=str(trained.folder), **SAME, **PROBE)).summary
    names = ("top1_pretrained_mean", "top1_pretrained_interval", "classes", "test_images")
    how = {"dataset": "scenes", "images_per_class": SAME["images_per_class"], **RECIPE}
    return {"model": model, **how, "loss": trained.summary["loss"], **{name: probe[name] for name in names}}


def experiments() -> Rows:
    """Every finished run of the small grids; what needs more nodes than one is simulated: peak memory only.

    ``make experiments`` runs the grids first. ValueError where none has finished.
    """
    rows = [(name, row) for name in GRIDS for row in grid.read(results.ROOT / "batch" / "grids" / f"{name}.csv")[0]]
    found = [_experiment(name, row) for name, row in rows if row.nodes > 1 or Run(row.folder).status == "finished"]
    if not found:
        raise ValueError("No row of the small grids has finished here; `make experiments` runs them.")
    return found


def _experiment(name: str, row: grid.Row) -> dict[str, Any]:
    settings = {each: getattr(row.settings, each) for each in CONDITIONS}
    if row.nodes > 1:
        traced = launch(SimulateSettings(**{each: settings[each] for each in TRACED}, gpus=row.ranks)).summary
        how, threads, found = "simulated", None, dict.fromkeys(NUMBERS)
        found["peak_memory_gib"] = round(traced["peak_memory_gib"], 4)
    else:
        run = Run(row.folder)
        how, threads = "measured", run.environment["threads_per_rank"]
        found = {each: round(run.summary[each], 4) for each in NUMBERS}
    return {"grid": name, "name": row.name, "how": how, **settings, "ranks": row.ranks, **found, "threads": threads}


def recorded(name: str) -> pd.DataFrame:
    """The recorded rows of one of GRIDS; none when it was not run."""
    if not results.file("experiments").is_file():
        return pd.DataFrame(columns=["grid", "name", "how", *CONDITIONS, "ranks", *NUMBERS])
    frame = pd.read_csv(results.file("experiments"))
    return frame[frame["grid"] == name].reset_index(drop=True)


def origin(frame: pd.DataFrame) -> str:
    """Where recorded rows come from, in words: 'measured on x86_64, 2 cores, torch 2.14.1, 2026-11-23, commit ...'."""
    marks = [", ".join(frame[each].astype(str).unique()) for each in ("machine", "torch", "date", "commit")]
    return "measured on {}, torch {}, {}, commit {}".format(*marks)


STUDIES: dict[str, Callable[[], Rows]] = {
    study.__name__: study for study in (predictions, unseen, simulated, sizes, experiments, measured)
}
"""Name, also of the CSV file under reports/, to the function that gives its rows."""


def study(name: str) -> Path:
    """Do a study and write its CSV file; ValueError for a name that is none, and where there is nothing to write."""
    if name not in STUDIES:
        raise ValueError(f"There is no study '{name}'; the studies are {', '.join(STUDIES)}.")
    return results.write(name, STUDIES[name]())
