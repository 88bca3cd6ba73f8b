"""`geofm calibrate SOURCES`: a machine's row from a few runs or published speeds, what it predicts, and bad input."""

import csv
import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from timm.layers import set_fused_attn

from geofm_lib.catalog import machines, speeds
from geofm_lib.catalog.metrics import number
from geofm_lib.catalog.models import MODELS, lookup, of_network
from geofm_lib.cli import main
from geofm_lib.model import described
from geofm_lib.paper import elsewhere
from geofm_lib.planning import fitted_to, machine_fit, points
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.planner import plan, predict
from geofm_lib.runs import architecture, calibration, grid, measured
from geofm_lib.runs.results import file as report
from tests.support.figures import run_folder

TRUE = {"share_fp32": 0.6, "link_share": 0.05, "activation_share": 0.5}  # of the machine that the runs below come from


@pytest.fixture(autouse=True)
def own_machines(tmp_path, monkeypatch):
    """Rows are written into a folder of the test; networks are read in this process, which has torch anyway."""
    monkeypatch.setenv("GEOFM_MACHINES", str(tmp_path / "machines"))

    monkeypatch.setattr(architecture, "described", lambda names, size=0: {name: network(name, size) for name in names})


@functools.cache
def network(name, size):
    """The row of a name, or why there is none."""
    set_fused_attn(False)
    try:
        return MODELS.get(name) or of_network(name, described.facts(name, size))
    except ValueError as error:
        return str(error)
    finally:
        set_fused_attn(True)


def cpu():
    """Two cores as two ranks, as a run of notebook 03 would tell."""
    row = machines.lookup("laptop")
    return replace(row, name="cores", peak_fp32_tflops=0.05, devices_per_node=2, shared=True, memory_gb_s=8.0,
                   links_gb_s={2: 16.0}, measured=("peak_fp32_tflops",))  # fmt: skip


def speeds_of(true):
    rows = [row for row in measured.before(cpu(), "laptop") if row["name"] not in true]
    own = [{"name": name, "at": 1.0 if name[:5] == "share" else None, "value": value} for name, value in true.items()]
    return [*rows, *(row | {"spread": 0.0, "kind": "fitted"} for row in own)]


RUNS = [  # model, strategy, ranks, batch
    ("ViT-Pico", "NO_SHARD", 1, 32), ("ViT-Nano", "NO_SHARD", 1, 16), ("ViT-Pico", "FULL_SHARD", 2, 32),
    ("ViT-Nano", "NO_SHARD", 2, 16), ("ViT-Femto", "SHARD_GRAD_OP", 2, 64),
]  # fmt: skip
OTHERS = [("ViT-Femto", "NO_SHARD", 1, 32), ("ViT-Nano", "FULL_SHARD", 2, 32), ("ViT-Tiny", "NO_SHARD", 2, 8)]


def point_of(model, strategy, ranks, batch, speed=1.0):
    how = Conditions(precision="fp32", activation_checkpointing=False)
    return points.Point(f"{model} {ranks}", lookup(model), strategy, 1, ranks, batch, speed, how, {"image_size": 64})


def true_speed(*asked, true=TRUE):
    """What a run of a machine with the speeds ``true`` measures."""
    fit = machine_fit.Fit(cpu(), speeds_of(true) + [{"name": "run", "at": None, "value": 0.0, "spread": 0.0}], (), 0)
    return fit.predicted(point_of(*asked))["images_per_s"]


def test_five_runs_fit_three_numbers_and_predict_others():
    """The numbers behind made-up runs come back, and runs that were not fitted follow within 3 %."""
    five = [point_of(*each, true_speed(*each)) for each in RUNS]
    assert machine_fit.told_by(five) == ["share_fp32", "link_share", "activation_share"]
    fit = machine_fit.fit(five, cpu(), measured.before(cpu(), "laptop"))
    found = speeds.of(fit.rows)
    assert fit.told.startswith("5 points fit 3 numbers: share_fp32 0.59")
    for name, value in TRUE.items():
        own = found.curve[name][0][1] if name in found.curve else found.value[name]
        assert own == pytest.approx(value, rel=0.15), name
    for each in OTHERS:
        assert fit.predicted(point_of(*each))["images_per_s"] == pytest.approx(true_speed(*each), rel=0.03)


