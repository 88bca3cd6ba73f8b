"""Grids: what is refused before anything is queued and why, what sbatch is told, and where a row stands."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from geofm_lib import cli
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import FAMILY
from geofm_lib.runs import grid, overview, queue, slurm
from geofm_lib.runs.check import check
from geofm_lib.runs.queue import Site
from geofm_lib.settings import PrepareSettings, PretrainSettings
from tests.support.runs import beating

GRIDS = sorted((Path(__file__).parents[1] / "batch" / "grids").glob("*.csv"))
SMALL = next(path for path in GRIDS if path.stem == "small")
FRONTIER = MACHINES["frontier"]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(text) -> the file of a grid; its runs go to a folder of their own."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))

    def write(text):
        (tmp_path / "grid.csv").write_text(text)
        return tmp_path / "grid.csv"

    return write


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """GEOFM_DATA with archives of the names that the grids use, one image each."""
    (tmp_path / "1.png").write_bytes(b"")
    for name in ("millionaid_test", "millionaid_train", "ucmerced", "aid", "nwpu_resisc45", "ucm", "aid96", "harvey",
                 "dubai_seg", "eurosat100_ms", "vhr10_det60", "timeseries"):  # fmt: skip
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(tmp_path / "1.png", arcname="1.png")
    (tmp_path / "crop_series.tsv").write_text("".join(f"{k % 2}\t0.1\t0.2\t0.3\n" for k in range(8)))
    monkeypatch.setenv("GEOFM_DATA", str(tmp_path))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_row_of_a_shipped_grid_can_be_queued(path, archives):
    rows, faults = grid.read(path, None if path == SMALL else FRONTIER)
    assert rows
    assert not faults


@pytest.mark.parametrize(
    "path", [path for path in GRIDS if "--site frontier" in path.read_text()], ids=lambda path: path.stem
)
def test_a_grid_for_frontier_is_ready_without_its_site_too(path):
    """Each row states its nodes and tasks a node; of the open items 8, one a GCD, or one to pack images."""
    for cells in grid.texts(path):
        assert cells["nodes"].isdecimal(), cells
        assert cells["tasks_per_node"].isdecimal(), cells
        if path.stem == "open_items":
            assert cells["tasks_per_node"] == ("1" if cells["notebook"] == "01_data" else "8"), cells


def test_a_variable_that_is_not_set_is_told_once(monkeypatch):
    """Not five times as a folder that is not there, with a line more for each row that needs those rows."""
    monkeypatch.delenv("GEOFM_DATA", raising=False)
    rows, faults = grid.read(next(path for path in GRIDS if path.stem == "pretraining"))
    assert not rows
    first, others = grid.told(faults)
    assert first.endswith(
        "column dataset: GEOFM_DATA is not set where this was started, and the path has it; set it there"
    )
    assert others == "rows 9-12 need rows that were refused above"


def test_the_shipped_grids_cover_the_figures(archives):
    rows = {path.stem: grid.read(path, None if path == SMALL else FRONTIER)[0] for path in GRIDS}
    scaling = {(row.settings.model, row.settings.strategy, row.nodes) for row in rows["weak_scaling"]}
    assert {model for model, _, _ in scaling} == {f"ViT-{size}" for size in ("Base", "Huge", "1B", "3B", "5B", "15B")}
    assert {nodes for _, _, nodes in scaling} == {1, 2, 4, 8, 16, 32, 64, 128}
    measured = [row.settings for name in ("weak_scaling", "mae_data") for row in rows[name]]
    ahead = {(each.forward_prefetch, each.backward_prefetch) for each in measured if each.job == "throughput"}
    assert ahead == {(0, 1)}, "forward prefetch off and BACKWARD_PRE, as published"
    assert {row.settings.communication for row in rows["mae_data"] if row.settings.job == "throughput"} == {"on", "off"}
    again = {row.folder for row in rows["probes"] if row.settings.job == "pretrain"}
    assert again == {row.folder for row in rows["pretraining"] if row.settings.job == "pretrain"}
    assert len(again) == 4
    study = [row.settings for name in ("accuracy", "accuracy_largest", "accuracy_paper") for row in rows[name]]
    trained = [each for each in study if each.job == "pretrain"]
    assert {each.model for each in trained} == {*FAMILY, "ViT-Base", "ViT-Huge", "ViT-1B", "ViT-3B"}
    longest = [each for each in trained if each.branch and each.model == "ViT-25M"]
    assert [(each.epochs, each.branch.rpartition("@")[2], each.base_width) for each in longest] == [
        (4, "588", 64), (8, "1177", 64)], "a branch that is still to come has the settings of its trunk"  # fmt: skip


HEAD = "name,notebook,strategy,epochs,model,activation_checkpointing,batch_per_gpu,image_size,nodes,walltime,after\n"
BAD = {  # cells of the row -> (column, part of the reason)
    "a,02_pretrain,FULL_SHRD,2,,,,,1,0:10:00,": ("strategy", "did you mean 'FULL_SHARD'?"),
    "a,02_pretrain,,0,,,,,1,0:10:00,": ("epochs", "'0' cannot be used"),
    "a,02_pretrian,,2,,,,,1,0:10:00,": ("notebook", "did you mean '02_pretrain'?"),
    "a,04_scaling,,,,,,,1,0:10:00,": ("notebook", "starts no run"),
    "a,02_pretrain,,2,,,,,one,0:10:00,": ("nodes", "no whole number"),
    "a,02_pretrain,,2,,,,,10000,0:10:00,": ("nodes", "more than the machine's 9408"),
    "a,03_throughput,,,,,,,1,2 hours,": ("walltime", "hours:minutes:seconds"),
    "a,03_throughput,,,,,,,91,3:00:00,": ("walltime", "gives 91 nodes 2 h at most"),
    "a,03_throughput,,,,,,,1,2:00,": ("walltime", "'2:00' is no clear time"),
    "a,03_throughput,,,,,,,1,1-12,": ("walltime", "'1-12' is no clear time"),
    "a,03_throughput,,,,,,,²,1:00:00,": ("nodes", "no whole number"),
    "a,03_throughput,,,,,,,3,1:00:00,b": ("after", "no good row 'b' above"),
    "a,03_throughput,HYBRID_16GPUs,,,,,,1,1:00:00,": ("strategy", "8 ranks were"),
    "a,02_pretrain,,2,,,,,1,1:00:00,": ("global_batch", "100 images cannot be shared by 8 ranks; use 96 or 104"),
    "a,03_throughput,,2,,,,,1,1:00:00,": ("epochs", "unknown setting"),
    "a,03_throughput,,,,,,,1,1:00:00,,7": ("(none)", "'7' stands beyond the last column"),
    "a,03_throughput,DDP,,ViT-5B,True,32,224,2,1:00:00,": ("strategy", "GiB a device of 64.0"),
    "a,03_throughput,NO_SHARD,,ViT-15B,False,512,224,2,1:00:00,": ("strategy", "no strategy fits on 16 ranks"),
}  # fmt: skip


@pytest.mark.parametrize("cells", BAD, ids=lambda cells: f"{BAD[cells][0]} {BAD[cells][1][:12]}")
def test_a_row_is_refused_with_its_column_and_reason(cells, written):
    rows, (fault,) = grid.read(written(HEAD + cells + "\n"), FRONTIER)
    column, reason = BAD[cells]
    assert not rows, fault
    assert fault.row == 2, fault
    assert fault.column == column, fault
    assert reason in fault.reason, fault


def test_what_does_not_fit_is_told_with_what_would(written):
    _, (fault,) = grid.read(written(HEAD + "a,03_throughput,HYBRID_2GPUs,,ViT-15B,True,8,224,2,1:00:00,\n"), FRONTIER)
    assert "ViT-15B under HYBRID_2GPUs needs" in fault.reason
    fitting = fault.reason.split("these fit: ")[1]
    assert "FULL_SHARD (" in fitting
    assert "HYBRID_8GPUs (" in fitting
    assert "DDP" not in fitting


def test_rows_that_need_a_refused_one_or_are_the_same_run_are_refused(written):
    text = "name,notebook,data,epochs,encoder\nimages,01_data,,,\nbad,02_pretrain,@images,0,\n" + (
        "probe,05_probe,@images,,@bad\nwrong,05_probe,@images,,@images\ngood,02_pretrain,@images,3,\n"
        "\n# a remark\nagain,02_pretrain,@images,3,\ngood,02_pretrain,@images,4,\n"
    )
    rows, faults = grid.read(written(text))
    assert [row.name for row in rows] == ["images", "good"]
    told = [(fault.row, fault.column) for fault in faults]
    assert told == [(3, "epochs"), (4, "encoder"), (5, "encoder"), (9, "name"), (10, "name")]
    assert "is a prepare row; it takes a pretrain row" in faults[2].reason
    assert grid.told(faults)[-1] == "row 4 needs a row that was refused above"
    assert len(grid.told(faults)) == 5
    assert "row 6 is the same run" in faults[3].reason


def test_a_row_may_read_the_runs_of_several_rows(written):
    text = "name,notebook,images_per_class,data\none,01_data,5,\ntwo,01_data,6,\nnets,02_pretrain,,\n" + (
        'both,02_pretrain,,"@one, @two"\nwrong,02_pretrain,,"@one,@nets"\nnone,02_pretrain,,"@one,@three"\n'
    )
    rows, faults = grid.read(written(text))
    one, two, _, both = rows
    assert both.after == ("one", "two")
    assert both.settings.data == both.parameters["data"] == f"{one.folder},{two.folder}"
    told = [(fault.row, fault.column, fault.reason.split(";")[0]) for fault in faults]
    assert told == [
        (6, "data", "'@nets' is a pretrain row"),
        (7, "data", "there is no good row 'three' above this one"),
    ]


def test_a_pretraining_may_start_from_another_rows(written):
    rows, faults = grid.read(written("name,notebook,init,epochs\nfirst,02_pretrain,,3\nthen,02_pretrain,@first,5\n"))
    assert not faults
    assert rows[1].after == ("first",)
    assert rows[1].settings.init == rows[1].parameters["init"] == str(rows[0].folder)


NO_GRIDS = {  # what stands in the file -> what is said of it
    "name;notebook;epochs\na;02_pretrain;2\n": "has semicolons between its columns",
    '\ufeff"name";"notebook"\n"a";"02"\n': "has semicolons between its columns",
    "name\tnotebook\na\t02\n": "has tabs between its columns",
    "": "is empty",
    "\ufeff\n  \n# a remark\n": "is empty",
    "name,notebook,epochs\n": "has no row below them",
    "name,notebook,epohcs\na,02,2\nb,02,3\n": "'epohcs', which no notebook knows; did you mean 'epochs'?",
    "name,notebook,dataset\na,01," + 200_000 * "x": "field larger than",
}


@pytest.mark.parametrize("text", NO_GRIDS, ids=lambda text: NO_GRIDS[text][:24])
def test_what_is_no_grid_is_said_once(tmp_path, capsys, text):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert cli.main(["status", str(tmp_path / "x.csv")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert NO_GRIDS[text] in said
    assert len(said) < 400


def test_a_grid_of_another_encoding_is_said(tmp_path):
    (tmp_path / "x.csv").write_text("name,notebook\na,02\n", encoding="utf-16")
    with pytest.raises(ValueError, match="no text in UTF-8; save it as 'CSV UTF-8'"):
        grid.read(tmp_path / "x.csv")


def test_a_value_of_100_kb_is_one_short_sentence(written):
    _, (fault,) = grid.read(written(f"notebook,dataset\n01_data,{100_000 * 'x'}\n"))
    assert str(fault).startswith("row 2, column dataset: a value of 100,000 characters cannot be used: 'xxx")
    assert len(str(fault)) < 400
    many = ",".join(f"/data/set{k}" for k in range(1000))  # a long list of paths is no such value
    with pytest.raises(ValueError, match="/data/set0"):
        check(PretrainSettings(data=many))
    with pytest.raises(ValueError, match="File name too long"):
        check(PrepareSettings(dataset=3000 * "x"))


def test_no_grid_is_said_in_one_sentence(tmp_path, root):
    with pytest.raises(ValueError, match="cannot be read"):
        grid.read(tmp_path / "y.csv")
    (tmp_path / "x.csv").write_text("notebook,epochs,epochs\n02_pretrain,3,9\n")
    with pytest.raises(ValueError, match="names the column epochs twice"):
        grid.read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("\ufeffnotebook,epochs\n02_pretrain,3\n", encoding="utf-8")
    assert not grid.read(tmp_path / "x.csv")[1], "a spreadsheet's mark is no part of the first name"
    (tmp_path / "x.csv").write_text("model,nodes\nViT-Base,2\n")
    command = [sys.executable, "-m", "geofm_lib", "submit", str(tmp_path / "x.csv")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "must name the columns" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sbatch_line_carries_the_job_and_the_run(written):
    text = "name,notebook,strategy,nodes,walltime,after\nfirst,03_throughput,,2,0:10:00,\n"
    text += "second,03_throughput,HYBRID_2GPUs,4,2:00:00,first\n"
    rows, _ = grid.read(written(text), FRONTIER)
    said = "# 2 rows ready, 0 finished, 3 refused; 8.33 node-hours at most, at the walltimes asked for"
    assert queue.total(rows, 3) == said, "2 nodes for 10 minutes, 4 for 2 hours"
    words = queue.command(rows[1], Site("frontier", ("-A", "ABC123")), ["17"])
    for word in ("--nodes=4", "--ntasks-per-node=8", "--time=2:00:00", "--signal=B:USR1@300", "--dependency=afterok:17",
                 f"--comment={rows[1].folder}", "ABC123", "batch/frontier.sh",
                 "notebooks/03_throughput.ipynb"):  # fmt: skip
        assert word in words, word
    assert words[-6:] == ["-p", "strategy", "HYBRID_2GPUs", "-p", "ranks", "32"]
    assert "--signal=B:USR1@150" in queue.command(rows[0], Site("frontier"), []), "a quarter of a short limit"
    assert "ranks" not in rows[0].settings.name()
    assert rows[0].folder != rows[1].folder


class Slurm:
    """Stands for squeue and sbatch: keeps what was sent."""

    def __init__(self, monkeypatch):
        self.jobs = []
        monkeypatch.setattr(slurm, "queued", lambda: list(self.jobs))
        monkeypatch.setattr(slurm, "submit", self.submit)

    def submit(self, words):
        folder = next(word for word in words if word.startswith("--comment=")).removeprefix("--comment=")
        waits = next((word.split("=")[1] for word in words if word.startswith("--dependency=")), "")
        self.jobs.append(slurm.Queued(str(len(self.jobs) + 1), "PENDING", waits or "Resources", folder))
        return self.jobs[-1].number


def finish(row, status="finished", **summary):
    row.folder.mkdir(parents=True, exist_ok=True)
    (row.folder / "settings.json").write_text(json.dumps({"job": row.settings.job, "asked": row.settings.asked()}))
    (row.folder / "environment.json").write_text(json.dumps({"slurm_job": "1", "slurm_nodes": 2, "job_started": 0}))
    (row.folder / "summary.json").write_text(json.dumps({"status": status, **summary}))
    os.utime(row.folder / "summary.json", (1800, 1800))


CHAIN = "name,notebook,data,encoder,epochs\nimages,01_data,,,\nlong,02_pretrain,@images,,3\n" + (
    "short,02_pretrain,@images,,2\nprobe,05_probe,@images,@long,4\n"
)


def test_a_grid_is_sent_once_in_the_order_of_its_dependencies(written, monkeypatch):
    fake = Slurm(monkeypatch)
    rows, faults = grid.read(written(CHAIN))
    assert not faults
    sent = list(queue.send(rows, Site()))
    assert [outcome for _, outcome in sent] == [f"sent as job {n}" for n in (1, 2, 3, 4)]
    assert [job.reason for job in fake.jobs] == ["Resources", "afterok:1", "afterok:1", "afterok:1:2"]
    assert all("in the queue" in outcome for _, outcome in queue.send(rows, Site()))
    assert len(fake.jobs) == 4
    fake.jobs.clear()
    finish(rows[0])
    finish(rows[1], "failed", error="a disk")
    again = list(queue.send(rows, Site()))
    assert again[0][1] == "finished before", "what failed goes on"
    assert again[1][1] == "sent as job 1", "what failed goes on"
    assert [job.reason for job in fake.jobs] == ["Resources", "Resources", "afterok:1"]


def test_no_more_jobs_are_sent_than_the_limit(written, monkeypatch):
    fake = Slurm(monkeypatch)
    rows, _ = grid.read(written(CHAIN))
    outcomes = [outcome for _, outcome in queue.send(rows, Site(), limit=2)]
    assert len(fake.jobs) == 2
    assert outcomes[2] == outcomes[3] == "left for the next --send: 2 jobs are in the queue"
    assert Site("frontier").machine.queued == 100


def test_status_tells_the_queue_and_the_folders_apart(written, monkeypatch):
    fake = Slurm(monkeypatch)
    rows, _ = grid.read(written(CHAIN))
    images, long, short, probe = rows
    assert set(overview.status(rows, overview._queued()[0])["state"]) == {"not sent"}
    assert len(list(queue.send(rows, Site()))) == 4
    assert set(overview.status(rows, overview._queued()[0])["state"]) == {"waiting"}
    finish(images)
    fake.jobs = [slurm.Queued("2", "RUNNING", "None", str(long.folder))]
    finish(long)
    (long.folder / "summary.json").unlink()
    row = {"step": 5, "total_steps": 20, "images_per_s": 12.34, "seconds_left": 90.0}
    (long.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    finish(short, "failed", error="killed by signal 9\nmore")
    job = [
        "module chatter",
        "05_probe.ipynb: views: '-1' cannot be used",
        "05_probe.ipynb: FAILED in 3.2 s, runs/x.html",
    ]
    (queue.outputs_folder() / f"{probe.folder.name}-9.out").write_text("\n".join(job))
    with beating(long.folder):
        table = overview.status(rows, overview._queued()[0]).set_index("name")
    assert list(table["state"]) == ["finished", "running", "failed", "failed"]
    assert table.loc["long", ["step", "images_per_s", "left"]].tolist() == ["5/20", 12.3, "1 min 30 s"]
    assert table.loc["short", "detail"] == "killed by signal 9"
    assert "views: '-1' cannot" in table.loc["probe", "detail"]
    assert table.loc["images", "node_hours"] == 1.0, "2 nodes for half an hour"
    assert list(overview.status([], {})) == list(table.reset_index()), "also when no row is good"
    (long.folder / "metrics.jsonl").write_text(json.dumps({"step": 7, "total": 9}) + "\n")
    assert overview.status(rows, overview._queued()[0]).set_index("name").loc["long", "step"] == "7/9", "as 01 logs"


def test_what_slurm_refuses_is_told_after_what_was_sent(written, monkeypatch):
    fake = Slurm(monkeypatch)
    rows, _ = grid.read(written(CHAIN))
    told = []

    def submit(words):
        if fake.jobs:
            raise RuntimeError("sbatch: error: invalid account")
        return fake.submit(words)

    monkeypatch.setattr(slurm, "submit", submit)
    with pytest.raises(RuntimeError, match="row 3, long: Slurm refused it, .* invalid account"):
        for row, outcome in queue.send(rows, Site()):
            told.append((row.name, outcome))
    assert told == [("images", "sent as job 1")]
    with pytest.raises(ValueError, match="--limit 0"):
        list(queue.send(rows, Site(), limit=0))


ROWS_HERE = """name,notebook,images_per_class,scene_size,data,epochs,nodes,tasks_per_node
images,01_data,2,32,,,1,1
many,03_throughput,,,,,2,1
trained,02_pretrain,,,@images,1,1,1
"""


def test_what_runs_here_and_what_is_left(written, monkeypatch):
    """The runner is a stand-in that ends well, or badly where a name says so; the real one is in the next test."""
    rows = grid.read(written(ROWS_HERE))[0]
    assert queue.command_here(rows[0])[1:] == ["-m", "geofm_lib", "run", str(rows[0].notebook), "-p", "ranks", "1",
                                          "-p", "images_per_class", "2", "-p", "scene_size", "32"]  # fmt: skip
    beyond = "left: it needs 2 nodes, and this is one machine"
    told = [outcome for _, outcome in queue.run_here(rows, limit=0)]
    assert told == ["left: 0 rows were asked for", beyond, "left: it needs images"]
    ends = "import sys; sys.exit(1)"
    monkeypatch.setattr(queue, "command_here", lambda row: [sys.executable, "-c", ends])
    first, *_ = [outcome for _, outcome in queue.run_here(rows)]
    assert first.startswith("failed with exit code 1; its page is in ")
    finish(rows[0], "finished")
    monkeypatch.setattr(queue, "command_here", lambda row: [sys.executable, "-c", ""])
    assert [outcome for _, outcome in queue.run_here(rows)] == ["finished before", beyond, "finished"]


STOPPED = """
import os, signal, sys, time
signal.signal({number}, lambda *_: sys.exit(75))
os.kill(os.getppid(), {number})
time.sleep(20)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_reaches_the_row_that_runs_here_and_leaves_the_others(number, written, monkeypatch):
    rows, _ = grid.read(written(ROWS_HERE))
    code = STOPPED.format(number=int(number))
    monkeypatch.setattr(queue, "command_here", lambda row: [sys.executable, "-c", code])
    first, *others = [outcome for _, outcome in queue.run_here(rows)]
    assert first == "stopped; the same command goes on from there"
    assert set(others) == {"left: a stop was asked for"}


@pytest.mark.long
def test_a_grid_runs_here_without_slurm(written, root):
    command = [sys.executable, "-m", "geofm_lib", "submit", str(written(ROWS_HERE)), "--here", "--limit", "1"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images: finished\n" in done.stdout
    assert "trained: left: 1 rows were asked for" in done.stdout
    (row, *_) = grid.read(command[4])[0]
    assert (row.folder / "report.html").is_file()


def test_status_without_an_answer_of_slurm_says_what_the_folders_say(written, monkeypatch):
    def silent():
        raise RuntimeError("squeue does not answer: timed out")

    monkeypatch.setattr(slurm, "queued", silent)
    rows, _ = grid.read(written(CHAIN))
    finish(rows[0])
    finish(rows[1], "failed", error="a disk")
    table = overview.status(rows, overview._queued()[0])
    assert list(table["state"]) == ["finished", "failed", "unknown", "unknown"]
    said = overview.of_grid(rows).splitlines()
    assert len(said) == 1 + 4 + 2
    assert said[-1] == "the queue is not known, so this is what the run folders say: squeue does not answer: timed out"
