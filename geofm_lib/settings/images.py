"""What the jobs that look at prepared images have in common."""

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from geofm_lib.catalog import models
from geofm_lib.settings.base import JobSettings, naming
from geofm_lib.settings.prepare import PrepareSettings


class ImageSettings(JobSettings):
    """Checks of the jobs that look at prepared images."""

    if TYPE_CHECKING:
        model: str
        image_size: int

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        with naming("model"):
            models.lookup(self.model)
        with naming("image_size"):
            models.grid(self.image_size, self.patch())
        return self

    def patch(self) -> int:
        """Pixels a side of a patch."""
        return models.lookup(self.model).resized(patch_size=getattr(self, "patch_size", 0)).patch_size

    def preparation(self) -> PrepareSettings:
        """The preparation these settings imply when `data` is empty."""
        own = {n: getattr(self, n) for n in ("dataset", "images_per_class", "device") if hasattr(self, n)}
        return PrepareSettings(**own)
