"""What a branch needs at its launch: the checkpoint that it begins from, its ancestry, and the curve until then.

The run that is branched is only read. A branch that has a checkpoint of its own never looks at it again.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.distributed import manifest
from geofm_lib.jobs.run_folder import ALONG, ANCESTORS, KERNELS
from geofm_lib.runs.run import Run, shown
from geofm_lib.settings import PretrainSettings, Resolved, SettingsError, at_step, expanded
from geofm_lib.settings.branch import MAY_CHANGE, ranges

KEPT = ("branch", "ancestry", "init", "init_digest")  # of what a branch resolved to once it has trained


def check(settings: PretrainSettings) -> int:
    """The step that a new branch begins after, 0 of other runs. SettingsError for a branch that cannot be begun."""
    if not settings.branch or Run(settings.folder()).trained:
        return 0
    parent, step, _ = _checkpoint(settings, whole=False)
    _changed(settings, parent, step)
    return step


def of_weights(settings: PretrainSettings) -> bool:
    """Do its first weights come from a checkpoint? At step 0 they are drawn, or read by `init`, as they were there."""
    return bool(settings.branch) and at_step(settings.branch)[1] != 0


def resolved(settings: PretrainSettings, fingerprint: str, init_digest: str) -> dict[str, Any]:
    """What a branch comes to, for `Resolved`: checkpoint, ancestry and first weights.

    fingerprint: of its images. init_digest: of what `init` names now, where it is read (at step 0).
    """
    run = Run(settings.folder())
    if run.trained and "ancestry" in run.resolved:
        return {name: run.resolved[name] for name in KEPT if name in run.resolved}
    parent, step, place = _checkpoint(settings, whole=True)
    for name in ("metrics.jsonl", "init.json"):
        parent.proved(name)
    there = parent.resolved.get("data_fingerprint")
    if there != fingerprint:
        raise SettingsError(
            f"branch: {shown(parent.folder)} was trained on other images (fingerprint {there} there, {fingerprint} "
            f"here); give its own prepared folder as data: {parent.resolved.get('data')}"
        )
    if init_digest and init_digest != parent.resolved.get("init_digest"):
        raise SettingsError(f"init: '{settings.init}' has changed since {shown(parent.folder)} began from it")
    _, content = manifest.content(place) if place else ("", {})
    last = {
        "run": str(parent.folder),
        "step": step,
        "checkpoint": str(place or ""),
        "digest": content.get("digest", ""),
        "changed": _changed(settings, parent, step),
    }
    kept = {name: parent.resolved[name] for name in ("init", "init_digest") if place and name in parent.resolved}
    ancestry = [*parent.resolved.get("ancestry", []), last]
    return {"branch": f"{parent.folder}@{step}", "ancestry": ancestry} | kept


def keep(folder: Path, came_to: Resolved) -> None:
    """Copy what a new branch's page and model need of the run that it begins in: rows of metrics, and init.json."""
    last = came_to.parent
    if not last or Run(folder).trained:
        return
    parent = Run(Path(last["run"]))
    rows = [row | {"run": parent.folder.name} for row in parent.read_rows(parent.proved("metrics.jsonl").name)]
    rows = [row for row in (*parent.read_rows(ANCESTORS), *rows) if row.get("step", 0) <= last["step"]]
    files.write_text(folder / ANCESTORS, "".join(json.dumps(row) + "\n" for row in rows))
    for name in ("init.json", ALONG, KERNELS) if last["checkpoint"] else (KERNELS,):
        if (parent.folder / name).is_file():
            shutil.copyfile(parent.proved(name), folder / name)
    changes = ", ".join(f"{name} {there!r} -> {here!r}" for name, (there, here) in last["changed"].items())
    where = f"{shown(parent.folder)} at step {last['step']}"
    print(f"branch of {where}: {changes or 'nothing changed'}; all other settings are as there", flush=True)


def _checkpoint(settings: PretrainSettings, whole: bool) -> tuple[Run, int, Path | None]:
    """(run, step, its folder) that `branch` names; None at step 0. `whole`: prove the last one, if none is named."""
    text, step = at_step(settings.branch)
    parent = Run(expanded(text))
    if parent.trouble or not parent.job:
        raise SettingsError(f"branch: {parent.trouble or f'there is no run folder {text!r}'}")
    first = next((each["step"] for each in reversed(parent.resolved.get("ancestry", []))), 0)
    if step == 0 and first:
        raise SettingsError(
            f"branch: '{text}' is a branch itself, which began at step {first}; give that step or later"
        )
    if step == 0:
        return parent, 0, None
    found = {int(each.parent.name[5:]): each.parent for each in parent.folder.glob("*/step-????????/manifest.json")}
    found.pop(0, None)
    if step is not None:
        if step not in found:
            listed = f"it has those of {', '.join(map(str, sorted(found)))}" if found else "it has none yet"
            start = "" if first else ", or branch from step 0, which is its first weights"
            raise SettingsError(f"branch: '{text}' has no checkpoint of step {step}; {listed}{start}")
        if fault := manifest.small_fault(found[step]):
            raise SettingsError(f"branch: {found[step]} cannot be branched ({fault}); branch from another step")
        return parent, step, found[step]
    for number in sorted(found, reverse=True):
        fault, content = manifest.content(found[number])
        if not fault and whole:
            fault = manifest.changed(found[number], content)
        if not fault:
            return parent, number, found[number]
        print(f"checkpoint {found[number]} is damaged ({fault}); trying the one before", flush=True)
    start = "" if first else f"; give '{text}@0' to begin from its first weights"
    raise SettingsError(f"branch: '{text}' has no checkpoint that is whole{start}")


def _changed(settings: PretrainSettings, parent: Run, step: int) -> dict[str, list[Any]]:
    """{setting: [there, here]} of what differs. SettingsError for steps to skip that are trained already."""
    there = PretrainSettings.model_construct(**parent.settings)
    before, now = ranges(there.skip_steps), ranges(settings.skip_steps)
    for each in now:
        trained = range(each.start, min(each.stop, step + 1))
        late = next((n for n in trained if not any(n in other for other in before)), 0)
        if late:
            raise SettingsError(f"skip_steps: step {late} was trained before the branched step {step}; branch earlier")
    pairs = {name: [getattr(there, name), getattr(settings, name)] for name in MAY_CHANGE}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
