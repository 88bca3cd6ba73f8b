"""Commands that run notebooks: one, a grid, and the one that compares runs."""

import os
import shlex
from pathlib import Path
from typing import Any

import click

from geofm_lib import streams
from geofm_lib.catalog.headlines import KINDS
from geofm_lib.cli.group import commands, example, notebooks, rows_of, settings

PRINT_S = 5.0  # a terminal that takes no lines (Ctrl-S) holds the end of a run for so long


@commands.command(**example("geofm run 02_pretrain -p strategy HYBRID_2GPUs -p ranks 4"))
@click.argument("notebook", shell_complete=notebooks)
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", shell_complete=settings,
              help="A setting of the notebook; may be given many times.")  # fmt: skip
@click.option("-f", "file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="PARAMS.YAML",
              help="Settings from a YAML file of lines `name: value`; -p goes before it.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Put the rendered page here too.")
@click.pass_obj
def run(own: bool, notebook: str, parameters: tuple[tuple[str, str], ...], file: Path | None, page: Path | None) -> int:
    """Execute a notebook with parameters and render its page.

    NOTEBOOK is a file, or one of the project's by name or number: notebooks/02_pretrain.ipynb, 02_pretrain, 02. Exit
    codes: 0 finished, 1 failed, 2 a setting cannot be used, 75 stopped (run it again to go on), 137 killed.
    """
    from geofm_lib.runs import check
    from geofm_lib.settings.masking import mask

    found = check.find(notebook)
    given = _from_yaml(file) if file else {}
    given |= dict(parameters)
    for name, value in dict.fromkeys(parameters):
        if given[name] != value:
            click.echo(mask(f"{found.name}: {name} is given twice; {given[name]} counts, not {value}"), err=True)
    try:
        check.check_notebook(found, given)
    except ValueError as error:
        raise click.ClickException(f"{found.name}: {error}") from None
    from geofm_lib.report.stopping import Requests

    streams.secure(PRINT_S)
    with Requests(restore=not own) as requests:  # before papermill's import, which takes a second
        from geofm_lib.report import execute

        return execute.run(found, given, page, requests)


def _from_yaml(file: Path) -> dict[str, str]:
    """{name: value as typed} of a YAML file; yaml would make True of `on`, and the settings class reads text."""
    import yaml

    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{file}' is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ValueError(f"'{file}' must hold one setting a line, such as `model: ViT-Tiny`, and no lists")
    return found


@commands.command(**example("geofm submit batch/grids/small.csv --send -- -A PROJECT"))
@click.argument("grid", type=click.Path(path_type=Path))
@click.argument("sbatch", nargs=-1, type=click.UNPROCESSED, metavar="[-- SBATCH WORDS]")
@click.option("--send", is_flag=True, help="Send to Slurm what is neither finished nor queued.")
@click.option("--here", is_flag=True, help="Run the rows of one node on this machine, one after the other.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Never more than N of your jobs in the queue "
              "(else the site's limit); with --here, how many rows are run.")  # fmt: skip
@click.option("--site", default="slurm", show_default=True, help="batch/SITE.sh starts the jobs.")
def submit(grid: Path, sbatch: tuple[str, ...], send: bool, here: bool, limit: int | None, site: str) -> int:
    """Check a grid of runs, then send it to Slurm or run it here.

    GRID is a CSV file, a row a run (geofm_lib/runs/grid.py says what stands in it); paths in it count from the clone's
    folder. Without --send or --here the sbatch lines and their total are shown. Exit code 1 when a row was refused or
    failed; the others are sent, or run, nevertheless. 75 when a row was stopped.
    """
    from geofm_lib.runs import find, queue
    from geofm_lib.settings import in_clone

    chosen, grid = queue.Site(site, sbatch), find.typed(grid)
    with in_clone() as elsewhere:  # from there the grid's paths count, and the site's scripts
        if not chosen.script.is_file():
            raise ValueError(f"there is no '{chosen.script}' here; start in a clone of geofm, or name another --site")
        if here and send:
            raise ValueError("--here runs the rows on this machine and --send gives them to Slurm; choose one")
        if limit and not (here or send):
            raise ValueError("--limit counts what --send sends or --here runs; add one of them")
        rows, refused = rows_of(grid, chosen)
        failed = refused > 0
        if here or send:
            stopped = False
            for row, answer in queue.run_here(rows, limit) if here else queue.send(rows, chosen, limit):
                click.echo(f"{row.name}: {answer}")
                failed |= answer.startswith("failed")
                stopped |= answer.startswith("stopped")
            _compared(grid, rows, site, now=here and not stopped)
        else:
            before = [shlex.join(["cd", os.getcwd()])] if elsewhere else []  # the lines count from there
            click.echo("\n".join([*before, *queue.lines(rows, chosen), queue.total(rows, refused)]))
    return int(failed)


def _compared(grid: Path, rows: list[Any], site: str, now: bool) -> None:
    """End a grid in a page for each kind of its rows, or in the command that makes it when they have ended."""
    from geofm_lib.runs import queue
    from geofm_lib.runs.run import shown

    jobs = [row.settings.job for row in rows]
    if not any(jobs.count(job) > 1 for job in KINDS):
        return
    words = ["--site", site] if site != "slurm" else []
    if now:
        queue.compare_here(["compare", str(grid), *words])
    else:
        click.echo(f"their page, when they have ended: {' '.join(['geofm compare', shown(grid), *words])}")


@commands.command(**example("geofm compare batch/grids/small.csv"))
@click.argument("runs", nargs=-1, required=True, metavar="RUN...|GRID")
@click.option("--kind", default="auto", type=click.Choice(("auto", *KINDS)), help="Which runs of a grid.")
@click.option("--site", default="slurm", help="The machine that a grid's rows are checked against.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Put the page here instead.")
@click.pass_obj
def compare(own: bool, runs: tuple[str, ...], kind: str, site: str, page: Path | None) -> int:
    """Say on one page which of several runs is best, and what differs.

    The runs are of one kind; of a grid there is a page for each kind that has two rows or more. Runs that go, failed or
    have not begun are shown as that. The last line is the page's path.
    """
    from geofm_lib.runs import check, compared
    from geofm_lib.settings import CompareSettings

    given: dict[str, Any] = {"runs": compared.listed(runs), "kind": kind, "site": site}
    pages, faults = compared.by_kind(CompareSettings(**given))
    if page and len(pages) > 1:
        kinds = ", ".join(each.kind for each in pages)
        raise ValueError(f"--page: there is a page for each of {kinds}; add --kind with one of them")
    for fault in faults:
        click.echo(fault, err=True)
    from geofm_lib.report.stopping import Requests

    streams.secure(PRINT_S)
    with Requests(restore=not own) as requests:
        from geofm_lib.report import execute

        notebook = check.named("10_compare")
        return max(execute.run(notebook, each.given(), page or compared.page(each), requests) for each in pages)
