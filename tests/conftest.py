"""What all tests share: where the repository is, where runs go, and what may be skipped where."""

import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.support.timing import VARIABLE, scaled, slowness

# Two pools of threads that fight for two cores cost a factor of five.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent
# On CI a test may be skipped only for hardware or data that a machine cannot install.
FORGIVEN = ("GPU", "CUDA", "ROCm", "GEOFM_TEST_DATA")
unforgiven = []


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def runs_folder(tmp_path_factory):
    """Runs that a test does not place itself go to a temporary folder, shared by the session, never to runs/."""
    folder = tmp_path_factory.mktemp("runs")
    before = os.environ.get("GEOFM_RUNS")
    os.environ["GEOFM_RUNS"] = str(folder)
    yield folder
    if before is None:
        del os.environ["GEOFM_RUNS"]
    else:
        os.environ["GEOFM_RUNS"] = before


@pytest.fixture(scope="session")
def cluster():
    """A real Slurm of two nodes on this machine, for the session."""
    from tests.support import slurm_cluster

    if absent := slurm_cluster.missing():
        pytest.skip(f"{', '.join(absent)} not installed: apt install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="geofm-slurm-", dir="/tmp") as folder:
        with slurm_cluster.start(Path(folder) / "c") as running:
            yield running
        assert not slurm_cluster.left_behind(running), "the cluster left processes behind"


def need(*programs: str) -> None:
    """Skip the test when a program is not on the PATH (on CI such a skip is an error, see below)."""
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed (.ci/run installs what the tests need)")


def need_browser() -> None:
    """Skip the test when no browser can be started."""
    from tests.support import browser

    if absent := browser.missing():
        pytest.skip(absent)


def pytest_addoption(parser):
    parser.addoption(
        "--order", default="", help="order of the test files: 'reverse', or 'random:SEED' (a whole number)"
    )


def pytest_configure(config):
    slowness()  # measured before xdist starts its workers, which inherit it
    if config.getoption("order"):
        config.option.loadscopereorder = False  # xdist would put the files with most tests first


def pytest_report_header():
    return f"time-outs: {slowness():.1f} times those of a quiet machine ({VARIABLE} sets it)"


def pytest_collection_modifyitems(config, items):
    reorder(items, config.getoption("order"))
    for item in items:
        own = item.get_closest_marker("timeout")
        seconds = own.args[0] if own else config.getoption("timeout") or config.getini("timeout")
        item.add_marker(pytest.mark.timeout(scaled(float(seconds))), append=False)


def reorder(items: list, order: str) -> None:
    """Whole files in the order that --order names; the tests of each stay together and in their own order."""
    files = list(dict.fromkeys(item.path for item in items))
    kind, _, seed = order.partition(":")
    if kind == "reverse":
        files.reverse()
    elif kind == "random" and seed.isdecimal():
        random.Random(int(seed)).shuffle(files)  # xdist's workers collect for themselves and must agree
    elif order:
        raise pytest.UsageError(f"--order {order}: 'reverse' or 'random:SEED' with a whole number")
    items.sort(key=lambda item: files.index(item.path))


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in FORGIVEN):
            unforgiven.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session):
    if os.environ.get("CI") == "true" and unforgiven:
        print("\nskipped, which CI does not accept:", *unforgiven, sep="\n  ")
        session.exitstatus = 1
