"""Check a grid of runs and send it to Slurm, or run it here.

    python batch/submit.py batch/grids/small.csv                         check, and show the sbatch lines
    python batch/submit.py batch/grids/small.csv --send                  send what is neither finished nor queued
    python batch/submit.py batch/grids/small.csv --status                where every row stands
    python batch/submit.py batch/grids/small.csv --here                  run the rows of one node on this machine
    python batch/submit.py batch/grids/weak_scaling.csv --site frontier --send -- -A PROJECT

Words after -- go to sbatch. Exit code 1 when a row was refused or failed: the others are sent, or run, nevertheless.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geofm_lib.runs import grid, local, queue


def main(words: list[str]) -> int:
    """The command line."""
    words, extra = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a CSV file; geofm_lib/runs/grid.py says what stands in it")
    parser.add_argument("--site", default="slurm", help="batch/SITE.sh starts the jobs (slurm)")
    parser.add_argument("--send", action="store_true", help="send the rows")
    parser.add_argument("--here", action="store_true", help="run the rows here, one after the other, without Slurm")
    parser.add_argument("--status", action="store_true", help="say where the rows stand")
    parser.add_argument("--limit", type=int, metavar="N", help="never more than N of your jobs in the queue; the rows "
                        "beyond it are left for the next --send (otherwise the site's limit); with --here: how many "
                        "rows are run")  # fmt: skip
    options = parser.parse_args(words)
    site, failed = queue.Site(options.site, tuple(extra)), False
    try:
        if not site.script.is_file():
            raise ValueError(f"there is no '{site.script}' here; start in the repository's folder")
        rows, faults = grid.read(options.grid, site.machine)
        for fault in faults:
            print(f"{options.grid}: {fault}", file=sys.stderr)
        if options.status:
            table = queue.status(rows)
            print(table.to_string(index=False, na_rep=""))
            print(f"{len(table)} runs: {counts(table)}; {table['node_hours'].sum():.2f} node-hours")
        elif options.here:
            for row, outcome in local.run(rows, options.limit):
                print(f"{row.name}: {outcome}", flush=True)
                failed = failed or outcome.startswith("failed")
        elif options.send:
            for row, outcome in queue.send(rows, site, options.limit):
                print(f"{row.name}: {outcome}")
        else:
            print("\n".join(queue.lines(rows, site)))
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if faults or failed else 0


def counts(table) -> str:
    """'3 finished, 2 running' of a status table."""
    return ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
