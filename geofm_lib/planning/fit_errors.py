"""How far a fitted machine's numbers, and a run on it, may be off.

* A run: the residuals over the points that are left when each number that they can tell has had one, together with the
  row's own guess, which counts as GUESS_POINTS points more. So none left is no certainty, and one left is no alarm.
  Student's t makes few points wide.
* A fitted number: the error of the least squares, with what it has in common with the others (``loads``).
* An assumed number: its spread. What it is off takes the fitted ones with it, as far as they follow the points. So
  assuming a number is never surer than fitting it.
"""

from math import sqrt
from typing import Any

import numpy as np
from scipy.stats import t

from geofm_lib.catalog import speeds
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.metrics import counted
from geofm_lib.planning import steps
from geofm_lib.planning.planner import LIKELY
from geofm_lib.planning.points import Point

GUESS_POINTS = 2  # as many points as the guess of a run's spread counts
LEAST = 0.02  # of a run, however well a few points agree
SMALL = 1e-4  # log: an error that is less is none
SLOPE = 0.01  # log: a step of a number, for its slope
Asked = tuple[Point, steps.Demand, Machine]
Rows = list[dict[str, Any]]


def of_a_run(residuals: np.ndarray, left: int, before: Rows) -> tuple[float, str, str]:
    """(log step time, fitted or assumed, its source) of a run beside the fit."""
    guess = next(row["value"] for row in before if row["name"] == "run")
    count = GUESS_POINTS + left
    run = max(LEAST, sqrt((GUESS_POINTS * guess**2 + float(residuals @ residuals)) / count))
    run *= float(t.ppf(0.95, count)) / LIKELY
    if not left:
        return run, "assumed", "a guess: no more points than numbers"
    return run, "fitted", f"residuals of {counted(left, 'point')} more than numbers, and {guess:g} as guessed"


def with_loads(rows: Rows, fitted: dict[str, float], asked: list[Asked], run: dict[str, Any]) -> Rows:
    """The rows with ``loads`` and ``spread``; ``fitted`` says how far each of those numbers may be from any guess."""
    sizes = {row["name"]: row["spread"] for row in rows if row["spread"] and row["name"] not in fitted}
    slope = np.array([_slope(rows, name, asked) for name in (*fitted, *sizes)]).T / run["value"]
    own, others = slope[:, : len(fitted)], slope[:, len(fitted) :] * list(sizes.values())
    covariance = np.linalg.inv(own.T @ own + np.diag([each**-2 for each in fitted.values()]))
    followed = -covariance @ own.T @ others  # fitted numbers x assumed ones
    errors = [*(f"fit_{i}" for i in range(len(fitted))), *sizes]
    loads = {name: {name: size} for name, size in sizes.items()}
    for name, *parts in zip(fitted, np.linalg.cholesky(covariance), followed, strict=True):
        each = zip(errors, np.concatenate(parts).tolist(), strict=True)
        loads[name] = {error: by for error, by in each if abs(by) > SMALL}
    return [loaded(row, loads[row["name"]]) if row["name"] in loads else row for row in rows]


def loaded(row: dict[str, Any], loads: dict[str, float]) -> dict[str, Any]:
    """A row with these errors, and the spread that they make together."""
    return row | {"loads": loads, "spread": sqrt(sum(by**2 for by in loads.values()))}


def _slope(rows: Rows, name: str, asked: list[Asked]) -> np.ndarray:
    """By how much the log step time of each point moves with the log of a number (what is hidden: with itself)."""
    ways = [speeds.moved(rows, {name: by}) for by in (-SLOPE, SLOPE)]
    low, high = (np.log([steps.seconds(each, at, now).total for _, each, at in asked]) for now in ways)
    return (high - low) / (2 * SLOPE)
