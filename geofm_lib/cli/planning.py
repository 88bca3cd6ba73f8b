"""Commands before a run and of the repository's own tables: no run folder is needed."""

from typing import Any

import click

from geofm_lib.catalog import machines
from geofm_lib.catalog.metrics import number
from geofm_lib.catalog.models import MODELS
from geofm_lib.cli.group import commands, example, starting

COLUMNS = {"strategy": "<14", "step_s": ">9", "images_per_s": ">13", "low": ">9", "high": ">9", "memory_gib": ">11",
           "fits": ">5", "node_hours": ">11"}  # fmt: skip
"""Of a plan, with their widths."""
DIGITS = {"memory_gib": 3, "node_hours": 3}  # significant ones, where they are not four


@commands.command(**example("geofm plan ViT-3B --machine frontier --nodes 16 --images 990848 --epochs 100"))
@click.argument("model", shell_complete=lambda ctx, param, text: starting(MODELS, text))
@click.option("--machine", required=True, shell_complete=lambda ctx, param, text: starting(machines.known(), text),
              help="A row of geofm_lib/catalog/machines.toml, or one that `geofm calibrate` has written.")  # fmt: skip
@click.option("--nodes", required=True, type=int)
@click.option("--batch", "batch_per_gpu", default=32, show_default=True, help="Images a GPU takes a step.")
@click.option("--workload", default="mae", show_default=True, help="mae | classify")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels a side (default: 224, or a network's own).")
@click.option(
    "--tokens", type=click.IntRange(min=2), help="Patches of an image in place of --image-size (NaFlex and its like)."
)
@click.option("--precision", default="bf16", show_default=True, help="bf16 | fp32")
@click.option("--checkpointing/--no-checkpointing", "activation_checkpointing", default=True, show_default=True,
              help="Recompute activations in the backward pass.")  # fmt: skip
@click.option("--ranks-per-node", type=int, help="Ranks on a node, where they are fewer than its devices.")
@click.option("--images", type=int, help="Images of the data set, for node-hours.")
@click.option("--epochs", type=float, help="Passes over them, for node-hours.")
@click.option("--numbers", is_flag=True, help="Say below the plan what each number behind it is, means and comes from.")
def plan(numbers: bool, **asked: Any) -> None:
    """Say what each strategy would do, the fastest that fits first.

    MODEL: a row of geofm_lib/catalog/models.py, any plain ViT of timm's by its name, or MODULE:FUNCTION that returns
    one. Below the plan stands which of the machine's numbers were measured, fitted, stated or assumed.
    """
    from geofm_lib.catalog import speeds
    from geofm_lib.planning import fitted_to, planner
    from geofm_lib.planning.conditions import Conditions
    from geofm_lib.runs import architecture

    if asked["tokens"] and asked["image_size"]:
        raise ValueError("--tokens are the patches of an image whatever its size; give --tokens or --image-size.")
    machines.lookup(asked["machine"])  # before a network is built
    name, size = asked["model"], asked.pop("image_size") or 0
    asked["model"] = row = architecture.model(name, size)
    if size and not row.built:
        asked["image_size"] = size
    rows = planner.plan(**asked)
    click.echo("\n".join(planner.told(**asked)))
    shown = {name: form for name, form in COLUMNS.items() if rows[0][name] is not None}
    click.echo("".join(format(name, form) for name, form in shown.items()))
    for each in rows:
        each["fits"] = "yes" if each["fits"] else "no"
        told = {
            name: number(value, DIGITS.get(name, 4)) if isinstance(value, float) else value
            for name, value in each.items()
        }
        click.echo("".join(format(told[name], form) for name, form in shown.items()))
    differing = fitted_to.differing(asked["machine"], Conditions.of(asked), asked["nodes"])
    for said in filter(None, (planner.no_winner(rows), differing)):
        click.echo(said)
    click.echo("\n".join(speeds.explained(asked["machine"]) if numbers else [speeds.told(asked["machine"])]))


@commands.command(**example("geofm doctor"))
def doctor() -> int:
    """Say what this machine can run, what is missing, and the fix."""
    from geofm_lib.advice import doctor as examination

    return examination.main()


@commands.command(**example("geofm calibrate batch/grids/calibrate.csv --on name=fit* --name mine"))
@click.argument("sources", nargs=-1)
@click.option(
    "--name",
    help="Write the row as NAME.toml into machines/ of the clone (or into the folder GEOFM_MACHINES); "
    "delete that file to remove the row.",
)
@click.option("--like", default="", help="The row whose peaks and guesses the fit begins from (runs find theirs).")
@click.option("--on", multiple=True, metavar="COLUMN=VALUES", help="Fit to these, predict the others: nodes=1,2.")
@click.option("--fit", "names", default="", help="Numbers to fit, with commas (default: those that points can tell).")
@click.option("-p", "given", nargs=2, multiple=True, metavar="COLUMN VALUE", help="What a table has no column for.")
def calibrate(sources: tuple[str, ...], name: str | None, **asked: Any) -> None:
    """Fit a machine's row to your own short runs, or to published speeds.

    SOURCES: run folders of notebook 03, a grid of them, or a table (CSV) with model, images_per_s and batch_per_gpu;
    timm's own benchmark files are read as they are. `geofm plan --machine NAME` and 04 take the row that --name writes.
    Without SOURCES the planner's speeds of Frontier are fitted to the published throughput again.
    """
    if not sources:
        if name or any(asked.values()):
            raise ValueError("There is nothing to fit: name run folders of notebook 03, a grid of them, or a table.")
        from geofm_lib.planning import calibrate as frontier

        return frontier.main()
    from geofm_lib.runs import calibration

    click.echo(calibration.calibrate(sources, name, **asked))


@commands.command(**example("geofm study unseen"))
@click.argument("name")
def study(name: str) -> None:
    """Write a table of reports/ anew (and run what it still needs).

    NAME: unseen, simulated, accuracy, accuracy_rates, predicted_accuracy, predictions_h100, experiments, peers or
    measured (README's table).
    """
    from geofm_lib.paper import studies

    click.echo(studies.study(name))
