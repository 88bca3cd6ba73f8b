"""The kernel that executes a notebook: this environment's own interpreter, whose last words are kept."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import Unicode
from traitlets.config import Config

from geofm_lib.settings.masking import mask

DIED = "the kernel was killed; the ranks end by themselves, and the run can be started again"
WORDS, LAST_WORDS = "kernel.txt", 12  # what it wrote to its standard error, and the lines of it that a message has

CRASH = ("Fatal Python error", "Current thread")  # how Python's account of a crash begins, and its own thread's part
# ipykernel puts a pipe of its own in place of standard error, and what is in it dies with the kernel: here it does not.
START = """
import runpy, sys
sys.path.pop(0)  # the current folder, which ipykernel_launcher would leave out too
from ipykernel.iostream import OutStream
usual = OutStream.__init__
def own(self, session, thread, name, *others, watchfd=True, **options):
    usual(self, session, thread, name, *others, watchfd=watchfd and name != "stderr", **options)
OutStream.__init__ = own
from geofm_lib.runs import ahead
ahead.import_once_launched("geofm_lib.figures._axes", "geofm_lib.report.colophon")  # most of a second
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


class Kernels(AsyncKernelManager):
    """Kernels of this interpreter, that are ended by a message alone.

    Whatever is called `python3` elsewhere (in a home folder, in JUPYTER_PATH) may be another project's, or gone.
    jupyter_client interrupts a kernel before it ends it. One that is just through with its last cell prints an error
    for that.
    """

    live: ClassVar["Kernels | None"] = None  # the one that was started last
    words = Unicode(help="the file that gets its standard error").tag(config=True)

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        return KernelSpec(
            argv=[sys.executable, "-X", "faulthandler", "-c", START, "-f", "{connection_file}"], language="python"
        )

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        with open(self.words, "ab") as stream:
            await super()._async_launch_kernel(kernel_cmd, **options, stderr=stream)
        Kernels.live = self

    async def _async_interrupt_kernel(self) -> None:
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


def send(number: int) -> bool:
    """Send a signal to the kernel and to what its cells have started, but not to ranks; False if no kernel lives."""
    process = getattr(Kernels.live and Kernels.live.provisioner, "process", None)
    if process is None or process.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    return True


def config(work: Path, sockets: str) -> Config:
    """What papermill hands to nbclient: kernels of this kind, which leave their words in the folder `work`.

    Their sockets are files in the folder `sockets`. Other users of a shared node could read a TCP port, and by
    themselves kernels that start together in one folder would take the same files.
    """
    kernels = {"transport": "ipc", "ip": f"{sockets}/kernel", "words": str(work / WORDS)}
    return Config({"Kernels": kernels, "NotebookClient": {"kernel_manager_class": Kernels}})


def last_words(executed: Path, fault: str = DIED) -> str:
    """The fault, with the last lines that the kernel of this notebook wrote to its standard error."""
    lines = [*_printed(executed), *_said(executed.parent).splitlines()]
    marks = [next((k for k, line in enumerate(lines) if line.startswith(mark)), None) for mark in CRASH]
    if marks[0] is not None and marks[1] is not None:  # of a crash: what went before, and where it happened
        lines = (lines[: marks[0] + 1] + lines[marks[1] :])[max(0, marks[0] - 3) :][:LAST_WORDS]
    return f"{fault}; its last words:\n" + "\n".join(lines[-LAST_WORDS:]) if lines else fault


def repeat(work: Path, known: Iterable[str] = ()) -> None:
    """Hand on what the kernel wrote to its standard error, as if it had ours, but for secrets."""
    if text := mask(_said(work), known):
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _said(work: Path) -> str:
    with suppress(OSError):
        return (work / WORDS).read_text(errors="replace").strip("\n")
    return ""


def _printed(executed: Path) -> list[str]:
    """What the last cell that ran printed to Python's standard error, which ipykernel sends into the notebook."""
    with suppress(OSError, ValueError):
        cells = nbformat.read(executed, as_version=4).cells
        outputs: list[Any] = next((cell.outputs for cell in reversed(cells) if cell.get("outputs")), [])
        return "".join(each.text for each in outputs if each.get("name") == "stderr").splitlines()
    return []
