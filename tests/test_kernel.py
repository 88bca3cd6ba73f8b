"""The kernel of an executed notebook: this environment's own interpreter, and what it says when it dies."""

import json
import os
import sys

import nbformat
import pytest

from geofm_lib.report import execute


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """executed(*cells) -> (status, what went wrong, the executed notebook, its page); in a folder of its own."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))

    def run(*cells, **parameters):
        code = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Who answers?"), *code])
        nbformat.write(notebook, tmp_path / "own.ipynb")
        state, error, page, _ = execute.execute(tmp_path / "own.ipynb", parameters)
        return state, error, nbformat.read(page.with_name("notebook.ipynb"), as_version=4), page.read_text()

    return run


def test_a_foreign_python3_does_not_answer(executed, tmp_path, monkeypatch):
    """Neither a broken one in the home folder nor one in JUPYTER_PATH that is another program."""
    other = json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    for place, text in (("home/.local/share/jupyter", "{broken"), ("path", other)):
        (tmp_path / place / "kernels" / "python3").mkdir(parents=True)
        (tmp_path / place / "kernels" / "python3" / "kernel.json").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "path"))
    monkeypatch.delenv("JUPYTER_DATA_DIR", raising=False)
    state, error, notebook, _ = executed("import sys; print(sys.executable)")
    assert (state, error) == ("finished", "")
    assert notebook.cells[-1].outputs[0].text.strip() == sys.executable


def test_a_kernel_that_dies_says_why(executed):
    """Python's words, those of compiled code, and where it crashed."""
    said = "print('one', file=sys.stderr, flush=True); os.write(2, b'two\\n'); time.sleep(0.2)"
    state, error, _, page = executed(f"import ctypes, os, sys, time; {said}; ctypes.string_at(0)")
    assert state == "killed"
    for each in ("its last words:\none\ntwo\n", "Fatal Python error: Segmentation fault", "string_at"):
        assert each in error, error
        assert each.splitlines()[-1] in page, each


def test_a_kernel_that_cannot_start_says_why(executed, tmp_path, monkeypatch):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('libxyz.so.6: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    state, error, _, page = executed("1")
    assert state == "failed"
    assert "libxyz.so.6: cannot open" in error
    assert "libxyz.so.6: cannot open" in page