def test_fewer_points_tell_fewer_numbers_and_less_of_a_run():
    five = [point_of(*each, true_speed(*each)) for each in RUNS]
    before = measured.before(cpu(), "laptop")
    assert machine_fit.told_by(five[:1]) == ["share_fp32"]
    assert machine_fit.told_by(five[:2] + five[:1]) == ["share_fp32", "activation_share"]
    more = [replace(each, images_per_s=1.001 * each.images_per_s) for each in five]
    runs = {len(some): speeds.of(machine_fit.fit(some, cpu(), before, ["share_fp32"]).rows).value["run"]
            for some in (five[:2], [*five, *more])}  # fmt: skip
    assert runs[2] > runs[10], "Student's t: a few points tell little"
    with pytest.raises(ValueError, match="2 points cannot fit 3 numbers"):
        machine_fit.fit(five[:2], cpu(), before, list(TRUE))
    with pytest.raises(ValueError, match="at least two"):
        machine_fit.fit(five[:1], cpu(), before)
    with pytest.raises(ValueError, match="'speed' cannot be fitted"):
        machine_fit.fit(five, cpu(), before, ["speed"])


def width(fit, point):
    """Log of the upper end of an interval over its middle."""
    said = fit.predicted(point)
    return math.log(said["high"] / said["images_per_s"])


def gpu_fit(*rows, names=()):
    """A fit to rows (model, images/s, precision) of one A100."""
    machine = machines.lookup("8xA100")
    found = [points.Point(f"row {i}", lookup(model), "NO_SHARD", 1, 1, 32, speed, Conditions("classify", precision))
             for i, (model, speed, precision) in enumerate(rows)]  # fmt: skip
    return machine_fit.fit(found, machine, measured.before(machine, "8xA100"), names), found


def test_an_interval_follows_what_the_points_say():
    """Three that agree give a narrow one, two that miss a wide one, a precision that was not measured a wider one."""
    agreed, found = gpu_fit(("ViT-Base", 400, "bf16"), ("ViT-Huge", 60, "bf16"), ("ViT-Large", 140, "bf16"))
    assert all(width(agreed, each) < math.log(1.25) for each in found)
    unmeasured = replace(found[0], how=replace(found[0].how, precision="fp32"))
    assert width(agreed, unmeasured) > width(agreed, found[0]) + math.log(1.5)
    missed, found = gpu_fit(("ViT-Base", 400, "bf16"), ("ViT-Huge", 120, "bf16"), names=["share_bf16"])
    off = max(abs(math.log(missed.predicted(each)["images_per_s"] / each.images_per_s)) for each in found)
    assert off > 0.2
    assert all(width(missed, each) > off for each in found)


def test_assuming_a_number_is_never_surer_than_fitting_it():
    """But for a few per cent: what an error moves is not the same beside other values."""
    five = [point_of(*each, true_speed(*each)) for each in RUNS]
    before = measured.before(cpu(), "laptop")
    full = machine_fit.fit(five, cpu(), before)
    for names in (["share_fp32"], ["share_fp32", "activation_share"], ["share_fp32", "link_share"]):
        part = machine_fit.fit(five, cpu(), before, names)
        for each in [*five, *(point_of(*other) for other in OTHERS)]:
            assert width(part, each) > 0.94 * width(full, each), (names, each.where)


def test_nine_of_ten_runs_lie_in_their_intervals():
    """Of ten made-up machines with a scatter of a tenth, as on a CPU: a fit to five runs, three others."""
    drawn, inside = np.random.default_rng(0), []
    for _ in range(10):
        true = {name: value * math.exp(drawn.normal(0, 0.4)) for name, value in TRUE.items()}
        speed = {each: true_speed(*each, true=true) * math.exp(drawn.normal(0, 0.1)) for each in (*RUNS, *OTHERS)}
        fit = machine_fit.fit([point_of(*each, speed[each]) for each in RUNS], cpu(), measured.before(cpu(), "laptop"))
        said = [(fit.predicted(point_of(*each)), speed[each]) for each in OTHERS]
        inside += [each["low"] <= seen <= each["high"] for each, seen in said]
    assert 26 <= sum(inside) <= 30


