"""The command `geofm`, also `python -m geofm_lib`: every sub-command, its words and one example.

Each command imports what it needs when it runs, so that help and completion answer at once. What a user can mend is
one sentence on standard error and exit code 2.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from geofm_lib import rights, streams
from geofm_lib.catalog.headlines import KINDS
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES

PURPOSES = {
    "Run a notebook and read its page": ("run", "report", "status", "watch"),
    "Many runs, here or on a cluster": ("submit", "compare"),
    "Before and after": ("plan", "doctor", "export"),
    "How the repository's own tables are made": ("study", "calibrate"),
}
MAKING = {
    "run",
    "report",
    "compare",
    "export",
    "study",
    "calibrate",
    "--send",
    "--here",
}  # more than the text that they print
PRINT_S = 5.0  # a terminal that takes no lines (Ctrl-S) holds the end of a run for so long
FORMATS = ("geofm", "timm", "vit", "vitmae")


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


def _starting(names: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _notebooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from geofm_lib.runs import check

    return _starting(check.known(), incomplete) or [CompletionItem(incomplete, type="file")]


def _settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the notebook's settings, and of the models and strategies that are their values."""
    from geofm_lib.runs import check

    names = [*MODELS, *STRATEGIES]
    for notebook in [ctx.params.get("notebook"), *ctx.args][:2]:  # an option without its value leaves it in args
        if notebook and (job := check.settings_class(check.find(notebook))):
            names += job.model_fields
    return _starting(names, incomplete)


@commands.command(**example("geofm run 02_pretrain -p strategy HYBRID_2GPUs -p ranks 4"))
@click.argument("notebook", shell_complete=_notebooks)
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", shell_complete=_settings,
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
@click.option("--limit", type=int, metavar="N", help="Never more than N of your jobs in the queue (else "
              "the site's limit); with --here, how many rows are run.")  # fmt: skip
@click.option("--site", default="slurm", show_default=True, help="batch/SITE.sh starts the jobs.")
def submit(grid: Path, sbatch: tuple[str, ...], send: bool, here: bool, limit: int | None, site: str) -> int:
    """Check a grid of runs, then send it to Slurm or run it here.

    GRID is a CSV file, a row a run (geofm_lib/runs/grid.py says what stands in it); paths in it count from the clone's
    folder. Without --send or --here the sbatch lines are shown. Exit code 1 when a row was refused or failed; the
    others are sent, or run, nevertheless. 75 when a row was stopped.
    """
    from geofm_lib.runs import find, queue
    from geofm_lib.settings import in_clone

    chosen, grid = queue.Site(site, sbatch), find.typed(grid)
    with in_clone() as elsewhere:  # from there the grid's paths count, and the site's scripts
        if not chosen.script.is_file():
            raise ValueError(f"there is no '{chosen.script}' here; start in a clone of geofm, or name another --site")
        if here and send:
            raise ValueError("--here runs the rows on this machine and --send gives them to Slurm; choose one")
        rows, failed = _rows(grid, chosen)
        if here or send:
            stopped = False
            for row, answer in queue.run_here(rows, limit) if here else queue.send(rows, chosen, limit):
                click.echo(f"{row.name}: {answer}")
                failed |= answer.startswith("failed")
                stopped |= answer.startswith("stopped")
            _compared(grid, rows, site, now=here and not stopped)
        else:
            before = [shlex.join(["cd", os.getcwd()])] if elsewhere else []  # the lines count from there
            click.echo("\n".join([*before, *queue.lines(rows, chosen)]))
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


def _rows(grid: Path, site: Any) -> tuple[list[Any], bool]:
    """The good rows of a grid, and whether there are others (each said in a sentence on standard error)."""
    from geofm_lib.runs.grid import read

    rows, faults = read(grid, site.machine)
    for fault in faults:
        click.echo(f"{grid.name}: {fault}", err=True)
    return rows, bool(faults)


