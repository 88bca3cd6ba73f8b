"""The group of all commands: their help by purpose, examples, and completion of names."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES

PURPOSES = {
    "Run a notebook and read its page": ("run", "report", "status", "watch"),
    "Many runs, here or on a cluster": ("submit", "compare"),
    "Before and after": ("plan", "doctor", "export"),
    "How the repository's own tables are made and checked": ("study", "calibrate", "verify"),
}


class _Commands(click.Group):
    """Lists commands by purpose, and keeps the lines of examples as they are written."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for purpose, names in PURPOSES.items():
            with formatter.section(purpose):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


@click.group(cls=_Commands, invoke_without_command=True)
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Pretrain, measure and probe geospatial foundation models, by notebooks.

    A notebook asks one question. `geofm run` gives it parameters, executes it, and keeps everything of the run in one
    folder under runs/: settings, one row a step, checkpoints, and a page that any browser shows. A finished run is
    read, not run again; an interrupted one goes on.

    \b
      geofm run 01                                   which images go in? (a minute on a laptop)
      geofm run 02 -p ranks 2 -p model ViT-Tiny      pretrain on two processes
      geofm plan ViT-3B --machine frontier --nodes 16

    Every setting of a notebook is a line of its first code cell. The same command: python -m geofm_lib. Completion of
    names in bash: eval "$(_GEOFM_COMPLETE=bash_source geofm)"; for zsh, zsh_source.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def example(text: str) -> dict[str, Any]:
    """The last lines of a command's help."""
    return {"epilog": f"\b\nExample:\n  {text}"}


def starting(names: Any, incomplete: str) -> list[CompletionItem]:
    """Completions of a word that is begun."""
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def notebooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the project\'s notebooks, else files."""
    from geofm_lib.runs import check

    return starting(check.known(), incomplete) or [CompletionItem(incomplete, type="file")]


def settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the notebook's settings, and of the models and strategies that are their values."""
    from geofm_lib.runs import check

    names = [*MODELS, *STRATEGIES]
    for notebook in [ctx.params.get("notebook"), *ctx.args][:2]:  # an option without its value leaves it in args
        if notebook and (job := check.settings_class(check.find(notebook))):
            names += job.model_fields
    return starting(names, incomplete)


def rows_of(grid: Path, site: Any) -> tuple[list[Any], int]:
    """The good rows of a grid, and how many others there are (why, is said on standard error)."""
    from geofm_lib.runs.grid import read, told

    rows, faults = read(grid, site.machine)
    for fault in told(faults):
        click.echo(f"{grid.name}: {fault}", err=True)
    return rows, len(faults)
