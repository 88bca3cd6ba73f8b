"""Which runs a comparison is of: those that are named, the rows of grids, or all of a kind; and what is refused."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from geofm_lib import files
from geofm_lib.catalog.headlines import KINDS
from geofm_lib.runs import find, grid, life
from geofm_lib.runs.member import Member
from geofm_lib.runs.queue import Site
from geofm_lib.runs.run import Run, find_runs, shown
from geofm_lib.settings import in_clone, own_folder, runs_root
from geofm_lib.settings.base import SettingsError
from geofm_lib.settings.compare import CompareSettings
from geofm_lib.settings.places import one_spelling

MOST_NAMED = 6  # runs or settings that a sentence lists


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
            faults += [f"{Path(name).name}: {fault}" for fault in grid.told(refused)]
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
        raise SettingsError(f"runs: {kind} runs have no number to be ranked by; compare {in_words(KINDS)} runs")
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


def by_kind(settings: CompareSettings) -> tuple[list[CompareSettings], list[str]]:
    """(a comparison for each kind of a grid's rows, else what is asked for; sentences on rows that are none)."""
    several = (
        kinds(members(settings)[0]) if settings.kind == "auto" and any(map(find.is_grid, settings.named())) else []
    )
    each_of = [settings.model_copy(update={"kind": each}) for each in several or [settings.kind]]
    return each_of, list(dict.fromkeys(fault for each in each_of for fault in chosen(each)[2]))


def _kind(settings: CompareSettings, found: list[Member]) -> str:
    """The kind that is asked for, else that of the runs; SettingsError where that is not one."""
    if settings.kind != "auto":
        return settings.kind
    known = list(dict.fromkeys(each.job for each in found if each.job))
    if not known and found:
        raise SettingsError(f"runs: {found[0].run.trouble or found[0].name + ' says nothing of its settings'}")
    rows = [each for each in kinds(found) if all(each != other.job or other.row for other in found)]
    if len(rows) > 1 and all(each.row for each in found):
        raise SettingsError(f"kind: the grid's rows are {in_words(rows)} runs; name one of these kinds")
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


def _joined(faults: list[str]) -> str:
    return "".join(f"; {fault}" for fault in faults[:2])


def in_words(names: Iterable[str], most: int = MOST_NAMED) -> str:
    """Names as a sentence has them; more than `most` are counted: "a, b and 3 more"."""
    found = list(names)
    *before, last = [*found[:most], f"{len(found) - most} more"] if len(found) > most else found
    return f"{', '.join(before)} and {last}" if before else last
