"""The plan as a form: in JupyterLab a change of a control is answered at once; elsewhere its first answer is shown.

The output carries both, as every rich output does: a live notebook shows the widget, a page, a report or a notebook
executed in batch the table. Needs ipywidgets (the extra `notebooks`); without it there is only the table.
"""

from dataclasses import dataclass
from typing import Any

from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Table
from geofm_lib.figures.plan import plan_table
from geofm_lib.planning.conditions import CHOICES

STILL = "In JupyterLab this is a form that answers anew at every change."
EVERY = "every strategy"


@dataclass
class WhatIf:
    """A form over `plan`: ``controls`` by the name of plan's argument, ``answer`` the HTML below them."""

    settings: Any
    controls: dict[str, Any]
    answer: Any = None
    box: Any = None

    def table(self) -> Table:
        """The plan for what the controls say now."""
        asked = {name: control.value for name, control in self.controls.items()} or _asked(self.settings)
        asked["strategy"] = asked["strategy"].replace(EVERY, "")
        return plan_table(**asked, images=self.settings.images, epochs=self.settings.epochs)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        live = self.box._repr_mimebundle_() if self.box is not None else {}
        table = self.table()
        still = f'{table._repr_html_()}<p class="note">{STILL}</p>'
        return {**live, "text/html": still, "text/plain": repr(table)}


def what_if(settings) -> WhatIf:
    """The form, filled in with a notebook's settings (ScalingSettings)."""
    try:
        import ipywidgets
    except ImportError:
        return WhatIf(settings, {})
    asked, wide = _asked(settings), {"layout": {"width": "22em"}, "style": {"description_width": "11em"}}

    def choose(name: str, options) -> Any:
        return ipywidgets.Dropdown(options=list(options), value=asked[name], description=name, **wide)

    controls = {
        "model": choose("model", MODELS),
        "machine": choose("machine", MACHINES),
        "nodes": ipywidgets.IntText(asked["nodes"], description="nodes", **wide),
        "batch_per_gpu": ipywidgets.IntText(asked["batch_per_gpu"], description="batch_per_gpu", **wide),
        "workload": choose("workload", CHOICES["workload"]),
        "strategy": choose("strategy", (EVERY, *STRATEGIES)),
        "precision": choose("precision", CHOICES["precision"]),
        "backward_prefetch": choose("backward_prefetch", range(5)),
        "activation_checkpointing": ipywidgets.Checkbox(True, description="activation_checkpointing", **wide),
    }
    form = WhatIf(settings, controls, ipywidgets.HTML())
    form.box = ipywidgets.VBox([ipywidgets.Box([*controls.values()], layout={"flex_flow": "row wrap"}), form.answer])

    def answer(_=None) -> None:
        form.answer.value = form.table()._repr_html_()

    for control in controls.values():
        control.observe(answer, "value")
    answer()
    return form


def _asked(settings) -> dict[str, Any]:
    same = {name: getattr(settings, name) for name in ("model", "machine", "nodes", "batch_per_gpu", "workload")}
    return same | {"strategy": EVERY, "precision": "bf16", "backward_prefetch": 1, "activation_checkpointing": True}
