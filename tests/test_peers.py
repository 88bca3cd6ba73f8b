"""11_peers: other libraries with our weights, ratios of paired rounds, a library that is absent, the recorded CSV."""

import csv
import json
from multiprocessing import Pipe

import numpy as np
import pytest
import torch

from geofm_lib.catalog.peers import CONFIGS, FAST, MASK_RATIO, OFF, OURS, PEERS, STAGES, ours
from geofm_lib.figures import peers as shown
from geofm_lib.jobs import peers as job
from geofm_lib.jobs.peers_process import Asked, Process, serve
from geofm_lib.model import mae
from geofm_lib.model.interop import peers
from geofm_lib.paper import studies
from geofm_lib.report import execute
from geofm_lib.runs import results
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PeersSettings, SettingsError

COLUMNS = ["config", "precision", "implementation", "images_per_s", "ratio_to_best_peer", "low", "high",
           "peak_memory_gib"]  # fmt: skip
SECONDS = {"transformers": [2.2, 2.4, 2.3], "lightly": [2.0, 4.0, 2.0], OURS: [1.0, 2.0, 1.25]}


@pytest.mark.parametrize("package", PEERS)
def test_a_library_with_our_weights_has_our_loss_and_gradients(package):
    pytest.importorskip(package)
    config = CONFIGS["tiny"]
    mine = mae.build(config.model, seed=3, device="cpu", mask_ratio=MASK_RATIO, **config.sizes)
    theirs = peers.build(package, config, seed=3)
    torch.manual_seed(0)
    images, noise = torch.randn(2, 3, config.image_size, config.image_size), torch.rand(2, config.patches)
    losses = [model(images, noise) for model in (mine, theirs)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in m.parameters() if p.grad is not None])
             for m in (mine, theirs)]  # fmt: skip
    assert norms[1].item() == pytest.approx(norms[0].item(), rel=1e-4)
    trained = [sum(p.numel() for p in m.parameters() if p.grad is not None) for m in (mine, theirs)]
    assert trained[0] == trained[1], "the same weights are trained"


def test_ratios_are_of_median_steps_and_their_interval_of_paired_rounds():
    best, slow, own = (row for row in job.compared({n: SECONDS[n] for n in ("lightly", "transformers", OURS)}, "tiny",
                                                   0.5, ["transformers", "lightly"]))  # fmt: skip
    batch = CONFIGS["tiny"].batch
    assert own["images_per_s"] == batch / 1.25
    assert own["ratio_to_best_peer"] == 2.0 / 1.25
    assert [best[name] for name in job.RATIO] == [1.0, 1.0, 1.0]
    assert slow["ratio_to_best_peer"] == pytest.approx(2.0 / 2.3)
    assert own["low"] <= own["ratio_to_best_peer"] <= own["high"]
    assert own["high"] == pytest.approx(2.0), "round by round ours took 1/2, 1/2 and 1/1.6 of lightly's time"
    assert own["mfu_of_measured_peak"] == pytest.approx(own["model_tflops"] / 0.5)


def test_a_recipe_with_a_smaller_decoder_is_measured_by_its_own_operations():
    own, fast = job.compared({OURS: [1.0, 1.0], FAST: [1.0, 1.0]}, "base", 0.5, [])
    assert own["images_per_s"] == fast["images_per_s"]
    assert 0.4 < fast["model_tflops"] / own["model_tflops"] < 0.7, "7 of 8 blocks of the decoder are left out"
    job.must_be_equal({FAST: 0.5, OURS: 1.0}, "tiny")


def test_without_another_library_nothing_is_compared():
    (own,) = job.compared({OURS: [1.0, 2.0, 3.0]}, "tiny", 0.5, [])
    assert own["images_per_s"] == CONFIGS["tiny"].batch / 2
    assert [own[name] for name in job.RATIO] == [None, None, None]


def test_a_library_that_trains_something_else_stops_the_run():
    job.must_be_equal({"lightly": 1.00009, OURS: 1.0}, "tiny")
    for other in (1.00011, float("nan")):
        with pytest.raises(ValueError, match="lightly begins with a loss of .* so they do not train the same"):
            job.must_be_equal({"lightly": other, OURS: 1.0}, "tiny")


