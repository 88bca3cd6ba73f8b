"""A machine's row from a few speeds: which numbers they can tell, the fit, its spread, and what it predicts.

Few numbers, in this order, each fitted only where the points differ in what it decides:

* ``share_bf16``, ``share_fp32``: achieved share of the peak, one at any width;
* ``link_share``: of the links inside a node, where points send more and less there for an operation;
* ``group_share``: of a node's network, where points send more and less across nodes;
* ``activation_share``: of the memory's bandwidth in all that is no matrix product, where models or sizes differ.

The fit is least squares of log step times. Each number is held loosely by its value in the row that it began from. The
spread of a run is that of the residuals over the points that are left when each number has had one; Student's t makes
it wide where those are few. Where none is left it is stated: UNTOLD.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t

from geofm_lib.catalog import speeds
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.metrics import counted
from geofm_lib.planning import steps
from geofm_lib.planning.planner import LIKELY
from geofm_lib.planning.points import Point

UNTOLD = 0.05  # log step time, where no point is left to tell it
SURE = 0.03  # log step time: how closely points are followed, as in planning/calibrate
LEAST = 0.02  # of a run, however well a few points agree
HELD = {"link_share": 3.0, "group_share": 3.0}  # log: how loosely a number is held by its value before
LOOSE = 1.5  # the same of the others
APART = 0.1  # log: bytes for an operation differ so much before their speed is fitted
MEANT = {
    "share_bf16": "achieved share of the bf16 peak", "share_fp32": "achieved share of the fp32 peak",
    "link_share": "achieved share of the links inside a node",
    "group_share": "share of a node's network that one group alone achieves",
    "activation_share": "achieved share of the memory's bandwidth in norms, activations and attention",
}  # fmt: skip
BEFORE = {"activation_share": 0.7}
NONSENSE = 2.0  # a fit that misses one of its own points by more is none
MOST = 1.05  # of a peak: what is more was not measured so
TOO_SLOW = 0.002  # of a peak: less is a wrong unit


@dataclass(frozen=True)
class Fit:
    """A machine and its speeds, as fitted to ``points`` points."""

    machine: Machine
    rows: list[dict[str, Any]]  # as in speeds.csv
    fitted: tuple[str, ...]
    points: int

    @property
    def told(self) -> str:
        """How many points fitted how many numbers, and which."""
        own = [f"{row['name']} {row['value']:.3g} (x/÷ {1 + row['spread']:.2f})" for row in self.rows
               if row["name"] in self.fitted]  # fmt: skip
        return f"{counted(self.points, 'point')} fit {counted(len(own), 'number')}: {', '.join(own)}"

    def predicted(self, point: Point) -> dict[str, Any]:
        """images_per_s, low and high of a point's conditions on this machine; low to high should hold nine of ten."""
        values, spreads = speeds.of(self.rows), speeds.of(self.rows, "spread")
        asked = point.demand
        step = steps.seconds(asked, self.machine.with_ranks(point.per_node), values)
        spread = steps.spread(asked, step, values.value["run"], spreads)
        speed = point.ranks * point.batch / step.total
        return {"images_per_s": speed, "low": speed * exp(-LIKELY * spread), "high": speed * exp(LIKELY * spread),
                "exposed": step.exposed / step.total}  # fmt: skip


def told_by(points: list[Point]) -> list[str]:
    """The numbers that these points can tell, the surest first, never more than there are points."""
    found = sorted({f"share_{point.how.precision}" for point in points})
    inside = [point for point in points if point.nodes == 1]
    for name, told, bytes_of in (
        ("link_share", inside, lambda each: sum(way.sent for way in each.transfers)),
        ("group_share", points, lambda each: sum(way.sent for way in each.transfers if way.crossing)),
        ("activation_share", points, lambda each: each.moved_bytes),
    ):
        per = [bytes_of(point.demand) / sum(part for _, part in point.demand.flops) for point in told]
        if per and max(per) > min(per) * exp(APART):
            found.append(name)
    return found[: len(points)]


