"""The runner: `python -m geofm_lib.desk.execute NOTEBOOK -p name value ...`.

Executes a notebook through papermill, copies it into its run folder, renders the page and sets the exit code,
whatever happened to the kernel. Batch scripts, make and the tests use only this.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from geofm_lib.desk import report, runs
from geofm_lib.settings import runs_root

# finished; failed; 75 is EX_TEMPFAIL: stopped with a checkpoint, run again to go on; 137 as a shell says SIGKILL
EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 75, "killed": 137}
TERMINAL_LINE_S, LOG_LINE_S = 1.0, 15.0  # how often progress is shown


def execute(notebook: Path, parameters: dict[str, str], page: Path | None = None) -> tuple[str, str, Path]:
    """Run a notebook; returns (finished | failed | stopped | killed, what went wrong, the rendered page).

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
    os.environ["GEOFM_EXECUTION"] = str(work)
    before = {number: signal.signal(number, lambda *_: _ask_to_stop(work)) for number in STOP_SIGNALS}
    over = threading.Event()
    watcher = threading.Thread(target=_show_progress, args=(work, notebook.stem, over), daemon=True)
    watcher.start()
    try:
        error = _run(notebook, executed, parameters)
    finally:
        over.set()
        watcher.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop("GEOFM_EXECUTION")
    run = _run_of(work)
    state, error = _state(executed, error, run)
    facts = {
        "notebook": notebook.name,
        "parameters": parameters,
        "status": state,
        "error": error,
        "started": started,
        "seconds": round(time.time() - started, 1),
        "run": str(run.folder) if run else "",
    }
    (work / "execution.json").write_text(json.dumps(facts, indent=1))
    return state, error, _publish(executed, work, run, facts, page)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def _run(notebook: Path, executed: Path, parameters: dict[str, str]) -> str:
    """'' or what went wrong. papermill's exception is the only thing of it that is believed."""
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=parameters,
            progress_bar=False,
            kernel_name="python3",
            config=PRIVATE,
        )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}" if error.ename not in SPEAKING else error.evalue
    except DeadKernelError:
        return KERNEL_DIED
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


PRIVATE = Config({"KernelManager": {"transport": "ipc"}})  # other users of a shared node could read a TCP port
KERNEL_DIED = "the kernel died"
SPEAKING = ("SettingsError", "RunFailed", "RunStopped")  # their text is the whole message


def _state(executed: Path, error: str, run: runs.Run | None) -> tuple[str, str]:
    """The truth about an execution, from what happened and the run folder, never from the notebook's metadata."""
    if error == KERNEL_DIED:
        return "killed", "the kernel was killed; the ranks end by themselves, and the run can be started again"
    if error:
        stopped = run is not None and run.status == "stopped"
        return ("stopped" if stopped else "failed"), error
    cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code" and cell.source]
    skipped = [cell.id for cell in cells if cell.execution_count is None]
    if skipped:  # sys.exit in a cell skips the rest and looks like success
        return "failed", f"the notebook ended early: {len(skipped)} cells did not run, '{skipped[0]}' first"
    if run is not None and run.status != "finished":
        return "failed", f"the notebook ran to its end, but its run is {run.status}"
    return "finished", ""


def _publish(executed: Path, work: Path, run: runs.Run | None, facts: dict, page: Path | None) -> Path:
    """Copy the notebook into the run folder and render the page there; without a run, in the working folder."""
    home = run.folder if run else work
    if run:
        shutil.copyfile(executed, home / "notebook.ipynb")
        shutil.copyfile(work / "execution.json", home / "execution.json")
    made = home / "report.html"
    # Twice, not a copy: in a folder of pages the links between them and to the index work.
    for target in filter(None, (made, page)):
        report.render(
            home / "notebook.ipynb",
            target,
            run=run,
            status=facts["status"],
            error=facts["error"],
            seconds=facts["seconds"],
        )
    made = page or made
    if run:
        shutil.rmtree(work)
    return made


def _run_of(work: Path) -> runs.Run | None:
    try:
        return runs.Run(Path((work / "run").read_text()))
    except FileNotFoundError:
        return None


def _ask_to_stop(work: Path) -> None:
    """A signal to the runner becomes a stop request to the ranks; without a run there is nothing to save."""
    run = _run_of(work)
    if run is None or run.status != "running":
        raise KeyboardInterrupt
    (run.folder / "stop").touch()


def _show_progress(work: Path, name: str, over: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    shown = ""
    while not over.wait(TERMINAL_LINE_S if terminal else LOG_LINE_S):
        run = _run_of(work)
        line = f"{name}: {runs.progress(run) if run else 'working'}"
        if line != shown:
            print(f"\r{line:<110}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        shown = line
    if terminal and shown:
        print(file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m geofm_lib.desk.execute", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    parser.add_argument("--page", type=Path, help="put the rendered page here too")
    options = parser.parse_args(argv)
    if not options.notebook.is_file():
        parser.error(f"there is no notebook '{options.notebook}'")
    state, error, page = execute(options.notebook, dict(options.parameters), options.page)
    if error:
        print(f"{options.notebook.name}: {error}", file=sys.stderr, flush=True)
    print(f"{options.notebook.name}: {state.upper()}, {page}", flush=True)
    return EXIT_CODES[state]


if __name__ == "__main__":
    sys.exit(main())
