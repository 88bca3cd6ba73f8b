"""`geofm calibrate SOURCES`: a machine's row from a few runs or published speeds, and what it predicts of the others.

The fit is asked for when it is called, since it loads scipy.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from geofm_lib import files, rights
from geofm_lib.catalog import machines
from geofm_lib.catalog.metrics import counted, number, off
from geofm_lib.planning import fitted_to, points
from geofm_lib.planning.points import Point
from geofm_lib.runs import machine_row, measured

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGITS = 4  # of a speed
FLAGS = {  # a condition that is not the usual one of `geofm plan` -> how it is told
    ("workload", "classify"): "--workload classify", ("precision", "fp32"): "--precision fp32",
    ("activation_checkpointing", False): "--no-checkpointing",
}  # fmt: skip
Said = tuple[Point, dict[str, Any]]  # a point, and what is predicted of it


def calibrate(
    sources: Iterable[str],
    name: str | None = None,
    like: str = "",
    on: Iterable[str] = (),
    names: str = "",
    given: Iterable[tuple[str, str]] = (),
) -> str:
    """Fit, write the row called ``name``, and say in words and a table what came out; ValueError, one sentence."""
    from geofm_lib.planning import machine_fit

    file = _file(name) if name is not None else None
    sources, on, given = list(sources), list(on), list(given)
    asked = points.asked_for(on)
    found = measured.read(sources, like, given)
    chosen = points.chosen(found.points, asked)
    machine, left = found.machine, found.left
    fewer = (
        f"{counted(len(left), 'row')} {'was' if len(left) == 1 else 'were'} left out, the first: {left[0]}"
        if left
        else ""
    )
    begin, wanted = measured.before(machine, like or machine.name), [each.strip() for each in names.split(",")]
    try:
        fit = machine_fit.fit(chosen, machine, begin, [each for each in wanted if each])
    except ValueError as error:
        raise ValueError(f"{error} {fewer}".strip()) from None
    said = [(point, fit.predicted(point)) for point in found.points]
    fitted, held = ([each for each in said if (each[0] in chosen) is own] for own in (True, False))
    lines = [*found.notes, *(_line(*each, each in fitted) for each in said)]
    lines += ["", fit.told, _followed(fitted, fit.left, bool(held))]
    lines += [_judged(held)] if held else []
    lines += [f"{fewer}"] if left else []
    if file:
        options = [("--on", each) for each in on] + [("-p", *each) for each in given]
        options += [(word, value) for word, value in (("--like", like), ("--fit", names)) if value]
        words = shlex.join(["geofm", "calibrate", *sources, *(word for each in options for word in each)])
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = machine_row.text(
                replace(machine, name=str(name)), fit.rows, f"Made by {words}", fitted_to.of_points(chosen)
            )
            files.write_text(file, text)
        except OSError as error:
            raise ValueError(
                f"The row was not written: {rights.told(error)} (GEOFM_MACHINES names the folder)"
            ) from None
        lines.append(f"{file} has the row: geofm plan MODEL --machine {name} --nodes N{_flags(chosen)}")
        lines.append("Delete that file to remove the row.")
    return "\n".join(lines)


def _file(name: str) -> Path:
    """Where the row of this name goes; ValueError where it is no name, or taken."""
    if name in machines.MACHINES:
        raise ValueError(f"'{name}' is a row of the catalog; give your machine another name by --name.")
    if not NAME.fullmatch(name):
        raise ValueError(f"A machine's name has letters, digits, '.', '_' and '-' only; '{name}' was given.")
    file = machines.own_folder() / f"{name}.toml"
    if file.exists():
        raise ValueError(f"There is a row '{name}' already ({file}); delete that file, or give another name by --name.")
    return file


def _flags(fitted: list[Point]) -> str:
    """What `geofm plan` must be told to plan under the conditions of the fit, as far as the points agree on them."""
    unusual = [flag for (name, value), flag in FLAGS.items() if {getattr(each.how, name) for each in fitted} == {value}]
    return "".join(f" {flag}" for flag in unusual)


def _line(point: Point, said: dict[str, float], fitted: bool) -> str:
    speed = said["images_per_s"]
    what = f"{point.cells.get('name') or point.where:24} {point.model.name:28} {point.strategy:14}"
    inside = "" if said["low"] <= point.images_per_s <= said["high"] else "  outside"
    seen, ours, low, high = (number(each, DIGITS) for each in (point.images_per_s, speed, said["low"], said["high"]))
    return (f"{what}{point.nodes:3} x {point.per_node} ranks x {point.batch:4}  measured {seen:>9}  "
            f"{'fitted   ' if fitted else 'predicted'} {ours:>9} ({low} to {high})  "
            f"{100 * (speed / point.images_per_s - 1):+6.1f} %{inside}")  # fmt: skip


def _errors(rows: list[Said]) -> str:
    errors = [100 * off(said["images_per_s"], point.images_per_s) for point, said in rows]
    return f"{counted(len(rows), 'point')}: median error {median(errors):.1f} %, largest {max(errors):.1f} %"


def _followed(rows: list[Said], left: int, held: bool) -> str:
    """How well the points of the fit are followed, which is no test of it."""
    why = "errors of a fit are no test of it" if left > 0 else "as many numbers as points, so the errors are no test"
    return f"fitted to {_errors(rows)} ({why}{'' if held else '; --on COLUMN=VALUES holds points back'})"


def _judged(rows: list[Said]) -> str:
    """What came of the points that were held back."""
    inside = sum(said["low"] <= point.images_per_s <= said["high"] for point, said in rows)
    return f"predicted {_errors(rows)}, {inside} of {len(rows)} inside their interval (nine of ten should be)"
