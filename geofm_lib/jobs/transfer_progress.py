"""How far the arms of 08 are: one count of steps over all of them, rows of metrics.jsonl, and the time left."""

import time
from typing import Any

from geofm_lib.catalog.transfer import Arm
from geofm_lib.jobs import pace
from geofm_lib.jobs.run_folder import Folder


class Progress:
    """Counts the steps of all arms and seeds in their order: each takes `steps`, of `batch` images."""

    def __init__(self, run: Folder, arms: list[tuple[str, int]], steps: int, batch: int, log_every: int) -> None:
        self.run, self.arms, self.steps, self.batch, self.log_every = run, arms, steps, batch, log_every
        self.total, self.speed = steps * len(arms), pace.Pace()
        self.mark, self.taken = time.perf_counter(), 0
        self.fresh = True  # of this start: rows behind where it goes on are of steps that are done again

    def _before(self, arm: Arm, seed: int) -> int:
        return self.arms.index((arm.name, seed)) * self.steps

    def first(self, arm: Arm, seed: int) -> bool:
        """Is it the first of all?"""
        return self.arms[0] == (arm.name, seed)

    def skip(self, arm: Arm, seed: int) -> None:
        """An arm was finished by an earlier start."""
        self.run.at(self._before(arm, seed) + self.steps)

    def begin(self, arm: Arm, seed: int, done: int) -> None:
        """An arm goes on behind so many steps."""
        if self.fresh:
            self.run.drop_metrics_after(self._before(arm, seed) + done)
            self.fresh = False
        self.mark, self.taken = time.perf_counter(), 0

    def took(self, arm: Arm, seed: int, done: int, last: bool, **row: Any) -> None:
        """An arm has done so many steps. last: the row is written, whatever its number."""
        self.taken += 1
        step = self._before(arm, seed) + done
        self.run.at(step)
        if done % self.log_every and done not in (1, self.steps) and not last:
            return
        now = time.perf_counter()
        self.speed.took(self.taken, now - self.mark)
        step_s, self.mark, self.taken = (now - self.mark) / self.taken, now, 0
        self.run.log_metrics(
            step=step, total_steps=self.total, arm=arm.name, seed=seed, **row, step_s=step_s,
            images_per_s=self.batch / step_s, seconds_left=self.speed.left(self.total - step),
        )  # fmt: skip
