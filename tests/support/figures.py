"""Run folders from plain values, and the decoded image of a figure."""

import base64
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

from geofm_lib.figures.display import Figure
from geofm_lib.runs.run import Run


def run_folder(
    folder: Path, asked=None, summary=None, metrics=(), tables=None, arrays=None, job="", resolved=None
) -> Run:
    """A finished run's folder: settings, summary, rows of metrics, CSV tables and npz arrays by file name."""
    (folder / "settings.json").write_text(json.dumps({"job": job, "asked": asked or {}, "resolved": resolved or {}}))
    (folder / "summary.json").write_text(json.dumps({"status": "finished", **(summary or {})}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    for name, rows in (tables or {}).items():
        pd.DataFrame(rows).to_csv(folder / name, index=False)
    for name, content in (arrays or {}).items():
        np.savez(folder / name, **content)
    return Run(folder)


PHONE = 360  # CSS pixels of a figure on a phone of 390


def image(figure: Figure) -> Image.Image | ElementTree.Element:
    """The decoded image of a figure; its alt text must be there, its bytes few, its words legible on a phone."""
    assert isinstance(figure, Figure)
    data, metadata = figure._repr_mimebundle_()
    ((kind, about),) = metadata.items()
    assert len(about["alt"]) > 30
    if kind == "image/jpeg":
        content = base64.b64decode(data[kind])
        assert len(content) < 100_000
        return Image.open(io.BytesIO(content))
    assert max(len(data[kind]), len(about["narrow"])) < 60_000
    narrow = ElementTree.fromstring(about["narrow"])
    scale = PHONE / float(narrow.get("viewBox").split()[2])
    assert min(map(float, re.findall(r"font-size:([0-9.]+)px", about["narrow"]))) * scale >= 9
    return ElementTree.fromstring(data[kind])
