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
        trained = context.broadcast(any((run.path / "checkpoint").glob(checkpoint.STEPS)))
        if settings.init and trained and (run.path / RECORD).is_file():
            self.record = folders.read_json(run.path / RECORD)
        elif settings.init:
            self._read(run.resolved.init_digest)
        self.norm_eps: float = self.record.get("norm_eps", vit.NORM_EPS)

    def _read(self, expected: str) -> None:
        place = locate.find(self.settings.init)
        self.saved = formats.read(place)
        found = self.context.broadcast(locate.digest(place) if self.context.is_main else "")
        if expected and found != expected:
            raise ValueError(f"init: the files in {place.folder} changed while this run was started; start it again.")
        self.record = {
            "from": str(place.folder),
            "files": [each.name for each in place.weights],
            "digest": found,
            "norm_eps": self.saved.config.get("norm_eps", vit.NORM_EPS),
        }

    def apply(self, model: nn.Module, autoencoder: MaskedAutoencoder) -> None:
        """Give a sharded model its first weights, each rank its part of them; nothing without `init`."""
        if not self.settings.init or self.saved is None:
            return
        asked = self.settings
        state, notes = start.fitted(
            self.saved, autoencoder, asked.model, asked.init_bands, f"init: {self.record['from']}"
        )
        start.apply(state, model)
        eps = self.norm_eps
        notes += [f"norms with an eps of {eps:g}, as in the source"] if eps != vit.NORM_EPS else []
        self.record |= {"notes": notes, "decoder": any(name.startswith("decoder_pred") for name in state)}
        self.run.write_json(RECORD, self.record)
        self.saved = None  # the files can go

    def told(self) -> dict[str, Any]:
        """For the summary: where the weights are from, their digest, and what was changed."""
        if not self.record:
            return {}
        return {"init": self.record["from"], "init_digest": self.record["digest"], "init_notes": self.record["notes"]}
