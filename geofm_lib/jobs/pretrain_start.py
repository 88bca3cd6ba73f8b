"""Where a pretraining starts: a checkpoint that `branch` names, weights that `init` names, or drawn from its seed."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from geofm_lib.distributed import checkpoint
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import pretrain_files
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import vit
from geofm_lib.model.interop import folders, formats, locate, start
from geofm_lib.model.mae import MaskedAutoencoder
from geofm_lib.settings import PretrainSettings
from geofm_lib.settings.branch import FIXED

RECORD = "init.json"


class Start:
    """What a run starts from. `norm_eps`, the eps of every norm, is needed to build the model that takes the weights.

    A run that has a checkpoint goes on from that: its source is not read again, and may be gone. fresh: has it none?
    A branch's init.json is that of the run that it begins in.
    """

    def __init__(self, settings: PretrainSettings, run: Folder, context: Context) -> None:
        self.settings, self.run, self.context = settings, run, context
        self.record: dict[str, Any] = {}
        self.saved: folders.Saved | None = None
        trained = any((run.path / "checkpoint").glob(checkpoint.STEPS)) if context.is_main else False
        self.fresh = not context.broadcast(trained)
        self.parent = run.resolved.parent
        if settings.init:
            self.record = context.broadcast(self._kept() if context.is_main else {})
            if not self.record:
                self._read()
        self.norm_eps: float = self.record.get("norm_eps", vit.NORM_EPS)

    def _kept(self) -> dict[str, Any]:
        """What was recorded when this run was started, if it has a checkpoint or begins in one; else {}."""
        file = self.run.path / RECORD
        begun = not self.fresh or self.parent.get("checkpoint")
        return folders.read_json(file) if begun and file.is_file() else {}

    def _read(self) -> None:
        place = locate.find(self.settings.init)
        self.saved = formats.read(place)
        start.same_model(self.saved, self.settings.model, self.settings.patch(), f"init: {place.folder}")
        found = self.context.broadcast(locate.digest(place) if self.context.is_main else "")
        if self.run.resolved.init_digest not in ("", found):
            raise ValueError(f"init: the files in {place.folder} changed while this run was started; start it again.")
        self.record = {
            "from": str(place.folder),
            "files": [each.name for each in place.weights],
            "digest": found,
            "norm_eps": self.saved.config.get("norm_eps", vit.NORM_EPS),
            "notes": [],
        }

    def apply(self, model: nn.Module, optimiser: torch.optim.Optimizer, autoencoder: MaskedAutoencoder) -> int:
        """Give a sharded model its first weights, each rank its part of them; returns the steps that they have done."""
        if source := self.parent.get("checkpoint"):
            shared = pretrain_files.identity(self.settings, self.run.resolved)
            shared.pop("branch")
            shared["settings"] = {name: value for name, value in shared["settings"].items() if name in FIXED}
            digest = self.parent["digest"]
            return checkpoint.load_of_another(Path(source), digest, model, optimiser, shared, self.context)
        if self.settings.init:
            self._give(model, autoencoder)
        return 0

    def _give(self, model: nn.Module, autoencoder: MaskedAutoencoder) -> None:
        if self.saved is None:  # its checkpoints are gone
            self._read()
        assert self.saved
        asked, where = self.settings, f"init: {self.record['from']}"
        state, notes = start.fitted(self.saved, autoencoder, asked.model, asked.init_bands, where)
        start.apply(state, model)
        if self.norm_eps != vit.NORM_EPS:
            notes.append(f"norms with an eps of {self.norm_eps:g}, as in the source")
        self.record |= {"notes": notes, "decoder": any(name.startswith("decoder_pred") for name in state)}
        self.run.write_json(RECORD, self.record)
        self.saved = None  # the files can go

    def told(self) -> dict[str, Any]:
        """For the summary: where the weights are from, their digest, and what was changed."""
        began = {"branched_from": self.run.resolved.branch} if self.parent else {}
        if not self.record:
            return began
        found = {"init": self.record["from"], "init_digest": self.record["digest"], "init_notes": self.record["notes"]}
        return found | began
