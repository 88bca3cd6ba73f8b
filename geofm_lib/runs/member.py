"""One run of a comparison: what was asked of it, how it stands, and what it came to. Read once."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib import files
from geofm_lib.catalog import headlines, metrics, models
from geofm_lib.catalog.headlines import KINDS, Headline
from geofm_lib.data.sources import prepared
from geofm_lib.runs import grid
from geofm_lib.runs.run import Run
from geofm_lib.settings import JOBS, at_step, expanded
from geofm_lib.settings.base import OVERRULED

NOT_BEGUN = "not begun"
NOT_NOTED = "not noted"
SENTENCE, LONGEST = re.compile(r"(?<=[.;]) |\n"), 160  # of a reason the first sentence; the run's page has all of it
FINGERPRINT = "data_fingerprint"
ENCODERS = "encoder's "  # before a setting of the pretraining whose encoder is probed
FROM_RUN = {"run_dir", "data"}  # where things lie; `dataset` and a fingerprint say which images were read


@dataclass(frozen=True)
class Member:
    """One run of a comparison, read once. `name`: of its row in a grid, else what tells its folder from the others."""

    name: str
    run: Run
    row: grid.Row | None = None
    job: str = field(init=False)
    state: str = field(init=False)
    summary: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        there = os.path.isdir(self.run.folder)
        state = self.run.status if there else NOT_BEGUN
        known = {"job": self.run.job or (self.row.settings.job if self.row else ""), "summary": self.run.summary}
        known |= {"state": NOT_BEGUN if state == "waiting" and self.run.owner is None else state}
        for name, value in known.items():
            object.__setattr__(self, name, value)

    @property
    def said(self) -> str:
        """How far a run is that has not finished, and what went wrong, in words; '' of one that has."""
        if self.state in ("finished", NOT_BEGUN):
            return ""
        if self.run.trouble:
            return self.run.trouble
        row = self.run.last_row
        total = row.get("total_steps") or row.get("total")
        far = f"step {row['step']}" + (f" of {total}" if total else "") if "step" in row else ""
        why = "" if self.state == "running" else self.run.this_slice.get("reason", "")
        return ": ".join(filter(None, (far, SENTENCE.split(why.strip())[0][:LONGEST].rstrip(";."))))

    @cached_property
    def headline(self) -> Headline | None:
        """By what it is ranked; None unless it has finished."""
        return headlines.of(self.job, self.summary) if self.state == "finished" else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What was asked, each setting that it did not know at its default, and of a probe's encoder the same."""
        asked = self.run.settings or (self.row.settings.asked() if self.row else {})
        if self.job not in JOBS or not (asked or self.run.stored):
            return {}
        defaults = {name: each.default for name, each in JOBS[self.job].model_fields.items()}
        found = {name: value for name, value in (defaults | asked).items() if name not in FROM_RUN}
        if asked.get("data"):
            folder = expanded(self.run.resolved.get("data") or asked["data"])
            known = prepared.name(folder) if prepared.is_prepared(folder) else folder.name
            found |= dict.fromkeys(OVERRULED) | {"dataset": known}
        if found.get("ranks") == 0:
            found["ranks"] = self.run.resolved.get("ranks", 0)
        return found | (self._encoder() if self.job == "probe" else {})

    def _encoder(self) -> dict[str, Any]:
        """Of a probe, the settings of the pretraining whose encoder it reads, where that is still there."""
        asked, read = self.run.settings.get("encoder", ""), self.run.resolved.get("encoder", "")
        if asked == "random":
            return {}
        path, step = at_step(asked) if asked else (str(Path(read).parent) if read else "", None)
        there = Run(expanded(path)) if path else None
        if there is None or there.job != "pretrain":
            return {"model": self.summary.get("model")} if asked else {}
        model = {"encoder": there.folder.name, "model": there.settings.get("model")}
        inner = Member(there.folder.name, there).settings | ({"step": step} if step else {})
        inner |= {FINGERPRINT: there.resolved.get(FINGERPRINT)}
        return model | {f"{ENCODERS}{name}": value for name, value in inner.items() if name != "model"}

    def fact(self, name: str) -> Any:
        """One fact of it: of its summary, environment, what its settings came to, or what was asked."""
        if name == "patch":
            with suppress(ValueError, KeyError):
                return models.lookup(self.settings["model"]).resized(patch_size=self.settings["patch_size"]).patch_size
        if name == "metric":
            return metrics.of(self.summary)
        for known in (self.summary, self.run.environment, self.run.resolved, self.settings):
            if known.get(name) is not None:
                return known[name]
        return NOT_NOTED

    @property
    def results(self) -> dict[str, Any]:
        """The settings that can change a result, without seeds: runs that agree on these are repeats or seeds."""
        kind = KINDS[self.job]
        idle = {*kind.seeds, *kind.idle, *self._idle()}
        own = {n: v for n, v in self.settings.items() if n not in idle and not _execution(self.job, n)}
        return own | {name: self.fact(name) for name in kind.told}

    def _idle(self) -> Iterator[str]:
        """Settings that say nothing here: which images, where their fingerprint does or none are read; an encoder's."""
        known = {name: self.fact(name) for name in (FINGERPRINT, "input")}
        if known[FINGERPRINT] != NOT_NOTED or known["input"] == "synthetic":
            yield from OVERRULED
        if self.settings.get(f"{ENCODERS}{FINGERPRINT}"):
            yield from (f"{ENCODERS}{name}" for name in OVERRULED)
        if any(name.startswith(ENCODERS) for name in self.settings):
            yield "encoder"  # by its settings

    @cached_property
    def rows(self) -> tuple[pd.DataFrame, str]:
        """(what it logged, of a branch after what it comes from; what is wrong with that file, '' if nothing)."""
        try:
            parts = [self.run.ancestors, self.run.metrics]
            return pd.concat([each for each in parts if len(each)] or [pd.DataFrame()]), ""
        except files.Damaged as fault:
            return pd.DataFrame(), str(fault)

    def link(self) -> Path | None:
        """Its page, while it goes the live one; None where it has none."""
        pages = ["report.html"] if self.state == "finished" else ["live.html", "report.html"]
        found = (self.run.folder / name for name in pages)
        return next((page for page in found if os.path.isfile(page)), None)


def _execution(job: str, name: str) -> bool:
    """Does this setting, or that of the encoder's pretraining, change speed and memory alone?"""
    if name.startswith(ENCODERS):
        job, name = "pretrain", name.removeprefix(ENCODERS)
    extra: Any = JOBS[job].model_fields[name].json_schema_extra if name in JOBS[job].model_fields else {}
    return bool(extra.get("execution"))
