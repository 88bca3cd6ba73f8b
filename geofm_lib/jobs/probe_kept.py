"""What a probe keeps, so that a stopped or killed one goes on: its features and its heads.

What heads of the fast protocol come to lies beside the features that they are of (`probe_sources`), and so serves later
probes beside the same untrained encoders and histograms too. The rest is of this probe alone: it lies in the run
folder's `kept/<identity>`, of settings, images, encoder, device and versions, and what another would have made is
deleted. The name of a file ends with its content's digest. All of it goes when the probe has finished.
"""

import hashlib
import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import Lars

from geofm_lib import __version__, files
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.sources import prepared
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.features import KEEP_S
from geofm_lib.jobs.probe_judge import Result
from geofm_lib.jobs.run_folder import KEPT, Folder
from geofm_lib.model import probe_heads
from geofm_lib.model.interop import locate
from geofm_lib.settings import EncoderSettings

Heads = Iterable[tuple[probe_heads.ProbeHead, Lars]]
Rows = list[dict[str, Any]]


def folder(settings: EncoderSettings, run: Folder, context: Context) -> Path:
    """Where this probe keeps its files; every rank calls this."""
    return run.path / KEPT / context.broadcast(_identity(settings, run, context) if context.is_main else "")


def _identity(settings: EncoderSettings, run: Folder, context: Context) -> str:
    encoder = "" if settings.encoder == "random" else locate.digest(locate.find(settings.encoder))
    own = {n: v for n, v in settings.results_only().items() if n not in ("data", "encoder")}
    made_by = [__version__, torch.__version__, context.device.type, probe_heads.PROTOCOL]
    known = json.dumps([own, prepared.fingerprint(Path(settings.data)), encoder, made_by], sort_keys=True)
    found = hashlib.sha256(known.encode()).hexdigest()[:12]
    for other in (run.path / KEPT).glob("*"):
        if other.name != found:
            shutil.rmtree(other, ignore_errors=True)
    return found


def result(file: Path, make: Callable[[], Result]) -> Result:
    """What heads of the fast protocol came to: read from the file, or made where that is not there or not whole."""
    if file.is_file():
        try:
            with np.load(file) as saved:  # a zip, which proves each of its parts
                return Result(**{name: saved[name] for name in Result._fields})
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            print(f"{file} is not what was written; its heads are trained again", flush=True)
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(file, made._asdict(), compressed=False)
    return made


class HeadsFile:
    """The heads after an epoch, on rank 0: their weights, statistics and momenta, and the rows so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, time.monotonic()

    def load(self, heads: Heads, device: torch.device) -> tuple[int, Rows]:
        """Put the newest whole file into the heads; returns (epochs done, rows), (0, []) where there is none."""
        for file in sorted(self.folder.glob("heads-*.pt"), reverse=True):
            if files.digest(file) != file.stem.rsplit(".", 1)[1]:
                print(f"{file} is not what was written; the heads are trained again", flush=True)
                continue
            found = torch.load(file, map_location=device, weights_only=True)
            for (layers, optimiser), (weights, moments) in zip(heads, found["heads"], strict=True):
                layers.load_state_dict(weights)
                optimiser.load_state_dict(moments)
            return found["epochs"], found["rows"]
        return 0, []

    def save(self, heads: Heads, epochs: int, rows: Rows, after_s: float = KEEP_S) -> bool:
        """Write them in place of the last ones, unless those are not so many seconds old; was it written?"""
        if time.monotonic() - self.written < after_s:
            return False
        states = [(layers.state_dict(), optimiser.state_dict()) for layers, optimiser in heads]
        stream = io.BytesIO()
        torch.save({"epochs": epochs, "rows": rows, "heads": states}, stream)
        digest, before = hashlib.sha256(stream.getvalue()).hexdigest(), set(self.folder.glob("heads-*.pt"))
        file = self.folder / f"heads-{epochs:06d}.{digest}.pt"
        with files.whole(file) as fresh:
            fresh.write_bytes(stream.getvalue())
        for old in before - {file}:
            old.unlink(missing_ok=True)
        self.written = time.monotonic()
        return True
