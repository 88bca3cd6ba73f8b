"""Comparisons of runs: what is ranked by what, what is never ranked, which settings differ, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from geofm_lib import cli, files, report
from geofm_lib.figures import compare, compare_curves
from geofm_lib.figures.display import Figure, Note
from geofm_lib.report.colophon import colophon
from geofm_lib.runs import compared, comparison, grid, life, queue
from geofm_lib.settings import CompareSettings, PretrainSettings, SettingsError
from tests.support.figures import image, run_folder
from tests.support.runs import beating

IMAGES = {"data_fingerprint": "aaaa", "ranks": 2}
HELD = {"held_out_side": "test", "held_out_images": 256, "loss": 0.9, "loss_steps": 18}
STEPS = [{"step": s, "total_steps": 40, "loss": 1.0 - s / 100} for s in range(1, 41)]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(name, job, summary, **asked) -> the folder of a run below GEOFM_RUNS, which is this test's own."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    monkeypatch.setenv("GEOFM_PAGE", str(tmp_path / "compare-x" / "report.html"))

    def make(name, job="pretrain", summary=None, resolved=IMAGES, device="CPU", metrics=STEPS, **asked):
        folder = tmp_path / name
        folder.mkdir()
        run_folder(folder, asked, summary, metrics, job=job, resolved=resolved)
        (folder / "environment.json").write_text(json.dumps({"device": device, "launched": "x", "job_started": 1.0}))
        return folder

    return make


def held(loss, half=0.01):
    return {**HELD, "held_out_loss": loss, "held_out_interval": half}


def found(*names, kind="auto"):
    return comparison.of(CompareSettings(runs=",".join(map(str, names)), kind=kind))


def order(section):
    return [[member.name for member in group.members] for group in section.groups]


def rows(table):
    return table.frame.astype(object).where(table.frame.notna(), None).to_dict("records")


def test_three_pretrainings(made):
    for name, rate, loss in (("a", 1e-3, 0.8), ("b", 1e-4, 0.9), ("c", 1e-2, 0.795)):
        made(name, summary=held(loss), base_learning_rate=rate, epochs=3)
    Path(os.environ["GEOFM_RUNS"], "a", "report.html").write_text("a page")
    it = found("a", "b", "c")
    assert it.differing == {"base_learning_rate": [1e-3, 1e-4, 1e-2]}
    assert rows(compare.settings(it))[1]["base_learning_rate"] == "0.0001"
    assert "epochs 3" in compare.equal(it).text
    assert "data_fingerprint aaaa" in compare.equal(it).text
    assert "seed" not in compare.equal(it).text, "at its default"
    (section,) = it.sections
    assert order(section) == [["c"], ["a"], ["b"]], "less loss is better"
    table = rows(compare.ranking(it))
    assert [row["place"] for row in table] == [1, 2, 3]
    assert "state" not in table[0], "all have finished"
    assert [row["unlike the best"] for row in table] == [None, "base_learning_rate 0.001", "base_learning_rate 0.0001"]
    assert (table[0]["held-out loss"], table[0]["interval"]) == ("0.795", "0.785 to 0.805")
    assert '<a href="../a/report.html">a</a>' in compare.ranking(it)._repr_html_()
    assert ">b</a>" not in compare.ranking(it)._repr_html_(), "it has no page to link to"
    words = repr(compare.answer(it))
    assert (
        "base_learning_rate 0.01 is best of 3: 0.795 (95 % interval 0.785 to 0.805, over the held-out images of one run"
        in words
    )
    assert (
        "Each setting ran once: the intervals say nothing of how runs of equal settings differ, which can be more."
        in words
    )
    assert "overlap" in words
    assert "Of what can change this number, these two differ in base_learning_rate (0.01 against 0.001) alone." in words
    pairs = rows(compare.difference(it))
    over = "over the held-out images of one run, the same for all"
    assert [(row["better"], row["other"], row["intervals apart"]) for row in pairs] == [
        ("0.01", "0.001", f"no, {over}"),
        ("0.01", "0.0001", f"yes, {over}"),
        ("0.001", "0.0001", f"yes, {over}"),
    ]
    assert [repr(row["runs"]) for row in pairs] == ["c, a", "c, b", "a, b"]
    assert pairs[1]["change"] == "+0.105 (+13 %)"
    assert image(compare_curves.drawn(it))
    assert "base_learning_rate 0.01: 0.6 after 4,000 images" in compare_curves.drawn(it).alt


def test_names_with_marks_are_escaped(made):
    for name in ("a<b>", "c"):
        made(name, summary=held(0.8))
    assert "a&lt;b&gt;" in compare.ranking(found("a<b>", "c"))._repr_html_()


def test_seeds_are_one_row(made):
    for seed, loss in enumerate((0.8, 0.82, 0.87)):
        made(f"a{seed}", summary=held(loss), seed=seed, epochs=5)
    for seed, loss in enumerate((0.9, 0.94)):
        made(f"b{seed}", summary=held(loss), seed=seed, epochs=7, ranks=seed + 1)
    it = found(*(f"a{k}" for k in range(3)), "b0", "b1")
    three, two = it.sections[0].groups
    assert (three.label, two.label) == ("epochs 5", "epochs 7")
    assert three.value == pytest.approx(0.83)
    half = 4.302653 * 0.0360555 / 3**0.5  # Student's t of two degrees, and the spread of the three
    assert three.interval == pytest.approx((0.83 - half, 0.83 + half), abs=1e-5)
    assert three.spread == "95 % interval 0.740 to 0.920, over 3 seeds"
    assert two.interval is None
    assert two.spread == "two seeds: 0.9000, 0.9400"
    table = rows(compare.ranking(it))
    assert repr(table[0]["run"]) == "a0, a1, a2"
    assert [row["interval"] for row in table] == ["0.740 to 0.920 (3 seeds)", "two seeds: 0.9000, 0.9400"]
    assert "Runs of equal settings are up to 0.0700 apart (epochs 5), the best and the next 0.0900." in repr(
        compare.answer(it)
    )
    assert "±" not in repr(compare.answer(it)) + str(table)
    assert rows(compare.difference(it))[0]["intervals apart"] is None


def test_equal_runs_are_repeats(made):
    for k, loss in enumerate((0.8, 0.82)):
        made(f"a{k}", summary=held(loss))
    it = found("a0", "a1")
    assert it.sections[0].groups[0].spread == "two repeats: 0.8000, 0.8200"
    assert "repeats of each other" in compare.settings(it).text


CANNOT_MIX = {
    "a loss of other images": ({"resolved": {"data_fingerprint": "bbbb"}}, "the images (their fingerprint)"),
    "a loss of fewer masked patches": ({"mask_ratio": 0.5}, "the mask ratio"),
    "a loss of plain pixels": ({"norm_pix_loss": False}, "the normalisation of targets"),
    "a loss of larger patches": ({"patch_size": 16}, "the size of patches"),
    "training loss and held-out loss": ({"summary": HELD}, "the number that they have"),
}


@pytest.mark.parametrize("other", CANNOT_MIX)
def test_what_no_number_can_rank_together_is_ranked_apart(made, other):
    given, why = CANNOT_MIX[other]
    made("a", summary=held(0.8))
    made("b", summary=held(0.9), epochs=7)
    made("c", **({"summary": held(0.1)} | given))
    it = found("a", "b", "c")
    assert [order(section) for section in it.sections] == [[["a"], ["b"]], [["c"]]]
    assert f"Runs that differ in {why}" in repr(compare.answer(it)).replace(" and the side", "").split(" are ranked")[0]
    assert [row["ranking"] for row in rows(compare.ranking(it))] == ["A", "A", "B"]
    assert [row["place"] for row in rows(compare.ranking(it))] == [1, 2, 1]


def test_what_has_not_finished_has_a_state_and_no_value(made, monkeypatch):
    monkeypatch.setattr(life, "LOOK_S", 0.5)
    made("good", summary=held(0.8))
    made("better", summary=held(0.7), epochs=7)
    failed = {"status": "failed", "error": "rank 1 was killed\nby whom?"}
    for name, summary in (("failed", failed), ("stopped", {"status": "stopped", "reason": "a stop"})):
        made(name, summary={**held(0.1), **summary})
    live, damaged, killed = made("live"), made("damaged", summary=held(0.1)), made("killed")
    for folder in (live, killed):
        (folder / "summary.json").unlink()
        (folder / "heartbeats").mkdir()
        (folder / "heartbeats" / "0").write_text("{}")
    (damaged / "summary.json").write_text("{")
    with beating(live):
        it = found("good", "better", "failed", "stopped", "live", "damaged", "killed")
        table = rows(compare.ranking(it))
        words = repr(compare.answer(it))
    assert order(it.sections[0]) == [["better"], ["good"]]
    left = {repr(row["run"]): row for row in table[2:]}
    assert all(row["place"] is None and row["held-out loss"] is None for row in left.values())
    assert left["failed"]["state"] == "failed, step 40 of 40: rank 1 was killed"
    assert left["stopped"]["state"] == "stopped, step 40 of 40: a stop"
    assert left["live"]["state"] == "running, step 40 of 40"
    assert left["killed"]["state"].startswith("killed, step 40 of 40: its job ended without a word")
    assert "summary.json" in left["damaged"]["state"]
    assert "5 of 7 runs are not ranked: failed (failed, step 40 of 40), stopped (stopped" in words
    assert "damaged (damaged)" in words
    assert "(running)" in compare_curves.drawn(it).alt


def test_nothing_has_finished(made):
    for name in ("a", "b"):
        made(name, summary={"status": "failed", "error": "no"}, metrics=())
    it = found("a", "b")
    assert repr(compare.answer(it)).startswith("None of the 2 runs has finished with a number to rank them by")
    assert isinstance(compare_curves.drawn(it), Note)
    assert len(rows(compare.ranking(it))) == 2


def window(step_s, spread=0.0):
    warm = [{"step": 1, "step_s": 9.0, "phase": "warm-up"}]
    return warm + [{"step": 2 + k, "step_s": step_s + spread * (k - 10), "phase": "steady window"} for k in range(21)]


def test_three_throughput_runs(made):
    for name, rate in (("FULL_SHARD", 300.0), ("DDP", 400.0), ("NO_SHARD", 350.0)):
        speed = {"images_per_s": rate, "peak_memory_gib": 1.0}
        made(name, "throughput", speed, strategy=name, metrics=window(64 / rate, 0.001), profile_steps=len(name))
    it = found("FULL_SHARD", "DDP", "NO_SHARD")
    assert order(it.sections[0]) == [["DDP"], ["NO_SHARD"], ["FULL_SHARD"]], "more images/s are better"
    low, high = it.sections[0].groups[0].interval
    # Of 21 steps the 6th from either end: P(at most 5 of 21 heads) is 1.3 %.
    assert (low, high) == pytest.approx((400 * 0.16 / 0.165, 400 * 0.16 / 0.155), rel=1e-6)
    assert [row["other"] for row in rows(compare.difference(it))] == ["NO_SHARD", "FULL_SHARD", "FULL_SHARD"], (
        "profiled steps come after the window, and made no difference"
    )
    said = compare.difference(it).caption
    assert "all others equal (seeds apart, and profile_steps, which do not change this number)" in said
    assert (
        "with 95 % intervals over the steps of one run (not over runs of equal settings)"
        in compare_curves.drawn(it).alt
    )
    assert image(compare_curves.drawn(it))
    words = repr(compare.answer(it))
    assert "strategy DDP is best of 3: 400 images/s (95 % interval" in words.replace("400.0", "400")
    assert "All runs: ViT-Femto, MAE pretraining, fp32, 64 px, 32 images a rank" in words
    without = "Peak memory is left out, which depends on profile_steps"
    assert without in compare.ranking(it).caption and without in compare_curves.drawn(it).alt
    assert "peak memory, fullest rank" not in compare.ranking(it).frame
    (it.runs[0].folder / "environment.json").write_text(json.dumps({"commit": "c0ffee", "device": "CPU"}))
    assert "c0ffee (FULL_SHARD); not noted (DDP, NO_SHARD)" in repr(colophon(runs=it.runs))
    made("gpu", "throughput", {"images_per_s": 9000.0}, device="H100", metrics=())
    apart = found("FULL_SHARD", "DDP", "gpu")
    assert [order(each) for each in apart.sections] == [[["DDP"], ["FULL_SHARD"]], [["gpu"]]]
    assert "Runs that differ in the device are ranked only among themselves" in repr(compare.answer(apart))
    assert apart.differing["device"] == ["CPU", "CPU", "H100"]


def probe(gain, value, **more):
    found = {"metric": "top1", "test_images": 500, "splits": 5, "readout": "mean"}
    found |= {"gain": gain, "gain_low": gain - 1, "gain_high": gain + 2}
    return found | {"fast_value": value, "fast_low": value - 1, "fast_high": value + 1, **more}


def test_three_probes(made, tmp_path):
    for name, epochs, seed in (("p0", 4, 0), ("p1", 4, 1), ("p2", 8, 0)):
        made(name, summary=held(0.8), epochs=epochs, seed=seed, ranks=seed + 1)
    for name, encoder, gain in (("a", "p0", 10.0), ("b", "p1", 12.0), ("c", "p2", 15.0)):
        where = IMAGES | {"encoder": str(tmp_path / encoder / "encoder")}
        made(name, "probe", probe(gain, 60 + gain), where, encoder=str(tmp_path / encoder))
    it = found("a", "b", "c")
    assert order(it.sections[0]) == [["c"], ["a", "b"]], "encoders of two seeds are two seeds"
    assert it.sections[0].groups[1].spread == "two seeds: +10.0 points, +12.0 points"
    assert list(it.differing) == ["encoder", "encoder's epochs", "encoder's seed", "encoder's ranks"]
    table = rows(compare.ranking(it))
    assert (table[0]["gain over untrained, top-1"], table[0]["interval"]) == ("+15.0 points", "+14.0 to +17.0")
    assert table[0]["top-1, fast protocol"] == "75.0 %"
    assert "gain over untrained, top-1" in repr(compare.answer(it))
    drawn = compare_curves.drawn(it)
    assert isinstance(drawn, Figure)
    assert set(drawn.table["number"]) == {"gain over untrained, top-1", "top-1, fast protocol"}
    made("d", "probe", probe(30.0, 99.0, test_images=100), IMAGES | {"encoder": str(tmp_path / "p0" / "encoder")},
         encoder=str(tmp_path / "p0"))  # fmt: skip
    assert [order(each) for each in found("a", "c", "d").sections] == [[["c"], ["a"]], [["d"]]]


GRID = (
    "name,notebook,model,image_size,base_learning_rate,epochs,warmup_epochs,global_batch,ranks,nodes,tasks_per_node\n"
)


def nine(folder):
    """A grid of nine pretrainings: three learning rates, three lengths."""
    cells = [f"r{k},02_pretrain,ViT-Atto,32,{10.0 ** -(2 + k // 3)},{2 + k % 3},1,16,1,1,1" for k in range(9)]
    (folder / "nine.csv").write_text(GRID + "\n".join(cells) + "\n")
    return folder / "nine.csv"


def test_a_grid_of_nine_with_one_failed_one_live_and_one_to_come(made, tmp_path):
    file = nine(tmp_path)
    rows_of, faults = grid.read(file)
    assert (len(rows_of), faults) == (9, [])
    for k, row in enumerate(rows_of[:8]):
        made(row.folder.name, summary=held(1.0 - k / 100, 0.001), **row.settings.asked())
    (rows_of[3].folder / "summary.json").write_text('{"status": "failed", "error": "the loss is not finite"}')
    live = rows_of[4].folder
    (live / "summary.json").unlink()
    with beating(live):
        it = found(file)
        table = rows(compare.ranking(it))
        words = repr(compare.answer(it))
    assert order(it.sections[0]) == [["r7"], ["r6"], ["r5"], ["r2"], ["r1"], ["r0"]]
    assert [(repr(row["run"]), row["state"]) for row in table[6:]] == [
        ("r3", "failed, step 40 of 40: the loss is not finite"), ("r4", "running, step 40 of 40"),
        ("r8", "not begun")]  # fmt: skip
    assert words.startswith(
        "By held-out loss, epochs 3, base_learning_rate 0.0001 is best of 6: 0.9300 (95 % interval 0.9290 to 0.9310"
    )
    assert "3 of 9 runs are not ranked: r3 (failed, step 40 of 40), r4 (running, step 40 of 40) and r8 (not begun)" in (
        words
    )
    assert list(it.differing) == ["epochs", "base_learning_rate"], "also of rows that have not begun"
    assert image(compare_curves.drawn(it))


def test_rows_that_cannot_be_read_are_told(made, tmp_path):
    file = nine(tmp_path)
    file.write_text(file.read_text() + "bad,02_pretrain,ViT-Atto,32,-1,2,1,16,1,1,1\n")
    assert "nine.csv: row 11, column base_learning_rate: '-1' cannot be used" in repr(compare.answer(found(file)))


REFUSED = {
    "runs that are not there": (["a", "nothing"], "there is no run 'nothing'"),
    "one run only": (["a"], "a comparison takes two runs or more, and 'a' is the only pretrain run"),
    "one run twice": (["a", "./a"], "'a' is the only pretrain run"),
    "runs of two kinds": (["a", "t"], "'t' is a throughput run, and 'a' a pretrain run; a comparison is of one kind"),
    "another kind than asked": (["a", "b", "--kind", "probe"], "'a' is a pretrain run, and probe runs are asked for"),
    "runs without a headline": (["p", "q"], "prepare runs have no number to be ranked by; compare pretrain, probe"),
    "a grid that is not there": (["nothing.csv"], "the grid '{0}/nothing.csv' cannot be read: No such file"),
    "a grid that is none": (["other.csv"], "is no grid: its first line must name the columns"),
    "a checkpoint": (["a@12", "b"], "'a@12' is a checkpoint, and this is of a whole run"),
    "a page for two": (["two.csv", "--page", "x.html"], "--page: there is a page for each of pretrain, throughput"),
    "a folder that is no run": (["plain", "a"], "there is no run 'plain'"),
    "damaged runs of no kind": (["lost", "lost2"], "settings.json"),
    "a comma": (["a,b", "a"], "'a,b' has a comma"),
    "nothing": ([], "Missing argument"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_one_sentence(made, tmp_path, case, monkeypatch, capsys):
    for name, job in (("a", "pretrain"), ("b", "pretrain"), ("t", "throughput"), ("p", "prepare"), ("q", "prepare")):
        made(name, job, held(0.8))
    for name in ("lost", "lost2"):
        (made(name, "pretrain", held(0.8)) / "settings.json").write_text("{")
    (tmp_path / "plain").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    two = [f"{note},{model},{seed}" for note, model in (("02", "ViT-Atto"), ("03", "ViT-Pico")) for seed in (0, 1)]
    (tmp_path / "two.csv").write_text("\n".join(["notebook,model,seed", *two]))
    monkeypatch.chdir(tmp_path)
    words, sentence = REFUSED[case]
    assert cli.main(["compare", *words]) == 2
    out, said = capsys.readouterr()
    assert sentence.format(tmp_path) in said
    assert said.count("\n") == 1
    assert not out


def test_the_command_makes_a_page_a_kind(made, tmp_path, monkeypatch):
    two = [f"{note},{model},{seed}" for note, model in (("02", "ViT-Atto"), ("03", "ViT-Pico")) for seed in (0, 1)]
    (tmp_path / "two.csv").write_text("\n".join(["notebook,model,seed", *two, "01,,"]))
    told = []
    stand_in = SimpleNamespace(run=lambda notebook, given, page, requests: told.append((given, page)) or 0)
    monkeypatch.setattr(report, "execute", stand_in, raising=False)  # papermill's import takes seconds
    monkeypatch.setitem(sys.modules, "geofm_lib.report.execute", stand_in)
    assert cli.main(["compare", str(tmp_path / "two.csv")]) == 0
    grid_file = os.path.realpath(tmp_path / "two.csv")
    assert told == [
        ({"runs": grid_file, "kind": kind}, tmp_path / f"compare-two-{kind}" / "report.html")
        for kind in ("pretrain", "throughput")
    ]


def test_all_runs_of_a_kind_where_none_is_named(made):
    for name in ("DDP", "NO_SHARD"):
        made(name, "throughput", {"images_per_s": 300.0}, strategy=name, metrics=())
    made("a", summary=held(0.8))
    assert [each.name for each in comparison.of(CompareSettings()).members] == ["DDP", "NO_SHARD"]
    with pytest.raises(SettingsError, match="'a' is the only pretrain run in "):
        comparison.of(CompareSettings(kind="pretrain"))


def test_the_cells_of_the_notebook(made, root, monkeypatch):
    """As a plain script: every cell shows something that a page can hold."""
    for name, loss in (("a", 0.8), ("b", 0.9)):
        made(name, summary=held(loss), epochs=int(100 * loss))
    namespace = {"runs": "a,b"}
    for cell in nbformat.read(root / "notebooks" / "10_compare.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and cell.id != "parameters":
            exec(cell.source, namespace)
    assert "epochs 80 is best of 2" in repr(compare.answer(namespace["found"]))


@pytest.mark.parametrize("ends", ["well", "badly", "never", "cannot"])
def test_the_page_of_a_grid_changes_nothing_of_how_the_grid_ends(made, tmp_path, ends, monkeypatch, capsys):
    file = nine(tmp_path)
    monkeypatch.setattr(queue, "run_here", lambda rows, limit: ((row, "finished before") for row in rows))
    asked = []

    def run(words, **options):
        asked.append(words[2:])
        if ends == "never":
            raise subprocess.TimeoutExpired(words, 1)
        if ends == "cannot":
            raise OSError("no memory")
        return subprocess.CompletedProcess(words, 0 if ends == "well" else 1)

    monkeypatch.setattr(queue.subprocess, "run", run)
    assert cli.main(["submit", str(file), "--here"]) == 0
    assert asked == [["geofm_lib", "compare", str(file)]]
    monkeypatch.setattr(queue, "run_here", lambda rows, limit: ((row, "stopped; go on") for row in rows))
    cli.main(["submit", str(file), "--here"])
    assert len(asked) == 1, "who stops it does not wait for a page"
    assert f"geofm compare {file}" in capsys.readouterr().out


@pytest.mark.long
def test_a_grid_that_runs_here_ends_in_its_page(tmp_path, root):
    """Two throughput runs, really; the page has both, linked, and each link leads somewhere."""
    (tmp_path / "speeds.csv").write_text(
        "name,notebook,model,image_size,batch_per_gpu,warmup_steps,steps,profile_steps,strategy,nodes,tasks_per_node\n"
        + "".join(f"{each},03,ViT-Atto,32,4,1,8,0,{each},1,2\n" for each in ("DDP", "NO_SHARD"))
    )
    command = [sys.executable, "-m", "geofm_lib", "submit", str(tmp_path / "speeds.csv"), "--here"]
    environment = {**os.environ, "GEOFM_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(done.stdout.strip().splitlines()[-1].split(", ")[-1])
    assert page == tmp_path / "runs" / "compare-speeds-throughput" / "report.html"
    links = [
        each.split('"')[0] for each in page.read_text().split('<a href="')[1:] if "report.html" in each.split('"')[0]
    ]
    assert len({(page.parent / link).resolve() for link in links if (page.parent / link).is_file()}) == 2
    shutil.rmtree(tmp_path / "runs")


def test_long_names_are_told_apart_by_what_differs(made):
    folders = ["pretrain-ViT-Atto-DDP-1a2b3c", "pretrain-ViT-Pico-DDP-4d5e6f"]
    for name, model in zip(folders, ("ViT-Atto", "ViT-Pico"), strict=True):
        made(name, summary=held(0.8), model=model)
    assert [each.name for each in found(*folders).members] == ["Atto-1a2b3c", "Pico-4d5e6f"]
    made("a", summary=held(0.8))
    assert [each.name for each in found(*folders, "a").members] == [*folders, "a"]


def test_what_cannot_be_believed_is_left_out_and_said(made):
    for name, loss in (("a", 0.8), ("b", 0.9), ("c", float("nan"))):
        made(name, summary=held(loss), epochs=int(10 * loss) if loss == loss else 3)
    folder = Path(os.environ["GEOFM_RUNS"], "b")
    files.seal(folder, [each.name for each in folder.iterdir()])
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}')
    os.utime(folder / "metrics.jsonl", (1.0, 1.0))  # as a flipped byte is: no younger than the seal
    it = found("a", "b", "c")
    table = rows(compare.ranking(it))
    assert [repr(row["run"]) for row in table] == ["a", "b", "c"]
    assert "without what it logged: " in table[1]["state"]
    assert "metrics.jsonl" in table[1]["state"]
    assert table[2]["held-out loss"] is None
    assert table[2]["state"] == "finished, it holds no number to be ranked by"
    assert "epochs 9" not in compare_curves.drawn(it).alt


def test_the_same_images_under_two_names_are_the_same(made):
    made("a", summary=held(0.8), dataset="one", seed=0)
    made("b", summary=held(0.9), dataset="two", seed=1)
    made("c", summary=held(0.7), dataset="two", epochs=3)
    it = found("a", "b", "c")
    assert order(it.sections[0]) == [["c"], ["a", "b"]]
    assert it.differing["dataset"] == ["one", "two", "two"], "told, and made no difference"
    assert rows(compare.difference(it))[0]["what differs"] == "epochs"


def test_one_run_with_a_value(made):
    made("a", summary=held(0.8))
    made("b", summary={"status": "failed", "error": "no"}, epochs=3)
    words = repr(compare.answer(found("a", "b")))
    assert words == (
        "By held-out loss, a alone has a value: 0.800 (95 % interval 0.790 to 0.810, over the held-out images of one "
        "run, the same for all). All runs: ViT-Femto, 64 px, CPU. One run is not ranked: b (failed, step 40 of 40)."
    )


def test_simulations(made):
    for name, peak in (("FULL_SHARD", 2.0), ("HYBRID_2GPUs", 3.0)):
        made(name, "simulate", {"peak_memory_gib": peak}, strategy=name, metrics=())
    it = found("HYBRID_2GPUs", "FULL_SHARD")
    assert order(it.sections[0]) == [["FULL_SHARD"], ["HYBRID_2GPUs"]]
    assert "peak memory of one rank, simulated, strategy FULL_SHARD is best of 2: 2 GiB (one run, no interval)" in (
        repr(compare.answer(it))
    )
    assert isinstance(compare_curves.drawn(it), Figure)


def test_a_notebook_is_refused_as_early_as_the_command(made, capsys):
    made("a", summary=held(0.8))
    assert cli.main(["run", "10", "-p", "runs", "a,nothing"]) == 2
    assert capsys.readouterr().err == (
        "10_compare.ipynb: runs: there is no run 'nothing'; geofm status lists the runs\n"
    )


def test_probes_of_the_papers_protocol(made):
    pretrained = {"top1_pretrained_mean": 60.0, "top1_pretrained_interval": 1.0, "top1_random_mean": 40.0}
    made("a", "probe", {"test_images": 9, **pretrained})
    made("b", "probe", {"test_images": 9, "top1_random_mean": 41.0, "top1_random_interval": 2.0}, encoder="random")
    table = rows(compare.ranking(found("b", "a")))
    assert [(row["top-1, the paper's protocol"], row["interval"]) for row in table] == [
        ("60.0 %", "59.0 to 61.0"), ("41.0 %", "39.0 to 43.0")]  # fmt: skip


def test_settings_of_older_runs_have_their_defaults(made):
    made("old", summary=held(0.8), epochs=3)
    made("new", summary=held(0.9), **PretrainSettings(epochs=3).asked())
    it = found("old", "new")
    assert it.differing == {}
    assert len(it.sections[0].groups) == 1
    assert compared.kinds(it.members) == ["pretrain"]
