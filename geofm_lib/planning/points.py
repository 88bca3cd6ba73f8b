"""Measured or published speeds of one machine, one ``Point`` each: what `geofm calibrate` fits to.

A CSV file has a row a point. COLUMNS says what a column means, and OTHERWISE by which other names it is known: those of
timm's results folder are read as they are.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.models import Model
from geofm_lib.planning import steps
from geofm_lib.planning.conditions import Conditions

COLUMNS = {
    "model": "a row of catalog/models.py, or a ViT of timm's",
    "images_per_s": "of all ranks",
    "batch_per_gpu": "images a rank takes a step",
    "nodes": "default 1",
    "ranks": "default all devices of the nodes",
    "strategy": "default NO_SHARD",
    "image_size": "default 224, or the network's own",
    "patch_size": "default the model's own",
    "precision": "bf16 (also fp16 and amp) | fp32; default bf16",
    "workload": "classify | mae; default classify",
    "activation_checkpointing": "yes | no; default no",
    "fused_attention": "yes | no (before torch 2); default yes",
}
OTHERWISE = {
    "train_samples_per_sec": "images_per_s", "samples_per_s": "images_per_s", "train_batch_size": "batch_per_gpu",
    "train_img_size": "image_size", "gpus": "ranks",
}  # fmt: skip
NEEDED = ("model", "images_per_s", "batch_per_gpu")
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


def table(file: Path, given: dict[str, str]) -> list[dict[str, str]]:
    """The rows as text under their names in COLUMNS, with ``given`` where a file has no such column, and ``where``.

    Lines that begin with # are for the reader. ValueError, one sentence, for what is no table of points.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        if "\0" in "".join(lines):
            raise OSError("it is no text")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"'{file}' cannot be read as a table of points: {error}") from None
    kept = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(line for _, line in kept)
    names = {name: OTHERWISE.get(name.strip(), name.strip()) for name in reader.fieldnames or ()}
    missing = [name for name in NEEDED if name not in {*names.values(), *given}]
    if missing:
        raise ValueError(
            f"'{file}' has no column {missing[0]} ({COLUMNS[missing[0]]}); a table of points needs {', '.join(NEEDED)}."
        )
    found = []
    for (line, _), row in zip(kept[1:], reader, strict=False):
        cells = {names[name]: (value or "").strip() for name, value in row.items() if name in names}
        cells = given | {name: value for name, value in cells.items() if value}
        found.append(cells | {"where": f"row {line} of {file.name}"})
    if not found:
        raise ValueError(f"'{file}' has no row below its header.")
    return found


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
        found[OTHERWISE.get(name, name)] = values.split(",")
    return found


def point(cells: dict[str, str], model: Model, machine: Machine) -> Point:
    """The point of a row; ValueError names the row, the column and what is wrong."""
    where = cells["where"]
    numbers = {name: _whole(where, name, cells[name]) for name in WHOLE if name in cells}
    try:
        speed = float(cells["images_per_s"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{where}: images_per_s must be a number; {cells.get('images_per_s', '')!r} is none."
        ) from None
    if not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"{where}: images_per_s must be above 0; {cells['images_per_s']} was given.")
    how: dict[str, Any] = {"workload": cells.get("workload", "classify")}
    how["precision"] = PRECISIONS.get(cells.get("precision", "bf16"), cells.get("precision"))
    for name, usual in (("activation_checkpointing", "no"), ("fused_attention", "yes")):
        text = cells.get(name, usual).lower()
        if text not in YES_NO:
            raise ValueError(f"{where}: {name} must be yes or no; {text!r} was given.")
        how[name] = YES_NO[text]
    nodes = numbers.get("nodes", 1)
    ranks = numbers.get("ranks", nodes * machine.devices_per_node)
    if ranks < nodes or ranks > nodes * machine.devices_per_node:
        raise ValueError(
            f"{where}: {ranks} ranks do not fit {nodes} nodes of {machine.devices_per_node} devices ({machine.name})."
        )
    size: dict[str, Any] = {name: numbers[name] for name in ("image_size", "patch_size") if name in numbers}
    if model.built:  # read at its size
        size = {}
    try:
        made = Point(where, model, cells.get("strategy", "NO_SHARD"), nodes, ranks, numbers["batch_per_gpu"], speed,
                     Conditions(**how), size, cells)  # fmt: skip
        _ = made.demand
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return made


def _whole(where: str, name: str, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number < 1 or number != int(number):
        raise ValueError(f"{where}: {name} must be a whole number from 1 on; {text!r} was given.")
    return int(number)
