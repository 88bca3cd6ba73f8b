"""Settings of 06_paper, and of the evidence that it gathers."""

from typing import ClassVar, Literal

from pydantic import model_validator

from geofm_lib.catalog import models
from geofm_lib.settings.base import MEASURED, RUN_DIR, ReadingSettings, naming, setting
from geofm_lib.settings.data import ImageSettings


class FindingsSettings(ImageSettings):
    """06_paper: evidence for four findings about the paper's numbers, gathered on a few ranks in about a minute."""

    job: ClassVar[str] = "findings"
    model: str = setting("ViT-Atto", "the small model: replicas, and start-up in a short step", MEASURED)
    larger_model: str = setting("ViT-Pico", "the larger one: precision, and start-up in a longer step", MEASURED)
    image_size: int = setting(64, "pixels a side", MEASURED, ge=8, le=2048)
    batch_per_gpu: int = setting(2, "images a rank takes a step", MEASURED, ge=1)
    steps: int = setting(5, "timed steps of each precision; steps after which weights are compared", MEASURED, ge=2)
    ranks: int = setting(4, "processes: an even number from 4 on", MEASURED, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("cpu", "auto | cpu | cuda", MEASURED)
    seed: int = setting(0, "of weights and images", MEASURED, ge=0)
    run_dir: str = RUN_DIR

    @model_validator(mode="after")
    def _larger_fits(self):
        with naming("larger_model"):
            models.grid(self.image_size, models.lookup(self.larger_model).patch_size)
        return self

    def check_ranks(self, ranks: int) -> None:
        if ranks < 4 or ranks % 2:
            raise ValueError(
                f"ranks: {ranks} cannot show whether replicas agree, which takes two shard groups of two ranks; use 4 "
                "or another even number above it"
            )


class PaperSettings(ReadingSettings):
    """06_paper reads finished runs and the published figures, and starts one short job: the findings."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    ranks: int = setting(4, "processes that gather the evidence: an even number from 4 on", "what is run", ge=0)
    device: Literal["auto", "cpu", "cuda"] = setting("cpu", "where they do: auto | cpu | cuda", "what is run")

    @model_validator(mode="after")
    def _can_be_gathered(self):
        self.findings()
        return self

    def findings(self) -> FindingsSettings:
        """The job that gathers the evidence."""
        return FindingsSettings(ranks=self.ranks, device=self.device)
