"""settings.json of a run folder, held against the copy that every checkpoint of the run keeps."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.settings.base import JobSettings

SETTINGS = "settings.json"
FINGERPRINTS = ("data_fingerprint", "init_digest")


def manifests(folder: Path) -> list[Path]:
    """Those of its whole checkpoints, oldest first. The file `latest` is for people and may be older."""
    with suppress(OSError):
        return sorted((folder / "checkpoint").glob("step-????????/manifest.json"))
    return []


def kept(folder: Path) -> dict[str, Any]:
    """The settings.json that the newest checkpoint keeps, {} if none does."""
    for manifest in reversed(manifests(folder)):
        with suppress(OSError, ValueError, AttributeError):
            if found := files.read_json(manifest).get("state", {}).get("stored"):
                return dict(found)
    return {}


def way_out(folder: Path) -> str:
    """What to do about a settings.json that is missing, cannot be read or was changed."""
    if not kept(folder):
        return "restore it from a copy, or move the folder away and start that run again"
    there = (folder / SETTINGS).exists()
    return f"{'delete it and ' if there else ''}start that run again: it is rebuilt from the last checkpoint"


def check(folder: Path, jobs: Mapping[str, type[JobSettings]]) -> None:
    """Raise files.Damaged unless settings.json says what the newest checkpoint does, where there is one.

    What one start may change is not looked at: execution settings, and where the same images lie.
    """
    found, before = files.read_json(folder / SETTINGS), kept(folder)
    parts = [found.get(name, {}) for name in ("asked", "resolved")]
    if not isinstance(found.get("job"), str) or not all(isinstance(each, dict) for each in parts):
        raise files.Damaged(f"{folder / SETTINGS} is no settings.json of a run")
    if not before or before["job"] not in jobs:
        return
    there, here = (_results(each, jobs[before["job"]]) for each in (before, found))
    if changed := [f"{n}: {there[n]!r} in the last checkpoint, {here[n]!r} now" for n in there if there[n] != here[n]]:
        raise files.Damaged(f"{folder / SETTINGS} was changed ({', '.join(changed)})")


def _results(stored: dict[str, Any], job: type[JobSettings]) -> dict[str, Any]:
    """What decides a run's results. A setting that is not there has its default, as in `runs/launch`."""
    with warnings.catch_warnings():  # pydantic's, of a value that can be none of the setting's
        warnings.simplefilter("ignore")
        own = job.model_construct(**stored.get("asked", {})).results_only()
    resolved = stored.get("resolved", {})
    marks = {name: resolved.get(name, "") for name in FINGERPRINTS}
    return {"job": stored["job"], **{name: value for name, value in own.items() if name != "data"}, **marks}
