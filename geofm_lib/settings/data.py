"""Settings of 01_data, and what the jobs that look at prepared images have in common."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from geofm_lib.catalog import models
from geofm_lib.catalog.datasets import DRAWN
from geofm_lib.settings.base import (
    DEVICE,
    IMAGES_PER_CLASS,
    RUN_DIR,
    WHERE,
    Device,
    JobSettings,
    naming,
    one_spelling,
    setting,
)

Alpha = Literal["auto", "keep", "mask"]
LEAST_TILE = 8  # pixels a side, as of any image
Split = Literal["auto", "random", "scene", "block"]


class PrepareSettings(JobSettings):
    """01_data: images to data shards, index and split."""

    job: ClassVar[str] = "prepare"
    dataset: str = setting(
        "scenes",
        "'scenes', 'seasons' (built-in), folder, tar, zip, table of series, prepared folders, eurosat",
        "data",
    )
    labels: str = setting(
        "",
        "table.csv, or its columns after a colon; lists/*.txt, 'folders', 'masks', 'boxes' or 'none'",
        "data",
    )
    pairs: str = setting(
        "", "table of two images a row, such as a place on two dates (empty: none)", "data", later=True
    )
    pattern: str = setting(
        "", "of paths: '{side}/{label}/*.jpg', '{patch}/*_{band}.tif', '*.tif' (empty: every image)", "data"
    )
    bands: str = setting("", "those of {band} to stack, in order, with commas (empty: all)", "data")
    dates: int = setting(
        0,
        "of series, whose values are all bands of a date, then of the next (0: every value is one)",
        "data",
        later=True,
        ge=0,
        le=100_000,
    )
    images_per_class: int = IMAGES_PER_CLASS
    scene_size: int = setting(96, "pixels a side of a drawn image (built-in scenes only)", "data", ge=16, le=1024)
    channels: int = setting(0, "bands an image must have (0: as many as most)", "data", ge=0, le=512)
    nodata: str = setting("", "value of pixels not measured, or 'none' (empty: as declared, and obvious fill)", "data")
    alpha: Alpha = setting("auto", "fourth band of 8 bits: auto | keep (it is data) | mask (not measured)", "data")
    valid_min: float = setting(0.1, "smallest share of measured pixels in an image", "data", ge=0, le=1)
    tile: int = setting(0, "pixels a side of the tiles that scenes are cut into (0: files are images)", "data", ge=0)
    stride: int = setting(0, "pixels from tile to tile (0: as tile)", "data", ge=0)
    short_side: int = setting(
        0, "pixels to which a larger short side is reduced (0: sizes stay)", "data", ge=0, le=16384
    )
    quality: int = setting(0, "write every image again as a JPEG of this quality (0: bytes stay)", "data", ge=0, le=100)
    shard_mib: float = setting(256.0, "MiB after which a data shard is closed", "data", gt=0, le=65536)
    train_ratio: float = setting(
        0.0, "share of each class that is for training (0: that of the data set's card, else half)", "data", ge=0, le=1
    )
    split: Split = setting("auto", "auto (as given, else by scene) | random | scene | block (of ground)", "data")
    block_size: float = setting(0.0, "side of a block, in ground units or pixels (0: a tenth of a scene)", "data", ge=0)
    seed: int = setting(0, "of the drawing and of the split", "data", ge=0)
    ranks: int = setting(1, "preparation is one process; it uses `workers`", WHERE, True, ge=0, le=100_000)
    device: Device = DEVICE
    workers: int = setting(0, "processes that decode (0: one a core)", WHERE, True, ge=0, le=1024)
    run_dir: str = RUN_DIR

    @field_validator("nodata", mode="before")
    @classmethod
    def _nodata_is_a_number(cls, value: object) -> str:
        text = str(value).strip()
        try:
            float(text if text not in ("", "none") else 0)
        except ValueError:
            raise ValueError(f"'{text}' is no number; give the value of what was not measured, or 'none'") from None
        return text

    @model_validator(mode="after")
    def _tiles_fit(self) -> Self:
        if 0 < self.tile < LEAST_TILE:
            raise ValueError(f"tile: {self.tile} pixels are no image; at least {LEAST_TILE} a side are needed")
        if self.tile and self.dataset in DRAWN:
            words = f"the built-in {self.dataset} are no larger than a tile"
            raise ValueError(f"tile: {words}; give a folder, tar or zip of scenes")
        if self.dates and self.dataset in DRAWN:
            raise ValueError(f"dates: the built-in {self.dataset} have those that they have; leave it at 0")
        if self.stride and not self.tile:
            raise ValueError("stride: it counts from tile to tile, and tile is 0; set tile as well")
        if self.pairs and self.split == "random":
            raise ValueError("pairs: split=random would put two dates of a place on two sides; use split=auto or block")
        if self.pairs and (self.tile or self.dataset in DRAWN):
            what = "tiles of scenes" if self.tile else "the drawn scenes"
            raise ValueError(f"pairs: a table names images, and {what} have no names in it; leave pairs empty")
        if self.block_size and self.split != "block":
            raise ValueError(f"block_size: with split={self.split} there are no blocks; set split=block as well")
        return self


class ImageSettings(JobSettings):
    """Checks of the jobs that look at prepared images."""

    if TYPE_CHECKING:
        model: str
        image_size: int

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        with naming("model"):
            models.lookup(self.model)
        if getattr(self, "encoder", "random") in ("", "random"):  # else the encoder's own patch counts
            with naming("image_size"):
                models.grid(self.image_size, self.patch())
        return self

    def patch(self) -> int:
        """Pixels a side of a patch."""
        return models.lookup(self.model).resized(patch_size=getattr(self, "patch_size", 0)).patch_size

    def preparation(self) -> PrepareSettings:
        """The preparation these settings imply when `data` is empty, or a list of prepared folders."""
        own = {n: getattr(self, n) for n in ("dataset", "images_per_class", "device") if hasattr(self, n)}
        if folders := getattr(self, "data", ""):
            own = {"dataset": one_spelling(folders), "device": own["device"]}
        return PrepareSettings(**own)
