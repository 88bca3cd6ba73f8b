"""Why a throughput run is slow, as a table: what `runs/speed_advice` found."""

import pandas as pd

from geofm_lib.figures.display import Table
from geofm_lib.runs import speed_advice
from geofm_lib.runs.run import Run


def slow_steps(run: Run) -> Table:
    """What stands out in a step of this run, the largest part first, each with its advice."""
    known = ", ".join(f"{name} {100 * share:.0f} %" for name, share in speed_advice.shares(run).items())
    empty = f"Nothing stands out. Shares of the step: {known}." if known else "This run measured no parts of a step."
    return Table(pd.DataFrame(speed_advice.found(run), columns=["found", "what to change"]), "", empty)
