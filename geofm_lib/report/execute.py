"""The runner: `python -m geofm_lib.report.execute NOTEBOOK -p name value ...`.

Executes a notebook through papermill, copies it into its run folder, renders the page and sets the exit code,
whatever happened to the kernel. Batch scripts, make and the tests use only this.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from geofm_lib import files
from geofm_lib.report import pages
from geofm_lib.runs import progress, records, slurm, watch
from geofm_lib.runs.run import Run
from geofm_lib.settings import runs_root

# finished; failed; 75 is EX_TEMPFAIL: stopped with a checkpoint, run again to go on (batch/run.sh requeues on it);
# 137 as a shell says SIGKILL. 74 is EX_IOERR: the file system is lost.
EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 75, "killed": 137}
TERMINAL_LINE_S, LOG_LINE_S = 1.0, 15.0  # how often progress is shown


def execute(notebook: Path, parameters: dict[str, str], page: Path | None = None) -> tuple[str, str, Path]:
    """Run a notebook; returns (finished | failed | stopped | killed, what went wrong, the rendered page).

    SIGTERM and SIGUSR1 ask for a stop with a checkpoint: a batch system sends them before it ends a job.

    Args:
        notebook: the .ipynb file.
        parameters: by name, as typed; the settings class reads them, so nothing is guessed here.
        page: where to put the page too (it is always in the run folder, when there is one).
    """
    started = time.time()
    work = runs_root() / ".execute" / f"{notebook.stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    work.mkdir(parents=True)
    executed = work / "notebook.ipynb"
    shutil.copyfile(notebook, executed)  # something to render even if papermill fails before its first save
    told = {"GEOFM_EXECUTION": str(work), "GEOFM_STOP": str(work / "stop"), "GEOFM_STARTED": str(started)}
    os.environ.update(told)
    before = {number: signal.signal(number, partial(_ask_to_stop, work)) for number in STOP_SIGNALS}
    over = threading.Event()
    watcher = threading.Thread(target=_show_progress, args=(work, notebook.stem, over), daemon=True)
    watcher.start()
    try:
        kind, error = _run(notebook, executed, parameters)
        run = _run_of(work)
        launched = run is not None and run.environment.get("job_started") == started
        state, error = _state(executed, kind, error, run, launched, asked=(work / "stop").exists())
        if state == "stopped" and (fault := _no_progress(run if launched else None)):
            state, error = "failed", fault
        facts = {
            "notebook": notebook.name,
            "parameters": parameters,
            "status": state,
            "error": error,
            "started": started,
            "seconds": round(time.time() - started, 1),
            "run": str(run.folder) if run else "",
        }
        made = _publish(notebook, executed, work, run, facts, page)
    finally:
        over.set()
        watcher.join(5)
        for number, handler in before.items():
            signal.signal(number, handler)
        for name in told:
            os.environ.pop(name, None)
    return state, error, made


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def _run(notebook: Path, executed: Path, parameters: dict[str, str]) -> tuple[str, str]:
    """(the exception's name, what went wrong), empty if nothing. Only papermill's exception is believed."""
    try:
        with _private_sockets() as config:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                parameters=parameters,
                progress_bar=False,
                kernel_name="python3",
                config=config,
            )
    except papermill.PapermillExecutionError as error:
        return error.ename, f"{error.ename}: {error.evalue}" if error.ename not in SPEAKING else error.evalue
    except DeadKernelError:
        return "DeadKernelError", KERNEL_DIED
    except Exception as error:
        if "Kernel died" in str(error):  # while it started: jupyter_client's RuntimeError
            return "DeadKernelError", KERNEL_DIED
        return type(error).__name__, f"{type(error).__name__}: {error}"
    return "", ""


@contextlib.contextmanager
def _private_sockets():
    """The kernel's sockets as files in a folder of this execution's own.

    Other users of a shared node could read a TCP port, and by themselves kernels that start together in one folder
    would take the same files.
    """
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="geofm-", dir=base if len(base) < 60 else "/tmp")  # a socket's path is short
    try:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


KERNEL_DIED = "the kernel was killed; the ranks end by themselves, and the run can be started again"
SPEAKING = ("SettingsError", "RunFailed", "RunStopped")  # their text is the whole message


def _state(executed: Path, kind: str, error: str, run: Run | None, launched: bool, asked: bool) -> tuple[str, str]:
    """The truth about an execution, from what happened and the run folder, never from the notebook's metadata.

    Args:
        launched: this execution started the run's ranks; otherwise the folder tells how an earlier one ended.
        asked: a stop was asked for.
    """
    if kind == "DeadKernelError":
        # Slurm may send SIGTERM to every process of a job, and a kernel that starts or draws dies of it.
        return ("stopped", "a stop was asked for and ended the kernel") if asked else ("killed", error)
    if kind:
        stopped = kind == "RunStopped" or (launched and run.status == "stopped")
        if kind == "OSError" and launched and run.status == "failed":
            error = run.summary["error"]  # papermill's own trouble with the same disk says less
        return ("stopped" if stopped else "failed"), error
    cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code" and cell.source]
    skipped = [cell.id for cell in cells if cell.execution_count is None]
    if skipped:  # sys.exit in a cell skips the rest and looks like success
        return "failed", f"the notebook ended early: {len(skipped)} cells did not run, '{skipped[0]}' first"
    if run is not None and run.status != "finished":
        return "failed", f"the notebook ran to its end, but its run is {run.status}"
    return "finished", ""


def _no_progress(run: Run | None) -> str:
    """Why a stopped job must not be queued again: two starts of it in a row that saved nothing new. '' if it may.

    Each start that stops leaves a line in `runs/.queue/<job>.jsonl`, also when it did not come to start any ranks
    (run None).
    """
    if not slurm.in_allocation():
        return ""
    this = records.this_slice(run) if run else {}
    mine = {"start": slurm.slice_name(), "from_step": this.get("from_step", 0), "to_step": this.get("to_step", 0)}
    file = runs_root() / ".queue" / f"{os.environ['SLURM_JOB_ID']}.jsonl"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a+") as log:
            log.seek(0)
            before = log.read().splitlines()
            log.write(json.dumps(mine) + "\n")
    except OSError as error:
        fault = f"the job is not queued again, since '{file}' cannot be written ({error.strerror}); make room first"
    else:
        last = json.loads(before[-1]) if before else None
        if last is None or any(each["to_step"] > each["from_step"] for each in (last, mine)):
            return ""
        where = f"both began at step {mine['from_step']} and saved no later one" if run else "no ranks were started"
        fault = (
            f"no progress in two consecutive jobs ({last['start']} and {mine['start']}): {where}, so it is not queued "
            "again; give it more --time, an earlier stop signal, or a smaller checkpoint_every"
        )
    if run:
        with contextlib.suppress(OSError):
            files.write_json(run.folder / "summary.json", {**run.summary, "status": "failed", "error": fault})
    return fault


def _publish(notebook: Path, executed: Path, work: Path, run: Run | None, facts: dict, page: Path | None) -> Path:
    """Keep the notebook and render its page: in the run folder, else where it was executed, else where there is room.

    On a full or lost disk the page that says so must still come out somewhere.
    """
    source = executed if _readable(executed) else notebook
    homes = [run.folder] if run and run.folder.is_dir() else []
    for home in [*homes, work, Path(tempfile.gettempdir()) / work.name]:
        try:
            home.mkdir(parents=True, exist_ok=True)
            (home / "execution.json").write_text(json.dumps(facts, indent=1))
            if source != home / "notebook.ipynb":
                shutil.copyfile(source, home / "notebook.ipynb")
            if run and home == run.folder and slurm.in_allocation():
                (home / "slices").mkdir(exist_ok=True)
                shutil.copyfile(source, home / "slices" / f"notebook-{slurm.slice_name()}.ipynb")
            made = home / "report.html"
            # Twice, not a copy: in a folder of pages the links between them and to the index work.
            for target in filter(None, (made, page)):
                pages.render(
                    home / "notebook.ipynb",
                    target,
                    run=run,
                    status=facts["status"],
                    error=facts["error"],
                    seconds=facts["seconds"],
                )
        except OSError as error:
            fault = error
            continue
        if home in homes:
            shutil.rmtree(work, ignore_errors=True)
        return page or made
    raise fault


def _readable(executed: Path) -> bool:
    """Is this a whole notebook? papermill leaves half a file on a full disk."""
    try:
        nbformat.read(executed, as_version=4)
    except (OSError, ValueError):
        return False
    return True


def _run_of(work: Path) -> Run | None:
    try:
        return Run(Path((work / "run").read_text()))
    except FileNotFoundError:
        return None


def _ask_to_stop(work: Path, number: int, _frame) -> None:
    """A signal to the runner becomes a stop request, found by the launcher; Ctrl-C without ranks ends it at once."""
    run = _run_of(work)
    if number == signal.SIGINT and (run is None or run.status != "running"):
        raise KeyboardInterrupt
    (work / "stop").touch()


def _show_progress(work: Path, name: str, over: threading.Event) -> None:
    """A line of progress now and then, and the end of everything when the file system no longer answers."""
    terminal = sys.stderr.isatty()
    shown, printed, answered = "", 0.0, [time.monotonic()]
    threading.Thread(target=_give_up_when_lost, args=(work, answered, over), daemon=True).start()
    while not over.wait(TERMINAL_LINE_S):
        line = shown
        with contextlib.suppress(OSError):  # an answer too
            run = _run_of(work)
            line = f"{name}: {progress.line(run)}" if run else shown
        answered[0] = time.monotonic()
        if line != shown and (terminal or answered[0] - printed > LOG_LINE_S):
            with contextlib.suppress(OSError):  # the job's output may lie on a disk that is full
                print(f"\r{line:<110}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
            shown, printed = line, answered[0]
    if terminal and shown:
        print(file=sys.stderr)


def _give_up_when_lost(work: Path, answered: list[float], over: threading.Event) -> None:
    """A read that never returns (a network file system is gone) would hold the job until its time limit."""
    while not over.wait(TERMINAL_LINE_S):
        if time.monotonic() - answered[0] > watch.hung_s():
            threading.Timer(5, os._exit, (os.EX_IOERR,)).start()  # if even the next line is not taken
            fault = f"the file system of {work.parent.parent} has not answered for {watch.hung_s():.0f} s"
            print(f"{fault}; giving up. The run goes on from its last checkpoint.", file=sys.stderr, flush=True)
            os._exit(os.EX_IOERR)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m geofm_lib.report.execute", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    parser.add_argument("--page", type=Path, help="put the rendered page here too")
    options = parser.parse_args(argv)
    if not options.notebook.is_file():
        parser.error(f"there is no notebook '{options.notebook}'")
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a request that comes when all is done must not turn it into a death
    try:
        state, error, page = execute(options.notebook, dict(options.parameters), options.page)
    except OSError as error:
        print(f"{options.notebook.name}: FAILED, nothing can be written: {error}", file=sys.stderr, flush=True)
        return os.EX_IOERR
    if error:
        print(f"{options.notebook.name}: {error}", file=sys.stderr, flush=True)
    print(f"{options.notebook.name}: {state.upper()}, {page}", flush=True)
    return EXIT_CODES[state]


if __name__ == "__main__":
    sys.exit(main())
