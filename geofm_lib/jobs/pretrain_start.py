"""Where a pretraining starts: weights drawn from its seed, or those that `init` names. init.json says which."""

from typing import Any

from torch import nn

from geofm_lib.distributed import checkpoint
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import vit
from geofm_lib.model.interop import folders, formats, locate, start
from geofm_lib.model.mae import MaskedAutoencoder
from geofm_lib.settings import PretrainSettings

RECORD = "init.json"


class Start:
    """What a run starts from. `norm_eps`, the eps of every norm, is needed to build the model that takes the weights.

    A run that has a checkpoint goes on from that: its source is not read again, and may be gone.
    """

    def __init__(self, settings: PretrainSettings, run: Folder, context: Context) -> None:
        self.settings, self.run, self.context = settings, run, context
        self.record: dict[str, Any] = {}
        self.saved: folders.Saved | None = None
        if settings.init:
            self.record = context.broadcast(self._kept() if context.is_main else {})
            if not self.record:
                self._read()
        self.norm_eps: float = self.record.get("norm_eps", vit.NORM_EPS)

    def _kept(self) -> dict[str, Any]:
        """What was recorded when this run was started, if it has a checkpoint; else {}."""
        file = self.run.path / RECORD
        trained = any((self.run.path / "checkpoint").glob(checkpoint.STEPS))
        return folders.read_json(file) if trained and file.is_file() else {}

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

    def apply(self, model: nn.Module, autoencoder: MaskedAutoencoder) -> None:
        """Give a sharded model its first weights, each rank its part of them; nothing without `init`."""
        if not self.settings.init:
            return
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
        if not self.record:
            return {}
        return {"init": self.record["from"], "init_digest": self.record["digest"], "init_notes": self.record["notes"]}
