"""What a pretraining learns from: the network, the views and the loss of its objective."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from geofm_lib.data import views
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import pairs
from geofm_lib.data.transforms import mask_noise
from geofm_lib.distributed import contrast
from geofm_lib.model import contrastive, mae
from geofm_lib.settings import PretrainSettings, objectives


class Objective:
    """Of one run. looks: views of an image, 1 or 2. rebuilds: are patches masked and rebuilt? contrasts: are views
    compared? columns: what metrics.jsonl has beside the loss; shares: these of the last step, a row a micro-batch.
    """

    def __init__(self, settings: PretrainSettings, shards: Shards) -> None:
        self.settings, self.shards = settings, shards
        self.rebuilds, self.contrasts = (ask(settings.objective) for ask in (objectives.rebuilds, objectives.contrasts))
        self.looks = 2 if self.contrasts else 1
        self.partners: views.Partners | None = None
        if self.contrasts and settings.positives == "dates":
            found = pairs.of_side(Path(settings.data), "train", shards.drawn)
            self.partners = views.Partners(found, len(shards), settings.seed)
        self.second = (self.partners or views.itself) if self.contrasts else None
        kept = {"not_measured": self.rebuilds and shards.masked, "mae_loss": self.rebuilds and self.contrasts}
        self.columns = [name for name, there in kept.items() if there]
        self.groups = settings.groups(shards.channels, shards.bands)
        self.shares: list[torch.Tensor] = []

    def build(self, norm_eps: float) -> Any:
        """The network, without memory: a masked autoencoder, with a projector where views are compared, or without."""
        asked, projection = self.settings, self.settings.projection if self.contrasts else 0
        size = asked.model, self.shards.size(asked.image_size), self.shards.channels, "meta", asked.patch()
        if not self.rebuilds:
            return contrastive.build(*size, projection, norm_eps, groups=self.groups)
        how: dict[str, Any] = {**asked.decoder(), "norm_pix_loss": asked.norm_pix_loss, "norm_eps": norm_eps}
        how |= {"groups": self.groups, "group_masks": asked.group_masks}
        return mae.build(*size, asked.mask_ratio, **how, projection=projection)

    def loss(
        self, model: nn.Module, network: Any, pixels: torch.Tensor, valid: torch.Tensor | None, epoch: int,
        indices: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Of a micro-batch: normalised pixels [looks x B, C, H, W] of the images `indices` [B]."""
        asked, chosen = self.settings, indices.tolist()
        if self.contrasts:
            colours = asked.colour_jitter, self.shards.mean, self.shards.std
            pixels = views.recolour(pixels, asked.seed, epoch, chosen, *colours)
        if not self.rebuilds:
            return self._contrast(model(pixels), indices)
        uses = [f"{view}mask" for view in (views.FIRST, views.SECOND)[: self.looks]]
        noise = torch.cat([mask_noise(asked.seed, epoch, chosen, network.drawn, use) for use in uses])
        noise = noise.to(pixels.device)
        found = model(pixels, noise, valid)
        rebuilt = found[0] if self.contrasts else found
        more = {"not_measured": network.not_measured, "mae_loss": rebuilt.detach()}
        if self.columns:
            self.shares.append(torch.stack([more[name].to(rebuilt.device) for name in self.columns]))
        return rebuilt + asked.contrast_weight * self._contrast(found[1], indices) if self.contrasts else rebuilt

    def _contrast(self, projected: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        places = None
        if self.partners:
            places = torch.from_numpy(self.partners.place)[indices].to(projected.device)
        return contrast.info_nce(projected, self.settings.temperature, places)

    def also(self) -> torch.Tensor:
        """For a step to share: the mean of each of `columns` over its micro-batches."""
        return torch.stack(self.shares).mean(0)

    def told(self) -> dict[str, Any]:
        """For the summary, of an objective that compares views: what it is, and the loss of guessing."""
        if not self.contrasts:
            return {}
        asked = self.settings
        of = f"contrastive, temperature {asked.temperature:g}"
        of = f"MAE + {asked.contrast_weight:g} x {of}" if self.rebuilds else of
        found = {"objective": asked.objective, "loss_of": of, "guessing_loss": contrast.guessing(asked.global_batch)}
        return found | ({"paired_images": self.partners.paired} if self.partners else {})
