"""Which notebook a name means, what its settings class refuses, and what the file system must have for its run.

All of it is asked before anything is made.
"""

import json
import os
import re
import tempfile
from pathlib import Path

from geofm_lib import rights, settings
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.data.sources import early, listing, pairs, prepared, series, tiles
from geofm_lib.model.interop import headers, locate
from geofm_lib.runs import branch, unfinished
from geofm_lib.runs.results import ROOT
from geofm_lib.runs.run import Run
from geofm_lib.settings import (
    CompareSettings,
    EncoderSettings,
    JobSettings,
    PrepareSettings,
    PretrainSettings,
    Settings,
    SettingsError,
    at_step,
    expanded,
)
from geofm_lib.settings import series as of_series
from geofm_lib.settings.base import naming
from geofm_lib.settings.places import instead

FOLDER = ROOT / "notebooks"
REFUSE = {"prepared": prepared.refuse_options, "series": series.refuse_options}  # what cannot change such a source
BEGUN = ("summary.json", "init.json")  # of a run that has its first weights: their source may be gone


def known() -> dict[str, Path]:
    """The project's notebooks by name: {"01_data": its file, ...}."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}


def named(name: str) -> Path:
    """The file of '02_pretrain', '02' or 'notebooks/02_pretrain.ipynb'; ValueError with the nearest name."""
    folder, stem = str(Path(name).parent), Path(name).stem if name.endswith(".ipynb") else Path(name).name
    found = [path for each, path in known().items() if stem in (each, each.split("_")[0])]
    if found and folder in (".", FOLDER.name):
        return found[0]
    near = did_you_mean(stem, known()) or f"; use one of {', '.join(known())}"
    raise ValueError(f"there is no notebook '{name}'{near}")


def find(name: str) -> Path:
    """A notebook's file: a path from the current folder, or a name as in `named`."""
    return Path(name) if Path(name).is_file() else named(name)


