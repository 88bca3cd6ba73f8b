"""Where a result comes from: the starts of a run, and its commit, parameters, versions, devices and data."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from geofm_lib.figures.display import Table, facts
from geofm_lib.jobs import pace
from geofm_lib.runs import results
from geofm_lib.runs.overview import duration
from geofm_lib.runs.run import Run
from geofm_lib.settings.base import OVERRULED


def chain(run: Run) -> Table:
    """Every job (or launch) that worked on this run, oldest first: when, which steps, how it ended."""
    rows = [
        {
            "job": f"{each['job']}-{each['restart']}" if each["job"] else "",
            "nodes": each["nodes"],
            "began": datetime.fromtimestamp(each["started"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "took": duration(pace.seconds([each])),
            "saved steps": f"{each['from_step']} to {each['to_step']}",
            "status": each["status"],
            "reason": each["reason"],
        }
        for each in run.slices
    ]
    hours, took = sum(each["node_hours"] for each in run.slices), duration(run.seconds or 0.0)
    words = f"This run took {took} in {len(rows)} starts, and {hours:.2f} node-hours of jobs (times are UTC)"
    return Table(pd.DataFrame(rows), words)


def colophon(run: Run | None = None, runs: Sequence[Run] = ()) -> Table:
    """Where a result comes from: commit, parameters, versions, host and devices, data, duration.

    `runs`: those that a page without a run of its own reads; their commits are named.
    """
    if run is None:
        here = results.environment()
        made = {"commit": here["commit"], "made": here["launched"], "host": here["launcher_host"]}
        made |= {"commits of the runs": _commits(runs)}
        return facts(made | {"packages": _packages(here)}, "Provenance")
    summary, where = run.summary, run.environment
    slurm = where.get("slurm_job") and f"{where['slurm_job']} (restart {where.get('slurm_restart') or 0})"
    start = run.read_json("init.json")
    found = {
        "run folder": run.folder.name,
        "status": run.status,
        "commit": where.get("commit"),
        "launched": where.get("launched"),
        "duration": None if run.seconds is None else duration(run.seconds),
        "host": ", ".join(where.get("nodes") or []) or where.get("host") or where.get("launcher_host"),
        "device": where.get("device"),
        "torch is built for": where.get("torch_build"),
        "ranks": where.get("ranks"),
        "threads per rank": where.get("threads_per_rank"),
        "data": run.dataset,
        "data fingerprint": summary.get("fingerprint") or run.resolved.get("data_fingerprint"),
        "started from": f"{start['from']} (SHA-256 {start['digest']})" if start else "",
        "branch of": "; before that ".join(map(_branched, reversed(run.resolved.get("ancestry", [])))),
        "changed for this model": "; ".join(start.get("notes", [])),
        "Slurm job": slurm,
        "Python": where.get("python") and f"{where['python']} on {where.get('platform', '')}",
        "packages": _packages(where),
        "parameters": ", ".join(f"{name}={value!r}" for name, value in _counting(run).items()),
    }
    return facts(found, "Provenance, read from the run folder")


def _commits(runs: Sequence[Run]) -> str:
    """Of which commits runs are: 'COMMIT (NAME, NAME)', a part a commit."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.environment.get("commit") or "not noted", []).append(run)
    return "; ".join(f"{commit} ({', '.join(each.folder.name for each in there)})" for commit, there in found.items())


def _counting(run: Run) -> dict[str, Any]:
    """The settings without those that `data` overrules."""
    unused = OVERRULED if run.settings.get("data") else ()
    return {name: value for name, value in run.settings.items() if name not in unused}


def _branched(ancestor: dict[str, Any]) -> str:
    """A run that this one comes from: its folder and step, the checkpoint's digest, and what was changed there."""
    changed = ", ".join(f"{name} {there!r} -> {here!r}" for name, (there, here) in ancestor["changed"].items())
    digest = f" (manifest SHA-256 {ancestor['digest']})" if ancestor["digest"] else ", its first weights"
    return f"{ancestor['run']} at step {ancestor['step']}{digest}: {changed or 'nothing changed'}"


def _packages(environment: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in environment.get("packages", {}).items())
