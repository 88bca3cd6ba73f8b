"""`geofm calibrate SOURCES`: a machine's row from a few runs or published speeds, and what it predicts of the others.

The fit is asked for when it is called, since it loads scipy.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from statistics import median

from geofm_lib import files
from geofm_lib.catalog import machines
from geofm_lib.planning import points
from geofm_lib.planning.points import Point
from geofm_lib.runs import measured

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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

    if name is not None and name in machines.MACHINES:
        raise ValueError(f"'{name}' is a row of the catalog; give your machine another name by --name.")
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(f"A machine's name has letters, digits, '.', '_' and '-' only; '{name}' was given.")
    sources, on = list(sources), list(on)
    found, machine, left = measured.read(sources, like, dict(given))
    asked = points.asked_for(on)
    if unknown := [column for column in asked if not any(column in point.cells for point in found)]:
        raise ValueError(f"--on: no point has a column {unknown[0]}; there are {', '.join(found[0].cells)}.")
    chosen = [point for point in found if points.matching(point.cells, asked)]
    begin = measured.before(machine, like or machine.name)
    fit = machine_fit.fit(chosen, machine, begin, [each.strip() for each in names.split(",") if each.strip()])
    rows = [(point, fit.predicted(point), point in chosen) for point in found]
    lines = [_line(*row) for row in rows]
    lines += [f"\n{fit.told}"]
    lines += [_judged("fitted to", [row for row in rows if row[2]])]
    lines += [_judged("predicted", [row for row in rows if not row[2]])] if len(chosen) < len(found) else []
    if left:
        lines.append(f"{len(left)} rows were left out, the first: {left[0]}")
    if name:
        words = shlex.join(["geofm", "calibrate", *sources, *(word for each in on for word in ("--on", each))])
        file = machines.own_folder() / f"{name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, measured.text(replace(machine, name=name), fit.rows, f"Made by {words}"))
        lines.append(f"{file} has the row: geofm plan MODEL --machine {name} --nodes N")
    return "\n".join(lines)


def _line(point: Point, said: dict[str, float], fitted: bool) -> str:
    speed, off = said["images_per_s"], said["images_per_s"] / point.images_per_s - 1
    what = f"{point.cells.get('name') or point.where:24} {point.model.name:28} {point.strategy:14}"
    inside = "" if said["low"] <= point.images_per_s <= said["high"] else "  outside"
    return (f"{what}{point.nodes:3} x {point.per_node} ranks x {point.batch:4}  measured {point.images_per_s:9.1f}  "
            f"{'fitted   ' if fitted else 'predicted'} {speed:9.1f} ({said['low']:.1f} to {said['high']:.1f})  "
            f"{100 * off:+6.1f} %{inside}")  # fmt: skip


def _judged(what: str, rows: list[tuple[Point, dict[str, float], bool]]) -> str:
    off = [abs(said["images_per_s"] / point.images_per_s - 1) for point, said, _ in rows]
    inside = sum(said["low"] <= point.images_per_s <= said["high"] for point, said, _ in rows)
    return (f"{what} {len(rows)} points: median error {100 * median(off):.1f} %, largest {100 * max(off):.1f} %, "
            f"{inside} of {len(rows)} inside their interval (nine of ten should be)")  # fmt: skip
