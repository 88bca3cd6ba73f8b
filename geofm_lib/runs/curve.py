"""The curve of a run that goes: a few rows of its metrics as one SVG, in milliseconds and without a plotting library.

The launcher draws it while its ranks work, so what it costs must not depend on how long the run is.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from geofm_lib.jobs.run_folder import rows, whole_rows
from geofm_lib.runs.overview import SHOWN
from geofm_lib.runs.run import Run

MOST_ROWS = 400  # are read and drawn, spread evenly over the file
SMALL_BYTES = 2**17  # of a file that is read whole
END_BYTES = 4096  # in which its last row stands
PLACE = (58.0, 470.0, 10.0, 172.0)  # left, right, top and bottom of the axes in a drawing of 480 x 210
TEMPLATES = Path(__file__).with_name("templates")
STYLES = TEMPLATES.parents[1] / "report" / "templates"  # page.css, the one stylesheet of all pages: a file, no import


class Curve(NamedTuple):
    """What is drawn: its name, steps and values, and the SVG."""

    name: str
    steps: list[float]
    values: list[float]
    svg: str

    @property
    def sentence(self) -> str:
        """The curve in words, for a caption and for those who do not see it."""
        first, last = self.values[0], self.values[-1]
        how = "falls" if last < first else "rises" if last > first else "stays"
        return f"{self.name} against steps: it {how} from {first:.4g} at step {self.steps[0]:.0f} " \
               f"to {last:.4g} at step {self.steps[-1]:.0f}."  # fmt: skip


def curve(run: Run) -> Curve | None:
    """The loss so far, of a job without one its top-1 or images/s; None before there are two values."""
    found = sampled(run.folder / "metrics.jsonl")
    for key, name, _ in SHOWN:
        points = [(float(row["step"]), float(row[key])) for row in found if _number(row.get(key)) and "step" in row]
        if len(points) > 1 and points[0][0] < points[-1][0]:
            steps, values = map(list, zip(*points, strict=True))
            return Curve(name, steps, values, _svg(name, steps, values))
    return None


def sampled(file: Path, most: int = MOST_ROWS) -> list[dict[str, Any]]:
    """At most so many whole rows of a file of JSON lines, and its last one: of a long file every one is not read."""
    try:
        size = file.stat().st_size
        if size <= SMALL_BYTES:
            found = rows(file)
            return [*found[:-1][:: len(found) // most + 1], *found[-1:]]
        lines = []
        with open(file, "rb") as stream:
            for place in [*range(0, size, size // most), max(0, size - END_BYTES)]:
                stream.seek(place)
                if place:
                    stream.readline()  # the rest of a row
                lines.append(stream.readline().decode(errors="replace"))
            lines += stream.read().decode(errors="replace").splitlines()[-1:]
        return list(whole_rows(lines))
    except OSError:
        return []


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values between two numbers, at most about so many.

    >>> ticks(0, 300), ticks(0.42, 0.97)
    ([0.0, 100.0, 200.0, 300.0], [0.6, 0.8])
    """
    wide = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(wide))
    step = unit * next(each for each in (1, 2, 5, 10) if unit * each >= wide)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


@cache
def templates() -> Any:
    """The templates of this room, and the pages' stylesheet. jinja2 is imported here: `geofm submit` needs none."""
    import jinja2

    loader = jinja2.FileSystemLoader([TEMPLATES, STYLES])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)


def _svg(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    left, right, top, bottom = PLACE
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room

    def across(step: float) -> float:
        return left + (right - left) * (step - steps[0]) / (steps[-1] - steps[0])

    def up(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    shown = {
        "points": " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(steps, values, strict=True)),
        "across": [(across(each), f"{each:g}") for each in ticks(steps[0], steps[-1])],
        "up": [(up(each), f"{each:.6g}") for each in ticks(low, high)],
    }
    place = {"left": left, "right": right, "top": top, "bottom": bottom}
    return str(templates().get_template("curve.svg.j2").render(name=name, **place, **shown))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
