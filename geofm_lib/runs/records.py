"""Reading run folders: one run, its status, and tables over many. The desk's only source of results."""

import csv
import glob
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.settings import runs_root

HEARTBEAT_OLD_S = 30.0  # ranks touch `heartbeat` every two seconds
STATUSES = ("waiting", "running", "finished", "stopped", "failed", "killed")


@dataclass(frozen=True)
class Run:
    """A run folder, read when asked."""

    folder: Path

    @property
    def status(self) -> str:
        """One of STATUSES."""
        return status(self.folder)

    @property
    def job(self) -> str:
        """prepare, pretrain, throughput or probe."""
        return self.read_json("settings.json").get("job", "")

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked."""
        return self.read_json("settings.json").get("asked", {})

    @property
    def resolved(self) -> dict[str, Any]:
        """What it came to: data folder, encoder, ranks."""
        return self.read_json("settings.json").get("resolved", {})

    @property
    def summary(self) -> dict[str, Any]:
        """Status and headline numbers; empty until the run has ended."""
        return self.read_json("summary.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Commit, host, device, versions."""
        return self.read_json("environment.json")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per logged step."""
        return pd.DataFrame(_rows(self.folder / "metrics.jsonl"))

    @property
    def ranks(self) -> pd.DataFrame:
        """One row per rank."""
        return self.read_csv("ranks.csv")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, {} if it is not there."""
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}

    def read_csv(self, name: str) -> pd.DataFrame:
        """A CSV file of the run, an empty table if it is not there."""
        file = self.folder / name
        return pd.read_csv(file, keep_default_na=False) if file.is_file() and file.stat().st_size else pd.DataFrame()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of all ranks' output."""
        file = self.folder / "log.txt"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.is_file() else ""

    def _repr_html_(self) -> str:
        return f"<p>Run <code>{shown(self.folder)}</code>: <b>{self.status}</b></p>"


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(file)


def shown(folder: str | Path) -> str:
    """A run folder as a reader should see it: `runs/<name>` where runs usually go, else the whole path."""
    usual = runs_root().absolute()
    inside = Path(folder).absolute().is_relative_to(usual)
    return str(Path(usual.name) / Path(folder).absolute().relative_to(usual)) if inside else str(folder)


def status(folder: str | Path) -> str:
    """waiting, running, finished, stopped, failed or killed (no summary and an old heartbeat)."""
    folder = Path(folder)
    try:
        return json.loads((folder / "summary.json").read_text())["status"]
    except FileNotFoundError:
        pass
    try:
        age = time.time() - (folder / "heartbeat").stat().st_mtime
    except FileNotFoundError:
        return "waiting"
    return "running" if age < HEARTBEAT_OLD_S else "killed"


def saved_step(folder: str | Path) -> int:
    """How far a run is saved: the step of its last whole checkpoint, or how many data shards are finished; else 0."""
    try:
        return int((Path(folder) / "checkpoint" / "latest").read_text().removeprefix("step-"))
    except (FileNotFoundError, ValueError):
        return len(list((Path(folder) / "shards").glob("*.csv")))


def this_slice(run: Run) -> dict[str, Any]:
    """The last launch of a run in one row, {} if there was none; `slices` gives them all.

    job, restart (of Slurm, '' elsewhere), nodes, started and ended (seconds since 1970; a running slice ends now),
    from_step and to_step (checkpoints), status, reason, node_hours.
    """
    where, ended = run.environment, time.time()
    if not where:
        return {}
    state = run.status
    if state != "running":
        marks = (run.folder / name for name in ("summary.json", "heartbeat", "environment.json"))
        ended = next(mark for mark in marks if mark.exists()).stat().st_mtime
    started, nodes = where.get("job_started", ended), where.get("slurm_nodes", 1)
    return {
        "job": where.get("slurm_job", ""),
        "restart": where.get("slurm_restart", ""),
        "nodes": nodes,
        "started": round(started, 1),
        "ended": round(ended, 1),
        "from_step": where.get("from_step", 0),
        "to_step": saved_step(run.folder),
        "status": state,
        "reason": run.summary.get("error") or run.summary.get("reason") or REASONS.get(state, ""),
        "node_hours": nodes * max(0.0, ended - started) / 3600,
    }


REASONS = {"killed": "its job ended without a word: over its time limit, out of memory, or its node failed"}


def slices(run: Run) -> list[dict[str, Any]]:
    """Every launch of a run, oldest first, as `this_slice` tells it."""
    now = this_slice(run)
    return _rows(run.folder / "history.jsonl") + ([now] if now else [])


def find(root: str | Path, job: str | None = None) -> list[Run]:
    """The run folders under `root`, oldest first."""
    found = [Run(p.parent) for p in Path(root).glob("*/settings.json")]
    found.sort(key=lambda run: (run.folder / "settings.json").stat().st_mtime)
    return [run for run in found if job is None or run.job == job]


def table(pattern: str = "runs/*") -> pd.DataFrame:
    """One row per run folder that matches: its settings, its headline numbers, status and folder."""
    folders = [Path(found) for found in sorted(glob.glob(str(pattern)))]
    rows = []
    for folder in folders:
        if (folder / "settings.json").is_file():
            run = Run(folder)
            scalars = {k: v for k, v in run.summary.items() if not isinstance(v, dict | list)}
            rows.append({"job": run.job, **run.settings, **scalars, "status": run.status, "folder": str(folder)})
    return pd.DataFrame(rows)


def progress(run: Run) -> str:
    """One line: where the run is (step, loss, images/s, time left)."""
    row = last_row(run.folder / "metrics.jsonl")
    if not row:
        return f"{run.job}: starting"
    total = row.get("total_steps") or row.get("total")
    parts = [f"{run.job}: step {row.get('step', 0)}" + (f"/{total}" if total else "")]
    parts += [str(row["phase"])] if row.get("phase") else []
    parts += [f"{name} {row[key]:.{digits}f}" for key, name, digits in SHOWN if isinstance(row.get(key), int | float)]
    if row.get("seconds_left") is not None:
        parts.append(f"{duration(row['seconds_left'])} left")
    return ", ".join(parts)


SHOWN = (("loss", "loss", 4), ("top1", "top-1 %", 1), ("images_per_s", "images/s", 0),
         ("encoded_images_per_s", "encoded images/s", 0))  # fmt: skip


def last_row(file: Path) -> dict[str, Any]:
    """The last whole row of a metrics file, reading only its end."""
    try:
        with open(file, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return {}


def record(name: str, rows: list[dict[str, Any]], folder: str | Path = "reports") -> Path:
    """Write `folder/name.csv`, each row with the commit, date and versions it was made with."""
    from geofm_lib.runs.provenance import stamp

    file = Path(folder) / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    marks = stamp()
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=[*rows[0], *marks])
        writer.writeheader()
        writer.writerows({**row, **marks} for row in rows)
    return file


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return rows
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # a row half written when the run was killed
            continue
    return rows


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 12 s, 2 h 05 min.

    >>> duration(3.24), duration(192), duration(7500)
    ('3.2 s', '3 min 12 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