def test_ours_by_default_is_the_last_stage_and_the_recipe_beside_it():
    assert list(ours(True))[0] == job.PROFILED[0]
    assert list(ours(True))[-2:] == [OURS, FAST]
    assert ours(False) == {name: ours(True)[name] for name in (*job.PROFILED, FAST)}
    assert ours(True)[FAST] == ours(True)[OURS] | {"recipe": "fast"}
    assert not set(ours(True)) & set(PEERS)
    assert {name for stage in STAGES for name in stage.change} == set(OFF), "everything that is off is switched on"


@pytest.mark.parametrize(
    "operator, kernels, said",
    [
        ("aten::mm", ("matmul", "matmul"), "linear layers: a convolution by oneDNN was not faster"),
        ("aten::mm", ("convolution", "convolution"),
         "linear layers: computed as a convolution by oneDNN, which was faster"),
        ("aten::convolution_backward", ("convolution", "matmul"),
         "linear layers: computed as a convolution by oneDNN in the encoder, which was faster"),
        ("aten::bmm", ("matmul", "matmul"), "attention: computed as plain softmax(q k) v, which was faster"),
        ("aten::something", ("matmul", "matmul"), ""),
        ("aten::mm", (), "linear layers: torch's own kernels, unmeasured"),
    ],
)  # fmt: skip
def test_what_was_done_about_an_operator_is_what_was_chosen(operator, kernels, said):
    chosen = "encoder plain and {}, decoder plain and {}".format(*kernels) if kernels else ""
    assert shown._done(operator, chosen) == said


class Spoken(Process):
    """The other end of a process that has said what it says, and ended with this code."""

    def __init__(self, pipe, exitcode=-9):
        self.name, self.pipe, self.process, self.exitcode = "lightly", pipe, self, exitcode

    def join(self):
        pass


def test_a_process_that_fails_says_why():
    mine, theirs = Pipe()
    serve(theirs, Asked("transformers", {}, "tiny", "fp32", "no such device", 1, 0))
    with pytest.raises(ValueError, match="lightly cannot be measured here .RuntimeError: .*device.*; uninstall it"):
        Spoken(mine).ready()


