"""How an execution ended, from what happened and the run folder: its status and exit code, and its page's first lines.

The notebook's metadata is never asked.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from geofm_lib import files
from geofm_lib.report import notebook_outputs
from geofm_lib.runs import slurm
from geofm_lib.runs.endings import EXIT_CODES
from geofm_lib.runs.overview import duration
from geofm_lib.runs.run import Run
from geofm_lib.settings import own_folder

REFUSED = ("SettingsError", "RunRefused", "Damaged", "Private")  # what was given can be mended: 2, as of any command
SAID = (*REFUSED, "RunFailed", "RunStopped")  # errors whose text is the whole message
INTERRUPTED = "a stop was asked for, and the cell that was running was interrupted; run the notebook again to go on"
ENDED_BADLY = ("failed", "killed", "unknown", "stopped", "damaged", "private")
COUNTS = ("simulate", "findings")  # jobs that say what a GPU would do, or what no device changes
SENTENCES = {
    "stopped": "This was stopped before its end; execute the notebook again to go on.",
    "failed": "This page is incomplete.",
    "killed": "The kernel or its ranks were killed before the run could end; execute the notebook again to go on.",
    "unknown": "How the run ended is not known, since its summary.json is gone; execute the notebook again to go on.",
    "damaged": "A file of the run cannot be believed, so neither can this page.",
    "private": "The run belongs to somebody else, who lets nobody read it.",
    "running": "The run had not ended when this page was made.",
    "waiting": "The run had not begun when this page was made.",
}


def judge(
    executed: Path, kind: str, error: str, run: Run | None, launched: bool, asked: bool, cut: bool = False
) -> tuple[str, str]:
    """(finished | failed | stopped | killed, what went wrong).

    Args:
        executed: the notebook as papermill left it.
        kind: name of the exception that ended the execution, '' if none.
        launched: this execution started the run's ranks; otherwise the folder says how an earlier one ended.
        asked: a stop was asked for.
        cut: for that the kernel was interrupted, since it watched no ranks.
    """
    if kind == "DeadKernelError":
        # Slurm may send SIGTERM to every process of a job, and a kernel that starts or draws dies of it.
        return ("stopped", "a stop was asked for and ended the kernel") if asked else ("killed", error)
    own = run if run is not None and launched else None
    if kind:
        if kind == "OSError" and own and own.status == "failed":
            error = own.summary["error"]  # papermill's own trouble with the same disk says less
        stopped = kind == "RunStopped" or (own is not None and own.status == "stopped")
        if cut and not stopped and kind not in ("RunFailed", *REFUSED):
            return "stopped", INTERRUPTED
        return ("stopped" if stopped else "failed"), error
    cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code" and cell.source]
    skipped = [cell.id for cell in cells if cell.execution_count is None]
    if skipped and cut:
        return "stopped", INTERRUPTED
    if skipped:  # sys.exit in a cell skips the rest and looks like success
        return "failed", f"the notebook ended early: {len(skipped)} cells did not run, '{skipped[0]}' first"
    if run is not None and run.status != "finished":
        return "failed", run.trouble or f"the notebook ran to its end, but its run is {run.status}"
    return "finished", ""


def exit_code(state: str, kind: str) -> int:
    """What the runner ends with; `kind`: name of the exception that ended the execution, '' if none."""
    return 2 if state == "failed" and kind in REFUSED else EXIT_CODES[state]


def no_progress(run: Run | None) -> str:
    """Why a stopped job must not be queued again: two starts of it in a row that saved nothing new. '' if it may.

    Each start that stops leaves a line in `runs/.USER/queue/<job>.jsonl`, also when it did not come to start any ranks
    (run None).
    """
    if not slurm.in_allocation():
        return ""
    this = run.this_slice if run else {}
    mine = {"start": slurm.slice_name(), "from_step": this.get("from_step", 0), "to_step": this.get("to_step", 0)}
    file = own_folder("queue") / f"{os.environ['SLURM_JOB_ID']}.jsonl"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a+") as log:
            log.seek(0)
            before = log.read().splitlines()
            log.write(json.dumps(mine) + "\n")
    except OSError as error:
        fault = f"the job is not queued again, since '{file}' cannot be written ({error.strerror}); make room first"
    else:
        last = json.loads(before[-1]) if before else None
        if last is None or any(each["to_step"] > each["from_step"] for each in (last, mine)):
            return ""
        where = f"both began at step {mine['from_step']} and saved no later one" if run else "no ranks were started"
        fault = (
            f"no progress in two consecutive jobs ({last['start']} and {mine['start']}): {where}, so it is not queued "
            "again; give it more --time, an earlier stop signal, or a smaller checkpoint_every"
        )
    if run and not (run.owner and not run.owner.ended):  # else another launch has it by now
        with contextlib.suppress(OSError):
            files.write_json(run.folder / "summary.json", {**run.summary, "status": "failed", "error": fault})
    return fault


def banner(notebook: NotebookNode, run: Run | None, said: dict[str, Any]) -> dict[str, Any]:
    """What stands at the top of a page: {"status", "text", "error", "log", "cpu"}.

    `said`: the runner's own "status" (finished | failed | stopped | killed), "error" and "seconds"; else {}.
    """
    raised = notebook_outputs.failed(notebook)
    status = _status(run, said.get("status", ""), raised, notebook_outputs.complete(notebook))
    summary, where = (run.summary, run.environment) if run else ({}, {})
    text = _finished(run, said.get("seconds")) if status == "finished" else SENTENCES[status]
    shows_log = run and status in ENDED_BADLY and not summary.get("told")
    log = notebook_outputs.plain(run.log_tail(25)) if run and shows_log else ""
    stop = summary.get("reason") or said.get("error", "")
    cause = stop if status == "stopped" else run.trouble if run else ""
    if status in ("failed", "killed"):
        cause = summary.get("error") or said.get("error") or raised
        if summary.get("error") and summary.get("rank") is not None and not summary.get("told"):
            text += f" Rank {summary['rank']} failed:"
        elif run and run.status == "finished":
            text += " The run itself finished; a cell after it failed:"
            log = ""
    cpu = bool(where) and where.get("device_type", "cpu") == "cpu" and run is not None and run.job not in COUNTS
    return {"status": status, "text": text, "error": notebook_outputs.plain(cause).strip(), "log": log, "cpu": cpu}


def _finished(run: Run | None, seconds: float | None) -> str:
    summary = run.summary if run else {}
    if run and run.seconds is not None:
        ranks, starts = summary.get("ranks", 1), len(run.slices)
        over = f", over {starts} starts" if starts > 1 else ""
        return f"The run took {duration(run.seconds)} on {ranks} rank{'s' if ranks != 1 else ''}{over}."
    if run:
        return "The run finished."
    return "Every cell ran." if seconds is None else f"Every cell ran, in {duration(seconds)}."


def _status(run: Run | None, said: str, raised: str, complete: bool) -> str:
    """The worst of what the run folder, the runner and the cells say."""
    own = run.status if run else "finished"
    ends = ("killed" if said == "killed" else own, said, "failed" if raised else "")
    worst = next((each for each in ends if each in ENDED_BADLY), own)
    return "killed" if worst == "finished" and said != "finished" and not complete else worst
