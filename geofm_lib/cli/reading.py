"""Commands that read runs: where they stand, one from outside, its page, its encoder for others."""

from pathlib import Path

import click

from geofm_lib.cli.group import commands, example, notebooks, rows_of

FORMATS = ("geofm", "timm", "vit", "vitmae")


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
            rows, faults = rows_of(grid, queue.Site(site))
            click.echo(overview.of_grid(rows))
        return int(faults > 0)
    click.echo(overview.of_run(find.run_folder(subject)) if subject else overview.of_all(runs_root()))
    return 0


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
@click.argument("notebook", required=False, shell_complete=notebooks)
@click.option("--index", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER",
              help="Make FOLDER/index.html of the pages in it instead.")  # fmt: skip
@click.option("--rebuilt", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.jpg",
              help="Save what a pretraining on the built-in scenes rebuilt instead.")  # fmt: skip
@click.option("--crate", is_flag=True, help="Write the ended run as a Workflow Run RO-Crate instead: RUN.crate.zip.")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE.zip", help="Put the crate there.")
def report(run_folder: str | None, notebook: str | None, index: Path | None, rebuilt: Path | None, crate: bool,
           to: Path | None) -> None:  # fmt: skip
    """Render the page of a run, or the index of a folder of pages.

    `geofm run` renders pages by itself. For a notebook that JupyterLab or plain papermill executed, give its file as
    NOTEBOOK after its run.
    """
    if (index is None) == (run_folder is None):
        raise click.UsageError("give a run, or --index and a folder of pages")
    if to and not crate or crate and (notebook or index or rebuilt):
        raise click.UsageError("--crate takes one run and, with --to, the file to write")
    from geofm_lib.report.page import render_run, write_index
    from geofm_lib.runs import find

    if run_folder is None:
        made = write_index(index or Path())
    elif rebuilt:
        from geofm_lib.figures.pretrain import save_rebuilt
        from geofm_lib.runs.run import Run

        made = save_rebuilt(Run(find.run_folder(run_folder)), rebuilt)
    elif crate:
        from geofm_lib.report import crate as crates
        from geofm_lib.runs.run import Run

        made = crates.write(Run(find.run_folder(run_folder)), to)
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
