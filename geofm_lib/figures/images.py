"""Sheets of images from a run folder, and when they are left out. No torch."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib.figures.display import Figure, Note, sheet
from geofm_lib.runs.run import Run

WITHHELD = "Images of this data set are left out of this page on purpose; the run folder holds them as {name}."


def contact_sheet(run: Run, columns: int = 8) -> Figure | Note:
    """A few images of each class."""
    if withheld(run):
        return Note(WITHHELD.format(name="contact_sheet.npz"))
    with np.load(run.folder / "contact_sheet.npz") as saved:
        images, labels = saved["images"], [str(label) for label in saved["labels"]]
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    figure = sheet(rows, titles=[label if len(label) <= 16 else label[:15] + "…" for label in labels])
    kinds = list(dict.fromkeys(labels))
    return Figure(figure, f"{len(images)} images of the data set: {', '.join(kinds)}.", photo=True)


def model_view(run: Run) -> Figure | Note:
    """The same images as stored, as cropped for training, and with the masked patches taken away."""
    names = {"original": "stored", "cropped": "cropped", "masked": "visible patches"}
    words = "the stored image, the random crop that training takes, and the patches left after masking"
    return _rows(run, "model_view.npz", names, words)


def reconstruction(run: Run) -> Figure | Note:
    """Held-out images, what the model saw of them, and what it rebuilt."""
    names = {"original": "image", "masked": "visible patches", "rebuilt": "rebuilt"}
    words = "the image, the patches that the model saw, and the image that it rebuilt from them"
    return _rows(run, "reconstruction.npz", names, words)


def withheld(run: Run) -> bool:
    """Whether GEOFM_PICTURES=builtin asks to leave this run's images out: those of any set but the built-in one."""
    return os.environ.get("GEOFM_PICTURES", "all") == "builtin" and not _drawn_by_us(run.settings)


def _drawn_by_us(settings: dict[str, Any]) -> bool:
    """Whether the images are the built-in scenes; `data` (a prepared folder) says more than `dataset`."""
    if settings.get("data"):
        stored = Path(settings["data"]) / "settings.json"
        settings = json.loads(stored.read_text())["asked"] if stored.is_file() else {}
    return settings.get("dataset") == "scenes"


def _rows(run: Run, file: str, names: dict[str, str], words: str) -> Figure | Note:
    """A sheet whose rows are the arrays `names` of an npz in the run folder."""
    if withheld(run):
        return Note(WITHHELD.format(name=file))
    path = run.folder / file
    if not path.is_file():
        return Note(f"The run has not written {file} (it is written when the run finishes).")
    with np.load(path) as saved:
        rows = [saved[name][:8] for name in names]
    figure = sheet(rows, names=list(names.values()))
    return Figure(figure, f"{len(rows[0])} images in columns. Rows: {words}.", photo=True)


def save_rebuilt(run: Run, file: Path) -> Path:
    """Save what a pretraining on the built-in scenes rebuilt (README's image); other images are not ours to publish."""
    rebuilt = reconstruction(run)
    if not _drawn_by_us(run.settings) or isinstance(rebuilt, Note):
        raise ValueError(f"'{run.folder}' has rebuilt none of the built-in scenes; other images stay in the run folder")
    file.write_bytes(rebuilt.encoded())
    return file
