"""How fast each machine really is: the few numbers of the planner's step-time model, one row each.

They stand in ``speeds.csv`` (machine, name, at, value, spread, unit, kind, meaning, source), a user's own in the file
of their machine. ``value`` is what is used and ``spread`` its standard deviation, as a factor (0.1: about 10 % either
way). ``kind`` is ``fitted`` (written by ``geofm calibrate``), ``stated`` (from a source) or ``assumed`` (a guess worth
testing).
A row with ``at`` is one point of a curve over that number: the achieved share of the peak over the model's width.
"""

import csv
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from geofm_lib.catalog import machines

FILE = Path(__file__).with_name("speeds.csv")
FACTS = ("peak_bf16_tflops", "peak_fp32_tflops", "memory_gb_s", "memory_gib", "links_gb_s", "network_gb_s")
COLUMNS = ("machine", "name", "at", "value", "spread", "unit", "kind", "meaning", "source")


@dataclass(frozen=True)
class Speeds:
    """One machine's numbers: ``value["start_up_s"]`` for a single one, ``curve["share_bf16"]`` for [(at, value)]."""

    value: dict[str, float]
    curve: dict[str, list[tuple[float, float]]]


def rows(machine: str | None = None) -> list[dict]:
    """The table, or one machine's part; ``at``, ``value`` and ``spread`` are numbers (``at`` None for no curve)."""
    with open(FILE, newline="", encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if machine in (None, row["machine"])]
    for row in table:
        row.update(value=float(row["value"]), spread=float(row["spread"]), at=float(row["at"]) if row["at"] else None)
    return table


def of(table: list[dict], column: str = "value") -> Speeds:
    """The numbers of some rows: their values, or their spreads."""
    value: dict[str, float] = {}
    curve: dict[str, list[tuple[float, float]]] = {}
    for row in table:
        if row["at"] is None:
            value[row["name"]] = row[column]
        else:
            curve.setdefault(row["name"], []).append((row["at"], row[column]))
    return Speeds(value, {name: sorted(points) for name, points in curve.items()})


def table(machine: str) -> list[dict]:
    """One machine's rows, the shipped ones or the user's own; ValueError in one sentence when nothing is known."""
    if not (found := rows(machine)):
        own = (machines.own(machine) or {"speeds": []})["speeds"]
        found = [{"machine": machine, "at": None, **row} for row in own]
    if not found:
        known = ", ".join(dict.fromkeys(row["machine"] for row in rows()))
        raise ValueError(f"Nothing is known of the speed of the machine '{machine}'; it is known of {known}.")
    return found


def lookup(machine: str) -> tuple[Speeds, Speeds]:
    """(values, spreads) of a machine; ValueError in one sentence when nothing is known of it."""
    return _shipped(machine) if machine in machines.MACHINES else _both(machine)


def _both(machine: str) -> tuple[Speeds, Speeds]:
    found = table(machine)
    return of(found), of(found, "spread")


_shipped = cache(_both)


def basis(machine: str) -> dict[str, list[str]]:
    """measured, fitted, stated, assumed -> names of the numbers behind a plan that are so, the row's own first."""
    found: dict[str, list[str]] = {kind: [] for kind in ("measured", "fitted", "stated", "assumed")}
    row = machines.lookup(machine)
    for name in FACTS:
        if getattr(row, name):
            found["measured" if name in row.measured else "stated"].append(name)
    for each in table(machine):
        if each["name"] not in found[each["kind"]]:
            found[each["kind"]].append(each["name"])
    return found


def counted(machine: str) -> str:
    """How many of the numbers behind a plan are of each kind: '7 measured, 3 fitted, 2 stated'."""
    return ", ".join(f"{len(names)} {kind}" for kind, names in basis(machine).items() if names)


def told(machine: str) -> str:
    """``basis`` in a sentence, as it stands below every plan."""
    parts = [f"{kind} {', '.join(names)}" for kind, names in basis(machine).items() if names]
    return f"Behind it, of {machine}: {'; '.join(parts)}."


def along(points: list[tuple[float, float]], at: float) -> float:
    """A curve's value: straight lines between its points, proportional below the first, flat beyond the last.

    >>> [along([(100, 0.2), (200, 0.4)], at) for at in (50, 150, 900)]
    [0.1, 0.30000000000000004, 0.4]
    """
    first, last = points[0], points[-1]
    if at <= first[0]:
        return first[1] * at / first[0]
    if at >= last[0]:
        return last[1]
    after = bisect_right([x for x, _ in points], at)
    (left, low), (right, high) = points[after - 1], points[after]
    return low + (high - low) * (at - left) / (right - left)
