"""The small grids as they ran here: `python -m geofm_lib.paper.experiments` writes reports/experiments.csv.

One row a finished run of `GRIDS` (`make experiments` runs them first), with its conditions, so that notebook 04 can
show them anywhere without running them again. What needs more nodes than one is simulated instead: peak memory only.
"""

from pathlib import Path

import pandas as pd

from geofm_lib.runs import grid, records
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import SimulateSettings

HERE = Path(__file__).parents[2]
GRIDS = ("experiments", "prefetch_small", "scaling_small")
FILE = HERE / "reports" / "experiments.csv"
CONDITIONS = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing",
              "forward_prefetch", "backward_prefetch", "seed", "warmup_steps", "steps")  # fmt: skip
NUMBERS = ("step_s", "images_per_s", "peak_memory_gib", "model_tflops_per_rank")
TRACED = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing")


def rows() -> list[dict]:
    """Every finished run of the grids, and a simulation of each row that needs more nodes."""
    found = []
    for name in GRIDS:
        for row in grid.read(HERE / "batch" / "grids" / f"{name}.csv")[0]:
            if row.nodes > 1 or Run(row.folder).status == "finished":
                asked = {each: getattr(row.settings, each) for each in CONDITIONS}
                where = {"grid": name, "name": row.name, "how": "simulated" if row.nodes > 1 else "measured"}
                found.append(where | asked | {"ranks": row.ranks} | _numbers(row))
    return found


def _numbers(row: grid.Row) -> dict:
    if row.nodes > 1:
        asked = {each: getattr(row.settings, each) for each in TRACED}
        told = launch(SimulateSettings(**asked, gpus=row.ranks)).summary
        return dict.fromkeys((*NUMBERS, "threads")) | {"peak_memory_gib": round(told["peak_memory_gib"], 4)}
    told = Run(row.folder)
    numbers = {each: round(told.summary[each], 4) for each in NUMBERS}
    return numbers | {"threads": told.environment["threads_per_rank"]}


def table(name: str, file: Path = FILE) -> pd.DataFrame:
    """The recorded rows of one grid; none when it was not run."""
    if not file.is_file():
        return pd.DataFrame(columns=["grid", "name", "how", *CONDITIONS, "ranks", *NUMBERS])
    frame = pd.read_csv(file)
    return frame[frame["grid"] == name].reset_index(drop=True)


def origin(frame: pd.DataFrame) -> str:
    """Where recorded rows come from, in words: 'measured on x86_64, 2 cores, torch 2.14.1, 2026-11-23, commit ...'."""
    marks = [", ".join(frame[each].astype(str).unique()) for each in ("machine", "torch", "date", "commit")]
    return "measured on {}, torch {}, {}, commit {}".format(*marks)


if __name__ == "__main__":
    found = rows()
    if not found:
        raise SystemExit("no row of the small grids has finished here; `make experiments` runs them")
    print(records.record("experiments", found, FILE.parent))
