"""What the file system must have for a run, asked when it is launched or queued, before anything is made."""

import os
from pathlib import Path

from geofm_lib.data import sources
from geofm_lib.settings import JobSettings, SettingsError


def check(settings: JobSettings, ranks: int = 0) -> None:
    """Raise SettingsError, in one sentence, for settings that cannot run here, or on so many ranks (0: any)."""
    data, encoder = getattr(settings, "data", ""), getattr(settings, "encoder", "")
    try:
        if data:
            _prepared(data)
        elif hasattr(settings, "dataset"):  # a simulation reads no images
            sources.find(settings.dataset)
        if encoder not in ("", "random"):
            _encoder(encoder)
        _writable(settings.folder())
        if ranks:
            settings.check_ranks(ranks)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def encoder_folder(encoder: str) -> Path:
    """The folder with model.safetensors and config.json: a pretrain run's `encoder/`, or the folder itself."""
    inside = Path(encoder) / "encoder"
    return inside if inside.is_dir() else Path(encoder)


def _prepared(data: str) -> None:
    if not (Path(data) / "index.csv").is_file():
        raise ValueError(f"data: '{data}' is not a run folder of 01_data (it has no index.csv); leave data empty")


def _encoder(encoder: str) -> None:
    folder = encoder_folder(encoder)
    if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
        raise ValueError(
            f"encoder: '{encoder}' holds no model.safetensors and config.json; give a finished pretrain run folder, an "
            "exported, timm or Hugging Face folder (a pickle like pytorch_model.bin is never loaded: convert it to "
            "safetensors), or 'random'"
        )


def _writable(folder: Path) -> None:
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    reason = (
        "is a file" if not nearest.is_dir() else "is not writable" if not os.access(nearest, os.W_OK | os.X_OK) else ""
    )
    if reason:
        raise ValueError(f"run_dir: '{folder}' cannot be made because '{nearest}' {reason}; choose another folder")
