"""04: the plan for a machine of your own as a form, and what one rank would hold and send. No torch.

A live notebook shows the widget; a page, or Python without ipywidgets (the extra `notebooks`), the table alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from geofm_lib.catalog import machines, speeds
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES, lookup, resolve
from geofm_lib.figures import choice
from geofm_lib.figures._axes import planned
from geofm_lib.figures.display import Table, rendered
from geofm_lib.planning.conditions import CHOICES, WORKLOADS, Conditions, gib
from geofm_lib.planning.planner import plan
from geofm_lib.runs.run import Run
from geofm_lib.settings import ScalingSettings

EVERY = "every strategy"
COLUMNS = {
    "strategy": "strategy", "step_s": "step, s", "exposed_s": "of it communication, s", "images_per_s": "images/s",
    "low": "low", "high": "high", "memory_gib": "GiB per GPU", "fits": "fits", "node_hours": "node-hours",
}  # fmt: skip


def table(strategy: str = "", **asked: Any) -> Table:
    """`plan` as a table, of every strategy or of one; one sentence when it cannot be answered."""
    try:
        rows = plan(**asked)
        if strategy:
            resolve(lookup(strategy), rows[0]["gpus"])
            rows = [row for row in rows if row["strategy"] == strategy]
    except ValueError as error:
        return Table(pd.DataFrame(), empty=str(error))
    how = Conditions(asked["workload"]).told(asked["batch_per_gpu"])
    where = f"{asked['nodes']} node{'s' * (asked['nodes'] != 1)} of {asked['machine']}"
    caption = (f"{asked['model']}, {how}, {asked.get('precision', 'bf16')}: {where}; low to high should hold nine of "
               f"ten runs; node-hours for {asked['epochs']:g} epochs of {asked['images']:,} images")  # fmt: skip
    caption += f"; of {asked['machine']}'s numbers {speeds.counted(asked['machine'])} (`geofm plan` names them)"
    if asked.get("precision", "bf16") == "bf16":
        for row in rows:
            row["strategy"] = planned(row["strategy"])
    if why := "" if strategy else choice.differing(**asked):
        caption += f". {why}"
    return Table(pd.DataFrame(rows)[list(COLUMNS)].rename(columns=COLUMNS), caption)


@dataclass
class Form:
    """A form over `plan`: ``controls`` by the name of plan's argument, ``answer`` the HTML below them."""

    settings: ScalingSettings
    controls: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    box: Any = None

    def table(self) -> Table:
        """The plan for what the controls say now."""
        asked = {name: control.value for name, control in self.controls.items()} or _asked(self.settings)
        asked["strategy"] = asked["strategy"].replace(EVERY, "")
        return table(**asked, images=self.settings.images, epochs=self.settings.epochs)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        live = self.box._repr_mimebundle_() if self.box is not None else {}
        still = self.table()
        return {**live, "text/html": rendered("form", still), "text/plain": repr(still)}


def form(settings: ScalingSettings) -> Form:
    """The form, filled in with a notebook's settings."""
    try:
        import ipywidgets
    except ImportError:
        return Form(settings)
    choices: dict[str, Iterable[Any]] = {
        "model": MODELS, "machine": machines.known(), "workload": CHOICES["workload"], "strategy": (EVERY, *STRATEGIES),
        "precision": CHOICES["precision"], "backward_prefetch": range(5),
    }  # fmt: skip
    controls = {}
    for name, value in _asked(settings).items():
        wide = {"description": name, "layout": {"width": "22em"}, "style": {"description_width": "11em"}}
        if name in choices:
            controls[name] = ipywidgets.Dropdown(options=list(choices[name]), value=value, **wide)
        else:
            kind = ipywidgets.Checkbox if isinstance(value, bool) else ipywidgets.IntText
            controls[name] = kind(value, **wide)
    made = Form(settings, controls, ipywidgets.HTML())
    made.box = ipywidgets.VBox([ipywidgets.Box([*controls.values()], layout={"flex_flow": "row wrap"}), made.answer])

    def answer(_: Any = None) -> None:
        made.answer.value = made.table()._repr_html_()

    for control in controls.values():
        control.observe(answer, "value")
    answer()
    return made


def simulated(run: Run) -> Table:
    """Peak memory by kind, and bytes of each collective, as traced in a `simulate` run, beside the arithmetic."""
    found, asked = run.summary, run.settings
    rows = [("peak memory, GiB", found["peak_memory_gib"], found["predicted_peak_gib"])]
    rows += [(f"{kind}, GiB", found[f"{kind}_gib"], found[f"predicted_{kind}_gib"])
             for kind in ("parameters", "gradients", "optimiser")]  # fmt: skip
    rows += [(f"{kind.replace('_', '-')}, GiB", gib(found[f"{kind}_bytes"]), gib(found[f"predicted_{kind}_bytes"]))
             for kind in ("all_gather", "reduce_scatter", "all_reduce")]  # fmt: skip
    caption = (f"{asked['model']}, {WORKLOADS[asked['workload']]}, {asked['strategy']} on {asked['gpus']} GPUs, one "
               f"step of one rank: traced in {found['simulation_s']:.0f} s without a GPU; by arithmetic")  # fmt: skip
    return Table(pd.DataFrame(rows, columns=["of one rank", "simulated", "arithmetic"]), caption)


def _asked(settings: ScalingSettings) -> dict[str, Any]:
    more = {"strategy": EVERY, "precision": "bf16", "backward_prefetch": 1, "activation_checkpointing": True}
    return choice.asked(settings) | more
