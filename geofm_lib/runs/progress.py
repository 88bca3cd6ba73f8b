"""A run's progress as one line, and the place where it is shown and updated."""

import sys
import time
from typing import Any

from geofm_lib.runs.run import Run

PROGRESS_S = 1.0  # the line changes at most so often
SHOWN = (  # column, words, digits
    ("loss", "loss", 4),
    ("top1", "top-1 %", 1),
    ("images_per_s", "images/s", 0),
    ("packed_images_per_s", "packed images/s", 0),
    ("encoded_images_per_s", "encoded images/s", 0),
)


def line(run: Run) -> str:
    """One line: where the run is (step, loss, images/s, time left)."""
    row = run.last_row
    if not row:
        return f"{run.job}: starting"
    total = row.get("total_steps") or row.get("total")
    parts = [f"{run.job}: step {row.get('step', 0)}" + (f"/{total}" if total else "")]
    parts += [str(row["phase"])] if row.get("phase") else []
    parts += [f"{name} {row[key]:.{digits}f}" for key, name, digits in SHOWN if isinstance(row.get(key), int | float)]
    if row.get("seconds_left") is not None:
        parts.append(f"{duration(row['seconds_left'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 12 s, 2 h 05 min.

    >>> duration(3.24), duration(192), duration(7500)
    ('3.2 s', '3 min 12 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


class Line:
    """One line, updated in place: in a notebook by its display, in a terminal by a carriage return."""

    def __init__(self) -> None:
        self.shown, self.text = 0.0, ""
        self.handle: Any = None

    def show(self, text: str, last: bool = False) -> None:
        """Show this text instead of the one before."""
        now = time.monotonic()
        if text == self.text or (now - self.shown < PROGRESS_S and not last):
            return
        self.shown, self.text = now, text
        if "ipykernel" in sys.modules:
            from IPython.display import display

            content = {"text/plain": text}
            if self.handle is None:
                self.handle = display(content, raw=True, display_id=True)
            else:
                self.handle.update(content, raw=True)
        elif sys.stderr.isatty():
            print(f"\r{text:<100}", end="\n" if last else "", file=sys.stderr, flush=True)
