"""Send a grid's rows to Slurm, once each, or run them on this machine: what a laptop has instead of Slurm.

What a row's run is called, where it lies and whether it has finished follow from its settings alone, and a job
carries its run folder as its comment. So sending the same grid again sends only what is neither finished nor queued:
rows that failed go on from their last checkpoint, the others stay as they are.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geofm_lib.catalog.machines import MACHINES, Machine
from geofm_lib.catalog.metrics import counted, number
from geofm_lib.jobs.run_folder import handling, stop_signals
from geofm_lib.runs import grid, slurm
from geofm_lib.runs.run import shown
from geofm_lib.settings import own_folder

BATCH = Path("batch")  # submitted from the repository's folder, as the scripts say
LEAD_S = 300  # the stop signal comes so long before the time limit, or a quarter of a shorter limit
COMPARE_S = 300.0  # a page that is not made by then is given up
ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Site:
    """Where rows are sent: `batch/<name>.sh`, the machine of that name if there is one, and more words for sbatch."""

    name: str = "slurm"
    extra: tuple[str, ...] = ()

    @property
    def script(self) -> Path:
        """Its batch script."""
        return BATCH / f"{self.name}.sh"

    @property
    def machine(self) -> Machine | None:
        """Its row of catalog/machines: memory, time limits, how many jobs may be queued. None: nothing is known."""
        return MACHINES.get(self.name)


def command(row: grid.Row, site: Site, wait_for: list[str]) -> list[str]:
    """The sbatch line of a row; `wait_for` are the job numbers (or names, to show) that must end well before it."""
    lead = min(LEAD_S, grid.seconds(row.walltime) // 4)
    words = ["sbatch", "--parsable", f"--job-name={row.name}", f"--comment={row.folder}", f"--nodes={row.nodes}",
             f"--ntasks-per-node={row.tasks_per_node}", f"--time={row.walltime}", f"--signal=B:USR1@{lead}",
             f"--output={outputs_folder()}/{row.folder.name}-%j.out"]  # fmt: skip
    if wait_for:
        words += [f"--dependency=afterok:{':'.join(wait_for)}", "--kill-on-invalid-dep=yes"]
    return [*words, *site.extra, str(site.script), f"notebooks/{row.notebook.name}", *row.words]


def lines(rows: list[grid.Row], site: Site) -> list[str]:
    """The sbatch lines of all rows that are not finished, each as it would be typed; dependencies by name."""
    finished = {row.name for row in rows if row.finished}
    return [
        shlex.join(command(row, site, [name for name in row.after if name not in finished]))
        for row in rows
        if row.name not in finished
    ]


def total(rows: list[grid.Row], refused: int) -> str:
    """What a grid asks for, as a shell's comment below its sbatch lines."""
    ready = [row for row in rows if not row.finished]
    hours = sum(row.nodes * grid.seconds(row.walltime) for row in ready) / 3600
    counts = f"{counted(len(ready), 'row')} ready, {len(rows) - len(ready)} finished, {refused} refused"
    return f"# {counts}; {number(hours, 3)} node-hours at most, at the walltimes asked for"


def send(rows: list[grid.Row], site: Site, limit: int | None = None) -> Iterator[tuple[grid.Row, str]]:
    """Send what is neither finished nor queued; gives (row, what became of it) for every row, as it is done.

    At most `limit` jobs of this user are in the queue at once, whoever sent them (None: the machine's own limit). The
    rows beyond it are left, and sending the grid again when some have ended sends them.
    ValueError for a limit below 1, RuntimeError when Slurm does not answer or refuses a job.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit}: give a number of jobs from 1 on")
    jobs = slurm.queued()
    numbers = {job.folder: job.number for job in jobs if job.state in ACTIVE}
    limit = limit or (site.machine.queued if site.machine else None) or len(rows) + len(jobs)
    room, by_name = limit - len(jobs), {row.name: row for row in rows}
    outputs_folder().mkdir(parents=True, exist_ok=True)
    for row in rows:
        needed = [by_name[name] for name in row.after if not by_name[name].finished]
        if row.finished:
            yield row, "finished before"
        elif str(row.folder) in numbers:
            yield row, f"in the queue as job {numbers[str(row.folder)]}"
        elif room < 1 or any(str(each.folder) not in numbers for each in needed):
            yield row, f"left for the next --send: {limit} jobs are in the queue"
        else:
            try:
                number = slurm.submit(command(row, site, [numbers[str(each.folder)] for each in needed]))
            except RuntimeError as error:
                raise RuntimeError(f"row {row.line}, {row.name}: Slurm refused it, so this and later rows are not "
                                   f"sent: {error}") from None  # fmt: skip
            numbers[str(row.folder)] = number
            room -= 1
            yield row, f"sent as job {number}"


def outputs_folder() -> Path:
    """Where jobs of this user's grids write their output: the job's own words, when there is no run to hold them."""
    return own_folder("queue")


def run_here(rows: list[grid.Row], limit: int | None = None) -> Iterator[tuple[grid.Row, str]]:
    """Run what is not finished here, one by one, `limit` rows at most; gives (row, what became of it) for every row.

    A stop (Ctrl-C, TERM, HUP) is passed on to the row that runs, and leaves the others.
    """
    started, stop = 0, False
    for row in rows:
        missing = [each.name for each in rows if each.name in row.after and not each.finished]
        if row.finished:
            yield row, "finished before"
        elif stop:
            yield row, "left: a stop was asked for"
        elif row.nodes > 1:
            yield row, f"left: it needs {row.nodes} nodes, and this is one machine"
        elif missing:
            yield row, f"left: it needs {', '.join(missing)}"
        elif started == limit:
            yield row, f"left: {limit} rows were asked for"
        else:
            started += 1
            code, stop = _run_here(command_here(row))
            why = f"failed with exit code {code}; its page is in {shown(row.folder)}"
            why = "stopped; the same command goes on from there" if code == os.EX_TEMPFAIL else why
            yield row, why if code else "finished"


def _run_here(words: list[str]) -> tuple[int, bool]:
    """(exit code, was it asked to stop). A process group of its own, so that Ctrl-C reaches it once, by us."""
    asked: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if process:
            process.send_signal(number)

    # Before the row is started: it may take no time until the first signal comes.
    with handling(stop_signals(signal.SIGINT), pass_on):
        process = subprocess.Popen(words, process_group=0)
        if asked:
            process.send_signal(asked[-1])
        return process.wait(), bool(asked)


def command_here(row: grid.Row) -> list[str]:
    """The command line that runs a row on this machine."""
    ranks = [] if "ranks" in row.parameters else ["-p", "ranks", str(row.ranks)]
    return [sys.executable, "-m", "geofm_lib", "run", str(row.notebook), *ranks, *row.words]


def compare_here(words: list[str]) -> None:
    """Make the page of a grid that has run; what becomes of it changes nothing of how the grid ended."""
    with suppress(OSError, subprocess.SubprocessError, KeyboardInterrupt):
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "geofm_lib", *words], timeout=COMPARE_S, check=False)
