"""Which notebook a name means, and which settings class reads its parameters."""

import json
import re
from pathlib import Path

from geofm_lib import settings
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.runs.check import check as check_files
from geofm_lib.runs.results import ROOT
from geofm_lib.settings import JobSettings, Settings

FOLDER = ROOT / "notebooks"


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


def check(notebook: Path, parameters: dict[str, str]) -> None:
    """Refuse names and values that the notebook would refuse, before a kernel is started (SettingsError)."""
    if job := settings_class(notebook):
        settings = job(**parameters)
        if isinstance(settings, JobSettings):
            check_files(settings)
