"""How a request to stop reaches a notebook: by a file, and where nobody reads that, by interrupting the kernel.

| what comes | what it does |
|---|---|
| TERM, USR1, HUP | the file `stop`: a launcher that watches ranks has them save; another kernel has a grace period |
| INT (Ctrl-C) | the same, without a grace period |
| INT again | the ranks, or the kernel, are ended at once; the page is still made |
| while the page is made | nothing, since it takes seconds; a third INT leaves without it |

HUP and INT stay ignored where whoever started us ignores them (nohup, a script's background job).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

from geofm_lib.jobs.run_folder import seconds, stop_signals
from geofm_lib.report import kernel
from geofm_lib.runs.watch import WATCHED

TICK_S = 0.5
AGAIN_S = 3.0  # between two interrupts of a kernel that goes on
KILL_S = 30.0  # after the first interrupt; its cell may catch it, or be in compiled code
HURRY_S = {False: 2.0, True: 10.0}  # the same after a second Ctrl-C; longer where a launcher is ending ranks


class Requests:
    """The requests to one runner, as a context of all that it does; `reaching` is that of its kernel."""

    def __init__(self, restore: bool = True):
        self.restore, self.before = restore, {each: signal.getsignal(each) for each in stop_signals(signal.SIGINT)}
        # of cells without ranks: less than batch systems leave between TERM and KILL (30 s)
        self.grace_s = seconds("GEOFM_STOP_GRACE_S", 10)
        self.asked = self.cut = False  # a stop was asked for; the kernel was interrupted for it
        self.interrupts, self.most = 0, 0  # how many INTs; more than `most` end all
        self.file: Path | None = None

    def __enter__(self) -> Self:
        for number in self.before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """A request that comes when all is done must not turn that into a death, so a process that ends stays deaf."""
        for number, handler in self.before.items():
            signal.signal(number, handler if self.restore else signal.SIG_IGN)

    def begin(self) -> None:
        """From here on there is something to make a page of, so a first Ctrl-C is a request; a second still leaves."""
        self.most = self.interrupts + 1

    @contextmanager
    def reaching(self, work: Path) -> Iterator[None]:
        """While this block runs, requests reach the kernel; its environment says where its launcher finds them."""
        self.file, over = work / "stop", threading.Event()
        os.environ["GEOFM_STOP"] = str(self.file)
        if self.asked:
            self._leave()
        thread = threading.Thread(target=self._see_to_it, args=(self.file, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.file, self.most = None, self.interrupts + 2
            over.set()
            thread.join(10)
            os.environ.pop("GEOFM_STOP", None)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self.interrupts += number == signal.SIGINT
        if self.file:
            self._leave()
        elif number == signal.SIGINT and self.interrupts > self.most:
            raise KeyboardInterrupt

    def _leave(self) -> None:
        """The request as a file, for the launcher in the kernel."""
        with suppress(OSError, AttributeError):  # a full disk: then the kernel is interrupted
            self.file.write_text("now" if self.interrupts > 1 else "")  # type: ignore[union-attr]

    def _see_to_it(self, file: Path, over: threading.Event) -> None:
        """Interrupt a kernel in which nobody watches ranks, and end one that does not follow."""
        waited = told = 0.0  # counted in ticks: a machine that slept has not waited
        sent = -AGAIN_S
        while not over.wait(TICK_S):
            if not self.asked:
                continue
            if self.interrupts > told:
                told = self.interrupts
                self._say("stopping: interrupt again to end at once" if told == 1 else "ending at once")
            watched, hurry = file.with_name(file.name + WATCHED).exists(), self.interrupts > 1
            waited = 0.0 if watched and not hurry else waited + TICK_S
            patience = 0.0 if self.interrupts else self.grace_s
            if waited >= patience + (HURRY_S[watched] if hurry else KILL_S):
                kernel.send(signal.SIGKILL)
            elif not watched and waited >= max(patience, sent + AGAIN_S):
                self.cut, sent = kernel.send(signal.SIGINT) or self.cut, waited

    @staticmethod
    def _say(text: str) -> None:
        print(f"\n{text}", file=sys.stderr, flush=True)
