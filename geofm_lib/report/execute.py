"""Execute a notebook through papermill, keep it in its run folder and render its page, whatever its kernel does.

`geofm run` is this; batch scripts, make and the tests start notebooks by that command only.
"""

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from geofm_lib import files
from geofm_lib.jobs.run_folder import heartbeat_timeout_s
from geofm_lib.report import ending, kernel, masking
from geofm_lib.report.answering import Answers, silence_s
from geofm_lib.report.page import render
from geofm_lib.report.stopping import Requests
from geofm_lib.runs import live, overview, slurm
from geofm_lib.runs.run import NEEDED, Run
from geofm_lib.settings import own_folder
from geofm_lib.settings.masking import mask, masked, secrets

TERMINAL_LINE_S, LOG_LINE_S = 1.0, 15.0  # how often progress is shown


def run(notebook: Path, parameters: dict[str, str], page: Path | None, requests: Requests) -> int:
    """Execute, say how it ended, and return the exit code (`ending.exit_code`; 74, EX_IOERR: nothing can be written).

    Its last line on standard output is `NAME.ipynb: STATUS in DURATION, PAGE`, which can be pasted into a shell.
    """
    began = time.monotonic()
    try:
        state, error, made, code = execute(notebook, parameters, page, requests)
    except OSError as fault:
        print(f"{notebook.name}: FAILED, nothing can be written: {fault}", file=sys.stderr, flush=True)
        return os.EX_IOERR
    if error:
        print(f"{notebook.name}: {error}", file=sys.stderr, flush=True)
    took = overview.duration(time.monotonic() - began)
    print(f"{notebook.name}: {state.upper()} in {took}, {shlex.quote(str(made))}", flush=True)
    return code


def execute(
    notebook: Path, parameters: dict[str, str], page: Path | None = None, requests: Requests | None = None
) -> tuple[str, str, Path, int]:
    """Run a notebook; returns (finished | failed | stopped | killed, what went wrong, the rendered page, exit code).

    `requests` (report/stopping) are the signals that ask for a stop with a checkpoint. Parameters are text as typed,
    since the settings class reads them. `page` is where the page is put beside the run folder.
    """
    if requests is None:
        with Requests() as requests:
            return execute(notebook, parameters, page, requests)
    started = time.time()
    requests.begin()
    work = own_folder("execute") / f"{notebook.stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    work.mkdir(0o700 if secrets(parameters) else 0o777, parents=True)
    executed = work / "notebook.ipynb"
    shutil.copyfile(notebook, executed)  # something to render even if papermill fails before its first save
    with _shown(work, notebook.stem):
        with _told(work, started, page), requests.reaching(work):
            kind, error = _papermill(notebook, executed, parameters, requests)
            asked, cut = requests.asked, requests.cut
        known = masking.without_secrets(executed, secrets(parameters))
        error = mask(error, known)
        run = _run_of(work)
        launched = run is not None and run.environment.get("job_started") == started
        state, error = ending.judge(executed, kind, error, run, launched, asked, cut)
        if state == "stopped" and (fault := ending.no_progress(run if launched else None)):
            state, error = "failed", fault
        if run and launched and state == "killed":
            live.write(run)  # which its launcher could not
        facts = {
            "notebook": notebook.name,
            "parameters": masked(parameters, known),
            "status": state,
            "error": mask(error, known),
            "started": started,
            "seconds": round(time.time() - started, 1),
            "run": str(run.folder) if run else "",
        }
        made = _publish(notebook, work, run, facts, page)
        (work / kernel.WORDS).unlink(missing_ok=True)
    return state, mask(error, known), made, ending.exit_code(state, kind)


@contextlib.contextmanager
def _told(work: Path, started: float, page: Path | None) -> Iterator[None]:
    """While this block runs, the kernel's environment says of which execution it is, and where its page will be."""
    given = {"GEOFM_EXECUTION": str(work), "GEOFM_STARTED": str(started)}
    given |= {"GEOFM_PAGE": str(page.absolute())} if page else {}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)


