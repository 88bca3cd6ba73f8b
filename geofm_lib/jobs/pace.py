"""How long a run has taken, over all its starts, and how long it may still take: reckoned here and nowhere else."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.jobs.run_folder import rows

KEEPS = 0.97  # of the weight of what was seen, each time that more is: half of it is left after 23 times


def seconds(starts: Iterable[dict[str, Any]]) -> float:
    """How long the ranks of these starts (rows of history.jsonl, `Run.slices`) took together.

    >>> seconds([{"seconds": 2.0}, {"started": 5.0, "ended": 8.5}])  # the second as older versions wrote it
    5.5
    """
    return round(sum(each.get("seconds", each.get("ended", 0.0) - each.get("started", 0.0)) for each in starts), 1)


def earlier(folder: Path) -> list[dict[str, Any]]:
    """The starts before this one, oldest first."""
    return rows(folder / "history.jsonl")


def steady(metrics: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics but for the first of each start, which holds start-up; all of them where no other are."""
    begins = {0, *(each.get("from_step", 0) for each in earlier(folder))}
    with suppress(OSError, ValueError):
        begins.add(files.read_json(folder / "environment.json").get("from_step", 0))
    firsts = {min((row["step"] for row in metrics if row["step"] > begin), default=0) for begin in begins}
    return [row for row in metrics if row["step"] not in firsts] or metrics


class Pace:
    """How long a step takes lately: a mean in which what is older counts less, without the first, which starts up."""

    def __init__(self) -> None:
        self.steps = self.spent = 0.0
        self.started = False

    def took(self, steps: float, spent: float) -> None:
        """So many steps took so many seconds."""
        if not self.started and self.steps:
            self.steps, self.spent, self.started = 0.0, 0.0, True
        self.steps, self.spent = KEEPS * self.steps + steps, KEEPS * self.spent + spent

    def left(self, steps: float) -> float:
        """Seconds that so many steps will take, 0 before the first."""
        return round(steps * self.spent / self.steps, 1) if self.steps else 0.0
