"""Pages: what stands at the top, what an output becomes, where a result came from; and the index of pages."""

import contextlib
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from geofm_lib import cli
from geofm_lib.report import notebook_outputs
from geofm_lib.report.page import render, write_index
from geofm_lib.runs import overview, results
from geofm_lib.runs.run import Run, run_table
from tests.support.runs import beating

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def executed(tmp_path):
    """Writes an executed notebook with these outputs of its cell `run`."""

    def write(*outputs, ran=True, path=tmp_path / "02_x.ipynb"):
        parameters = new_code_cell("lr = 1", id="parameters", metadata={"tags": ["parameters"]}, execution_count=1)
        given = new_code_cell('# Parameters\nlr = "2"', metadata={"tags": ["injected-parameters"]}, execution_count=2)
        count = 3 if ran else None
        cell = new_code_cell("run = launch(settings)", id="run", outputs=list(outputs), execution_count=count)
        notice = new_markdown_cell("An Exception was encountered", metadata={"tags": [notebook_outputs.ERROR_TAGS[0]]})
        first = new_markdown_cell("# Is it *so*?\n\nIt needs `nothing`, as\n[01](01_data.ipynb) says.\n\nMore.")
        nbformat.write(new_notebook(cells=[notice, first, parameters, given, cell]), path)
        return path

    return write


@pytest.fixture
def run(tmp_path):
    """A run folder with this summary and log."""

    def write(summary, log=""):
        folder = tmp_path / "pretrain-x"
        folder.mkdir()
        stored = {"job": "pretrain", "asked": {"epochs": 3}, "resolved": {"data_fingerprint": "f00d"}}
        where = {"commit": "abc123", "launched": "2026-01-02T03:04:05+00:00", "nodes": ["nid1"], "ranks": 2,
                 "device": "EPYC", "device_type": "cpu", "packages": {"torch": "2.14.1"}}  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(stored))
        (folder / "environment.json").write_text(json.dumps(where))
        (folder / "log.txt").write_text(log)
        (folder / "heartbeats").mkdir()
        (folder / "heartbeats" / "launcher").touch()
        if summary:
            (folder / "summary.json").write_text(json.dumps(summary))
        return Run(folder)

    return write


def page(tmp_path, source, run=None, **said):
    """The page of a notebook; `said` is what the runner noted beside it."""
    (source.parent / "execution.json").write_text(json.dumps(said))
    return render(source, tmp_path / "pages" / "02_x.html", run).read_text()


def banner(text):
    """(status, words) at the top of a page."""
    found = re.search(r'<aside [^>]*class="banner (\w+)"[^>]*>(.*?)</aside>', text, re.DOTALL)
    return found.group(1), " ".join(re.sub(r"<[^>]+>", " ", found.group(2)).split())


def test_a_finished_run_says_so_with_its_provenance(tmp_path, executed, run):
    text = page(tmp_path, executed(), run=run({"status": "finished", "seconds": 192, "ranks": 2}))
    status, words = banner(text)
    assert status == "finished"
    assert "3 min 12 s on 2 ranks" in words
    assert "Ran on CPU" in words
    for fact in ("abc123", "2026-01-02T03:04:05", "nid1", "EPYC", "f00d", "torch 2.14.1", "epochs=3"):
        assert fact in text, fact
    stored = tmp_path / "pretrain-x" / "settings.json"
    stored.write_text(stored.read_text().replace("pretrain", "simulate"))
    planned = page(tmp_path, executed(), Run(tmp_path / "pretrain-x"))
    assert "Ran on CPU" not in planned, "what is said there is of GPUs"
    assert "<title>Is it so?</title>" in text
    assert 'lang="en"' in text
    assert "<script" not in text


def test_a_failed_run_shows_the_rank_its_error_and_the_log(tmp_path, executed, run):
    failed = run({"status": "failed", "rank": 1, "error": "boom <b>", "seconds": 2}, "0: fine\n1: \x1b[31mboom\x1b[0m")
    error = new_output("error", ename="RunFailed", evalue="rank 1 failed: boom", traceback=["\x1b[31mlong\x1b[0m"])
    text = page(tmp_path, executed(error), run=failed, status="failed", error="RunFailed: rank 1 failed: boom")
    status, words = banner(text)
    assert status == "failed"
    assert words.startswith("FAILED")
    assert "Rank 1 failed: boom &lt;b&gt;" in words
    assert "0: fine" in words
    assert "\x1b" not in text
    assert "An Exception was encountered" not in text


def test_the_sentence_of_a_check_stands_alone_on_the_page(tmp_path, executed, run):
    failed = run({"status": "failed", "rank": 1, "error": "data: too few", "told": True}, "0: Traceback ...")
    said = new_output("error", ename="RunFailed", evalue="data: too few\nRun folder: a", traceback=["RunFailed"])
    text = page(tmp_path, executed(said), run=failed, status="failed", error="RunFailed: data: too few")
    assert text.count("data: too few") == 1 and "<strong>RunFailed</strong>: see the top of this page" in text
    status, words = banner(text)
    assert (status, words.count("data: too few")) == ("failed", 1)
    assert "Rank" not in words and "Traceback" not in text


@pytest.mark.parametrize(
    ("summary", "told", "shown"),
    [
        ({"status": "stopped", "reason": "saved at step 3"}, "stopped", "stopped"),
        ({"status": "stopped", "reason": "saved at step 3"}, "failed", "stopped"),  # how papermill sees an interrupt
        ({"status": "finished", "seconds": 1}, "failed", "failed"),  # a figure failed after the run
        ({"status": "finished", "seconds": 1}, None, "finished"),
        (None, "killed", "killed"),  # the heartbeats still change
        (None, None, "running"),
    ],
)
def test_the_worst_of_run_folder_and_runner_is_the_status(tmp_path, executed, run, summary, told, shown):
    begun = run(summary)
    with beating(begun.folder) if summary is None else contextlib.nullcontext():
        assert banner(page(tmp_path, executed(), run=begun, status=told))[0] == shown


def test_without_a_run_the_runner_or_the_cells_tell(tmp_path, executed):
    error = new_output("error", ename="SettingsError", evalue="unknown setting 'stratgy'", traceback=["x"])
    assert banner(page(tmp_path, executed()))[0] == "finished"
    assert banner(page(tmp_path, executed(ran=False)))[0] == "killed"
    assert banner(page(tmp_path, executed(), status="killed", error="the kernel died"))[1].endswith("the kernel died")
    status, words = banner(page(tmp_path, executed(error)))
    assert status == "failed"
    assert "unknown setting 'stratgy'" in words


def test_outputs_become_plain_self_contained_and_described(tmp_path, executed):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "100 % done"}
    hostile = "<table><tr><td onclick='x()'>1</td></tr></table><script src='https://x'></script><style>p{}</style>"
    text = page(tmp_path, executed(
        new_output("stream", name="stdout", text="step 1\rstep 2\r"),
        new_output("stream", name="stdout", text="step 3\nend\n"),
        new_output("display_data", data=widget),
        new_output("display_data", data={"text/html": hostile, "text/plain": "?"}),
        new_output("display_data", data={"image/png": PIXEL}, metadata={"image/png": {"alt": 'A "dot"', "width": 720}}),
    ))  # fmt: skip
    assert "step 3\nend" in text
    assert "step 1" not in text
    assert "100 % done" in text
    assert "<td>1</td>" in text
    assert "https://x" not in text
    assert "<script" not in text
    assert "p{}" not in text
    assert "alt='A \"dot\"'" in text
    assert 'width="720"' in text
    assert text.count('<details class="code">') == 3
    assert "Parameters given" in text
    assert 'href="01_data.html"' in text


def test_a_page_answers_first_and_says_last_how_it_was_made(tmp_path):
    """The answer's cells stand below the question, settings and code below all else, and each part can be named."""
    table = "<table><tr><td>1</td></tr></table>"
    drawn = new_output(
        "display_data",
        data={"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><text>\"#\"</text></svg>"},
        metadata={"image/svg+xml": {"alt": "Line: it rises.", "narrow": "<svg viewBox='0 0 5 5'></svg>"}},
    )
    said = new_output("display_data", data={"text/html": '<p class="answer">It is 3 &lt; 4 of 5.</p>'})
    tagged = {name: {"tags": [name]} for name in ("made", "answer", "parameters")}
    notebook = new_notebook(cells=[
        new_markdown_cell("# Is it *so*?\n\nSee arXiv 2404.11706."),
        new_code_cell("lr = 1", id="parameters", metadata=tagged["parameters"], execution_count=1),
        new_code_cell("run", id="run", metadata=tagged["made"], execution_count=2,
                      outputs=[new_output("stream", name="stdout", text="said by the run")]),
        new_code_cell("answer", id="answer", metadata=tagged["answer"], execution_count=3, outputs=[said]),
        new_code_cell("figure", id="figure", metadata=tagged["answer"], execution_count=4, outputs=[drawn]),
        *(new_markdown_cell(f"## {word} of `it`?") for word in ("First", "Second", "Third", "Fourth")),
        new_code_cell("table", id="table", execution_count=5, outputs=[
            new_output("display_data", data={"text/html": f'<p class="caption">Numbers</p>{table}'}),
            new_output("display_data", data={"text/html": f"<details><summary>more</summary>{table}</details>"}),
            new_output("display_data", data={"text/html": table}),
        ]),
    ])  # fmt: skip
    nbformat.write(notebook, tmp_path / "n.ipynb")
    text = page(tmp_path, tmp_path / "n.ipynb")
    main = text[text.index("<main>") :]
    order = ["Is it", "It is 3 &lt; 4 of 5.", "Figure 1.</a> Line: it rises.", 'class="contents"',
             "https://arxiv.org/abs/2404.11706", 'id="first-of-it"', "Table 1.</a> Numbers", "<summary>more",
             "Table 2.</a> Fourth of it?", 'id="made"', "said by the run", "Code of table"]  # fmt: skip
    assert not [each for each in order if each not in main]
    places = [main.index(each) for each in order]
    assert places == sorted(places)
    assert main.count("<h1") == 1 and "lr" not in main[: main.index('id="made"')]
    facts = json.loads((tmp_path / "pages" / "02_x.json").read_text())
    assert facts["answer"] == "It is 3 < 4 of 5."
    assert facts["picture"].startswith("data:image/svg+xml,%3Csvg") and facts["summary"] == "See arXiv 2404.11706."
    assert not set('"<>& ') & set(facts["picture"])


def test_the_index_has_answers_by_stage_and_marks_what_an_older_notebook_made(tmp_path, executed):
    pages = tmp_path / "pages"
    for name in ("06_paper", "05_probe", "own"):
        page(tmp_path, executed(), notebook=f"{name}.ipynb", status="finished")
        for suffix in (".html", ".json"):
            (pages / f"02_x{suffix}").rename(pages / f"{name}{suffix}")
    facts = json.loads((pages / "06_paper.json").read_text())
    today = notebook_outputs.digest(nbformat.read(results.ROOT / "notebooks" / "06_paper.ipynb", as_version=4))
    answer = {"answer": "Of 31 items 11 are reproduced.", "digest": today, "picture": "data:image/png;base64,AAAA"}
    assert "several commits" not in write_index(pages).read_text()
    answer |= {"conditions": "On Frontier, as published.", "commit": "other99"}
    (pages / "06_paper.json").write_text(json.dumps(facts | answer))
    (pages / "05_probe.json").write_text(json.dumps(facts | {"picture": 'x" onerror="x()'}))
    text = write_index(pages).read_text()
    assert "made at several commits" in text and "commit other99" in text
    places = [
        text.index(each)
        for each in ("<h2>The paper", "Of 31 items", "On Frontier", "<h2>Features", "EARLIER", "<h2>Other pages")
    ]
    assert places == sorted(places)
    assert text.count("MADE BY AN EARLIER NOTEBOOK") == 1 and text.count("<img") == 1 and "onerror" not in text


def test_the_command_renders_a_run_folder(executed, run, capsys):
    done = run({"status": "finished", "seconds": 1})
    executed(path=done.folder / "notebook.ipynb")
    (done.folder / "execution.json").write_text(json.dumps({"notebook": "02_pretrain.ipynb", "status": "finished"}))
    assert cli.main(["report", str(done.folder)]) == 0
    text = (done.folder / "report.html").read_text()
    assert "02_pretrain" in text, "no link to a page that is not beside it"
    assert "01_data" not in text, "no link to a page that is not beside it"
    assert cli.main(["report", str(done.folder / "none")]) == 2
    assert "there is no run" in capsys.readouterr().err
    assert cli.main(["report", f"{done.folder}@40"]) == 2
    assert "is a checkpoint, and this is of a whole run" in capsys.readouterr().err
    assert cli.main(["report", str(done.folder), "02"]) == 2
    assert "02_pretrain.ipynb' has not been executed; leave it out" in capsys.readouterr().err
    assert (done.folder / "report.html").read_text() == text
    assert cli.main(["report"]) == 2


def test_the_index_is_made_from_the_pages_notebooks(tmp_path, executed, run):
    page(tmp_path, executed(), run=run({"status": "finished", "seconds": 65, "started": 0}))
    text = write_index(tmp_path / "pages").read_text()
    for part in ('href="02_x.html"', "Is it so?", "needs nothing, as 01 says.", "FINISHED", "lr=2", "1 min 05 s"):
        assert part in text, part
    facts = json.loads((tmp_path / "pages" / "02_x.json").read_text())
    assert facts["commit"] == "abc123"
    assert facts["parameters"] == {"lr": "2"}
    assert facts["seconds"] == 65
    (tmp_path / "pages" / "other.html").write_text("<title>x</title>")
    with pytest.raises(ValueError, match="was not made by this project"):
        write_index(tmp_path / "pages")
    with pytest.raises(ValueError, match="holds no pages"):
        write_index(tmp_path)


def test_a_time_is_of_all_starts_and_the_same_everywhere(tmp_path, executed, run, monkeypatch):
    """Starts of 100 s (as older versions wrote it), 50 s and 42.5 s: page, facts, index, status and table."""
    now = 1_700_000_000.0
    asked = run({"status": "finished", "ended": now + 1000, "seconds": 192.5, "ranks": 2})
    began = {"job_started": now + 950, "began": now + 957.5, "from_step": 4}
    (asked.folder / "environment.json").write_text(json.dumps(asked.environment | began))
    row = {"job": "", "restart": "", "nodes": 1, "from_step": 0, "to_step": 2, "status": "stopped", "reason": "",
           "node_hours": 0.1}  # fmt: skip
    before = [{**row, "started": now, "ended": now + 100}, {**row, "started": now, "ended": now + 90, "seconds": 50.0}]
    (asked.folder / "history.jsonl").write_text("".join(json.dumps(each) + "\n" for each in before))
    assert asked.seconds == 192.5 == asked.summary["seconds"]
    text = page(tmp_path, executed(), run=asked, seconds=7.0)
    assert "3 min 12 s on 2 ranks, over 3 starts." in banner(text)[1]
    assert "This run took 3 min 12 s in 3 starts" in text
    for took in ("1 min 40 s", "50.0 s", "42.5 s"):
        assert took in text
        assert took in overview.of_run(asked.folder)
    assert len(re.findall(r"3 min 12 s", text)) == 3, "banner, starts and provenance"
    assert "3 min 12 s in all" in overview.of_run(asked.folder)
    facts = json.loads((tmp_path / "pages" / "02_x.json").read_text())
    assert facts["seconds"] == 192.5
    assert facts["ended"] == "2023-11-14 22:30 UTC"
    assert "3 min 12 s" in write_index(tmp_path / "pages").read_text()
    (shown,) = run_table(tmp_path)["seconds"]
    assert shown == 192.5


def test_a_run_keeps_the_facts_of_its_page(executed, run):
    done = run({"status": "stopped", "reason": "saved at step 3"})
    source = executed()
    render(source, done.folder / "report.html", run=done)
    facts = json.loads((done.folder / "page.json").read_text())
    assert facts["status"] == "stopped"
    assert facts["title"] == "Is it so?"
    assert facts["run"] == done.folder.name


def test_a_notebook_and_its_execution_have_the_same_digest(executed):
    read = nbformat.read(executed(new_output("stream", name="stdout", text="x")), as_version=4)
    bare = nbformat.from_dict(read)
    bare.cells = [cell for cell in bare.cells if not cell.metadata.get("tags") or "parameters" in cell.metadata.tags]
    assert notebook_outputs.digest(read) == notebook_outputs.digest(bare)
    bare.cells[-1].source += "\n1"
    assert notebook_outputs.digest(read) != notebook_outputs.digest(bare)


def test_an_answer_without_results_is_the_status_of_its_page_and_of_the_index(tmp_path, executed):
    said = new_output("display_data", data={"text/html": '<p class="answer">No results yet: nothing ran.</p>'})
    source = executed(said)
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["answer"]
    nbformat.write(notebook, source)
    status, words = banner(page(tmp_path, source, status="finished"))
    assert status == "empty" and words.startswith("NO RESULTS YET")
    assert '<span class="pill empty">NO RESULTS YET</span>' in write_index(tmp_path / "pages").read_text()