def _papermill(notebook: Path, executed: Path, parameters: dict[str, str], requests: Requests) -> tuple[str, str]:
    """(the exception's name, what went wrong), empty if nothing. Only papermill's exception is believed.

    A kernel that has never answered is started once more: nothing has been executed.
    """
    for again in (True, False):
        answers = Answers()
        try:
            with _sockets() as sockets, answers.listening():
                options = {"progress_bar": False, "kernel_name": "python3", "language": "python", **answers.hooks()}
                options["config"] = kernel.config(executed.parent, sockets)
                papermill.execute_notebook(str(notebook), str(executed), parameters=parameters, **options)
        except papermill.PapermillExecutionError as error:
            return error.ename, f"{error.ename}: {error.evalue}" if error.ename not in ending.SAID else error.evalue
        except Exception as error:
            died = isinstance(error, DeadKernelError) or "Kernel died" in str(error)  # later, or while it started
            if answers.started or requests.asked or kernel.Kernels.live is None:
                if died or (requests.asked and not answers.started):
                    return "DeadKernelError", kernel.last_words(executed, answers.fault or kernel.DIED)
                return type(error).__name__, f"{type(error).__name__}: {error}"
            why = "it ended by itself" if died else f"it did not answer for {2 * silence_s():.0f} s"
            if again:
                print(f"the kernel did not start ({why}); trying once more", file=sys.stderr, flush=True)
                continue
            fault = f"the kernel did not start, twice ({why}); see what `geofm doctor` says, and run it again"
            return "NoKernel", kernel.last_words(executed, fault)
        break
    kernel.repeat(executed.parent, secrets(parameters))
    return "", ""


@contextlib.contextmanager
def _sockets() -> Iterator[str]:
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"  # a socket's path is short
    with tempfile.TemporaryDirectory(prefix="geofm-", dir=base, ignore_cleanup_errors=True) as folder:
        yield folder


def _publish(notebook: Path, work: Path, run: Run | None, facts: dict[str, Any], page: Path | None) -> Path:
    """Keep the notebook and render its page: in the run folder, else where it was executed, else where there is room.

    On a full or lost disk the page that says so must still come out somewhere.
    """
    source = work / "notebook.ipynb"
    try:
        nbformat.read(source, as_version=4)
    except (OSError, ValueError):  # papermill leaves half a file on a full disk
        source = notebook
    own = [run.folder] if run and run.folder.is_dir() else []
    fault = OSError("no folder")
    for home in [*own, work, Path(tempfile.gettempdir()) / work.name]:
        try:
            home.mkdir(parents=True, exist_ok=True)
            files.write_json(home / "execution.json", facts)
            if source != home / "notebook.ipynb":
                # Whoever wrote the one that is there; a launch that followed ours may write its own now.
                with files.whole(home / "notebook.ipynb", shared=True) as fresh:
                    shutil.copyfile(source, fresh)
            if home in own and slurm.in_allocation():
                (home / "slices").mkdir(exist_ok=True)
                shutil.copyfile(source, home / "slices" / f"notebook-{slurm.slice_name()}.ipynb")
            made = home / "report.html"
            # Twice, not a copy: in a folder of pages the links between them and to the index work.
            for target in filter(None, (made, page)):
                render(home / "notebook.ipynb", target, run)
        except OSError as error:
            fault = error
            continue
        if home in own:
            shutil.rmtree(work, ignore_errors=True)
        return page or made
    raise fault


def _run_of(work: Path, name: str = "run") -> Run | None:
    """The run that the notebook executed in this folder has launched or read; None before that."""
    try:
        return Run(Path((work / name).read_text()))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _shown(work: Path, name: str) -> Iterator[None]:
    """Show the progress of the notebook `name`, executed in the folder `work`, as long as the block runs."""
    over = threading.Event()
    watcher = threading.Thread(target=_show, args=(work, name, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(5)


def _show(work: Path, name: str, over: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    last, printed, unanswered = "", 0.0, [0.0]
    threading.Thread(target=_give_up_when_lost, args=(work, unanswered, over), daemon=True).start()
    while not over.wait(TERMINAL_LINE_S):
        line = last
        with contextlib.suppress(OSError):  # an answer too
            run = _run_of(work, NEEDED) or _run_of(work)
            line = f"{name}: {overview.followed(run)}" if run else last
        unanswered[0], now = 0.0, time.monotonic()
        if line != last and (terminal or now - printed > LOG_LINE_S):
            print(f"\r{line:<110}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
            last, printed = line, now
    if terminal and last:
        print(file=sys.stderr)


def _give_up_when_lost(work: Path, unanswered: list[float], over: threading.Event) -> None:
    """A read that never returns (a network file system is gone) would hold the job until its time limit."""
    while not over.wait(TERMINAL_LINE_S):
        unanswered[0] += TERMINAL_LINE_S  # counted here: a runner that was held by Ctrl-Z has asked nobody
        if unanswered[0] > heartbeat_timeout_s():
            threading.Timer(5, os._exit, (os.EX_IOERR,)).start()  # if even the next line is not taken
            fault = f"the file system of {work.parent.parent} has not answered for {heartbeat_timeout_s():.0f} s"
            print(f"{fault}; giving up. The run goes on from its last checkpoint.", file=sys.stderr, flush=True)
            os._exit(os.EX_IOERR)
