"""One typed settings class a job; its fields are the notebook's parameters.

The same field is a line of the notebook's parameters cell, a papermill `-p` name, a grid column, a key of
`settings.json` and a column of the results table. Adding a setting is adding a field here and the line that uses it.
"""

import json
from pathlib import Path

from geofm_lib.settings.base import (
    CELL_MARK,
    INJECTED_MARK,
    JobSettings,
    Settings,
    SettingsError,
    closest,
    encoder_folder,
    runs_root,
)
from geofm_lib.settings.findings import FindingsSettings
from geofm_lib.settings.notebooks import PaperSettings, ScalingSettings
from geofm_lib.settings.prepare import PrepareSettings
from geofm_lib.settings.pretrain import PretrainSettings
from geofm_lib.settings.probe import ProbeSettings
from geofm_lib.settings.throughput import SimulateSettings, ThroughputSettings

__all__ = [
    "CELL_MARK", "INJECTED_MARK", "JOBS", "FindingsSettings", "JobSettings", "PaperSettings", "PrepareSettings",
    "PretrainSettings", "ProbeSettings", "ScalingSettings", "Settings", "SettingsError", "SimulateSettings",
    "ThroughputSettings", "closest", "encoder_folder", "load", "runs_root",
]  # fmt: skip

_OF_JOBS = (PrepareSettings, PretrainSettings, ThroughputSettings, SimulateSettings, ProbeSettings, FindingsSettings)
JOBS = {cls.job: cls for cls in _OF_JOBS}


def load(run_dir: str | Path):
    """(settings, resolved) of a run folder, as the worker reads them."""
    stored = json.loads((Path(run_dir) / "settings.json").read_text())
    return JOBS[stored["job"]].model_construct(**stored["asked"]), stored["resolved"]
