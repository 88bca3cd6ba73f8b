"""Run a grid's rows on this machine, one after the other, by `geofm run`: what a laptop has instead of Slurm."""

import subprocess
import sys
from collections.abc import Iterator

from geofm_lib.runs import grid
from geofm_lib.runs.run import shown


def run(rows: list[grid.Row], limit: int | None = None) -> Iterator[tuple[grid.Row, str]]:
    """Run what is not finished; gives (row, what became of it) for every row, as it is done.

    Args:
        limit: how many rows are started, the others are left. None: all.
    """
    started = 0
    for row in rows:
        missing = [each.name for each in rows if each.name in row.after and not each.finished]
        if row.finished:
            yield row, "finished before"
        elif row.nodes > 1:
            yield row, f"left: it needs {row.nodes} nodes, and this is one machine"
        elif missing:
            yield row, f"left: it needs {', '.join(missing)}"
        elif started == limit:
            yield row, f"left: {limit} rows were asked for"
        else:
            started += 1
            code = subprocess.run(command(row), check=False).returncode
            why = f"failed with exit code {code}; its page is in {shown(row.folder)}"
            yield row, why if code else "finished"


def command(row: grid.Row) -> list[str]:
    """The command line that runs a row."""
    ranks = [] if "ranks" in row.parameters else ["-p", "ranks", str(row.ranks)]
    return [sys.executable, "-m", "geofm_lib", "run", str(row.notebook), *ranks, *row.words]
