"""What stands at the top of a page: how the run or the execution ended, in one word, one sentence and its cause."""

from typing import Any

from nbformat import NotebookNode

from geofm_lib.report import notebook_outputs
from geofm_lib.runs.progress import duration
from geofm_lib.runs.run import Run

LOG_LINES = 25
ENDED_BADLY = ("failed", "killed", "stopped")
SENTENCES = {
    "stopped": "The run was stopped and saved what it needs; execute the notebook again to go on.",
    "failed": "This page is incomplete.",
    "killed": "The kernel or its ranks were killed before the run could end; execute the notebook again to go on.",
    "running": "The run had not ended when this page was made.",
    "waiting": "The run had not begun when this page was made.",
}


def banner(
    notebook: NotebookNode, run: Run | None, said: str | None = None, error: str = "", seconds: float | None = None
) -> dict[str, Any]:
    """{"status", "text", "error", "log", "cpu"}.

    Args:
        said: how the execution ended (finished, failed, stopped, killed), if the runner knows.
        error: what it says went wrong.
        seconds: how long it took.
    """
    raised = notebook_outputs.failed(notebook)
    status = _status(run, said, raised, notebook_outputs.complete(notebook))
    summary = run.summary if run else {}
    text = _finished(run, seconds) if status == "finished" else SENTENCES[status]
    log = notebook_outputs.plain(run.log_tail(LOG_LINES)) if run and status in ENDED_BADLY else ""
    cause = summary.get("reason", "") if status == "stopped" else ""
    if status in ("failed", "killed"):
        cause = summary.get("error") or error or raised
        if summary.get("error") and summary.get("rank") is not None:
            text += f" Rank {summary['rank']} failed:"
        elif run and run.status == "finished":
            text += " The run itself finished; a cell after it failed:"
            log = ""
    where = run.environment if run else {}
    cpu = bool(where) and where.get("device_type", "cpu") == "cpu"
    return {"status": status, "text": text, "error": notebook_outputs.plain(cause).strip(), "log": log, "cpu": cpu}


def _finished(run: Run | None, seconds: float | None) -> str:
    summary = run.summary if run else {}
    if "seconds" in summary:
        ranks = summary.get("ranks", 1)
        return f"The run took {duration(summary['seconds'])} on {ranks} rank{'s' if ranks != 1 else ''}."
    if run:
        return "The run finished."
    return "Every cell ran." if seconds is None else f"Every cell ran, in {duration(seconds)}."


def _status(run: Run | None, said: str | None, raised: str, complete: bool) -> str:
    """The worst of what the run folder, the runner and the cells say."""
    if said == "killed":
        return "killed"
    if run is not None and run.status in ENDED_BADLY:
        return run.status
    if said in ENDED_BADLY:
        return str(said)
    if raised:
        return "failed"
    if run is not None and run.status != "finished":
        return run.status
    return "finished" if said == "finished" or complete else "killed"