def settings_class(notebook: Path) -> type[Settings] | None:
    """The class that the notebook's parameters cell names; None for a notebook that is not written that way."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError):
        raise ValueError(f"'{notebook}' is no notebook") from None
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            class_name = re.search(r"\((\w+)\)", "".join(cell["source"]))
            return getattr(settings, class_name.group(1), None) if class_name else None
    return None


def check_notebook(notebook: Path, parameters: dict[str, str]) -> None:
    """Refuse names and values that the notebook would refuse, before a kernel is started (SettingsError)."""
    if job := settings_class(notebook):
        given = job(**parameters)
        if isinstance(given, JobSettings):
            check(given)
        if isinstance(given, CompareSettings):
            from geofm_lib.runs import compared  # which reads grids, and so this module

            compared.chosen(given)


def check(settings: JobSettings, images: bool = True) -> None:
    """Raise SettingsError, in one sentence, for settings that cannot run here.

    images: do the settings name those that it reads? A grid's may be still to come. Of a finished run nothing is
    asked: it is read, which needs neither its data nor the right to write.
    """
    if Run(settings.folder()).finished:
        return
    data = getattr(settings, "data", "")
    try:
        _check_data(data)
        if data and images and not prepared.is_list(data):
            of_series.refuse(settings, prepared.dates(expanded(data)))
        if not data and hasattr(settings, "dataset"):  # a simulation reads no images
            found = listing.find(settings.dataset)
            early.at_launch(found, *(getattr(settings, name, "") for name in ("pattern", "bands", "labels")))
            if getattr(settings, "tile", 0):
                tiles.check(found)
            if table := getattr(settings, "pairs", ""):
                pairs.glance(table, found)
            if found.kind in REFUSE and isinstance(settings, PrepareSettings):
                REFUSE[found.kind](settings)
        if labelled := getattr(settings, "probe_data", ""):
            if prepared.is_list(labelled):
                raise ValueError("probe_data: it is one prepared folder; put the sets together with 01_data first")
            _check_data(labelled, "probe_data")
        for name in ("encoder", "init"):
            typed = getattr(settings, name, "")
            begun = name == "init" and (_of_weights(settings) or any((settings.folder() / n).exists() for n in BEGUN))
            if typed and (name, typed) != ("encoder", "random") and not begun:
                with naming(name):
                    if name == "init" and at_step(typed)[1] is not None:
                        how = f"export it first: geofm export {typed} FOLDER --format geofm"
                        raise ValueError(f"'{typed}' is a checkpoint of a run; {how}; or go on from it by branch")
                    if name == "encoder" and unfinished.names_checkpoint(typed):
                        if not unfinished.is_taken(settings):
                            unfinished.check(typed)
                        continue
                    if not os.path.lexists(expanded(typed)) and (advice := instead(typed)):
                        raise ValueError(f"there is no '{typed}'{advice}")
                    place = locate.find(expanded(typed), typed)
                    locate.described(place) if name == "encoder" else None
                    headers.check(place)
                    if isinstance(settings, PretrainSettings):
                        headers.same_model(place, settings.model, settings.patch())
        for each in filter(None, map(str.strip, getattr(settings, "beside", "").split(","))):
            with naming("beside"):
                place = locate.find(expanded(each), each)
                locate.described(place)
                headers.check(place)
        if isinstance(settings, PretrainSettings):
            done = branch.check(settings)
            if images and (folder := _prepared(settings)):
                of_series.refuse(settings, prepared.dates(folder))
                settings.steps(prepared.train_images(folder), done)
                settings.groups(*prepared.bands(folder))
            if images and settings.positives == "dates":
                _dated(settings)
        if isinstance(settings, EncoderSettings) and not settings.encoder:
            check(settings.pretraining(), images=images)
        _writable(settings.folder())
    except OSError as error:
        raise SettingsError(rights.told(error)) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _of_weights(settings: JobSettings) -> bool:
    return isinstance(settings, PretrainSettings) and branch.of_weights(settings)


def _check_data(data: str, name: str = "data") -> None:
    with naming(name):
        if prepared.is_list(data):
            prepared.find(data)
        elif data and _being_prepared(Run(expanded(data))):
            pass  # its launch waits until that has ended
        elif data and not (expanded(data) / "index.csv").is_file():
            raise ValueError(f"'{data}' is not a run folder of 01_data (it has no index.csv); leave data empty")
        elif data:
            prepared.check(expanded(data))


def _prepared(settings: PretrainSettings) -> Path | None:
    """The prepared folder that is read, None where it is still to be made."""
    own = settings.data and not prepared.is_list(settings.data)
    folder = expanded(settings.data) if own else settings.preparation().folder()
    return folder if prepared.is_prepared(folder) and (folder / "split.csv").is_file() else None


def _dated(settings: PretrainSettings) -> None:
    """Refuse dates of a set that has no pairs, as far as it is prepared."""
    with naming("positives"):
        if not settings.data:
            raise ValueError("dates needs prepared images with pairs; prepare them with pairs=... (01), and set data")
        if folder := _prepared(settings):
            pairs.check(folder, "train")


def _being_prepared(run: Run) -> bool:
    return run.job == "prepare" and not run.finished and run.status == "running"


def _writable(folder: Path) -> None:
    """Refuse a run folder that cannot be made, or that holds somebody else's run."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"run_dir: '{folder}' cannot be made because '{nearest}' is a file; choose another folder")
    there = [nearest, *nearest.iterdir()] if nearest == folder else [nearest]
    if closed := next((each for each in there if each.exists() and not os.access(each, os.W_OK)), None):
        if nearest == folder and Run(folder).status == "running":
            return  # it is followed, and then read
        raise ValueError(f"run_dir: {rights.denied(closed)} (run_dir names one, GEOFM_RUNS the folder of all runs)")
    if nearest != folder:
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".geofm-", dir=nearest))
        except OSError as error:  # what the rights allow, a file system may not: /proc, a disk mounted read-only
            why = f"nothing can be made in '{nearest}' ({error.strerror})"
            raise ValueError(f"run_dir: '{folder}' cannot be made because {why}; choose another folder") from None
