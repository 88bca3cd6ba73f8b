"""Where runs stand, as text: the line of a run that goes, one run, all runs, or the rows of a grid."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pandas as pd

from geofm_lib.jobs import pace
from geofm_lib.jobs.run_folder import HEARTBEATS, LIVE
from geofm_lib.runs import life, queue, slurm
from geofm_lib.runs.grid import Row
from geofm_lib.runs.run import Run, find_runs, shown

COLUMNS = ("name", "state", "detail", "step", "images_per_s", "left", "node_hours")  # of a grid's table
MOST_RANKS = 64  # whose heartbeats are read for their memory
PROGRESS_S = 1.0  # the line changes at most so often
SHOWN = (  # column, words, digits
    ("loss", "loss", 4),
    ("top1", "top-1 %", 1),
    ("map", "mAP %", 1),
    ("images_per_s", "images/s", 0),
    ("packed_images_per_s", "packed images/s", 0),
    ("encoded_images_per_s", "encoded images/s", 0),
)


def facts(run: Run) -> dict[str, str]:
    """Where the run is, in words: step, phase, loss, images/s, time left (smoothed, `jobs/pace`); {} before a row."""
    row = run.last_row
    if not row:
        return {}
    total, left = row.get("total_steps") or row.get("total"), row.get("seconds_left")
    found = {"step": f"{row.get('step', 0)}" + (f"/{total}" if total else ""), "phase": str(row.get("phase", ""))}
    found |= {name: f"{row[key]:.{digits}f}" for key, name, digits in SHOWN if isinstance(row.get(key), int | float)}
    found |= {"time left": "" if left is None else duration(left)}
    return {name: text for name, text in found.items() if text}


def progress(run: Run, ended: bool = False) -> str:
    """The same on one line; of a run that has ended no time is left."""
    found, job = facts(run), run.job
    if not found:
        none = "finished" if run.status == "finished" else "no step was logged"  # a simulation logs none
        return f"{job}: {none if ended else 'starting'}".removeprefix(": ")
    left = "" if ended else found.pop("time left", "")
    parts = [f"{job}: step {found.pop('step')}", *filter(None, [found.pop("phase", "")])]
    parts += [f"{name} {text}" for name, text in found.items() if name != "time left"]
    return ", ".join([*parts, *([f"{left} left"] if left else [])])


def memory(run: Run) -> str:
    """The most memory that a rank has held so far: on its GPU, else resident. '' where no heartbeat says so."""
    ranks = range(min(run.resolved.get("ranks", 1), MOST_RANKS))
    found = [run.read_json(f"{HEARTBEATS}/{rank}").get("memory_gib", 0.0) for rank in ranks]
    return f"{max(found):.2f} GiB a rank at most" if any(found) else ""


def last_lines(run: Run, most: int) -> list[str]:
    """The end of log.txt as a terminal would leave it: no colours, of a line that was redrawn the last state."""
    lines = (next(filter(None, reversed(line.split("\r"))), "") for line in run.log_tail(most).split("\n"))
    return ["".join(filter(str.isprintable, click.unstyle(line).expandtabs())) for line in lines]


def followed(run: Run) -> str:
    """The same line, and who runs it where that is another launch."""
    last = run.owner
    return progress(run) + ("" if last is None or last.ours or last.ended else f" (run by {last.who})")


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 12 s, 2 h 05 min.

    >>> duration(3.24), duration(192), duration(7500)
    ('3.2 s', '3 min 12 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


class Line:
    """One line, updated in place: in a notebook by its display, in a terminal by a carriage return."""

    def __init__(self) -> None:
        self.shown, self.text = 0.0, ""
        self.handle: Any = None

    def show(self, text: str, last: bool = False) -> None:
        """Show this text instead of the one before."""
        now = time.monotonic()
        if text == self.text or (now - self.shown < PROGRESS_S and not last):
            return
        self.shown, self.text = now, text
        if "ipykernel" in sys.modules:
            from IPython.display import display

            content = {"text/plain": text}
            if self.handle is None:
                self.handle = display(content, raw=True, display_id=True)
            else:
                self.handle.update(content, raw=True)
        elif sys.stderr.isatty():
            print(f"\r{text:<100}", end="\n" if last else "", file=sys.stderr, flush=True)


def of_grid(rows: list[Row]) -> str:
    """A table with a line a row, and how many are in which state."""
    jobs, silence = _queued()
    table = status(rows, jobs)
    total = f"{len(table)} runs: {_counted(table['state'])}; {table['node_hours'].sum():.2f} node-hours{silence}"
    return f"{_text(table)}\n{total}" if len(table) else total


def of_run(folder: Path) -> str:
    """Its status, how far it is, what went wrong, every start of it, and where its page is."""
    run = Run(folder)
    lines = [f"{shown(folder)}: {run.status}"]
    if run.status == "running":
        lines += [progress(run), *([f"run by {run.owner.who}"] if run.owner else [])]
    lines += [run.trouble] if run.trouble else []
    lines += [str(run.summary[each]) for each in ("error", "reason") if run.summary.get(each)]
    starts = [
        {"began": _when(each["started"]), "took": duration(pace.seconds([each])), "status": each["status"],
         "saved steps": f"{each['from_step']} to {each['to_step']}", "node_hours": f"{each['node_hours']:.3f}"}
        for each in run.slices
    ]  # fmt: skip
    lines += [_text(pd.DataFrame(starts)), f"{duration(run.seconds or 0.0)} in all"] if starts else []
    page = folder / (LIVE if run.status == "running" else "report.html")
    return "\n".join([*lines, *([f"page: {shown(page)}"] if os.path.isfile(page) else [])])


def of_all(root: Path) -> str:
    """A table with a line a run under `root`, oldest first."""
    rows = [(run.folder.name, run.status, _when(run.this_slice.get("ended"))) for run in find_runs(root)]
    if not rows:
        return f"there are no runs in '{root}' yet; `geofm run 01` makes the first"
    table = pd.DataFrame(rows, columns=["run", "status", "ended or last seen"])
    troubles = [each.trouble for each in find_runs(root) if each.trouble]
    return "\n".join([_text(table), f"runs in {root}: {_counted(table['status'])}", *troubles])


def _queued() -> tuple[dict[str, slurm.Queued] | None, str]:
    """This user's jobs by the folder of their run; None, and a sentence, when Slurm does not answer."""
    try:
        return {job.folder: job for job in slurm.queued() if job.state in queue.ACTIVE}, ""
    except RuntimeError as error:
        return None, f"\nthe queue is not known, so this is what the run folders say: {error}"


