"""What every part of a probe is given, and how far it is.

One step is a batch encoded on any rank, a head of the fast protocol, or an epoch of all heads of the paper's.
"""

import time
from typing import Any, NamedTuple

from geofm_lib.data.shards import Shards
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import pace
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.settings import ProbeSettings

LOG_S = 1.0  # seconds between progress rows


class Progress:
    """Rows of metrics.jsonl. An earlier start's stay, up to what was kept of it."""

    def __init__(self, run: Folder, world_size: int) -> None:
        self.run, self.world_size = run, world_size
        self.total = self.steps = self.kept = self.images = 0
        self.encoding_s, self.speed, self.marked = 0.0, pace.Pace(), 0
        self.began = self.logged = time.perf_counter()

    def begin(self, total: int, kept: int) -> None:
        """There are so many steps, of which so many need not be done again."""
        self.total, self.steps, self.kept = total, kept, kept
        self.run.drop_metrics_after(kept)

    def encoded(self, images: int, batches: int) -> None:
        """A batch of so many images is encoded on this rank, while all ranks encode so many."""
        self.images += images
        self.encoding_s = time.perf_counter() - self.began
        self.advance(batches, phase="encoding")

    def advance(self, steps: int = 1, **row: Any) -> None:
        """Count steps, and log them now and then."""
        self.steps, self.marked = self.steps + steps, self.marked + steps
        self.run.at(self.steps)
        now = time.perf_counter()
        if now - self.logged > LOG_S or self.steps == self.total:
            self.speed.took(self.marked, now - self.logged)
            self.logged, self.marked = now, 0
            if self.images:  # not of the heads' time, nor when an earlier start encoded all
                row["encoded_images_per_s"] = round(self.images * self.world_size / self.encoding_s, 1)
            row["seconds_left"] = self.speed.left(self.total - self.steps)
            self.run.log_metrics(step=self.steps, total_steps=self.total, **row)


class Given(NamedTuple):
    """What every part of a probe works on. mean, std: by which the encoders' images are normalised."""

    settings: ProbeSettings
    context: Context
    run: Folder
    train: Shards
    test: Shards
    progress: Progress
    mean: list[float]
    std: list[float]
