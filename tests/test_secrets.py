"""Passwords and tokens in parameters: masked in all that is kept or shown, and true where they are used."""

import time

import nbformat
import pytest

from geofm_lib import cli, settings
from geofm_lib.jobs import worker
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings, SettingsError
from geofm_lib.settings.masking import NAME, mask, masked, secrets

URL = "https://me:hunter2@example.org/a.tar?part=1&sig=s3cr3tsig&token=t0kent0ken"
SECRETS = ("hunter2", "s3cr3tsig", "t0kent0ken")
MASKED = {
    URL: "https://me:***@example.org/a.tar?part=1&sig=***&token=***",
    "https:/me:hunter2@host/x": "https:/me:***@host/x",  # as a path
    "me:hunter2@example.org:/data": "me:***@example.org:/data",
    "s3://b/x?X-Amz-Signature=abc&X-Amz-Credential=AKIAABCDEFGHIJKLMNOP/2": "s3://b/x?X-Amz-Signature=***&X-Amz-Credential=***",
    "key id AKIAABCDEFGHIJKLMNOP": "key id ***",
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG": "aws_secret_access_key=***",
    '{"api_token": "abcdefgh"}': '{"api_token": "***"}',
    "mailto:me@example.org, RUN@12, a:b@c, 8 tokens: 16": "mailto:me@example.org, RUN@12, a:b@c, 8 tokens: 16",
    "decoder.mask_token: shape (1, 1)": "decoder.mask_token: shape (1, 1)",
    "unknown setting 'token'; key: value": "unknown setting 'token'; key: value",
}  # fmt: skip


@pytest.mark.parametrize("text", MASKED)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text):
    assert mask(text) == MASKED[text]


def test_a_name_makes_a_secret_of_its_value():
    given = {"api_token": "abcd", "password": "x", "key": "k", "monkey": "m", "n": 3, "token": "None", "x": ["a", URL]}
    shown = {"api_token": "***", "password": "***", "key": "***", "monkey": "m", "n": 3, "token": "None"}
    assert masked(given) == shown | {"x": ["a", MASKED[URL]]}
    assert secrets(given | {"url": "s3://me:pa%40ss@h/x"}) == {"abcd", "pa%40ss", "pa@ss"}, "short words are everywhere"
    fields = {field for job in settings.JOBS.values() for field in job.model_fields}
    assert not [field for field in fields if NAME.search(field)], "no setting of ours is one"


def test_a_long_text_takes_no_time():
    began = time.monotonic()
    for text in ("x" * 10**6, "a-" * 20_000, "abc:def@" * 5_000, "?token" * 10_000):
        mask(text)
    assert time.monotonic() - began < 5


def test_what_a_notebook_was_given_and_printed_is_masked_where_it_is_kept(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    code = [
        "import os, sys\nkey = 'kkkk1111'",
        "from pathlib import Path; Path('TRUE').write_text(f'{source} {api_token} {key}')".replace(
            "TRUE", str(tmp_path / "true")
        ),
        "print(source, api_token); os.write(2, api_token.encode() + b'\\n'); {'t': api_token}",
        "raise ValueError(f'{source} said no to {api_token}, {key}')",
    ]
    cells = [nbformat.v4.new_markdown_cell("# What is kept?"), *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    words = ["run", str(tmp_path / "own.ipynb"), "-p", "source", URL, "-p", "api_token", "abcd9876"]
    assert cli.main([*words, "--page", str(tmp_path / "page" / "own.html")]) == 1
    assert (tmp_path / "true").read_text() == f"{URL} abcd9876 kkkk1111", "the cell had the true ones"
    kept = [each for each in tmp_path.rglob("*") if each.is_file() and each.name not in ("true", "own.ipynb")]
    assert {"notebook.ipynb", "execution.json", "report.html", "page.json", "own.html"} <= {each.name for each in kept}
    said = capfd.readouterr()
    texts = {str(each): each.read_text() for each in kept} | {"standard output": said.out, "standard error": said.err}
    for each in (*SECRETS, "abcd9876", "kkkk1111"):
        assert not [name for name, text in texts.items() if each in text], each
    assert f"{MASKED[URL]} said no to ***, ***" in texts["standard error"].replace("\n", " ")


def test_a_setting_that_is_refused_is_told_without_its_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    for name in ("dataset", "encoder", "device"):
        assert cli.main(["run", "05", "-p", name, URL]) == 2
    said = capsys.readouterr().err
    assert "***" in said
    assert not [each for each in SECRETS if each in said]
    with pytest.raises(SettingsError) as refused:
        PrepareSettings(dataset=URL, train_ratio="no")
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in PrepareSettings(dataset=URL)._repr_html_()


@pytest.mark.long
def test_ranks_get_the_true_setting_and_their_log_and_summary_do_not(tmp_path):
    """A folder of images whose path looks like an address with a token."""
    folder = tmp_path / "x?token=t0kent0ken"
    folder.mkdir()
    (folder / "no.png").write_bytes(b"no image")
    asked = PrepareSettings(dataset=str(folder), run_dir=str(tmp_path / "run"))
    assert asked.name() == PrepareSettings(dataset=str(folder).replace("t0kent0ken", "n3wt0ken")).name(), "no new run"
    with pytest.raises(Exception, match="image"):
        launch(asked)
    run = Run(tmp_path / "run")
    assert "***" in run.settings["dataset"]
    assert "none of the 1 images of" in run.summary["error"], "it was found and read"
    kept = [each for each in run.folder.rglob("*") if each.is_file()]
    assert not [each for each in kept if b"t0kent0ken" in each.read_bytes()]


def test_a_rank_masks_what_it_prints():
    printed = []
    stream = type("", (), {"write": lambda _, text: printed.append(text), "flush": lambda _: None})()
    worker._Labelled(stream, "3: ").write(f"read {URL}\n")
    assert printed == [f"3: read {MASKED[URL]}\n"]
