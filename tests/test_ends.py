"""Signals and lost streams at every moment of a notebook: the exit code, the page and the checkpoint that are left."""

import os
import signal
import time

import nbformat
import psutil
import pytest

from geofm_lib.report.stopping import Requests
from tests.support.executions import PRETRAIN, Execution, pretraining
from tests.support.timing import scaled, wait_for


@pytest.fixture(scope="module")
def small():
    return pretraining()


@pytest.fixture
def own_cell(tmp_path):
    """A notebook whose one cell tells that it runs, and goes on for ten minutes."""
    source = f"import time\nprint('it began')\nopen({str(tmp_path / 'mark')!r}, 'w').close()\ntime.sleep(600)"
    cells = [nbformat.v4.new_markdown_cell("# Who ends this?"), nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    return tmp_path / "own.ipynb"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_cell_without_ranks_is_interrupted_and_leaves_a_page(number, own_cell, tmp_path):
    began = Execution(tmp_path, own_cell, {})
    wait_for((tmp_path / "mark").exists)
    began.process.send_signal(number)
    sent = time.monotonic()
    assert began.end() == 75, began.output
    assert time.monotonic() - sent < scaled(15)
    assert "own.ipynb: STOPPED in" in began.output
    assert "a stop was asked for, and the cell that was running was interrupted" in began.page
    assert "it began" in began.page


@pytest.mark.long
def test_a_cell_that_catches_the_interrupt_is_ended(tmp_path):
    source = f"""\
import time
open({str(tmp_path / "mark")!r}, "w").close()
while True:
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        pass"""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "own.ipynb")
    began = Execution(tmp_path, tmp_path / "own.ipynb", {})
    wait_for((tmp_path / "mark").exists)
    began.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert began.process.poll() is None
    began.process.send_signal(signal.SIGINT)
    assert began.end(20) == 75
    assert "a stop was asked for and ended the kernel" in began.page


def test_an_interrupt_between_the_first_folder_and_the_kernel_is_a_request():
    """Those milliseconds are longer on a busy machine, and ended with 130 and without a page."""
    with Requests() as requests:
        with pytest.raises(KeyboardInterrupt):  # nothing has begun: there is nothing to say
            signal.raise_signal(signal.SIGINT)
    with Requests() as requests:
        requests.begin()
        signal.raise_signal(signal.SIGINT)
        assert requests.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.long