def test_a100_fitted_on_two_node_counts_predicts_the_others():
    """NVIDIA's ViT-g/14: 4, 8 and 16 nodes within 5 %, all inside their intervals."""
    read = measured.read([str(elsewhere.POINTS)])
    found, machine = read.points, read.machine
    fit = machine_fit.fit([each for each in found if each.nodes < 3], machine, measured.before(machine, "8xA100"))
    assert fit.fitted == ("share_bf16", "group_share")
    for each in found:
        said = fit.predicted(each)
        assert said["images_per_s"] == pytest.approx(each.images_per_s, rel=0.05)
        assert said["low"] < each.images_per_s < said["high"]


def test_predictions_for_h100_are_those_of_the_command():
    """Between what memory and what the peak would give over the A100; intervals are told anew within 1 %."""
    with open(report("predictions_h100"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["nodes", "images_per_s", "low", "high"]
    assert [int(row["nodes"]) for row in rows] == [1, 2, 4, 8, 16]
    again = elsewhere.predictions_h100()
    for row, made in zip(rows, again, strict=True):
        assert {name: int(value) for name, value in row.items()} == pytest.approx(made, rel=0.01)
        assert made["images_per_s"] == int(row["images_per_s"])
        assert made["low"] < made["images_per_s"] < made["high"]
    first = again[0]["images_per_s"]
    assert 3350 / 2039 < first / 693 < 989.4 / 312


def test_timms_columns_are_read_and_its_other_networks_left_out(tmp_path, capsys):
    """A table made by a known machine, in timm's columns: two ViTs are fitted, the others predicted within 3 %."""
    gpu = machines.lookup("rtx3090")
    true = machine_fit.Fit(gpu, [
        *(row for row in measured.before(gpu, "8xA100") if row["name"] not in ("share_bf16", "activation_share")),
        {"name": "share_bf16", "at": 1.0, "value": 0.7, "spread": 0.0},
        {"name": "activation_share", "at": None, "value": 0.8, "spread": 0.0},
    ], (), 0)  # fmt: skip
    names = ["vit_tiny_patch16_224", "vit_base_patch16_224", "deit3_small_patch16_224", "vit_base_patch32_224"]
    file, lines = tmp_path / "benchmark-train.csv", ["model,train_samples_per_sec,train_batch_size,train_img_size"]
    for name, row in architecture.described(names, 224).items():
        how = Conditions("classify", "bf16", False, fused_attention=False)
        speed = true.predicted(points.Point(name, row, "NO_SHARD", 1, 1, 256, 1.0, how))["images_per_s"]
        lines.append(f"{name},{speed:.2f},256,224")
    file.write_text("\n".join([*lines, "resnet50,400.0,256,224"]) + "\n")
    words = [str(file), "--like", "rtx3090", "-p", "fused_attention", "no", "--name", "card"]
    assert main(["calibrate", *words, "--on", f"model={names[0]},{names[1]}"]) == 0
    said = capsys.readouterr().out
    assert "2 points fit 2 numbers: share_bf16 0.7" in said
    assert "predicted 2 points: median error" in said
    assert float(said.split("predicted 2 points: median error ")[1].split(" %")[0]) < 3
    assert "1 row was left out, the first: row 6 of benchmark-train.csv: 'resnet50'" in said
    assert predict("ViT-Base", "NO_SHARD", "card", 1, 64)["images_per_s"] > 0


def a_run(folder, asked=("ViT-Pico", "NO_SHARD", 1, 32), **changed):
    """A finished run of notebook 03 of the made-up machine."""
    model, strategy, ranks, batch = asked
    folder.mkdir(parents=True)
    settings = {
        "model": model, "strategy": strategy, "batch_per_gpu": batch, "image_size": 64, "patch_size": 0,
        "workload": "mae", "precision": "fp32", "activation_checkpointing": False, "input": "synthetic",
        "communication": "on", "reduce_dtype": "bf16", "backward_prefetch": 1,
    }  # fmt: skip
    summary = {"ranks": ranks, "images_per_s": true_speed(*asked), "matmul_tflops": 0.1 / ranks, "synchronised": True}
    where = {"device": "a CPU", "device_type": "cpu", "cores": 2, "nodes": ["here"]}
    run_folder(folder, settings | changed.get("settings", {}), summary | changed.get("summary", {}),
               job=changed.get("job", "throughput"))  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(where | changed.get("where", {})))
    return str(folder)


def test_runs_give_a_row_that_a_plan_takes_and_tells_of(tmp_path, capsys):
    folders = [a_run(tmp_path / f"run{i}", asked) for i, asked in enumerate([*RUNS, *OTHERS])]
    assert main(["calibrate", *folders, "--on", "name=run[0-4]", "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert "5 points fit 3 numbers" in said
    assert "predicted 3 points: median error" in said
    assert "3 of 3 inside their interval" in said
    assert machines.lookup("mine").measured == ("peak_fp32_tflops",)
    assert "mine" in machines.known()
    rows = plan("ViT-Pico", "mine", 1, 32, precision="fp32", activation_checkpointing=False, image_size=64,
                ranks_per_node=1)  # fmt: skip
    assert rows[0]["images_per_s"] == pytest.approx(true_speed(*RUNS[0]), rel=0.03)
    (line,) = (line for line in said.splitlines() if line.startswith("run0 "))
    low, high = (number(rows[0][end], calibration.DIGITS) for end in ("low", "high"))
    assert f"({low} to {high})" in line, "a plan has the intervals of the fit"
    assert "geofm plan MODEL --machine mine --nodes N --precision fp32 --no-checkpointing" in said
    assert "Assumed" not in said, "settings.json says all"
    assert "Delete that file to remove the row" in said
    alike = Conditions(precision="fp32", activation_checkpointing=False)
    assert fitted_to.differing("mine", alike, 1) == ""
    assert fitted_to.differing("mine", Conditions("classify", "fp32"), 2).endswith(
        "workload classify (fitted: workload mae), activations computed again (fitted: activations kept), "
        "2 nodes (fitted: 1 at most, so the network is assumed)."
    )
    assert fitted_to.differing("frontier", Conditions(), 4).endswith("workload mae (fitted: workload classify).")
    assert fitted_to.differing("rtx3090", Conditions(), 1) == "", "nothing is fitted there"
    assert main(["calibrate", *folders, "--name", "mine"]) == 2
    assert "There is a row 'mine' already" in capsys.readouterr().err
    assert main(["calibrate", *folders, "--on", "name=run[0-4]", "--name", "again", "--like", "mine"]) == 0
    mine, again = machines.lookup("mine"), machines.lookup("again")
    assert (again.memory_gb_s, again.memory_gib, again.links_gb_s) == (
        mine.memory_gb_s,
        mine.memory_gib,
        mine.links_gb_s,
    )
    told = speeds.told("mine")
    assert "measured peak_fp32_tflops; fitted share_fp32" in told
    assert "stated peak_bf16_tflops" in told
    assert "assumed" in told


BAD_RUNS = {
    "a run of another job": ({"job": "pretrain"}, "is no run of notebook 03 but of pretrain"),
    "a failed run": ({"summary": {"status": "failed"}}, "has not finished (failed)"),
    "another machine": ({"where": {"cores": 64}}, "unlike machines: cores 2 and 64"),
    "another device": ({"where": {"device": "an H100", "device_type": "cuda"}}, "unlike machines: device a CPU"),
    "real images": ({"settings": {"input": "real"}}, "has input=real"),
    "no environment": ({"where": {"cores": None}}, "does not say its cores (environment.json)"),
    "no peak": ({"summary": {"matmul_tflops": None}}, "does not say its matmul_tflops (summary.json)"),
    "no speed": ({"summary": {"images_per_s": 0.0}}, "made 0.0 images/s"),
    "nothing sent": ({"settings": {"communication": "off"}}, "has communication=off"),
}


@pytest.mark.parametrize("change, said", BAD_RUNS.values(), ids=BAD_RUNS)
def test_runs_that_cannot_be_fitted_get_a_sentence(tmp_path, capsys, change, said):
    good, bad = a_run(tmp_path / "good"), a_run(tmp_path / "bad", **change)
    assert main(["calibrate", good, bad]) == 2
    heard = capsys.readouterr().err
    assert said in heard
    assert heard.count("\n") == 1
    assert main(["calibrate", good]) == 2
    assert "give at least two" in capsys.readouterr().err


BAD_WORDS = {
    "the row of a GPU": (["--like", "8xA100"], "--like 8xA100: these runs are of a CPU (a CPU)"),
    "what runs say": (["-p", "nodes", "4"], "-p nodes: runs say how they were run"),
}


@pytest.mark.parametrize("words, said", BAD_WORDS.values(), ids=BAD_WORDS)
def test_what_runs_already_say_is_not_ignored(tmp_path, capsys, words, said):
    folders = [a_run(tmp_path / f"run{i}", asked) for i, asked in enumerate(RUNS[:2])]
    assert main(["calibrate", *folders, *words]) == 2
    heard = capsys.readouterr().err
    assert said in heard
    assert heard.count("\n") == 1


def test_a_grid_names_its_runs(tmp_path, monkeypatch, capsys):
    """The rows' names choose what is fitted; a row that has not run is told."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    rows = [("fit_1", *RUNS[0]), ("fit_2", *RUNS[1]), ("held_1", *OTHERS[0])]
    lines = [f"{name},03_throughput,{model},{strategy},64,{batch},1,{ranks},0:10:00"
             for name, model, strategy, ranks, batch in rows]  # fmt: skip
    file = tmp_path / "grid.csv"
    head = "name,notebook,model,strategy,image_size,batch_per_gpu,nodes,tasks_per_node,walltime"
    file.write_text("\n".join([head, *lines]) + "\n")
    assert main(["calibrate", str(file)]) == 2
    assert "grid.csv: 3 rows of 3 have not run (fit_1, fit_2, held_1); geofm submit" in capsys.readouterr().err
    for row, (_, *asked) in zip(grid.read(file)[0], rows, strict=True):
        a_run(row.folder, tuple(asked))
    assert main(["calibrate", str(file), "--on", "name=fit_*"]) == 0
    said = capsys.readouterr().out
    assert "2 points fit 2 numbers" in said
    assert "predicted 1 point: " in said
    assert "as many numbers as points, so the errors are no test" in said


HEAD = "model,images_per_s,batch_per_gpu"
TWO = "ViT-Base,400,32\nViT-Huge,60,32\n"
BAD_TABLES = {
    "a bandwidth exceeded": (
        f"{HEAD},image_size\nViT-Base,780,32,224\nViT-Base,12000,32,64\n", [],
        "times what 8xA100 can do (link_share, achieved share of the links inside a node)",
    ),
    "speeds of inference": ("model,infer_samples_per_sec,infer_batch_size\nViT-Base,400,32\n", [],
                            "has speeds of inference (infer_samples_per_sec); a fit needs those of training"),
    "a given value in words": (f"{HEAD}\n{TWO}", ["-p", "nodes", "two"], "nodes must be a whole number"),
    "ranks of a node": (f"{HEAD}\n{TWO}", ["-p", "ranks_per_node", "8"], "did you mean 'ranks'?"),
    "no throughput": ("model,batch_per_gpu\nViT-Base,32\n", [], "has no column images_per_s"),
    "nothing": ("", [], "is empty; its first line names the columns"),
    "remarks alone": ("# later\n\n", [], "is empty; its first line names the columns"),
    "semicolons": (f"{HEAD}\n{TWO}".replace(",", ";"), [], "has semicolons between its columns"),
    "a column misspelt": (f"{HEAD},strategey\nViT-Base,400,32,DDP\n", [], "did you mean strategy"),
    "a batch of whom": ("model,images_per_s,batch_size\nViT-Base,400,32\n", [], "did you mean batch_per_gpu"),
    "a column twice": (f"{HEAD},gpus,ranks\nViT-Base,400,32,1,2\n", [], "has two columns of ranks (gpus, ranks)"),
    "a cell too few": (f"{HEAD}\nViT-Base,400\n", [], "row 2 of table.csv has 2 cells and the header 3"),
    "a decimal comma": (f"{HEAD}\nViT-Base,400,5,32\n", [], "row 2 of table.csv has 4 cells and the header 3"),
    "no text": ("\0", [], "is no table of points: it is no text in UTF-8"),
    "a given value that a row denies": (f"{HEAD},nodes\nViT-Base,400,32,1\n", ["-p", "nodes", "4"], "says nodes 1"),
    "a given value twice": (f"{HEAD}\n{TWO}", ["-p", "ranks", "1", "-p", "gpus", "2"], "-p gives ranks twice"),
    "a given name misspelt": (f"{HEAD}\n{TWO}", ["-p", "strategie", "DDP"], "did you mean 'strategy'?"),
    "a value that no row has": (f"{HEAD}\n{TWO}", ["--on", "nodes=7"], "no point has nodes=7; there are 1."),
    "one of two is no ViT": (f"{HEAD}\nresnet50,400,32\nViT-Base,400,32\n", [], "1 row was left out, the first: row 2"),
    "a header alone": (HEAD + "\n", [], "has no row below its header"),
    "zero": (f"{HEAD}\nViT-Base,0,32\n", [], "row 2 of table.csv: images_per_s must be above 0"),
    "no number": (f"{HEAD}\nViT-Base,fast,32\n", [], "images_per_s must be a number; 'fast' is none"),
    "not a number": (f"{HEAD}\nViT-Base,nan,32\n", [], "images_per_s must be above 0; nan was given"),
    "half an image": (f"{HEAD}\nViT-Base,400,0.5\n", [], "batch_per_gpu must be a whole number"),
    "no model": (f"{HEAD}\n,400,32\n", [], "row 2 of table.csv: model is empty"),
    "one point": (f"{HEAD}\nViT-Base,400,32\n", [], "1 point tells nothing"),
    "more than the peak": (f"{HEAD}\nViT-Base,400000,32\nViT-Base,410000,32\n", [], "images/s cannot be"),
    "a unit a thousand times too large": (f"{HEAD}\nViT-Base,0.4,32\nViT-Base,0.41,32\n", [], "look at the unit of"),
    "one point twice": (f"{HEAD}\n{TWO}ViT-Base,400,32\nViT-Base,400,32\n", [], "once more"),
    "a number named twice": (f"{HEAD}\n{TWO}", ["--fit", "share_bf16,share_bf16"], "is named twice"),
    "an odd precision": (f"{HEAD},precision\nViT-Base,400,32,int8\n", [], "There is no precision 'int8'"),
    "an odd strategy": (f"{HEAD},strategy\nViT-Base,400,32,ZERO9\n", [], "row 2 of table.csv: "),
    "too many ranks": (f"{HEAD},ranks\nViT-Base,400,32,9\n", [], "9 ranks do not fit 1 node of 8 devices"),
    "yes or no": (f"{HEAD},fused_attention\nViT-Base,400,32,maybe\n", [], "must be yes or no; 'maybe'"),
    "two machines": (f"machine,{HEAD}\n8xA100,ViT-Base,4,32\n8xH100,ViT-Base,9,32\n", [], "is of the machine 8xH100"),
    "more numbers": (f"{HEAD}\n{TWO}", ["--fit", "share_bf16,link_share,group_share"], "2 points cannot fit 3 numbers"),
    "an unknown column": (f"{HEAD}\n{TWO}", ["--on", "colour=red"], "no point has a column colour"),
    "no value": (f"{HEAD}\n{TWO}", ["--on", "nodes"], "--on takes COLUMN=VALUE"),
    "a given column": (f"{HEAD}\n{TWO}", ["-p", "colour", "red"], "has no column colour"),
    "a taken name": (f"{HEAD}\n{TWO}", ["--name", "frontier"], "'frontier' is a row of the catalog"),
    "a path for a name": (f"{HEAD}\n{TWO}", ["--name", "../x"], "A machine's name has letters"),
}  # fmt: skip


@pytest.mark.parametrize("text, words, said", BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables_that_cannot_be_fitted_get_a_sentence(tmp_path, capsys, text, words, said):
    file = tmp_path / "table.csv"
    file.write_text(text)
    assert main(["calibrate", str(file), "--like", "8xA100", *words]) == 2
    heard = capsys.readouterr().err
    assert said in heard
    assert heard.count("\n") == 1
    assert not (tmp_path / "machines").exists()


def test_a_share_above_one_is_told_and_far_above_refused():
    gpu = machines.lookup("rtx3090")

    def rows(value):
        return [machine_fit._row("activation_share", value, 0.1, "fitted", "") | {"at": None}]

    said = machine_fit.Fit(gpu, rows(1.5), ("activation_share",), 3).told
    assert "activation_share 1.5 is above 1, more than rtx3090 can do (achieved share of the memory's" in said
    assert "above 1" not in machine_fit.Fit(gpu, rows(0.9), ("activation_share",), 3).told
    machine_fit._refuse_nonsense(rows(1.5), gpu)
    with pytest.raises(
        ValueError, match=r"5\.2 times what rtx3090 can do \(activation_share, achieved share of the mem"
    ):
        machine_fit._refuse_nonsense(rows(5.16), gpu)


def test_bad_values_are_refused_before_networks_are_built(tmp_path, capsys, monkeypatch):
    file = tmp_path / "train.csv"
    file.write_text("model,train_samples_per_sec,train_batch_size\nvit_a,9,8\nvit_b,9,8\nvit_c,9,8\n")
    monkeypatch.setattr(architecture, "described", lambda names, size: dict.fromkeys(names, "is none."))
    words = ["calibrate", str(file), "--like", "8xA100"]
    assert main([*words, "-p", "activation_checkpointing", "maybe"]) == 2
    heard = capsys.readouterr().err
    assert "must be yes or no; 'maybe'" in heard
    assert "Building" not in heard
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("Building 3 networks for their shapes")


def test_a_table_needs_a_machine_and_a_source_must_be_there(tmp_path, capsys):
    (tmp_path / "table.csv").write_text(f"{HEAD}\n{TWO}")
    assert main(["calibrate", str(tmp_path / "table.csv")]) == 2
    assert "name the nearest row by --like" in capsys.readouterr().err
    assert main(["calibrate", "--name", "mine"]) == 2
    assert "There is nothing to fit" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path / "none.csv")]) == 2
    assert "There is no run folder, grid or table" in capsys.readouterr().err
    assert main(["calibrate", "$GEOFM_NOWHERE/a.csv"]) == 2
    assert "'$GEOFM_NOWHERE/a.csv' (GEOFM_NOWHERE is not set)" in capsys.readouterr().err


def test_what_is_assumed_of_a_table_is_told(tmp_path, capsys):
    file = tmp_path / "table.csv"
    file.write_text(f"{HEAD},strategy,note\nViT-Base,400,32,DDP,a\nViT-Huge,60,32,,b\n")
    assert main(["calibrate", str(file), "--like", "8xA100", "-p", "ranks", "8", "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "Assumed, since no column says it (-p COLUMN VALUE does): nodes 1, strategy NO_SHARD (1 of 2"
    )
    assert "activation_checkpointing no" in said
    assert "ranks" not in said.splitlines()[0]
    assert "Not read: note." in said
    assert "geofm plan MODEL --machine mine --nodes N --workload classify --no-checkpointing" in said
    assert "-p ranks 8" in (tmp_path / "machines" / "mine.toml").read_text(), "how it was made"


def test_a_broken_row_is_a_sentence(tmp_path):
    folder = tmp_path / "machines"
    folder.mkdir()
    (folder / "bad.toml").write_text("[machine\n")
    (folder / "other.toml").write_text('speeds = []\n[machine]\ncolour = "red"\n')
    (folder / "third.toml").write_text(
        '[machine]\n[[speeds]]\nname = "run"\nvalue = "fast"\nspread = 0\nkind = "fitted"\n'
    )
    (folder / "fourth.toml").write_text('[machine]\n[[speeds]]\nname = "run"\n')
    for name in ("bad", "other", "third", "fourth"):
        with pytest.raises(ValueError, match=f"{name}.toml is no machine's row"):
            machines.lookup(name)