@commands.command(**example("geofm status batch/grids/small.csv"))
@click.argument("subject", required=False, metavar="[GRID|RUN]")
@click.option("--site", default="slurm", help="The machine that a grid's rows are checked against.")
def status(subject: str | None, site: str) -> int:
    """Say where runs stand: a grid's rows, one run, or all runs."""
    from geofm_lib.runs import find, overview, queue
    from geofm_lib.settings import in_clone, runs_root

    if subject and find.is_grid(subject):
        grid = find.typed(subject)
        with in_clone():
            rows, faults = _rows(grid, queue.Site(site))
            click.echo(overview.of_grid(rows))
        return int(faults)
    click.echo(overview.of_run(find.run_folder(subject)) if subject else overview.of_all(runs_root()))
    return 0


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


@commands.command(**example("geofm watch runs/pretrain-ViT-Tiny-FULL_SHARD-3f9a01"))
@click.argument("run_folder", metavar="RUN")
def watch(run_folder: str) -> int:
    """Follow a run until it ends: step, loss, images/s, time left, memory, the end of its log.

    The run is only read, and may be anybody's that you may read, here or on a cluster. In a terminal the lines are
    redrawn in place, in a pipe there is a line a change. Ctrl-C ends the watching (130), never the run. Other exit
    codes are as the run ended: 0 finished, 1 failed, 2 it cannot be read, 75 stopped, 137 killed.
    """
    from geofm_lib.runs import outside, overview
    from geofm_lib.runs.endings import EXIT_CODES
    from geofm_lib.runs.run import Run

    run = Run(_run_or_queued(run_folder))
    try:
        state = outside.follow(run)
    except KeyboardInterrupt:
        click.echo("no longer watched; the run is not touched", err=True)
        return 130
    if state in outside.GOING:  # the reader has gone
        return 0
    click.echo(overview.of_run(run.folder))
    return EXIT_CODES.get(state, 1)


def _run_or_queued(name: str) -> Path:
    """A run folder, or that of a job which waits in the queue and will make it."""
    from geofm_lib.runs import find, outside
    from geofm_lib.settings import expanded, runs_root

    try:
        return find.run_folder(name)
    except ValueError:
        for folder in dict.fromkeys((Path(name).absolute(), expanded(name), runs_root() / name)):
            if outside.in_queue(folder):
                return folder
        raise


@commands.command(**example("geofm report runs/pretrain-ViT-Tiny-FULL_SHARD-3f9a01"))
@click.argument("run_folder", required=False, metavar="RUN")
@click.argument("notebook", required=False, shell_complete=_notebooks)
@click.option("--index", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER",
              help="Make FOLDER/index.html of the pages in it instead.")  # fmt: skip
@click.option("--rebuilt", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.jpg",
              help="Save what a pretraining on the built-in scenes rebuilt instead.")  # fmt: skip
def report(run_folder: str | None, notebook: str | None, index: Path | None, rebuilt: Path | None) -> None:
    """Render the page of a run, or the index of a folder of pages.

    `geofm run` renders pages by itself. For a notebook that JupyterLab or plain papermill executed, give its file as
    NOTEBOOK after its run.
    """
    if (index is None) == (run_folder is None):
        raise click.UsageError("give a run, or --index and a folder of pages")
    from geofm_lib.report.page import render_run, write_index
    from geofm_lib.runs import find

    if run_folder is None:
        made = write_index(index or Path())
    elif rebuilt:
        from geofm_lib.figures.pretrain import save_rebuilt
        from geofm_lib.runs.run import Run

        made = save_rebuilt(Run(find.run_folder(run_folder)), rebuilt)
    else:
        from geofm_lib.runs import check

        made = render_run(find.run_folder(run_folder), check.find(notebook) if notebook else None)
    click.echo(made)


@commands.command(**example("geofm export runs/pretrain-ViT-Tiny-FULL_SHARD-3f9a01 encoder-hf --format vitmae"))
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--format", "kind", required=True, type=click.Choice(FORMATS), help="Who is to read it: this project, "
              "timm, or transformers' ViTModel or ViTMAEForPreTraining.")  # fmt: skip
