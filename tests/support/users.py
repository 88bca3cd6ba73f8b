"""Processes of other users, who need not exist: `user(uid, umask, words)`, for tests that run as root."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support.timing import scaled

ROOT = Path(__file__).parents[2]
# The interpreter may lie in a folder that is root's alone. In a mount namespace of its own it lies in a passable one.
PASSABLE = """
set -e
inner="$(mktemp -d)"; mount --make-rprivate /; mount --bind "$2" "$inner"
mount -t tmpfs -o mode=755 none "$1"; mkdir -p "$2"; mount --bind "$inner" "$2"
shift 2; exec "$@"
"""


def user(
    uid: int, umask: int, words: list[str], seconds: float = 120, **environment: str
) -> subprocess.CompletedProcess:
    """Run the words as this user, with a home folder of their own; the finished process with its texts."""
    if os.geteuid():
        pytest.skip("only root can be two other users; no GPU is needed")
    need("setpriv", "unshare")
    home = Path(tempfile.gettempdir()) / f"geofm-home-{uid}"
    home.mkdir(exist_ok=True)
    os.chown(home, uid, uid)
    given = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT), **environment}
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    command += ["bash", "-c", 'umask "$0"; exec "$@"', f"{umask:03o}", *words]
    interpreter = Path(sys.base_prefix).resolve()
    closed = [each for each in (*reversed(interpreter.parents), interpreter) if not each.stat().st_mode & 0o001]
    if closed:
        command = ["unshare", "--mount", "bash", "-c", PASSABLE, "-", str(closed[0]), str(interpreter), *command]
    how = {"capture_output": True, "text": True, "timeout": scaled(seconds), "umask": 0o022}
    return subprocess.run(command, cwd=ROOT, env=given, **how)
