"""Run folders, read when asked: what was asked, how it stands, what it measured. Results come from nowhere else."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib import files, rights
from geofm_lib.data.sources import prepared
from geofm_lib.jobs import owner, pace
from geofm_lib.jobs.run_folder import ANCESTORS, HEARTBEATS, KERNELS, rows, whole_rows
from geofm_lib.runs import life, trouble
from geofm_lib.runs.trouble import SMALL_FILES
from geofm_lib.settings import clone, expanded, shell_folder, stored
from geofm_lib.settings.stored import SETTINGS

LOG_BYTES = 2**17  # a log may be of any length; its end is shown
NEEDED = "needed"  # in the runner's folder: the run that its run waits for
REASONS = {
    "killed": "its job ended without a word: over its time limit, out of memory, or its node failed",
    "unknown": "how it ended is not known: there is no summary.json of it",
}


@dataclass(frozen=True)
class Run:
    """A run folder, read when asked."""

    folder: Path

    @property
    def status(self) -> str:
        """The summary's word (finished, stopped, failed); without one waiting, running while heard of, or killed.

        Unknown where the launch has said that all had ended, and the summary is gone.
        Damaged when a file that says so cannot be believed, private when this user may not read it: `trouble` names it.
        Whether a run without a summary lives is found by looking, for up to `life.LOOK_S`.
        """
        if self.trouble:
            return "private" if self._private else "damaged"
        if ended := self.summary.get("status"):
            return str(ended)
        last = self.owner
        if self.last_heartbeat is None and (last is None or last.ended):
            return "waiting"
        if last is not None and last.ended:
            return "unknown"
        return "running" if life.lives(self.folder) else "killed"

    @property
    def finished(self) -> bool:
        """Has it ended well? Known at once, also of a run that goes."""
        return self.summary.get("status") == "finished" and not self.trouble

    @property
    def owner(self) -> owner.Owner | None:
        """The launch that has it, or had it last; None of a run that an older version made."""
        return owner.newest(self.folder)

    @property
    def trouble(self) -> str:
        """Which file cannot be believed, and the way out (`runs/trouble`); ''."""
        return trouble.of(self.folder)

    def prove(self) -> None:
        """Raise files.Damaged unless every file of a sealed run is what was written."""
        files.prove(self.folder)

    def proved(self, name: str) -> Path:
        """A file of the run to be read now; files.Damaged when the run is sealed and it is not what was written."""
        file = self.folder / name
        if name in files.sums(self.folder):
            files.prove(self.folder, [name])
        elif os.path.lexists(file) and not rights.readable(file):
            raise files.Private(rights.denied(file))
        return file

    @property
    def last_heartbeat(self) -> float | None:
        """When a process of this run was last heard, in seconds since 1970; None if none ever was."""
        names = [f"{HEARTBEATS}/{file.name}" for file in (self.folder / HEARTBEATS).glob("*")]
        return max(filter(None, map(self.written, names)), default=None)

    @property
    def trained(self) -> bool:
        """Has it a checkpoint, whole or not? It goes on from its own, and what it began from may be gone."""
        return any((self.folder / "checkpoint").glob("step-*"))

    @property
    def saved_step(self) -> int:
        """The step of its last whole checkpoint, a probe's last one, or how many data shards are finished; else 0."""
        if manifests := stored.manifests(self.folder):
            return int(manifests[-1].parent.name.removeprefix("step-"))
        if self.job in ("probe", "transfer"):  # they keep what they have encoded, their heads and arms
            return int(self.last_row.get("step", 0))
        return len(list((self.folder / "shards").glob("*.csv")))

    @property
    def stored(self) -> dict[str, Any]:
        """settings.json; where it is lost, what the newest checkpoint says of it; else {}."""
        return self.read_json(SETTINGS) or self.kept_settings

    @property
    def kept_settings(self) -> dict[str, Any]:
        """The settings.json that the newest checkpoint keeps, {} if none does."""
        return stored.kept(self.folder)

    @property
    def job(self) -> str:
        """prepare, pretrain, throughput, probe, transfer ..."""
        return self.stored.get("job", "")

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked."""
        return self.stored.get("asked", {})

    @property
    def resolved(self) -> dict[str, Any]:
        """What it came to: data folder, encoder, ranks."""
        return self.stored.get("resolved", {})

    @property
    def dataset(self) -> str:
        """The images that were read, by name: of a run on prepared ones (`data`) theirs, whatever `dataset` says."""
        if not self.settings.get("data"):
            return str(self.settings.get("dataset", ""))
        return prepared.name(self.resolved.get("data") or expanded(self.settings["data"]))

    @property
    def summary(self) -> dict[str, Any]:
        """Status and headline numbers; empty until the run has ended."""
        return self.read_json("summary.json")

    @property
    def kernels(self) -> dict[str, Any]:
        """How its blocks compute, and what was measured for it (`jobs/kernels`); {} of runs that chose none."""
        return self.read_json(KERNELS)

    @property
    def environment(self) -> dict[str, Any]:
        """Commit, host, device, versions."""
        return self.read_json("environment.json")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per logged step."""
        return pd.DataFrame(self.read_rows(self.proved("metrics.jsonl").name))

    @property
    def ancestors(self) -> pd.DataFrame:
        """Of a branch, the rows until it began, with the name of the run that each is of (`run`); else no rows."""
        return pd.DataFrame(self.read_rows(self.proved(ANCESTORS).name))

    @property
    def last_row(self) -> dict[str, Any]:
        """The last whole row of the metrics, reading only the file's end; {} if there is none."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - 4096))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return {}
        return next(whole_rows(reversed(lines)), {})

    @property
    def ranks(self) -> pd.DataFrame:
        """One row per rank."""
        return self.read_csv("ranks.csv")

    @property
    def this_slice(self) -> dict[str, Any]:
        """The last launch in one row, {} if there was none; `slices` gives them all."""
        return self.slice(self.status)

    def slice(self, state: str) -> dict[str, Any]:
        """The last launch in one row, {} if there was none, when the run's status is known to be `state`.

        job, restart (of Slurm, '' elsewhere), nodes, started and ended (seconds since 1970), seconds (of its ranks),
        from_step and to_step (checkpoints), status, reason, node_hours (of its job).
        """
        where = self.environment
        if not where:
            return {}
        # Of a run that goes, its last heartbeat: the clock of who looks now may be another one.
        summary, old = self.summary, None  # an older version wrote no `ended`, and some of them when it `started`
        if summary:
            old = summary["started"] + summary["seconds"] if "started" in summary else self.written("summary.json")
        seen = old, self.last_heartbeat, self.last_row.get("time"), self.written("environment.json")
        ended = summary.get("ended") or next(filter(None, seen))
        began = summary.get("started", where.get("job_started", ended - summary.get("seconds", 0.0)))
        began = where.get("began", began)
        started, nodes = where.get("job_started", ended), where.get("slurm_nodes", 1)
        return {
            "job": where.get("slurm_job", ""),
            "restart": where.get("slurm_restart", ""),
            "nodes": nodes,
            "started": round(started, 1),
            "ended": round(ended, 1),
            "seconds": round(max(0.0, ended - began), 1),
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

    @property
    def seconds(self) -> float | None:
        """How long the run took, or takes so far, over all its launches; None if it was never launched."""
        starts = self.slices
        return pace.seconds(starts) if starts else self.summary.get("seconds")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, {} if it is not there or cannot be read: then `trouble` says so."""
        with suppress(OSError, ValueError):
            return files.read_json(self.folder / name)
        return {}

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The whole rows of a file of JSON lines, [] if it is not there."""
        return rows(self.folder / name)

    def read_csv(self, name: str) -> pd.DataFrame:
        """A CSV file of the run, an empty table if it is not there; files.Damaged when it cannot be read."""
        file = self.proved(name)
        try:
            return pd.read_csv(file, keep_default_na=False) if file.is_file() else pd.DataFrame()
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except (OSError, ValueError) as error:
            raise files.Damaged(f"{file} cannot be read ({' '.join(str(error).split())})") from None

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of all ranks' output."""
        with suppress(OSError):
            with open(self.folder / "log.txt", "rb") as stream:
                stream.seek(max(0, stream.seek(0, 2) - LOG_BYTES))
                return "\n".join(stream.read().decode(errors="replace").rstrip("\n").split("\n")[-lines:])
        return ""

    def written(self, name: str) -> float | None:
        """When a file of the run was last written, in seconds since 1970; None if it is not there."""
        try:
            return (self.folder / name).stat().st_mtime
        except OSError:
            return None

    @property
    def _private(self) -> bool:
        named = (self.folder, *(self.folder / name for name in (files.SUMS, *SMALL_FILES)))
        return not all(rights.readable(each) for each in named if os.path.lexists(each))

    def _repr_html_(self) -> str:
        return f"<p>Run <code>{shown(self.folder)}</code>: <b>{self.status}</b></p>"


