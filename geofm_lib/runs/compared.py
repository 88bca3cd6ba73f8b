"""The runs of a comparison: what was asked of each, how it stands, and what it came to."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
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
from geofm_lib.runs import find, grid, life
from geofm_lib.runs.queue import Site
from geofm_lib.runs.run import Run, find_runs, shown
from geofm_lib.settings import JOBS, at_step, expanded, in_clone, own_folder, runs_root
from geofm_lib.settings.base import OVERRULED, SettingsError
from geofm_lib.settings.compare import CompareSettings
from geofm_lib.settings.places import one_spelling

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


def members(settings: CompareSettings) -> tuple[list[Member], list[str]]:
    """(the runs that are named, sentences on a grid's rows that cannot be read). Of all kinds, in the order given."""
    found: dict[str, tuple[Path, grid.Row | None]] = {}  # by the real path, so that each is there once
    faults: list[str] = []

    def add(folder: Path, row: grid.Row | None = None) -> None:
        found.setdefault(os.path.realpath(folder), (folder, row))

    if not settings.named():
        for run in find_runs(runs_root(), "throughput" if settings.kind == "auto" else settings.kind):
            add(run.folder)
    for name in settings.named():
        if find.is_grid(name):
            with in_clone():
                rows, refused = grid.read(find.typed(name), Site(settings.site).machine)
            for row in rows:
                add(row.folder, row)
            faults += [f"{Path(name).name}: {fault}" for fault in refused]
        else:
            add(find.run_folder(name))
    life.first_look(folder for folder, _ in found.values())
    called = names([folder for folder, _ in found.values()])
    return [Member(row.name if row else called[folder], Run(folder), row) for folder, row in found.values()], faults


def names(folders: list[Path]) -> dict[Path, str]:
    """Short names of run folders: without the parts that all have, unless two would be called the same.

    >>> list(names([Path("probe-ViT-Atto-1a2b3c"), Path("probe-ViT-Pico-4d5e6f")]).values())
    ['Atto-1a2b3c', 'Pico-4d5e6f']
    """
    parts = [folder.name.split("-") for folder in folders]
    short = [folder.name for folder in folders]
    if len(folders) > 1 and all(len(each) == len(parts[0]) > 2 for each in parts):
        own = [k for k in range(len(parts[0])) if len({each[k] for each in parts}) > 1]
        short = ["-".join(each[k] for k in own) for each in parts]
    if len(set(short)) < len(short):
        short = [shown(folder) for folder in folders]
    return dict(zip(folders, short, strict=True))


def chosen(settings: CompareSettings) -> tuple[str, list[Member], list[str]]:
    """(kind, its runs, sentences on rows that cannot be read); SettingsError, a sentence, where there are none."""
    try:
        found, faults = members(settings)
    except (ValueError, files.Damaged) as error:
        raise SettingsError(f"runs: {error}") from None
    kind = _kind(settings, found)
    if kind not in KINDS:
        raise SettingsError(f"runs: {kind} runs have no number to be ranked by; compare {_and(KINDS)} runs")
    if other := next((each for each in found if each.row is None and each.job not in (kind, "")), None):
        one = next(
            (f"'{each.run.folder.name}' a {kind} run" for each in found if each.job == kind),
            f"{kind} runs are asked for",
        )
        advice = "a comparison is of one kind, so compare each by itself"
        raise SettingsError(f"runs: '{other.run.folder.name}' is a {other.job} run, and {one}; {advice}")
    own = [each for each in found if each.job in (kind, "")]
    if len(own) < 2:
        there = f"'{own[0].run.folder.name}' is the only {kind} run" if own else f"there is no {kind} run"
        where = "of what is named" if settings.named() else f"in '{shown(runs_root())}'"
        raise SettingsError(f"runs: a comparison takes two runs or more, and {there} {where}{_joined(faults)}")
    return kind, own, faults


def _kind(settings: CompareSettings, found: list[Member]) -> str:
    """The kind that is asked for, else that of the runs; SettingsError where that is not one."""
    if settings.kind != "auto":
        return settings.kind
    known = list(dict.fromkeys(each.job for each in found if each.job))
    if not known and found:
        raise SettingsError(f"runs: {found[0].run.trouble or found[0].name + ' says nothing of its settings'}")
    rows = [each for each in kinds(found) if all(each != other.job or other.row for other in found)]
    if len(rows) > 1 and all(each.row for each in found):
        raise SettingsError(f"kind: the grid's rows are {_and(rows)} runs; name one of these kinds")
    return next(iter([*rows, *known]), "throughput")


def kinds(found: Iterable[Member]) -> list[str]:
    """The kinds of which there are two runs or more to compare, in their order."""
    jobs = [each.job for each in found]
    return [each for each in dict.fromkeys(jobs) if each in KINDS and jobs.count(each) > 1]


def listed(names: Iterable[str]) -> str:
    """Names that were typed in a shell as one setting; a path in one spelling, which means the same to a notebook."""
    paths = []
    for name in names:
        if "," in name:
            raise SettingsError(f"runs: '{name}' has a comma, which stands between runs; name a link without one")
        paths.append(one_spelling(str(find.typed(name) if find.is_grid(name) else find.run_folder(name))))
    return ",".join(dict.fromkeys(paths))


def page(settings: CompareSettings) -> Path:
    """Where the page of a comparison goes: a folder beside the runs, the same whenever it is made again."""
    names = settings.named()
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:6]
    grids = [Path(name).stem for name in names if find.is_grid(name)]
    kind = [settings.kind] if settings.kind != "auto" else []
    name = "-".join(["compare", *(grids if len(names) == 1 else [digest]), *kind])
    root = runs_root()
    nearest = next(folder for folder in (root / name, root, *root.parents) if folder.exists())
    return (root if os.access(nearest, os.W_OK) else own_folder("compare")) / name / "report.html"


def _execution(job: str, name: str) -> bool:
    """Does this setting, or that of the encoder's pretraining, change speed and memory alone?"""
    if name.startswith(ENCODERS):
        job, name = "pretrain", name.removeprefix(ENCODERS)
    extra: Any = JOBS[job].model_fields[name].json_schema_extra if name in JOBS[job].model_fields else {}
    return bool(extra.get("execution"))


def _joined(faults: list[str]) -> str:
    return "".join(f"; {fault}" for fault in faults[:2])


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
