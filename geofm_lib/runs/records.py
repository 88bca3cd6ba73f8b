"""Tables over run folders: the launches of one run, and the runs of a folder."""

import glob
import time
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.runs.run import Run

REASONS = {"killed": "its job ended without a word: over its time limit, out of memory, or its node failed"}


def this_slice(run: Run) -> dict[str, Any]:
    """The last launch of a run in one row, {} if there was none; `slices` gives them all.

    job, restart (of Slurm, '' elsewhere), nodes, started and ended (seconds since 1970; a running slice ends now),
    from_step and to_step (checkpoints), status, reason, node_hours.
    """
    where, ended = run.environment, time.time()
    if not where:
        return {}
    state = run.status
    if state != "running":
        ended = next(filter(None, (run.written("summary.json"), run.last_heartbeat, run.written("environment.json"))))
    started, nodes = where.get("job_started", ended), where.get("slurm_nodes", 1)
    return {
        "job": where.get("slurm_job", ""),
        "restart": where.get("slurm_restart", ""),
        "nodes": nodes,
        "started": round(started, 1),
        "ended": round(ended, 1),
        "from_step": where.get("from_step", 0),
        "to_step": run.saved_step,
        "status": state,
        "reason": run.summary.get("error") or run.summary.get("reason") or REASONS.get(state, ""),
        "node_hours": nodes * max(0.0, ended - started) / 3600,
    }


def slices(run: Run) -> list[dict[str, Any]]:
    """Every launch of a run, oldest first, as `this_slice` gives it."""
    now = this_slice(run)
    return run.read_rows("history.jsonl") + ([now] if now else [])


def find(root: str | Path, job: str | None = None) -> list[Run]:
    """The run folders under `root`, oldest first."""
    found = [Run(p.parent) for p in Path(root).glob("*/settings.json")]
    found.sort(key=lambda run: (run.folder / "settings.json").stat().st_mtime)
    return [run for run in found if job is None or run.job == job]


def table(pattern: str = "runs/*") -> pd.DataFrame:
    """One row per run folder that matches: its settings, its headline numbers, status and folder."""
    folders = [Path(found) for found in sorted(glob.glob(str(pattern)))]
    rows = []
    for folder in folders:
        if (folder / "settings.json").is_file():
            run = Run(folder)
            scalars = {k: v for k, v in run.summary.items() if not isinstance(v, dict | list)}
            rows.append({"job": run.job, **run.settings, **scalars, "status": run.status, "folder": str(folder)})
    return pd.DataFrame(rows)
