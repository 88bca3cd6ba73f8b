"""Where runs stand, as text for a terminal: the rows of a grid, one run, or all runs."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pandas as pd

from geofm_lib.runs import progress, queue, records
from geofm_lib.runs.grid import Row
from geofm_lib.runs.run import Run, shown


def of_grid(rows: list[Row]) -> str:
    """A table with a line a row, and how many are in which state."""
    table = queue.status(rows)
    total = f"{len(table)} runs: {_counted(table['state'])}; {table['node_hours'].sum():.2f} node-hours"
    return f"{_text(table)}\n{total}" if len(table) else total


def of_run(folder: Path) -> str:
    """Its status, how far it is, what went wrong, every start of it, and where its page is."""
    run = Run(folder)
    lines = [f"{shown(folder)}: {run.status}"]
    if run.status == "running":
        lines.append(progress.line(run))
    lines += [str(run.summary[each]) for each in ("error", "reason") if run.summary.get(each)]
    starts = [
        {"began": _when(each["started"]), "status": each["status"],
         "saved steps": f"{each['from_step']} to {each['to_step']}", "node_hours": f"{each['node_hours']:.3f}"}
        for each in records.slices(run)
    ]  # fmt: skip
    lines += [_text(pd.DataFrame(starts))] if starts else []
    page = folder / "report.html"
    return "\n".join([*lines, *([f"page: {page}"] if page.is_file() else [])])


def of_all(root: Path) -> str:
    """A table with a line a run under `root`, oldest first."""
    runs = records.find(root)
    rows = [
        {
            "run": run.folder.name,
            "status": run.status,
            "ended or last seen": _when(records.this_slice(run).get("ended")),
        }
        for run in runs
    ]
    if not rows:
        return f"there are no runs in '{root}' yet; `geofm run 01` makes the first"
    return f"{_text(pd.DataFrame(rows))}\n{len(rows)} runs in {root}: {_counted(row['status'] for row in rows)}"


def _counted(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def _when(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, na_rep="")