def export(source: str, target: str, kind: str) -> int:
    """Write an encoder for timm or Hugging Face, or read one of theirs.

    SOURCE is a run or an encoder folder of any of these formats, TARGET a new or empty folder. RUN@STEP is a run's
    checkpoint; of a run that has not ended it is the newest one, unless a step is given. The run goes on undisturbed.
    """
    from geofm_lib.runs import find, unfinished
    from geofm_lib.settings import at_step

    source, step = at_step(source)
    return 2 if unfinished.take(find.typed(source), Path(target), kind, step).returncode else 0


@commands.command(**example("geofm plan ViT-3B --machine frontier --nodes 16 --images 990848 --epochs 100"))
@click.argument("model", shell_complete=lambda ctx, param, text: _starting(MODELS, text))
@click.option("--machine", required=True, shell_complete=lambda ctx, param, text: _starting(MACHINES, text),
              help="A row of geofm_lib/catalog/machines.toml.")  # fmt: skip
@click.option("--nodes", required=True, type=int)
@click.option("--batch", "batch_per_gpu", default=32, show_default=True, help="Images a GPU takes a step.")
@click.option("--workload", default="mae", show_default=True, help="mae | classify")
@click.option("--images", type=int, help="Images of the data set, for node-hours.")
@click.option("--epochs", type=float, help="Passes over them, for node-hours.")
def plan(**asked: Any) -> None:
    """Say what each strategy would do, the fastest that fits first."""
    from geofm_lib.planning import planner

    columns = {"strategy": "<14", "step_s": ">9.3f", "images_per_s": ">13.0f", "low": ">9.0f", "high": ">9.0f",
               "memory_gib": ">11.1f", "fits": ">5"}  # fmt: skip
    columns |= {"node_hours": ">11.1f"} if asked["images"] else {}
    rows = planner.plan(**asked)
    click.echo("".join(format(name, form.split(".")[0]) for name, form in columns.items()))
    for row in rows:
        row["fits"] = "yes" if row["fits"] else "no"
        click.echo("".join(format(row[name], form) for name, form in columns.items()))


@commands.command(**example("geofm doctor"))
def doctor() -> int:
    """Say what this machine can run, what is missing, and the fix."""
    from geofm_lib.advice import doctor as examination

    return examination.main()


@commands.command(**example("geofm calibrate"))
def calibrate() -> None:
    """Fit the planner's speeds to the published throughput again."""
    from geofm_lib.planning import calibrate

    calibrate.main()


@commands.command(**example("geofm study predictions"))
@click.argument("name")
def study(name: str) -> None:
    """Write a table of reports/ anew (and run what it still needs).

    NAME: predictions, unseen, simulated, accuracy, accuracy_rates, predicted_accuracy, experiments, peers or measured
    (README's table).
    """
    from geofm_lib.paper import studies

    click.echo(studies.study(name))


def main(arguments: list[str] | None = None) -> int:
    """The command line (None: this process's own); returns the exit code. A fault is one sentence on standard error.

    Where all that a command makes is text, and it was lost, the code is 74 (EX_IOERR).
    """
    streams.secure()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = commands.main(arguments, prog_name="geofm", standalone_mode=False, obj=arguments is None) or 0
        lost = streams.Dropping.lost and ("--help" in words or not MAKING.intersection(words))
        return code or (os.EX_IOERR if lost else 0)
    except click.exceptions.Abort:
        return 130
    except OSError as error:
        fault = rights.told(error)
    except (click.ClickException, ValueError, RuntimeError) as error:
        fault = error.format_message() if isinstance(error, click.ClickException) else str(error)
        code = getattr(error, "exit_code", 2) if isinstance(error, RuntimeError) else 2
    from geofm_lib.settings.masking import mask

    print(" ".join(mask(fault).split()), file=sys.stderr)
    return int(code)
