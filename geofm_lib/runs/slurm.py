"""What Slurm says, asked by its own commands. Without an answer: nothing, or RuntimeError where that would mislead."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime

ASK_S = 20.0


def in_allocation() -> bool:
    """Inside an allocation, so that srun starts the ranks."""
    return "SLURM_JOB_ID" in os.environ


def slice_name() -> str:
    """This start of this job, for names of files: '1234-0', after a requeue '1234-1'; '' outside an allocation."""
    return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT') or 0}" if in_allocation() else ""


def here() -> dict[str, object]:
    """This job as it stands in environment.json: its number, which restart, how many nodes, when it began."""
    if not in_allocation():
        return {}
    nodes = os.environ.get("SLURM_NNODES") or os.environ.get("SLURM_JOB_NUM_NODES") or 1
    return {
        "slurm_job": os.environ["SLURM_JOB_ID"],
        "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "slurm_nodes": int(nodes),
    }


def seconds_left() -> float | None:
    """Until this job's time limit; None outside a job, or if Slurm does not say."""
    if not in_allocation():
        return None
    ends = _ask("squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%e").strip()
    try:
        return max(0.0, datetime.fromisoformat(ends).timestamp() - time.time())
    except ValueError:  # "N/A", "Unknown" or nothing
        return None


def down_nodes() -> str:
    """'node2 of this job is down (reason)', or '' when all of this job's nodes work."""
    if not in_allocation():
        return ""
    rows = _ask("sinfo", "--noheader", "--Node", f"--nodes={os.environ.get('SLURM_JOB_NODELIST', '')}",
                "--format=%N|%T|%E")  # fmt: skip
    found = dict.fromkeys(row for row in rows.splitlines() if row.count("|") == 2)
    parts = []
    for node, state, reason in (row.split("|") for row in found):
        if state.startswith(("down", "fail")) or state.endswith("*"):  # the star: it does not answer
            why = "does not answer" if state.endswith("*") else f"is {state} ({reason})"
            parts.append(f"{node} of this job {why}")
    return "; ".join(parts)


@dataclass(frozen=True)
class Queued:
    """A job of this user that has not ended."""

    number: str
    state: str  # PENDING, RUNNING, COMPLETING ...
    reason: str  # why it waits
    folder: str  # of its run: the job's comment


def queued() -> list[Queued]:
    """This user's jobs, none where Slurm is not installed.

    RuntimeError when Slurm does not answer: then nothing is known, least of all that none wait.
    """
    if shutil.which("squeue") is None:
        return []
    answer = _run("squeue", "--me", "--noheader", "--format=%i|%T|%r|%k")
    if answer.returncode:
        raise RuntimeError(f"squeue does not answer: {answer.stderr.strip()}")
    return [Queued(*line.split("|", 3)) for line in answer.stdout.splitlines() if line.count("|") >= 3]


def submit(command: list[str]) -> str:
    """sbatch with these words; the job's number. RuntimeError with Slurm's sentence when it refuses."""
    answer = _run(*command)
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip() or f"sbatch ended with {answer.returncode}")
    return answer.stdout.strip().splitlines()[-1].split(";")[0]


def _ask(*command: str) -> str:
    answer = _run(*command)
    return "" if answer.returncode else answer.stdout


def _run(*command: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