def find_runs(root: str | Path, job: str | None = None) -> list[Run]:
    """The run folders under `root`, oldest first; also those whose settings.json is lost, or that are others' own."""
    root = Path(root)
    if root.exists() and not os.access(root, os.R_OK | os.X_OK):
        raise ValueError(rights.denied(root))
    folders = {file.parent for name in SMALL_FILES for file in root.glob(f"*/{name}")}
    life.first_look(folders)
    folders |= {each for each in root.glob("[!.]*") if closed(each) and each.name != "lost+found"}
    found = sorted(map(Run, folders), key=lambda run: (run.written(SETTINGS) or 0.0, run.folder))
    return [run for run in found if job is None or run.job == job]


def closed(folder: Path) -> bool:
    """Is it a folder into which this user may not look? Then it counts as a run: others' umask makes such folders."""
    return os.path.isdir(folder) and not rights.readable(folder)


def run_table(root: str | Path) -> pd.DataFrame:
    """One row per run folder under `root`: its settings, its headline numbers, status and folder."""
    found = []
    for run in sorted(find_runs(root), key=lambda run: run.folder):
        scalars = {k: v for k, v in run.summary.items() if not isinstance(v, dict | list)}
        seconds = run.seconds
        took = {} if seconds is None else {"seconds": seconds}
        found.append(
            {
                "job": run.job,
                **run.settings,
                **_data(run),
                **scalars,
                **took,
                "status": run.status,
                "folder": str(run.folder),
            }
        )
    return pd.DataFrame(found)


def _data(run: Run) -> dict[str, Any]:
    """The settings that name images, as they count: those that `data` overrules say nothing."""
    return {"dataset": run.dataset, "images_per_class": None} if run.settings.get("data") else {}


def shown(folder: str | Path) -> str:
    """A path as a reader here can paste it into a shell or a setting: short in the clone's folder, else absolute."""
    place, here = expanded(folder), shell_folder()
    short = here == (clone() or here) and place.is_relative_to(here)
    return shlex.quote(str(place.relative_to(here) if short else place))
