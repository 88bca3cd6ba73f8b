"""Send a grid's rows to Slurm, once each, and say where they stand.

What a row's run is called, where it lies and whether it has finished follow from its settings alone, and a job
carries its run folder as its comment. So sending the same grid again sends only what is neither finished nor queued:
rows that failed go on from their last checkpoint, the others stay as they are.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from geofm_lib.catalog.machines import MACHINES, Machine
from geofm_lib.runs import grid, progress, records, slurm
from geofm_lib.runs.run import Run
from geofm_lib.settings import runs_root

BATCH = Path("batch")  # submitted from the repository's folder, as the scripts say
LEAD_S = 300  # the stop signal comes so long before the time limit, or a quarter of a shorter limit
STATUS = ("name", "state", "detail", "step", "images_per_s", "left", "node_hours")
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
             f"--output={_outputs()}/{row.folder.name}-%j.out"]  # fmt: skip
    if wait_for:
        words += [f"--dependency=afterok:{':'.join(wait_for)}", "--kill-on-invalid-dep=yes"]
    given = [word for name, value in row.parameters.items() for word in ("-p", name, value)]
    return [*words, *site.extra, str(site.script), f"notebooks/{row.notebook.name}", *given]


def lines(rows: list[grid.Row], site: Site) -> list[str]:
    """The sbatch lines of all rows that are not finished, each as it would be typed; dependencies by name."""
    finished = {row.name for row in rows if Run(row.folder).status == "finished"}
    return [
        shlex.join(command(row, site, [name for name in row.after if name not in finished]))
        for row in rows
        if row.name not in finished
    ]


def send(rows: list[grid.Row], site: Site, limit: int | None = None) -> Iterator[tuple[grid.Row, str]]:
    """Send what is neither finished nor queued; gives (row, what became of it) for every row, as it is done.

    Args:
        limit: at most so many jobs of this user are in the queue at once, whoever sent them; the rows beyond it are
            left, and sending the grid again when some have ended sends them. None: the machine's own limit.

    Raises ValueError for a limit below 1, RuntimeError when Slurm does not answer or refuses a job.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit}: give a number of jobs from 1 on")
    jobs = slurm.queued()
    numbers = {job.folder: job.number for job in jobs if job.state in ACTIVE}
    limit = limit or (site.machine.queued if site.machine else None) or len(rows) + len(jobs)
    room, by_name = limit - len(jobs), {row.name: row for row in rows}
    _outputs().mkdir(parents=True, exist_ok=True)
    for row in rows:
        needed = [by_name[name] for name in row.after if Run(by_name[name].folder).status != "finished"]
        if Run(row.folder).status == "finished":
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


def status(rows: list[grid.Row]) -> pd.DataFrame:
    """One row each: name, state, detail, step, images_per_s, left, node_hours.

    state: not sent, waiting, running, finished, stopped or failed. node_hours: spent by every job of the run so far.
    """
    jobs = {job.folder: job for job in slurm.queued() if job.state in ACTIVE}
    table, states = [], {}
    for row in rows:
        run = Run(row.folder)
        state, detail = _state(run, jobs.get(str(row.folder)))
        if state == "not sent" and (lost := [name for name in row.after if states.get(name) in ("failed", "not sent")]):
            detail = f"needs {', '.join(lost)}"
        states[row.name] = state
        last = run.last_row
        total = last.get("total_steps") or last.get("total")
        step = f"{last['step']}/{total}" if total and "step" in last else ""
        going = state == "running" and run.status == "running"
        table.append(
            {
                "name": row.name,
                "state": state,
                "detail": detail,
                "step": step,
                "images_per_s": round(last["images_per_s"], 1) if going and "images_per_s" in last else None,
                "left": progress.duration(last["seconds_left"]) if going and "seconds_left" in last else "",
                "node_hours": round(sum(each["node_hours"] for each in records.slices(run)), 3),
            }
        )
    return pd.DataFrame(table, columns=STATUS)


def _state(run: Run, job: slurm.Queued | None) -> tuple[str, str]:
    """(state, detail): the run folder knows how a run ended, the queue whether it lives."""
    now = run.status
    starts = len(records.slices(run))
    if now == "finished":
        return "finished", f"in {starts} starts" if starts > 1 else ""
    if job:
        if job.state in ("RUNNING", "COMPLETING"):
            return "running", "" if now == "running" else "starting or ending"
        return "waiting", job.reason + (f", start {starts + 1}" if starts else "")
    if now == "running":
        return "running", "outside the queue"
    if now in ("stopped", "failed", "killed"):
        reason = records.this_slice(run)["reason"].splitlines()
        return "stopped" if now == "stopped" else "failed", reason[0] if reason else now
    outputs = sorted(_outputs().glob(f"{run.folder.name}-*.out"), key=lambda file: file.stat().st_mtime)
    if outputs:  # it ran, and left no run
        return "failed", f"{_last_words(outputs[-1])} ({outputs[-1].name})"
    return "not sent", ""


def _last_words(output: Path) -> str:
    """What the runner said when a notebook failed before its ranks were started, else the job's last line."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"\S+\.ipynb: (?!FAILED|STOPPED)", line)]
    return (said or lines or ["its job ended without a word"])[-1]


def _outputs() -> Path:
    """Where jobs of grids write their output: the job's own words, when there is no run to hold them."""
    return runs_root().absolute() / ".queue"
