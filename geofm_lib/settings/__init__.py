"""One typed settings class a job; its fields are the notebook's parameters.

The same field is a line of the notebook's parameters cell, a papermill `-p` name, a grid column, a key of
`settings.json` and a column of the results table. Adding a setting is adding a field here and the line that uses it.
"""

import json
import os
from pathlib import Path

from geofm_lib.settings.base import JobSettings, Resolved, Settings, SettingsError
from geofm_lib.settings.compare import CompareSettings
from geofm_lib.settings.data import PrepareSettings
from geofm_lib.settings.peers import PeersSettings
from geofm_lib.settings.places import at_step, clone, expanded, in_clone, own_folder, runs_root, shell_folder
from geofm_lib.settings.pretrain import EncoderSettings, PretrainSettings, ProbeSettings
from geofm_lib.settings.throughput import (
    AccuracySettings,
    FindingsSettings,
    ObjectivesSettings,
    PaperSettings,
    ScalingSettings,
    SimulateSettings,
    ThroughputSettings,
)
from geofm_lib.settings.transfer import TransferSettings

__all__ = [
    "JOBS", "AccuracySettings", "CompareSettings", "EncoderSettings", "FindingsSettings", "JobSettings",
    "ObjectivesSettings", "PaperSettings", "PeersSettings",
    "PrepareSettings", "PretrainSettings", "ProbeSettings", "ScalingSettings", "Settings", "SettingsError",
    "SimulateSettings", "ThroughputSettings", "TransferSettings", "Resolved", "at_step", "clone", "expanded",
    "in_clone", "load", "own_folder", "runs_root", "shell_folder",
]  # fmt: skip

_OF_JOBS = (
    PrepareSettings, PretrainSettings, ThroughputSettings, SimulateSettings, ProbeSettings, FindingsSettings,
    PeersSettings, TransferSettings,
)  # fmt: skip
JOBS = {cls.job: cls for cls in _OF_JOBS}
TRUE_SETTINGS = "GEOFM_TRUE_SETTINGS"  # settings.json with its secrets, in the environment of the ranks alone


def load(run_dir: str | Path) -> tuple[JobSettings, Resolved]:
    """(settings, what they came to) of a run folder, as its ranks read them.

    The folders and the number of ranks that they came to stand in the settings too, in place of what was asked.
    """
    stored = json.loads(os.environ.get(TRUE_SETTINGS) or (Path(run_dir) / "settings.json").read_text())
    job = JOBS[stored["job"]]
    values = stored["asked"] | {name: each for name, each in stored["resolved"].items() if name in job.model_fields}
    return job.model_construct(**values), Resolved(**stored["resolved"])
