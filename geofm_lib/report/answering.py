"""Does the kernel answer? A second client beside papermill's own listens, and a kernel that does not answer is ended.

nbclient bounds the start alone. It waits without an end for a kernel that stands still, that never takes up a cell, or
whose answer was lost on the way (a race of its event loop with the sockets). A cell that runs may take its time.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

import psutil
from jupyter_client.blocking import BlockingKernelClient

from geofm_lib.jobs.run_folder import seconds
from geofm_lib.report import kernel

WHAT = {  # what is waited for -> what did not happen
    "sent": "it never took up a cell that was sent to it",
    "idle": "the end of a cell never arrived",
    "between": "it took no word after a cell",
}
LISTEN_S = 0.1  # at a time: the end of a notebook waits for it
BUSY_S = 0.2  # of a second's processor time: it works, though it cannot say so (compiled code may hold Python's lock)


def silence_s() -> float:
    """How long a kernel may be silent; twice as long while it starts."""
    return seconds("GEOFM_KERNEL_TIMEOUT_S", 60)


class Answers:
    """What is heard of one kernel: `hooks` are for papermill, `listening` is the context of its execution."""

    def __init__(self) -> None:
        self.started = False  # it has answered once
        self.fault = ""  # why it was ended
        self.state, self.cell = "starting", {}  # type: str, Any
        kernel.Kernels.live = None

    def hooks(self) -> dict[str, Any]:
        """Options of papermill.execute_notebook."""
        ours = {"on_notebook_start": self._ready, "on_cell_execute": self._sent, "on_cell_executed": self._answered}
        return {**ours, "start_timeout": int(2 * silence_s())}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this block runs, a kernel that falls silent is ended; nbclient sees that it is dead."""
        over = threading.Event()
        thread = threading.Thread(target=self._listen, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(5)

    def _ready(self, **_: Any) -> None:
        self.started, self.state = True, "between"

    def _sent(self, cell: Any, **_: Any) -> None:
        self.cell, self.state = cell, "sent"

    def _answered(self, **_: Any) -> None:
        self.state = "between"

    def _listen(self, over: threading.Event) -> None:
        while not self.started:
            if over.wait(0.2):
                return
        client = BlockingKernelClient(**kernel.Kernels.live.get_connection_info(session=True))  # type: ignore
        client.start_channels(shell=False, stdin=False, control=False)
        try:
            self._count(client, psutil.Process(kernel.Kernels.live.provisioner.pid), over)  # type: ignore
        except psutil.Error:  # it has ended, which nbclient sees
            pass
        finally:
            client.stop_channels()

    def _count(self, client: BlockingKernelClient, process: psutil.Process, over: threading.Event) -> None:
        """Count the seconds of silence; counted, since a machine that slept has not waited."""
        unheard = unanswered = 0
        while not over.is_set() and max(unheard, unanswered) < silence_s():
            used = sum(process.cpu_times()[:2])
            self._hear(client, over)
            works = sum(process.cpu_times()[:2]) - used > BUSY_S
            unheard = 0 if client.hb_channel.is_beating() else unheard + 1
            taken = self.state == "sent" and "iopub.status.busy" in self.cell.metadata.get("execution", {})
            unanswered = 0 if works or taken or self.state not in WHAT else unanswered + 1
        if not over.is_set():
            what = "it stands still" if unheard > unanswered else WHAT.get(self.state, "")
            self.fault = (
                f"the kernel did not answer for {silence_s():.0f} s ({what}) and was ended; run it again to go on"
            )
            kernel.send(signal.SIGKILL)

    def _hear(self, client: BlockingKernelClient, over: threading.Event) -> None:
        """Take what the kernel publishes in a second, or until it is over."""
        until = time.monotonic() + 1
        while not over.is_set() and (left := until - time.monotonic()) > 0:
            with suppress(Empty):
                message = client.iopub_channel.get_msg(timeout=min(left, LISTEN_S))
                if message["msg_type"] == "status" and message["parent_header"].get("msg_type") == "execute_request":
                    self.state = {"busy": "running"}.get(message["content"]["execution_state"], "idle")
