"""A machine's row from a few speeds: which numbers they can tell, the fit, its spread, and what it predicts.

Few numbers, in this order, each fitted only where the points differ in what it decides:

* ``share_bf16``, ``share_fp32``: achieved share of the peak, one at any width;
* ``link_share``: of the links inside a node, where points send more and less there for an operation;
* ``group_share``: of a node's network, where points send more and less across nodes;
* ``activation_share``: of the memory's bandwidth in all that is no matrix product, where models or sizes differ.

The fit is least squares of log step times. Each number is held loosely by its value in the row that it began from.
How far it may be off is the concern of ``fit_errors``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, hypot, log, sqrt
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from geofm_lib.catalog import speeds
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.metrics import counted
from geofm_lib.planning import fit_errors, steps
from geofm_lib.planning.fit_errors import Asked
from geofm_lib.planning.planner import LIKELY
from geofm_lib.planning.points import Point

PEAKS = ("share_bf16", "share_fp32")
GUESSED = {"group_share": 1.0, "link_share": 1.0}  # log: how far such a number may be from a guess
GUESSED |= dict.fromkeys((*PEAKS, "activation_share"), 0.5)
SURE = 0.03  # log step time: how closely points are followed, as in planning/calibrate
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
MOST_MOVED = 2.0  # of a bandwidth: caches and fused operations make up for less
TOO_SLOW = 0.002  # of a peak: less is a wrong unit


@dataclass(frozen=True)
class Fit:
    """A machine and its speeds, as fitted to ``points`` points."""

    machine: Machine
    rows: list[dict[str, Any]]  # as in speeds.csv
    fitted: tuple[str, ...]
    points: int
    left: int = 0  # points more than numbers that they can tell

    @property
    def told(self) -> str:
        """How many points fitted how many numbers, and which."""
        own = [f"{row['name']} {row['value']:.3g} (x/÷ {exp(row['spread']):.2f})" for row in self.rows
               if row["name"] in self.fitted]  # fmt: skip
        said = f"{counted(self.points, 'point')} fit {counted(len(own), 'number')}: {', '.join(own)}"
        for row in self.rows:
            if row["name"] in self.fitted and row["value"] > 1:
                said += f"; look: {row['name']} {row['value']:.3g} is above 1, more than {self.machine.name} can do"
                said += f" ({row['meaning']}): these points do not tell it and the others apart"
        return said

    def predicted(self, point: Point) -> dict[str, Any]:
        """images_per_s, low and high of a point's conditions on this machine; low to high should hold nine of ten."""
        known, machine, asked = speeds.known(self.rows), self.machine.with_ranks(point.per_node), point.demand
        step = steps.seconds(asked, machine, known.values)
        spread = steps.spread(asked, machine, step, known)
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
        raise ValueError(f"{counted(len(points), 'point')} tells nothing of how far a plan is off; give at least two.")
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
    asked = [(point, point.demand, machine.with_ranks(point.per_node)) for point in points]
    found, rows, residuals = _solved(asked, before, names)
    worst = int(np.argmax(np.abs(residuals)))
    if abs(residuals[worst]) > log(NONSENSE):
        raise ValueError(
            f"{points[worst].where}: {points[worst].images_per_s:g} images/s cannot be where the other points and "
            f"{machine.name} are (the nearest fit is {exp(abs(residuals[worst])):.2g} times "
            f"{'slower' if residuals[worst] > 0 else 'faster'}); look at images_per_s, batch, ranks and precision."
        )
    source = f"fit of {counted(len(names), 'number')} to {counted(len(points), 'point')}"
    fitted = [_row(name, value, 0.0, "fitted", source) for name, value in found.items()]
    _refuse_nonsense(fitted, machine)
    told = told_by(points)
    left = len(points) - max(len(names), len(told))  # a number that is held at a guess frees no point
    run, kind, how = fit_errors.of_a_run(residuals, left, before)
    spread = _row("run", run, 0.0, kind, how) | {"unit": "log", "meaning": "spread of a run"}
    off = {}
    if missing := [name for name in told if name not in names]:  # how far their guesses are from what the points say
        said, _, _ = _solved(asked, before, [*names, *missing][: len(points)])
        off = {name: abs(log(said[name] / _before(before, name))) for name in missing if name in said}
    kept = []
    for row in (row for row in rows if row["name"] != "run"):
        least = hypot(GUESSED.get(row["name"], 0.0), off.get(row["name"], 0.0))
        kept.append(row | {"spread": max(row["spread"], least)})
    both = fit_errors.with_loads([*fitted, *kept], {name: GUESSED[name] for name in names}, asked, spread)
    return Fit(machine, [*both[: len(fitted)], spread, *both[len(fitted) :]], tuple(names), len(points), left)


def _solved(
    asked: list[Asked], before: list[dict[str, Any]], names: list[str]
) -> tuple[dict[str, float], list[dict[str, Any]], np.ndarray]:
    """(the numbers ``names`` by least squares, the rows of the others, log of predicted over given step times)."""
    rows = [row for row in before if not (row["at"] and row["name"] in names)]  # a curve makes place for one number
    begin = {name: _before(before, name) for name in {*names, "activation_share"}}
    rows = [row for row in rows if row["name"] not in begin]
    rows += [_row(name, value, 0.3, "assumed", "a guess") for name, value in begin.items() if name not in names]
    start = np.array([log(begin[name]) for name in names])
    held = np.array([HELD.get(name, LOOSE) for name in names])

    def off(inner: np.ndarray) -> np.ndarray:
        own = [_row(name, exp(x), 0.0, "fitted", "") for name, x in zip(names, inner, strict=True)]
        now = speeds.of([*rows, *own])
        return np.array([log(steps.seconds(each, at, now).total / point.step_s) for point, each, at in asked])

    found = least_squares(lambda inner: np.concatenate([off(inner) / SURE, (inner - start) / held]), start)
    return {name: exp(x) for name, x in zip(names, found.x, strict=True)}, rows, off(found.x)


def _refuse_nonsense(fitted: list[dict[str, Any]], machine: Machine) -> None:
    """ValueError where a number of a data sheet would be exceeded, or the peak hardly used: something is wrong."""
    for row in [] if machine.measured else fitted:
        peak = row["name"] in PEAKS
        what = f"what {machine.name} can do ({row['name']}, {row['meaning']})"
        if row["value"] > (MOST if peak else MOST_MOVED):
            raise ValueError(
                f"These speeds would need {row['value']:.1f} times {what}; look at images_per_s, batch, ranks and "
                "precision, or fit other numbers (--fit)."
            )
        if peak and row["value"] < TOO_SLOW:
            raise ValueError(
                f"These speeds would need only {row['value']:.1g} of {what}; look at the unit of images_per_s, batch, "
                "ranks and precision."
            )


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
            less = sqrt(power / peak)
            source = f"that of {before.name} x {less:.2f}, by data sheets: power x {power:.2f}, peak x {peak:.2f}"
            row = fit_errors.loaded(row, row["loads"] | {f"carried_{row['name']}": apart / LIKELY})
            row |= {"value": row["value"] * less, "kind": "stated", "source": source}
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