def test_a_process_that_dies_is_told():
    mine, theirs = Pipe()
    theirs.close()
    with pytest.raises(ValueError, match="the process of lightly ended with code -9.*take a smaller config"):
        Spoken(mine).ready()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the smallest form: one precision, ours by default alone beside what is installed."""
    folder = tmp_path_factory.mktemp("peers") / "run"
    asked = {"configs": "tiny", "precisions": "fp32", "stages": "", "steps": 2, "warmup_steps": 1, "threads": 1}
    return launch(PeersSettings(**asked, device="cpu", run_dir=str(folder)))


def test_a_run_is_a_row_an_implementation_and_its_page_says_who_is_left_out(finished):
    rows = results.read_csv(finished.folder / "peers.csv")
    here = [name for name in PEERS if peers.installed(name)]
    assert [row["implementation"] for row in rows] == [*here, *job.PROFILED, FAST]
    assert all(0.1 < float(row["peak_memory_gib"]) < 4 for row in rows)
    rounds = results.read_csv(finished.folder / "rounds.csv")
    for row in rows:
        own = [float(each["step_s"]) for each in rounds if each["implementation"] == row["implementation"]]
        assert len(own) == 2
        assert float(row["images_per_s"]) == pytest.approx(CONFIGS["tiny"].batch / np.median(own))
    said = repr(shown.answer(finished))
    assert said.startswith(f"{OURS} makes ")
    assert ("multiples of the best peer" in said) == ("In brackets" in said)
    assert " on ViT-Atto (tiny) in fp32" in said and ". This is on " in said
    assert "2 rounds after 1 of warm-up" in said
    assert all(len(sentence.split()) <= 30 for sentence in said.split(". "))
    for name in PEERS:
        assert (f"{PEERS[name]} is not installed here and left out (pip install" in said) == (name not in here)
    assert "instruction sets were not recorded" in said and "so few give a rough interval" in said or not here
    assert f"{OURS}: " in shown.ratios(finished).alt
    assert list(shown.table(finished).frame["implementation"]) == [*here, *job.PROFILED, FAST]
    assert list(shown.losses(finished).frame["implementation"]) == [*here, *job.PROFILED], "another model's differs"
    assert ("With recipe=fast, a decoder of one block: " in said) == bool(here)
    assert shown.losses(finished).frame.iloc[:, -1].max() < job.EQUAL
    assert len(shown.profile(finished).frame) == 10
    assert list(shown.configs(finished).frame["config"]) == ["tiny"]


def test_a_page_without_any_other_library_says_so(finished, tmp_path):
    rows = [row for row in results.read_csv(finished.folder / "peers.csv") if row["implementation"] == OURS]
    alone = [row | dict.fromkeys(job.RATIO, "") for row in rows]
    with open(tmp_path / "peers.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(alone[0]))
        writer.writeheader()
        writer.writerows(alone)
    summary = finished.summary | {"left_out": list(PEERS), "versions": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = Run(tmp_path)
    assert " images/s on ViT-Atto (tiny) in fp32" in repr(shown.answer(run))
    assert repr(shown.answer(run)).endswith(f"{shown.ALONE}.")
    assert shown.ratios(run).text == shown.ALONE
    assert len(shown.table(run).frame) == 1


@pytest.mark.long  # .ci/run makes all pages anyway
def test_the_notebook_begins_with_its_answer(root, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    few = {"configs": "tiny", "precisions": "fp32", "steps": "2", "warmup_steps": "1"}
    state, error, page, _ = execute.execute(root / "notebooks" / "11_peers.ipynb", few)
    assert (state, error) == ("finished", "")
    text = page.read_text()
    assert text.index(f"{OURS} makes ") < text.index('id="in-numbers"')


def test_the_study_has_the_agreed_columns(finished, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no finished run of 11_peers"):
        studies.peers()
    monkeypatch.setenv("GEOFM_RUNS", str(finished.folder.parent))
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    with open(studies.study("peers"), newline="") as stream:
        found = list(csv.DictReader(stream))
    assert list(found[0]) == COLUMNS
    assert len(found) == len(results.read_csv(finished.folder / "peers.csv"))


def test_the_recorded_rows_have_the_agreed_columns_and_agree_with_each_other():
    rows = results.read("peers")
    assert list(rows[0]) == COLUMNS
    for config, precision in {(row["config"], row["precision"]) for row in rows}:
        cell = {row["implementation"]: row for row in rows if (row["config"], row["precision"]) == (config, precision)}
        assert {*PEERS, *job.PROFILED} <= set(cell)
        best = max(float(cell[name]["images_per_s"]) for name in PEERS)
        for row in cell.values():
            ratio = float(row["ratio_to_best_peer"])
            assert ratio == pytest.approx(float(row["images_per_s"]) / best, rel=1e-3)
            assert float(row["low"]) <= ratio <= float(row["high"])


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"configs": "bas"}, "configs: 'bas' cannot be used: there is no 'bas'; did you mean 'base'"),
        ({"configs": " , "}, "nothing is named; use one of base, small, tiny"),
        ({"precisions": "fp32,fp16"}, "precisions: .*there is no 'fp16'"),
        ({"stages": "basis"}, "stages: .*did you mean 'base'"),
        ({"ranks": 2}, "ranks: 2 cannot be used"),
        ({"steps": 1}, "steps: 1 cannot be used"),
    ],
)
def test_nonsense_gets_one_sentence(odd, said):
    with pytest.raises(SettingsError, match=said) as refused:
        PeersSettings(**odd)
    assert "\n" not in str(refused.value)


def test_the_first_loss_in_bf16_is_held_against_each_ones_own_in_fp32(finished, tmp_path):
    cells = [("fp32", OURS, 2.0), ("fp32", "lightly", 2.0), ("bf16", OURS, 2.002), ("bf16", "lightly", 2.001)]
    first = results.read_csv(finished.folder / "peers.csv")[0]
    with open(tmp_path / "peers.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(first))
        writer.writeheader()
        writer.writerows(
            first | dict(zip(("precision", "implementation", "loss"), cell, strict=True)) for cell in cells
        )
    found = shown.losses(Run(tmp_path)).frame
    assert found[shown.FROM_FP32].tolist() == pytest.approx([0, 0, 1e-3, 5e-4])
    assert shown._short("aten::_fused_adamw_") == "fused_adamw"
