"""Which ranks are silent, as their launcher sees it, and what is said of them."""

import contextlib
import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.jobs.run_folder import HEARTBEATS, heartbeat_timeout_s

STARTING_S = 600.0  # before the first step a rank may be silent this long: it imports, compiles, reads a busy disk


def heartbeat_s(ranks: int) -> float:
    """Seconds between two heartbeats of a rank: a thousand ranks must not keep a shared file system busy."""
    return max(2.0, min(ranks / 100, heartbeat_timeout_s() / 6))


class Heartbeats:
    """When each rank was last heard, by the change of its file: clocks of machines differ."""

    def __init__(self, folder: Path, ranks: int):
        self.folder, self.ranks = folder, ranks
        self.seen: dict[int, tuple[int | None, float]] = {rank: (None, time.monotonic()) for rank in range(ranks)}
        self.due = 0.0

    def silent(self, ended: Collection[int]) -> tuple[int, ...]:
        """The ranks, but for those that have ended, that were silent too long; looked for a few times in that bound."""
        now, bound = time.monotonic(), heartbeat_timeout_s()
        if now < self.due:
            return ()
        self.due = now + bound / 6
        for rank, (before, _) in self.seen.items():
            changed = files.changed(self.folder / HEARTBEATS / str(rank))
            if changed not in (None, before):
                self.seen[rank] = (changed, now)
        late = [rank for rank, (_, since) in self.seen.items() if now - since > bound and rank not in ended]
        if late and not any(self.last(rank).get("step") for rank in self.seen):
            late = [rank for rank in late if now - self.seen[rank][1] > STARTING_S]
        return tuple(late)

    def last(self, rank: int) -> dict[str, Any]:
        """A rank's last heartbeat: {"node", "step", "waiting"}; {} if it was never heard."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.folder / HEARTBEATS / str(rank)).read_text()))
        return {}

    def sentence(self, silent: tuple[int, ...]) -> str:
        """Which ranks fell silent, where, at which step, and what the others wait in."""
        where: dict[tuple[str, int], list[int]] = {}
        for rank in silent:
            last = self.last(rank)
            where.setdefault((last.get("node", ""), last.get("step", 0)), []).append(rank)
        parts = []
        for (node, step), ranks in where.items():
            named = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
            parts.append(f"{named} on {node} (last step {step})" if node else f"{named} (never heard)")
        waiting = {self.last(rank).get("waiting", "") for rank in range(self.ranks) if rank not in silent} - {""}
        text = f"no sign of life for {heartbeat_timeout_s():.0f} s from {'; '.join(parts)}"
        return text + (f"; the others wait in {', '.join(sorted(waiting))}" if waiting else "")
