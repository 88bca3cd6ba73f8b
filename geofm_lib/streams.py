"""Standard output and standard error that never change how a program ends: what nobody can take is dropped.

A disk may be full, a terminal gone, a reader have left (`| head -1`), a stream closed (`>&-`). By itself Python raises
at such a print, and ends with code 120 when it flushes for the last time.
"""

import errno
import io
import os
import select
import sys
import time
from typing import Any, ClassVar

PIECE = select.PIPE_BUF  # a pipe that can be written takes so many bytes without waiting
LABELS = {"stdin": "standard input", "stdout": "standard output", "stderr": "standard error"}


class Dropping(io.FileIO):
    """A file descriptor whose faults are no exceptions: bytes that cannot be written are dropped."""

    patience_s: ClassVar[float | None] = None  # for a reader that does not read; None: as long as it takes
    lost: ClassVar[bool] = False  # lines of standard output, and not to a reader who has seen enough
    left: ClassVar[bool] = False  # such a reader of standard output has gone: nobody sees another line

    def __init__(self, number: int, name: str):
        super().__init__(number, "w", closefd=False)
        self.label, self.stuck, self.told = name, False, False

    def write(self, data: Any) -> int:
        """Write all of it or give up; always says that all was written."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left and self._ready():
                left = left[super().write(left[:PIECE]) or 0 :]
        except OSError as error:
            self._tell(error)
        return size

    def _ready(self) -> bool:
        """Wait until it can be written, with patience only once for a reader that has stopped reading."""
        patience = 0.0 if self.stuck else self.patience_s
        until = None if patience is None else time.monotonic() + patience
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        while not poll.poll(None if until is None else 1000 * max(0.0, until - time.monotonic())):
            if until is not None and time.monotonic() >= until:
                self.stuck = True
                return False
        self.stuck = False
        return True

    def _tell(self, error: OSError) -> None:
        """Say once on standard error that lines are lost, but not of a reader who has seen enough."""
        Dropping.left |= self.label == LABELS["stdout"] and error.errno == errno.EPIPE
        if self.label == LABELS["stdout"] and not self.told and error.errno != errno.EPIPE:
            self.told = Dropping.lost = True
            print(f"standard output cannot be written ({error.strerror}): its lines are lost", file=sys.stderr)


def secure(patience_s: float | None = None) -> None:
    """Make them so for the rest of this process; streams that somebody has put there instead of Python's own stay.

    A reader that has stopped reading is waited for so many seconds, once (None: for ever, as every program does). A
    closed stream becomes /dev/null. Else the next file to be opened would get its number, and a child's lines.
    """
    Dropping.patience_s = patience_s
    for number, (name, label) in enumerate(LABELS.items()):
        stream = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this stream's
            os.set_inheritable(number, True)
            Dropping.lost |= name == "stdout"
        if name == "stdin" or stream is not getattr(sys, f"__{name}__"):
            continue
        # backslashreplace: a character that the terminal's encoding lacks is no fault either
        how = {"encoding": getattr(stream, "encoding", None) or "utf-8", "errors": "backslashreplace"}
        setattr(sys, name, io.TextIOWrapper(Dropping(number, label), **how, write_through=True))  # type: ignore
