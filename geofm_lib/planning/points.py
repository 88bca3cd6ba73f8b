"""Measured or published speeds of one machine, one ``Point`` each: what `geofm calibrate` fits to."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from geofm_lib.catalog import strategies
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.metrics import counted
from geofm_lib.catalog.models import Model
from geofm_lib.planning import steps
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.point_table import OTHERWISE, USUAL

WHOLE = ("batch_per_gpu", "nodes", "ranks", "image_size", "patch_size")
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16", "amp": "bf16"}
YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Point:
    """One speed with its conditions."""

    where: str  # its row or run, for sentences
    model: Model
    strategy: str
    nodes: int
    ranks: int
    batch: int
    images_per_s: float
    how: Conditions
    size: dict[str, Any] = field(default_factory=dict)  # as in weights.describe
    cells: dict[str, str] = field(default_factory=dict)  # what can be asked for by column

    @property
    def per_node(self) -> int:
        """Ranks on a node."""
        return math.ceil(self.ranks / self.nodes)

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.ranks * self.batch / self.images_per_s

    @property
    def demand(self) -> steps.Demand:
        """What the step asks for."""
        world, per_node = self.ranks, self.per_node
        return steps.demand(self.model, self.strategy, world, per_node, self.batch, self.how, **self.size)


def matching(cells: dict[str, str], asked: dict[str, list[str]]) -> bool:
    """Has a row one of the values asked for in each column? ``fit_*`` stands for all that begin so."""
    return all(any(fnmatchcase(cells.get(name, ""), each) for each in values) for name, values in asked.items())


def asked_for(words: Iterable[str]) -> dict[str, list[str]]:
    """``nodes=1,2`` -> {"nodes": ["1", "2"]}; ValueError for other words."""
    found = {}
    for word in words:
        name, mark, values = word.partition("=")
        if not mark or not name or not values:
            raise ValueError(f"--on takes COLUMN=VALUE,VALUE, such as nodes=1,2; '{word}' was given.")
        if (name := OTHERWISE.get(name, name)) in found:
            raise ValueError(f"--on names the column {name} twice; give all its values at once, with commas.")
        found[name] = [each.strip() for each in values.split(",")]
    return found


def chosen(points: list[Point], asked: dict[str, list[str]]) -> list[Point]:
    """The points that have one of the values in each column; ValueError for a column or value that no point has."""
    for name, values in asked.items():
        there = list(dict.fromkeys(point.cells[name] for point in points if name in point.cells))
        if not there:
            raise ValueError(f"--on: no point has a column {name}; there are {', '.join(points[0].cells)}.")
        for value in values:
            if not any(fnmatchcase(each, value) for each in there):
                raise ValueError(f"--on: no point has {name}={value}; there are {', '.join(there)}.")
    found = [point for point in points if matching(point.cells, asked)]
    if not found:
        raise ValueError("--on: no point has all of these values; leave one out.")
    return found


def check(cells: dict[str, str], machine: Machine) -> None:
    """Refuse what ``point`` would, as far as it can be told without the model, whose building takes long."""
    _conditions(cells["where"], USUAL | {"images_per_s": "1"} | cells, machine)


def point(cells: dict[str, str], model: Model, machine: Machine) -> Point:
    """The point of a row; ValueError names the row, the column and what is wrong."""
    where, cells = cells["where"], USUAL | cells
    numbers, speed, how = _conditions(where, cells, machine)
    size: dict[str, Any] = {name: numbers[name] for name in ("image_size", "patch_size") if name in numbers}
    if model.built:  # read at its size
        size = {}
    try:
        made = Point(where, model, cells["strategy"], numbers["nodes"], numbers["ranks"], numbers["batch_per_gpu"],
                     speed, how, size, cells | {"ranks": str(numbers["ranks"])})  # fmt: skip
        _ = made.demand
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return made


def _conditions(where: str, cells: dict[str, str], machine: Machine) -> tuple[dict[str, int], float, Conditions]:
    """(whole numbers by their columns, images/s, how a step was run)."""
    numbers = {name: _whole(where, name, cells[name]) for name in WHOLE if name in cells}
    try:
        speed = float(cells["images_per_s"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{where}: images_per_s must be a number; {cells.get('images_per_s', '')!r} is none."
        ) from None
    if not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"{where}: images_per_s must be above 0; {cells['images_per_s']} was given.")
    how: dict[str, Any] = {"workload": cells["workload"]}
    how["precision"] = PRECISIONS.get(cells["precision"].lower(), cells["precision"])
    for name in ("activation_checkpointing", "fused_attention"):
        text = cells[name].lower()
        if text not in YES_NO:
            raise ValueError(f"{where}: {name} must be yes or no; {text!r} was given.")
        how[name] = YES_NO[text]
    nodes = numbers["nodes"]
    ranks = numbers.setdefault("ranks", nodes * machine.devices_per_node)
    if ranks < nodes or ranks > nodes * machine.devices_per_node:
        raise ValueError(
            f"{where}: {counted(ranks, 'rank')} do not fit {counted(nodes, 'node')} of "
            f"{counted(machine.devices_per_node, 'device')} ({machine.name})."
        )
    try:
        strategies.resolve(strategies.lookup(cells["strategy"]), ranks)
        return numbers, speed, Conditions(**how)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _whole(where: str, name: str, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number < 1 or number != int(number):
        raise ValueError(f"{where}: {name} must be a whole number from 1 on; {text!r} was given.")
    return int(number)
