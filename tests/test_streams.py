"""What a command prints may be lost; its exit code and its files may not."""

import os
import subprocess
import sys
import time

import pytest

from tests.support.timing import scaled

HOW = {  # what a shell does with the streams of "$@"
    "all heard": '"$@"',
    "output full": '"$@" > /dev/full',
    "both full": '"$@" > /dev/full 2>&1',
    "output closed": '"$@" >&-',
    "all closed": '"$@" >&- 2>&- <&-',
    "the reader has left": '{ "$@"; echo $? > code; } | true; exit $(cat code)',
    "both readers have left": '{ "$@" 2>&1; echo $? > code; } | true; exit $(cat code)',
}
SPEAKS = """
import sys, time
from geofm_lib import streams
streams.secure()
streams.Dropping.patience_s = {patience}
time.sleep(0.3)
print("ünï" * 3000, flush=True)
print("error", file=sys.stderr)
print("the end")
sys.exit(7)
"""


@pytest.fixture
def ends(root, tmp_path):
    """ends(how, *words, **environment) -> the finished process, started by bash in a folder of its own."""

    def run(how, *words, **environment):
        env = {**os.environ, "GEOFM_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(root), **environment}
        command = ["bash", "-c", HOW[how], "bash", sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=scaled(60))

    return run


@pytest.mark.parametrize("how", HOW)
def test_a_lost_print_changes_no_exit_code(how, ends):
    done = ends(how, "-c", SPEAKS.format(patience=None))
    assert done.returncode == 7, done
    assert "Traceback" not in done.stderr
    heard = dict.fromkeys(("all heard", "output closed", "the reader has left"), "error\n")
    heard["output full"] = "standard output cannot be written (No space left on device): its lines are lost\nerror\n"
    assert done.stderr == heard.get(how, "")


COMMANDS = {
    "plan ViT-3B --machine frontier --nodes 2": "both full",
    "--help": "all closed",
    "status": "both full",
    "submit absent.csv": "all closed",
    "report": "both full",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_ends_otherwise_because_nobody_hears_it(command, ends):
    """But one whose only product is the text that was lost: 74. A reader who has left has lost nothing."""
    whole = subprocess.run([sys.executable, "-m", "geofm_lib", *command.split()], capture_output=True, text=True)
    assert whole.stdout + whole.stderr
    done = ends(COMMANDS[command], "-m", "geofm_lib", *command.split())
    assert done.returncode == (whole.returncode or 74), done.stderr


def test_text_that_was_lost_is_told_by_the_exit_code(ends):
    for how, code in (("all heard", 0), ("output full", 74), ("output closed", 74), ("the reader has left", 0)):
        assert ends(how, "-m", "geofm_lib", "status").returncode == code, how


def test_a_reader_that_stands_still_is_waited_for_once(root, tmp_path):
    """As a terminal held by Ctrl-S: 60,000 characters into a pipe that nobody reads, then two more lines."""
    code = SPEAKS.format(patience=1.0).replace("3000", "60000")
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.wait(scaled(30)) == 7
    assert 1.0 < time.monotonic() - began < scaled(10)


def test_a_character_that_the_terminal_lacks_is_no_fault(ends):
    done = ends("all heard", "-c", SPEAKS.format(patience=None), PYTHONIOENCODING="ascii")
    assert done.returncode == 7
    assert r"\xfcn\xef" in done.stdout
    plain = subprocess.run(
        [sys.executable, "-m", "geofm_lib", "--help"], env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert plain.returncode == 0


def test_what_is_printed_in_pieces_arrives_whole(root):
    done = subprocess.run(
        [sys.executable, "-c", SPEAKS.format(patience=None)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "ünï" * 3000 + "\nthe end\n"
    assert done.stderr == "error\n"