def fit(points: list[Point], machine: Machine, before: list[dict[str, Any]], names: Iterable[str] = ()) -> Fit:
    """Fit ``names`` (none: those that the points can tell); ``before`` are the speeds that it begins from.

    ValueError, one sentence: fewer than two points, more numbers than points, or a speed that no such machine reaches.
    """
    if len(points) < 2:
        raise ValueError(f"{len(points)} point tells nothing of how far a plan is off; give at least two.")
    seen: dict[tuple[Any, ...], str] = {}
    for point in points:
        same = (point.model.name, point.strategy, point.nodes, point.ranks, point.batch, point.how, point.images_per_s)
        if same in seen:
            raise ValueError(f"{point.where} is {seen[same]} once more, which would narrow intervals; give it once.")
        seen[same] = point.where
    names = list(names) or told_by(points)
    if len(set(names)) < len(names):
        raise ValueError("A number to fit is named twice (--fit); name each once.")
    if unknown := [name for name in names if name not in MEANT]:
        raise ValueError(f"'{unknown[0]}' cannot be fitted; {', '.join(MEANT)} can.")
    if len(names) > len(points):
        raise ValueError(f"{len(points)} points cannot fit {len(names)} numbers ({', '.join(names)}); give more.")
    rows = [row for row in before if not (row["at"] and row["name"] in names)]  # a curve makes place for one number
    begin = {name: _before(before, name) for name in {*names, "activation_share"}}
    rows = [row for row in rows if row["name"] not in begin]
    rows += [_row(name, value, 0.3, "assumed", "a guess") for name, value in begin.items() if name not in names]
    start = np.array([log(begin[name]) for name in names])
    held = np.array([HELD.get(name, LOOSE) for name in names])
    asked = [(point, point.demand, machine.with_ranks(point.per_node)) for point in points]

    def off(inner: np.ndarray) -> np.ndarray:
        own = [_row(name, exp(x), 0.0, "fitted", "") for name, x in zip(names, inner, strict=True)]
        now = speeds.of([*rows, *own])
        return np.array([log(steps.seconds(each, at, now).total / point.step_s) for point, each, at in asked])

    found = least_squares(lambda inner: np.concatenate([off(inner) / SURE, (inner - start) / held]), start)
    left, residuals = len(points) - len(names), off(found.x)
    worst = int(np.argmax(np.abs(residuals)))
    if abs(residuals[worst]) > log(NONSENSE):
        raise ValueError(
            f"{points[worst].where}: {points[worst].images_per_s:g} images/s cannot be where the other points and "
            f"{machine.name} are (the nearest fit is {exp(residuals[worst]):.2g} times slower); look at images_per_s, "
            "batch, ranks and precision."
        )
    run = max(UNTOLD, sqrt(float(residuals @ residuals) / len(points)))
    if left:
        scale = t.ppf(0.95, left) / LIKELY
        run = max(LEAST, sqrt(float(residuals @ residuals) / left)) * float(scale)
    error = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac))) * max(1.0, run / SURE)
    source = f"fit of {counted(len(names), 'number')} to {counted(len(points), 'point')}"
    fitted = [
        _row(name, exp(x), min(float(e), 1.0), "fitted", source)
        for name, x, e in zip(names, found.x, error, strict=True)
    ]
    for row in fitted:
        if row["name"].startswith("share_") and row["value"] > MOST and not machine.measured:
            raise ValueError(
                f"These speeds would need {row['value']:.1f} times what {machine.name} can do ({row['name']}, "
                f"{row['meaning']}); look at images_per_s, batch, ranks and precision, or fit other numbers (--fit)."
            )
        if row["name"].startswith("share_") and row["value"] < TOO_SLOW and not machine.measured:
            raise ValueError(
                f"These speeds would need only {row['value']:.1g} of what {machine.name} can do ({row['name']}, "
                f"{row['meaning']}); look at the unit of images_per_s, batch, ranks and precision."
            )
    how = f"residuals; {counted(left, 'point')} more than numbers" if left else "a guess: no more points than numbers"
    spread = _row("run", run, 0.0, "fitted" if left else "assumed", how) | {"unit": "log", "meaning": "spread of a run"}
    kept = [row for row in rows if row["name"] != "run"]
    return Fit(machine, [*fitted, spread, *kept], tuple(names), len(points))


def carried(fit: Fit, machine: Machine) -> Fit:
    """A fit taken to another machine by the two data sheets alone.

    Shares of memory, links and network stay. The share of the peak does not: more operations a second need more power,
    and a peak that grew more than the power is reached less. The gain of matrix products lies between that of the
    power and that of the peak: the middle of both (of their logarithms) is taken, and nine of ten should lie between.
    """
    before = fit.machine
    if not machine.watts or not before.watts:
        raise ValueError(f"The power of {machine.name if before.watts else before.name} is not known (watts).")
    rows = []
    for row in fit.rows:
        if row["name"].startswith("share_"):
            name = f"peak_{row['name'][6:]}_tflops"
            peak, power = getattr(machine, name) / getattr(before, name), machine.watts / before.watts
            apart = abs(log(peak / power)) / 2
            spread = sqrt(row["spread"] ** 2 + (apart / LIKELY) ** 2)
            less = sqrt(power / peak)
            source = f"that of {before.name} x {less:.2f}, by data sheets: power x {power:.2f}, peak x {peak:.2f}"
            row = row | {"value": row["value"] * less, "spread": spread, "kind": "stated", "source": source}
        elif row["kind"] == "fitted":
            row = row | {"kind": "stated", "source": f"as fitted on {before.name}"}
        rows.append(row)
    return replace(fit, machine=machine, rows=rows)


def _row(name: str, value: float, spread: float, kind: str, source: str) -> dict[str, Any]:
    at = 1.0 if name.startswith("share_") else None  # a curve of one point: the same at any width
    return {"name": name, "at": at, "value": value, "spread": spread, "unit": "of peak", "kind": kind,
            "meaning": MEANT.get(name, name), "source": source}  # fmt: skip


def _before(rows: list[dict[str, Any]], name: str) -> float:
    """A number's value before the fit; of a curve, its middle point's."""
    found = [row["value"] for row in rows if row["name"] == name]
    return found[len(found) // 2] if found else BEFORE[name]
