"""What the jobs that look at prepared images have in common."""

from pydantic import model_validator

from geofm_lib.catalog.models import MODELS
from geofm_lib.settings.base import JobSettings, closest
from geofm_lib.settings.prepare import PrepareSettings


class ImageSettings(JobSettings):
    """Fields and checks of the jobs that look at prepared images."""

    @model_validator(mode="after")
    def _model_fits(self):
        if self.model not in MODELS:
            raise ValueError(
                f"model: there is no '{self.model}'{closest(self.model, MODELS)} Known: {', '.join(MODELS)}"
            )
        patch = self.patch()
        if self.image_size % patch:
            below, above = self.image_size // patch * patch, (self.image_size // patch + 1) * patch
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"image_size: {self.image_size} is not a multiple of the {patch}-pixel patch; use {near}")
        return self

    def patch(self) -> int:
        """Pixels a side of a patch."""
        return getattr(self, "patch_size", 0) or MODELS[self.model].patch_size

    def preparation(self) -> PrepareSettings:
        """The preparation these settings imply when `data` is empty."""
        own = {n: getattr(self, n) for n in ("dataset", "images_per_class", "device") if hasattr(self, n)}
        return PrepareSettings(**own)
