"""How fast each machine really is: the few numbers of the planner's step-time model, one row each.

They stand in ``speeds.csv`` (machine, name, at, value, spread, unit, kind, meaning, source), a user's own in the file
of their machine. ``value`` is what is used and ``spread`` its standard deviation, as a factor (0.1: about 10 % either
way). ``kind`` is ``fitted`` (written by ``geofm calibrate``), ``stated`` (from a source) or ``assumed`` (a guess worth
testing). A fitted machine's rows have ``loads`` too: by which factor (a logarithm) each independent error, by its name,
moves the number; errors that move several numbers together stand in the rows of all of them.
A row with ``at`` is one point of a curve over that number: the achieved share of the peak over the model's width.
"""

import csv
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import NamedTuple

from geofm_lib.catalog import machines

FILE = Path(__file__).with_name("speeds.csv")
FACTS = ("peak_bf16_tflops", "peak_fp32_tflops", "memory_gb_s", "memory_gib", "links_gb_s", "network_gb_s")
COLUMNS = ("machine", "name", "at", "value", "spread", "unit", "kind", "meaning", "source")


@dataclass(frozen=True)
class Speeds:
    """One machine's numbers: ``value["start_up_s"]`` for a single one, ``curve["share_bf16"]`` for [(at, value)]."""

    value: dict[str, float]
    curve: dict[str, list[tuple[float, float]]]


class Known(NamedTuple):
    """What is known of a machine's speeds: values, spreads, and the values as each error would move them, both ways.

    ``moved`` is empty where only spreads are known.
    """

    values: Speeds
    spreads: Speeds
    moved: tuple[tuple[Speeds, Speeds], ...] = ()


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


def known(table: list[dict]) -> Known:
    """Of some rows; a number without ``loads`` beside others that have some is an error of its own."""
    loads: dict[str, dict[str, float]] = {}
    for row in table if any("loads" in row for row in table) else ():
        own = row.get("loads", {row["name"]: row["spread"]})
        for error, by in own.items():
            loads.setdefault(error, {})[row["name"]] = by
    both = tuple((moved(table, by, -1), moved(table, by)) for by in loads.values() if any(by.values()))
    return Known(of(table), of(table, "spread"), both)


def moved(table: list[dict], by: dict[str, float], way: int = 1) -> Speeds:
    """The numbers, some of them moved by a factor; a share that is hidden, which may be 0, by a part of the whole."""
    found = []
    for row in table:
        value, off = row["value"], way * by.get(row["name"], 0.0)
        hides = row["name"].startswith("overlap")
        found.append(row | {"value": min(max(value + off, 0.0), 1.0) if hides else value * exp(off)})
    return of(found)


def table(machine: str) -> list[dict]:
    """One machine's rows, the shipped ones or the user's own; ValueError in one sentence when nothing is known."""
    if not (found := rows(machine)):
        own = (machines.own(machine) or {"speeds": []})["speeds"]
        found = [{"machine": machine, "at": None, **row} for row in own]
    if not found:
        known = ", ".join(dict.fromkeys(row["machine"] for row in rows()))
        raise ValueError(f"Nothing is known of the speed of the machine '{machine}'; it is known of {known}.")
    return found


def lookup(machine: str) -> Known:
    """What is known of a machine; ValueError in one sentence when it is nothing."""
    return _shipped(machine) if machine in machines.MACHINES else _known(machine)


def _known(machine: str) -> Known:
    return known(table(machine))


_shipped = cache(_known)


def basis(machine: str) -> dict[str, list[str]]:
    """measured, fitted, stated, assumed -> names of the numbers behind a plan that are so, the row's own first."""
    found: dict[str, list[str]] = {kind: [] for kind in machines.KINDS}
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
    """``basis`` in a sentence, as it stands below every plan; of a curve that is several, at which widths."""
    found = basis(machine)
    listed = [name for names in found.values() for name in names]
    points = [row for row in table(machine) if row["at"] and listed.count(row["name"]) > 1]

    def told_of(name: str, kind: str) -> str:
        at = [f"{row['at']:g}" for row in points if (row["name"], row["kind"]) == (name, kind)]
        return f"{name} (at {', '.join(at)})" if at else name

    parts = [f"{kind} {', '.join(told_of(name, kind) for name in names)}" for kind, names in found.items() if names]
    return f"Behind it, of {machine}: {'; '.join(parts)} (--numbers says what each is)."


def explained(machine: str) -> list[str]:
    """Each number behind a plan in a line: value, how sure, unit, how it was obtained, what it means, its source."""
    row = machines.lookup(machine)
    lines = []
    for name in (name for name in FACTS if getattr(row, name)):
        value, kind = getattr(row, name), "measured" if name in row.measured else "stated"
        several = ", ".join(f"{rate:g} up to {most}" for most, rate in value.items()) if isinstance(value, dict) else ""
        lines.append(f"{name} {several or format(value, 'g')}: {kind}; {row.source}")
    for each in table(machine):
        at = f" at {each['at']:g}" if each["at"] and each["at"] > 1 else ""
        off = f"± {each['spread']:.2g}" if each["name"].startswith("overlap") else f"x/÷ {exp(each['spread']):.2f}"
        sure = f" ({off})" if each["spread"] else ""
        told = "; ".join(each[part] for part in ("kind", "meaning", "source"))
        lines.append(f"{each['name']}{at} {each['value']:.3g}{sure} {each['unit']}: {told}")
    return lines


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