def test_nohup_is_not_asked_to_stop(own_cell, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        began = Execution(tmp_path, own_cell, {})
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for((tmp_path / "mark").exists)
    began.process.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert began.process.poll() is None
    began.process.send_signal(signal.SIGTERM)
    assert began.end() == 75


def page_begins(began: Execution) -> bool:
    return (began.run.folder / "execution.json").exists()


MOMENTS = {  # -> when it is there; page: the run has ended then
    "kernel start": lambda began: began.work,
    "a cell without ranks": lambda began: (began.folder / "mark").exists(),
    "ranks starting": lambda began: (began.run.folder / "heartbeats" / "launcher").exists(),
    "ranks training": lambda began: len(began.run.metrics) > 25,
    "saving": lambda began: list(began.run.folder.glob("checkpoint/*.part")),
    "page": page_begins,
}
WAYS = {  # signals, streams
    "TERM": ([signal.SIGTERM], "pipe"),
    "HUP": ([signal.SIGHUP], "pipe"),
    "INT": ([signal.SIGINT], "pipe"),
    "INT twice": ([signal.SIGINT, signal.SIGINT], "pipe"),
    "TERM, output closed": ([signal.SIGTERM], "closed"),
    "TERM, output full": ([signal.SIGTERM], "full"),
    "output closed": ([], "closed"),
    "output full": ([], "full"),
}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_end_at_every_moment(way, moment, small, own_cell, tmp_path):
    signals, streams = WAYS[way]
    left_alone = moment == "page" or not signals
    own = moment == "a cell without ranks"
    if own and left_alone:
        own_cell.write_text(own_cell.read_text().replace("sleep(600)", "sleep(3)"))
    shorter = {**small, "epochs": 20} if left_alone else small
    parameters = {} if own else {**shorter, "run_dir": tmp_path / "run"}
    began = Execution(tmp_path, own_cell if own else PRETRAIN, parameters, streams=streams)
    end = time.monotonic() + scaled(90)
    while not MOMENTS[moment](began):
        assert time.monotonic() < end
        assert began.process.poll() is None
        time.sleep(0.005)
    if streams == "closed":
        began.process.stdout.close()
    for k, number in enumerate(signals):
        time.sleep(0.7 * k)
        began.process.send_signal(number)
    code = began.end()
    kept = began.run.saved_step if not own else ""
    part = list(began.run.folder.glob("checkpoint/*.part"))
    said = began.says
    with open(os.environ.get("GEOFM_MATRIX", os.devnull), "a") as table:
        print(f"| {way} | {moment} | {code} | {said} | {kept} |", file=table)
    assert code == (0 if left_alone else 75), began.output
    assert said == ("finished" if left_alone else "stopped"), began.output
    assert not part
    if (moment == "ranks training" or (moment == "saving" and len(signals) == 1)) and not left_alone:
        assert kept >= 20
    if code == 75 and not own and moment != "kernel start":
        assert began.run.status == "stopped"


FAULTS = {  # what sitecustomize does in the kernel, or in the runner -> exit code, starts, words
    "dies at its first start": ("if kernel and starts == 1: os._exit(3)", 0, 2,
                                "it ended by itself); trying once more"),
    "dies at every start": ("if kernel: os._exit(3)", 1, 2,
                            "did not start, twice (it ended by itself); see what `geofm doctor` says"),
    "hangs at every start": ("if kernel: time.sleep(600)", 1, 2, "did not start, twice (it did not answer for"),
    "never takes a cell": ("""
if not kernel and "run" in sys.orig_argv:
    from jupyter_client.asynchronous import AsyncKernelClient
    AsyncKernelClient.execute = lambda self, *given, **options: self.session.msg("execute_request")["msg_id"]
""", 137, 1, "(it never took up a cell that was sent to it)"),
    "its answer is lost": ("""
if not kernel and "run" in sys.orig_argv:
    import asyncio
    from nbclient import NotebookClient
    async def lost(self, *given):
        await asyncio.sleep(600)
    NotebookClient._async_poll_for_reply = lost
""", 137, 1, "(the end of a cell never arrived)"),
    "stands still": ("", 137, 1, "(it stands still)"),
}  # fmt: skip
IN_KERNEL = """
import os, sys, time
kernel = any("ipykernel_launcher" in word for word in sys.orig_argv)
if kernel:
    with open({log!r}, "a+") as log:
        print("started", file=log, flush=True)
        log.seek(0)
        starts = len(log.readlines())
"""


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=[] if " first " in each else pytest.mark.long) for each in FAULTS]
)
def test_a_kernel_that_does_not_answer_is_bounded_and_told(fault, own_cell, tmp_path, monkeypatch):
    """Within bounds of 10 s (20 for the start) of a quiet machine, instead of a minute or two."""
    code, expected, starts, words = FAULTS[fault]
    own_cell.write_text(own_cell.read_text().replace("sleep(600)", "sleep(600)" if "still" in fault else "sleep(1)"))
    monkeypatch.setenv("GEOFM_KERNEL_TIMEOUT_S", str(scaled(10)))
    began = Execution(tmp_path, own_cell, {}, custom=IN_KERNEL.format(log=str(tmp_path / "log")) + code)
    if "still" in fault:
        wait_for((tmp_path / "mark").exists)
        kernels = psutil.Process(began.process.pid).children()
        next(each for each in kernels if "ipykernel_launcher" in " ".join(each.cmdline())).suspend()
    assert began.end(120) == expected, began.output
    assert words in began.output
    assert len((tmp_path / "log").read_text().splitlines()) == starts
    assert began.says == {0: "finished", 1: "failed", 137: "killed"}[expected]
    if expected:
        assert words.split("(")[0] in began.page
