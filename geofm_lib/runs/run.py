"""Run folders, read when asked: what was asked, how it stands, what it measured. Results come from nowhere else."""

import glob
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.jobs.run_folder import HEARTBEATS
from geofm_lib.settings import clone, expanded

HEARTBEAT_OLD_S = 30.0  # a run whose last heartbeat is older lives no more
REASONS = {"killed": "its job ended without a word: over its time limit, out of memory, or its node failed"}


@dataclass(frozen=True)
class Run:
    """A run folder, read when asked."""

    folder: Path

    @property
    def status(self) -> str:
        """The summary's word (finished, stopped, failed); without one waiting, running while heard of, or killed."""
        if ended := self.summary.get("status"):
            return str(ended)
        heard = self.last_heartbeat
        if heard is None:
            return "waiting"
        return "running" if time.time() - heard < HEARTBEAT_OLD_S else "killed"

    @property
    def last_heartbeat(self) -> float | None:
        """When a process of this run was last heard, in seconds since 1970; None if none ever was."""
        names = [f"{HEARTBEATS}/{file.name}" for file in (self.folder / HEARTBEATS).glob("*")]
        return max(filter(None, map(self.written, names)), default=None)

    @property
    def saved_step(self) -> int:
        """The step of its last whole checkpoint, or how many data shards are finished; else 0."""
        try:
            return int((self.folder / "checkpoint" / "latest").read_text().removeprefix("step-"))
        except (FileNotFoundError, ValueError):
            return len(list((self.folder / "shards").glob("*.csv")))

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
        return pd.DataFrame(self.read_rows("metrics.jsonl"))

    @property
    def last_row(self) -> dict[str, Any]:
        """The last whole row of the metrics, reading only the file's end; {} if there is none."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - 4096))
                lines = stream.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        return next(_whole(reversed(lines)), {})

    @property
    def ranks(self) -> pd.DataFrame:
        """One row per rank."""
        return self.read_csv("ranks.csv")

    @property
    def this_slice(self) -> dict[str, Any]:
        """The last launch in one row, {} if there was none; `slices` gives them all.

        job, restart (of Slurm, '' elsewhere), nodes, started and ended (seconds since 1970; a running slice ends now),
        from_step and to_step (checkpoints), status, reason, node_hours.
        """
        where, state, ended = self.environment, self.status, time.time()
        if not where:
            return {}
        if state != "running":
            seen = self.written("summary.json"), self.last_heartbeat, self.written("environment.json")
            ended = next(filter(None, seen))
        started, nodes = where.get("job_started", ended), where.get("slurm_nodes", 1)
        return {
            "job": where.get("slurm_job", ""),
            "restart": where.get("slurm_restart", ""),
            "nodes": nodes,
            "started": round(started, 1),
            "ended": round(ended, 1),
            "from_step": where.get("from_step", 0),
            "to_step": self.saved_step,
            "status": state,
            "reason": self.summary.get("error") or self.summary.get("reason") or REASONS.get(state, ""),
            "node_hours": nodes * max(0.0, ended - started) / 3600,
        }

    @property
    def slices(self) -> list[dict[str, Any]]:
        """Every launch of the run, oldest first, as `this_slice` gives it."""
        now = self.this_slice
        return self.read_rows("history.jsonl") + ([now] if now else [])

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, {} if it is not there."""
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file of JSON lines, [] if it is not there."""
        try:
            return list(_whole((self.folder / name).read_text().splitlines()))
        except FileNotFoundError:
            return []

    def read_csv(self, name: str) -> pd.DataFrame:
        """A CSV file of the run, an empty table if it is not there."""
        file = self.folder / name
        return pd.read_csv(file, keep_default_na=False) if file.is_file() and file.stat().st_size else pd.DataFrame()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of all ranks' output."""
        file = self.folder / "log.txt"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.is_file() else ""

    def written(self, name: str) -> float | None:
        """When a file of the run was last written, in seconds since 1970; None if it is not there."""
        try:
            return (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def _repr_html_(self) -> str:
        return f"<p>Run <code>{shown(self.folder)}</code>: <b>{self.status}</b></p>"


def find_runs(root: str | Path, job: str | None = None) -> list[Run]:
    """The run folders under `root`, oldest first."""
    found = [Run(p.parent) for p in Path(root).glob("*/settings.json")]
    found.sort(key=lambda run: (run.folder / "settings.json").stat().st_mtime)
    return [run for run in found if job is None or run.job == job]


def run_table(root: str | Path) -> pd.DataFrame:
    """One row per run folder under `root`: its settings, its headline numbers, status and folder."""
    rows = []
    for file in sorted(glob.glob(f"{root}/*/settings.json")):
        run = Run(Path(file).parent)
        scalars = {k: v for k, v in run.summary.items() if not isinstance(v, dict | list)}
        rows.append({"job": run.job, **run.settings, **scalars, "status": run.status, "folder": str(run.folder)})
    return pd.DataFrame(rows)


def shown(folder: str | Path) -> str:
    """A path as a reader here can paste it into a shell or a setting: short in the clone's folder, else absolute."""
    place, here = expanded(folder), Path.cwd()
    return str(place.relative_to(here)) if here == (clone() or here) and place.is_relative_to(here) else str(place)


def _whole(lines: Iterator[str] | list[str]) -> Iterator[dict[str, Any]]:
    """Those that are JSON: one is half written when a run is killed, or is being written now."""
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue
