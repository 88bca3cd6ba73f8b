"""A run watched from outside while it goes: `geofm watch`, the page that is made again, and what both cost."""

import io
import json
import os
import re
import sys
import threading
import time
from types import SimpleNamespace

import IPython.display
import nbformat
import pytest

from geofm_lib import cli, rights, streams
from geofm_lib.jobs import owner
from geofm_lib.report import notebook_outputs
from geofm_lib.runs import curve, follow, life, live, outside, picture, slurm, watch
from geofm_lib.runs.run import Run
from tests.support.runs import beating
from tests.support.timing import scaled, wait_for


@pytest.fixture(autouse=True)
def soon(monkeypatch, tmp_path):
    """Bounds of a second, so that a test need not wait for a minute; no Slurm."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    monkeypatch.setattr(life, "LOOK_S", 0.5)
    monkeypatch.setattr(life, "silence_s", lambda: 0.6)
    monkeypatch.setattr(outside, "LOOK_S", 0.05)
    monkeypatch.setattr(outside, "ASK_S", 0.0)
    monkeypatch.setattr(slurm, "queued", list)


def row(step, **more):
    return {"step": step, "total_steps": 40, "loss": 1.0 / step, "images_per_s": 100.4, "seconds_left": 192.0, **more}


def made(folder, job="pretrain", rows=(), **summary):
    """A run folder as a launch on another machine leaves it while its ranks work, or when it has ended."""
    (folder / "heartbeats").mkdir(parents=True)
    stored = {"job": job, "asked": {"model": "ViT-Atto"}, "resolved": {"ranks": 2}}
    (folder / "settings.json").write_text(json.dumps(stored))
    (folder / "environment.json").write_text(json.dumps({"job_started": 5.0, "began": 5.0}))
    claim = owner.take(folder, 0)
    file = folder / "owners" / "0001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "user": "anna", "host": "node3", "process": []}))
    for rank in range(2):
        (folder / "heartbeats" / str(rank)).write_text(json.dumps({"memory_gib": 0.25 + rank, "process": []}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "log.txt").write_text("0: \x1b[31mred\x1b[0m\n0: 10 %\r0: 20 %\n1: <b>bold</b>\n")
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
        claim.end()
    return Run(folder)


def ends(run, **summary):
    """The run ends a moment from now."""

    def end():
        time.sleep(0.4)
        (run.folder / "metrics.jsonl").open("a").write(json.dumps(row(40)) + "\n")
        (run.folder / "summary.json").write_text(json.dumps(summary))
        owner.newest(run.folder).end()

    thread = threading.Thread(target=end)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "summary, code, words",
    [
        ({"status": "finished"}, 0, "finished"),
        ({"status": "failed", "error": "the loss is nan"}, 1, "the loss is nan"),
        ({"status": "stopped", "reason": "saved at step 9"}, 75, "saved at step 9"),
    ],
)
def test_a_run_is_followed_to_its_end_a_line_a_change(summary, code, words, tmp_path, capsys):
    run = made(tmp_path / "pretrain-x", rows=[row(3)])
    with beating(run.folder):
        thread = ends(run, **summary)
        before = {file: file.stat().st_mtime_ns for file in run.folder.glob("*.json")}
        assert cli.main(["watch", "pretrain-x"]) == code
        thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\S*pretrain-x: running \(run by anna on node3 since [^)]*\); pretrain: step 3/40, loss 0.3333, images/s 100, "
        r"3 min 12 s left, memory 1.25 GiB a rank at most",
        lines[0],
    )
    assert len([line for line in lines if "running" in line]) <= 2, "a line a change, not a line a look"
    assert words in "\n".join(lines[1:])
    assert {file: file.stat().st_mtime_ns for file in before} == before, "who watches writes nothing"


@pytest.mark.parametrize("job", ["prepare", "throughput", "probe", "findings"])
def test_runs_of_any_job_are_followed(job, tmp_path, capsys):
    run = made(tmp_path / "x", job, rows=[{"step": 2, "total": 9, "phase": "warm-up", "packed_images_per_s": 55.0}])
    with beating(run.folder):
        thread = ends(run, status="finished")
        assert cli.main(["watch", str(run.folder)]) == 0
        thread.join()
    assert f"{job}: step 2/9, warm-up, packed images/s 55" in capsys.readouterr().out


def test_what_has_ended_is_told_at_once_with_its_exit_code(tmp_path, capsys):
    made(tmp_path / "done", status="finished")
    run = made(tmp_path / "dead")  # nobody is heard
    (run.folder / "heartbeats" / "launcher").touch()
    assert cli.main(["watch", "done"]) == 0
    assert "done: finished" in capsys.readouterr().out
    assert cli.main(["watch", "dead"]) == 137
    assert "dead: killed" in capsys.readouterr().out
    assert cli.main(["watch", "don"]) == 2
    assert capsys.readouterr().err == "there is no run 'don'; did you mean 'done'?\n"
    (run.folder / "settings.json").write_text("{")
    assert cli.main(["watch", "dead"]) == 2
    assert "settings.json cannot be read" in capsys.readouterr().err


def test_a_run_that_waits_in_the_queue_is_followed_once_it_begins(tmp_path, capsys, monkeypatch):
    jobs = [slurm.Queued("17", "PENDING", "Priority", str(tmp_path / "soon"))]
    monkeypatch.setattr(slurm, "queued", lambda: jobs)

    def begin():
        time.sleep(0.3)
        made(tmp_path / "other", rows=[row(1)], status="finished").folder.rename(tmp_path / "soon")
        jobs.clear()

    thread = threading.Thread(target=begin)
    thread.start()
    assert cli.main(["watch", "soon"]) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("soon: waiting (job 17 waits in the queue (Priority))")
    assert "soon: finished" in "\n".join(lines)


def test_a_stopped_run_whose_job_is_queued_again_has_not_ended(tmp_path, monkeypatch):
    run = made(tmp_path / "x", status="stopped", reason="saved")
    monkeypatch.setattr(slurm, "queued", lambda: [slurm.Queued("17", "PENDING", "BeginTime", str(run.folder))])
    assert outside.Watched(run).state() == ("waiting", "stopped; job 17 waits in the queue (BeginTime)")


def test_a_run_that_was_not_begun_and_one_that_is_gone_are_told(tmp_path):
    run = made(tmp_path / "x")
    for name in ("owners/0001.json", "heartbeats/0", "heartbeats/1"):
        (run.folder / name).unlink()
    watched = outside.Watched(run)
    assert watched.state() == ("waiting", outside.NOT_BEGUN)
    run.folder.rename(tmp_path / "y")
    with pytest.raises(ValueError, match="'.*x' is gone"):
        watched.state()


def test_ctrl_c_ends_the_watching_alone(tmp_path, monkeypatch, capsys):
    run = made(tmp_path / "x")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(outside.time, "sleep", interrupt)
    with beating(run.folder):
        assert cli.main(["watch", "x"]) == 130
    assert "the run is not touched" in capsys.readouterr().err
    assert not (run.folder / "requests").exists()


def test_a_terminal_is_redrawn_in_place_and_hears_no_codes_of_the_log(tmp_path, monkeypatch):
    class Terminal(list):
        write, flush, isatty = list.append, lambda self: None, lambda self: True

    terminal = Terminal()
    monkeypatch.setattr(outside.shutil, "get_terminal_size", lambda: (60, 30))
    run = made(tmp_path / "x", rows=[row(3)])
    with beating(run.folder):
        thread = ends(run, status="finished")
        assert outside.follow(run, terminal) == "finished"
        thread.join()
    first, second = terminal[0], terminal[1]
    assert "\x1b" not in first, "the log's own codes would move the cursor"
    assert first.splitlines()[-3:] == ["0: red", "0: 20 %", "1: <b>bold</b>"]
    assert second.startswith(f"\x1b[{len(first.splitlines())}F\x1b[J"), "over the lines before"
    assert all(len(line) < 60 for line in first.splitlines())


def test_a_reader_that_has_gone_ends_the_watching(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(streams.Dropping, "left", False)
    reader, writer = os.pipe()
    os.close(reader)
    run = made(tmp_path / "x", rows=[row(3)])
    with beating(run.folder), io.TextIOWrapper(streams.Dropping(writer, "standard output"), write_through=True) as gone:
        assert outside.follow(run, gone) == "running"
        assert cli.main(["watch", "x"]) == 0, "as any command whose reader has seen enough"
    os.close(writer)


def test_the_live_page_shows_the_run_asks_to_be_loaded_again_and_has_no_script(tmp_path):
    run = made(tmp_path / "x", rows=[row(step) for step in range(1, 21)])
    page = live.page(run, 30)
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "RUNNING</strong> pretrain: step 20/40, loss 0.0500, images/s 100, 3 min 12 s left" in page
    assert "1.25 GiB a rank at most" in page
    assert "1: &lt;b&gt;bold&lt;/b&gt;" in page
    assert "Figure 1. Loss against steps: it falls from 1 at step 1 to 0.05 at step 20." in page
    assert "<polyline" in page
    assert "--paper" in page, "the pages' own stylesheet"
    assert not re.search(r"<script|https?://(?!www.w3.org/2000/svg)|\bon\w+=", page)
    assert len(page) < 20_000
    ended = live.page(made(tmp_path / "y", status="failed", error="the loss is <nan>"))
    assert "refresh" not in ended
    assert 'href="report.html"' in ended
    assert "FAILED" in ended
    assert "the loss is &lt;nan&gt;" in ended
    assert "no step was logged" in ended


def test_the_live_page_is_made_again_until_the_run_ends_or_is_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "every_s", lambda: 0.02)
    run = made(tmp_path / "x", rows=[row(1), row(2)])
    launch = owner.newest(run.folder).id
    with live.kept(run, launch):
        first = wait_for((run.folder / "live.html").exists) and (run.folder / "live.html").stat().st_ino
        wait_for(lambda: (run.folder / "live.html").stat().st_ino != first, 20, "it was not made again")
    (run.folder / "live.html").unlink()
    owner.take(run.folder, 1)
    with live.kept(run, launch):
        time.sleep(0.1)
    assert not (run.folder / "live.html").exists(), "the folder belongs to another launch"


def test_a_fault_of_the_live_page_is_no_fault_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "page", lambda *_: 1 / 0)
    live.write(made(tmp_path / "x"), 30)
    monkeypatch.setenv("GEOFM_LIVE_S", "soon")
    with live.kept(Run(tmp_path / "x"), ""):
        pass
    assert not (tmp_path / "x" / "live.html").exists()


def test_what_a_long_run_costs_to_draw_is_bounded(tmp_path):
    rows = [row(step, note="x" * 150) for step in range(1, 20_001)]
    run = made(tmp_path / "x", rows=[*rows[:-1], {**rows[-1], "loss": float("nan")}])
    found = curve.sampled(run.folder / "metrics.jsonl")
    assert [found[0]["step"], found[-1]["step"]] == [1, 20_000]
    assert 300 < len(found) <= curve.MOST_ROWS + 3
    assert [each["step"] for each in found] == sorted(each["step"] for each in found)
    live.page(run, 30)  # imports
    began = time.thread_time()
    live.page(run, 30)
    assert time.thread_time() - began < scaled(0.3), "CPU seconds, each half minute"


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (1, 40), (0.4213, 0.4299), (-3, 1e6), (90_000, 90_010)):
        found = curve.ticks(low, high)
        assert 2 <= len(found) <= 6
        assert low <= found[0] and found[-1] <= high + 1e-9


@pytest.fixture
def outputs(monkeypatch, tmp_path):
    """What a notebook's cell shows: {display id: its last content}, and the number of updates under ''."""
    shown = {"": 0}

    class Handle:
        def __init__(self, content):
            self.name = f"output {len(shown)}"
            self.update(content, raw=True)

        def update(self, content, raw):
            shown[self.name] = content
            shown[""] += 1

    connect = SimpleNamespace(get_connection_file=lambda: str(tmp_path / "runtime" / "kernel-1.json"))
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace(connect=connect))
    monkeypatch.setitem(sys.modules, "ipykernel.connect", connect)
    monkeypatch.setattr(IPython.display, "display", lambda content, raw, display_id: Handle(content))
    monkeypatch.setattr(picture, "EVERY_S", 0.0)
    return shown


def as_page(content):
    """An output of a notebook as its page has it."""
    return notebook_outputs.outputs([nbformat.v4.new_output("display_data", content)])


def test_the_curve_in_a_notebook_is_one_output_and_gone_when_the_run_has_finished(tmp_path, outputs):
    run = made(tmp_path / "x", rows=[row(1)])
    shown = picture.Picture(run)
    shown.show()
    assert outputs == {"": 0}, "one point is no curve"
    for step in range(2, 6):
        (run.folder / "metrics.jsonl").open("a").write(json.dumps(row(step)) + "\n")
        shown.show()
    assert outputs[""] == 4
    (name,) = outputs.keys() - {""}
    assert outputs[name]["text/plain"] == "loss against steps: it falls from 1 at step 1 to 0.2 at step 5."
    assert 'src="data:image/svg+xml;base64,' in outputs[name]["text/html"]
    assert "<script" not in outputs[name]["text/html"], "no Jupyter server serves the live page"
    shown.end(finished=True)
    assert not as_page(outputs[name]), "the notebook's own figures follow"
    shown.end(finished=False)
    (left,) = as_page(outputs[name])
    assert left["data"].keys() == {"image/svg+xml"}
    assert left["metadata"]["alt"].startswith("loss against steps: it falls")


def test_a_notebook_in_jupyterlab_knows_where_the_live_page_is(tmp_path, outputs, monkeypatch):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("JPY_PARENT_PID", "17")
    run = made(tmp_path / "my runs" / "x")
    picture.Picture(run).show()
    assert outputs == {"": 0}, "papermill is no server"
    (runtime / "jpserver-17.json").write_text(json.dumps({"base_url": "/user/anna/", "root_dir": str(tmp_path)}))
    picture.Picture(run).show()
    assert '"/user/anna/files/my%20runs/x/live.html"' in outputs["output 1"]["text/html"], "before there is a curve"
    (runtime / "jpserver-17.json").write_text(json.dumps({"base_url": "/", "root_dir": str(runtime)}))
    assert picture.address(run.folder) == "", "not served from there"


@pytest.mark.parametrize("whose", ["mine", "anna's"])
def test_an_interrupt_of_who_follows_stops_the_run_with_a_checkpoint_if_it_is_theirs(
    whose, tmp_path, monkeypatch, capsys
):
    run = made(tmp_path / "x", rows=[row(3)])
    if whose == "mine":
        monkeypatch.setattr(rights, "user", lambda: "anna")
    interrupts = iter([KeyboardInterrupt])

    def sleep(seconds, wait=time.sleep):
        for each in interrupts:
            raise each
        if (run.folder / "requests" / "stop").exists() and not run.summary:
            (run.folder / "summary.json").write_text(json.dumps({"status": "stopped", "reason": "saved at step 3"}))
            owner.newest(run.folder).end()
        wait(0.01)

    monkeypatch.setattr(follow.time, "sleep", sleep)
    told = "saved at step 3" if whose == "mine" else "which goes on; run this cell again to follow"
    with beating(run.folder), pytest.raises(watch.RunStopped, match=told):
        follow.turn(run, lambda: None, needed=False)
    assert (run.folder / "requests" / "stop").exists() == (whose == "mine")
    assert ("save a checkpoint" in capsys.readouterr().out) == (whose == "mine")