def status(rows: list[Row], jobs: dict[str, slurm.Queued] | None) -> pd.DataFrame:
    """One row each: name, state, detail, step, images_per_s, left, node_hours.

    state: not sent, waiting, running, finished, stopped, failed or private; unknown where only the queue could tell
    (`jobs` is None). node_hours: spent by every job of the run so far.
    """
    life.first_look(row.folder for row in rows)
    table: list[tuple[Any, ...]] = []
    states: dict[str, str] = {}
    for row in rows:
        run = Run(row.folder)
        state, detail = _state(run, (jobs or {}).get(str(row.folder)), known=jobs is not None)
        if state == "not sent" and (lost := [name for name in row.after if states.get(name) in ("failed", "not sent")]):
            detail = f"needs {', '.join(lost)}"
        states[row.name] = state
        last = run.last_row
        total = last.get("total_steps") or last.get("total")
        step = f"{last['step']}/{total}" if total and "step" in last else ""
        going = state == "running" and run.status == "running"
        speed = round(last["images_per_s"], 1) if going and "images_per_s" in last else None
        left = duration(last["seconds_left"]) if going and "seconds_left" in last else ""
        hours = round(sum(each["node_hours"] for each in run.slices), 3)
        table.append((row.name, state, detail, step, speed, left, hours))
    return pd.DataFrame(table, columns=list(COLUMNS))


def _state(run: Run, job: slurm.Queued | None, known: bool) -> tuple[str, str]:
    """(state, detail): the run folder knows how a run ended, the queue (if it is known) whether it lives."""
    now = run.status
    starts = len(run.slices)
    if now == "finished":
        return "finished", f"in {starts} starts" if starts > 1 else ""
    if run.trouble:
        return {"damaged": "failed"}.get(now, now), run.trouble
    if job:
        if job.state in ("RUNNING", "COMPLETING"):
            return "running", "" if now == "running" else "starting or ending"
        return "waiting", job.reason + (f", start {starts + 1}" if starts else "")
    if now == "running":
        return "running", "outside the queue" if known else ""
    if now in ("stopped", "failed", "killed", "unknown"):
        reason = run.this_slice["reason"].splitlines()
        return "stopped" if now == "stopped" else "failed", reason[0] if reason else now
    outputs = sorted(queue.outputs_folder().glob(f"{run.folder.name}-*.out"), key=lambda file: file.stat().st_mtime)
    if outputs:  # it ran, and left no run
        return "failed", f"{_last_words(outputs[-1])} ({outputs[-1].name})"
    return ("not sent", "") if known else ("unknown", "not begun; sent or not")


def _last_words(output: Path) -> str:
    """What the runner said when a notebook failed before its ranks were started, else the job's last line."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"\S+\.ipynb: (?!FAILED|STOPPED)", line)]
    return (said or lines or ["its job ended without a word"])[-1]


def _counted(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def _when(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, na_rep="")
