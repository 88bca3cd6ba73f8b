"""Figures of 04 and 06: the published, the predicted and the simulated, each with its key numbers in the alt text."""

import sys

import nbformat
import pandas as pd
import pytest

from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures import claims, costs, measured, plan, published, scaling
from geofm_lib.figures.display import Note
from geofm_lib.paper import studies
from geofm_lib.report import notebook_outputs
from geofm_lib.settings import ScalingSettings
from tests.support.figures import image, run_folder


@pytest.mark.parametrize("model", ["ViT-3B", "ViT-5B"])
def test_published_scaling_draws_every_strategy_in_its_own_colour(model):
    figure = published.scaling(model)
    lines = {line.get_label().split(" (")[0]: line for line in figure.figure.axes[0].lines}
    for name in set(figure.table.columns) - {"nodes"}:
        assert (lines[name].get_color(), lines[name].get_marker()) == (STRATEGIES[name].colour, STRATEGIES[name].marker)
    assert image(figure)


def test_published_figures_say_what_sets_a_line_apart():
    labels = [text.get_text() for text in published.scaling("ViT-3B").figure.legends[0].get_texts()]
    assert "DDP (fp32)" in labels
    assert "HYBRID_1GPU (not synchronised)" in labels
    assert isinstance(published.scaling("ViT-Tiny"), Note)
    for figure in (published.memory(), published.memory_by_nodes(), published.prefetch()):
        assert image(figure)


def test_table_one_is_counted_both_ways():
    counts = published.parameters().frame
    assert set(counts["as benchmark"]) == {"reproduced"}
    assert set(counts["as plain ViT"]) == {"differs"}


def test_arithmetic_figures():
    for figure in (costs.memory("ViT-3B"), costs.traffic("ViT-3B"), costs.memory_by_nodes("ViT-1B")):
        assert image(figure)
    assert "HYBRID_2GPUs" in costs.memory("ViT-15B").alt
    assert "4.5341 TFLOP" in costs.image().caption
    beside = costs.memory_by_nodes("ViT-3B").table
    assert set(beside.dropna()["stack"]) == {"fsdp1", "fsdp2"}, "published peaks, and simulated ones"


def test_predictions_beside_the_published_points():
    figure = scaling.predicted("ViT-5B")
    assert image(figure).get("width") == "518.4pt"
    assert "median error" in figure.alt
    table = figure.table
    assert table["published"].count() == 47
    assert set(table["strategy"]) == {
        "FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_2GPUs", "HYBRID_4GPUs", "HYBRID_8GPUs", "HYBRID_16GPUs"
    }  # fmt: skip
    assert (table["low"] < table["predicted"]).all()
    assert (table["predicted"] < table["high"]).all()


def test_a_model_without_published_points_is_predicted_all_the_same():
    figure = scaling.predicted("ViT-Tiny")
    assert "no published points" in figure.alt
    assert not figure.table["published"].count()


def test_efficiency_counts_from_each_first_point():
    kept = scaling.efficiency("ViT-5B").table
    assert kept["published, % of ideal"].count() == 47
    assert (kept["predicted, % of ideal"] <= 101).all()


def test_strong_scaling_keeps_the_global_batch():
    figure = scaling.strong(ScalingSettings(model="ViT-3B"))
    fitting = figure.table[figure.table["fits"]]
    assert (fitting["images per GPU"] * fitting["nodes"] == 256).all()
    assert "2,048 images" in figure.alt
    assert fitting[fitting["nodes"] == 128]["% of ideal"].max() < 50, "two images a GPU do not cover the communication"
    assert image(figure)
    assert isinstance(scaling.strong(ScalingSettings(model="ViT-15B", machine="laptop", nodes=1)), Note)


DIFFERS = (
    "For ViT-3B on 64 nodes the ranking names NO_SHARD and the plan HYBRID_8GPUs: the plan takes strategies that were "
    "not published for this model, too (then SHARD_GRAD_OP is first); is of MAE pretraining, whose images need less "
    "computing for as much communication (then HYBRID_8GPUs is first)."
)


def test_where_ranking_and_plan_differ_one_sentence_says_why():
    settings = ScalingSettings(model="ViT-3B", nodes=64)
    assert scaling.ranking(settings).alt.endswith(DIFFERS)
    assert plan.form(settings).table().caption.endswith(DIFFERS)
    assert "ranking names" not in plan.form(ScalingSettings(model="ViT-5B", nodes=128)).table().caption, "they agree"
    assert "ranking names" not in scaling.ranking(ScalingSettings(model="ViT-5B", nodes=128)).alt
    assert "ranking names" not in scaling.ranking(ScalingSettings(model="ViT-15B", machine="laptop", nodes=1)).alt


def test_every_figure_of_04_says_what_was_run_and_how_it_was_timed():
    settings = ScalingSettings(model="ViT-3B")
    paper = "the paper's benchmark (all tokens), 32 images per GPU, 30 steps with start-up"
    peak = "the paper's benchmark (all tokens), 32 images per GPU, peak of a step"
    figures = {published.scaling: paper, scaling.predicted: paper, scaling.efficiency: paper, costs.memory: peak,
               costs.memory_by_nodes: peak, costs.traffic: "the paper's benchmark (all tokens)"}  # fmt: skip
    for figure, words in figures.items():
        assert words in figure("ViT-3B").alt, figure
    assert "(MAE pretraining, steady state, start-up not counted)" in scaling.strong(settings).alt
    for shown in (scaling.ranking(), measured.prefetch(), published.prefetch()):
        assert paper in shown.alt
    assert "MAE pretraining, 32 images per GPU, steady state" in plan.form(settings).table().caption
    small = "ViT-Pico, MAE pretraining, 64 px, fp32, 20 steps after 5"
    assert small in measured.batches().alt and small in measured.scaling().caption


def test_the_best_strategy_of_every_case():
    figure = scaling.ranking()
    assert image(figure)
    assert len(figure.table) == 6 * 8
    known = figure.table.dropna(subset=["of best published"])
    assert len(known) == 48
    assert (known["of best published"] >= 0.95).sum() == 47
    assert "ViT-5B on 64 nodes: SHARD_GRAD_OP has 0.70 of HYBRID_2GPUs" in figure.alt
    assert not {"DDP", "HYBRID_1GPU"} & set(figure.table["predicted best"])
    said = repr(scaling.answer())
    assert "on 1 node no strategy wins for any of 6 models (others are within 5 %)" in said, "a tie is no win"
    assert "NO_SHARD or HYBRID_2GPUs (a tie) for ViT-Base" in said
    assert "(95 % interval " in said


def test_a_name_says_where_it_is_synchronised_or_in_another_precision():
    sent, held = costs.traffic("ViT-3B").alt, costs.memory("ViT-3B").alt
    assert "DDP (bf16) 11.2" in sent and "HYBRID_1GPU (synchronised) 11.2" in sent
    assert "DDP (fp32)" in held and "HYBRID_1GPU (not synchronised)" in held
    assert "DDP (bf16)" in set(plan.form(ScalingSettings()).table().frame["strategy"])


def test_recorded_experiments_beside_plans():
    prefetch = measured.prefetch()
    assert image(prefetch)
    planned = prefetch.table.dropna(subset=["images/s, planned"]).set_index(["strategy", "backward"])
    assert planned["images/s, planned"]["FULL_SHARD", 0] < planned["images/s, planned"]["FULL_SHARD", 1]
    assert planned["images/s, published"].count() == 6, "three strategies without prefetching and with BACKWARD_PRE"
    assert image(measured.batches())
    assert measured.three_b().frame["GiB simulated"].notna().all()
    assert set(measured.scaling().frame["strategy"]) == {"FULL_SHARD", "NO_SHARD"}
    alone = measured.base_alone()
    assert alone.frame["measured"].gt(0).all()
    for fact in ("torch", "commit"):
        assert fact in alone.caption


def test_experiments_that_were_not_run_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(studies.results, "file", lambda name: tmp_path / f"{name}.csv")
    for shown in (measured.base_alone(), measured.batches(), measured.scaling()):
        assert "make experiments" in shown._repr_html_()
    assert "not run" in measured.prefetch().alt
    assert measured.three_b().frame["GiB simulated"].isna().all()
    assert "no finished throughput run" in repr(measured.runs(str(tmp_path)))


def test_the_plan_of_a_notebook_s_settings():
    table = plan.form(ScalingSettings(model="ViT-3B", nodes=16)).table()
    assert {name.split(" (")[0] for name in table.frame["strategy"]} == set(STRATEGIES)
    assert table.frame["fits"].iloc[0]
    assert "990,848 images" in table.caption
    assert (table.frame["node-hours"] > 0).all()


def test_a_plan_that_cannot_be_is_a_sentence():
    table = plan.form(ScalingSettings(model="ViT-15B", nodes=1, batch_per_gpu=2000)).table()
    assert table.frame.empty
    assert "does not fit frontier with nodes=1" in table._repr_html_()


def test_the_form_answers_and_a_page_has_its_table():
    form = plan.form(ScalingSettings(model="ViT-3B"))
    bundle = form._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "In JupyterLab this is a form" in bundle["text/html"]
    assert form.answer.value in bundle["text/html"]
    (shown,) = notebook_outputs.outputs([nbformat.v4.new_output("display_data", bundle)])
    assert list(shown["data"]) == ["text/html"]
    assert "HYBRID_8GPUs" in shown["data"]["text/html"]
    assert "script" not in shown["data"]["text/html"]


@pytest.mark.parametrize(
    "control, value, words",
    [
        ("nodes", -2, "nodes must be a whole number"),
        ("model", "ViT-15B", "ViT-15B, MAE pretraining"),
        ("strategy", "HYBRID_16GPUs", "16 divides; 8 ranks"),
        ("machine", "laptop", "does not fit laptop"),
    ],
)
def test_a_change_of_a_control_is_answered(control, value, words):
    form = plan.form(ScalingSettings(model="ViT-3B", nodes=1))
    form.controls[control].value = value
    assert words in form.answer.value


def test_without_ipywidgets_there_is_the_table_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bundle = plan.form(ScalingSettings())._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "HYBRID_8GPUs" in bundle["text/html"]


def test_a_simulation_beside_the_arithmetic(tmp_path):
    names = ("peak_memory", "predicted_peak", "parameters", "gradients", "optimiser", "predicted_parameters",
             "predicted_gradients", "predicted_optimiser")  # fmt: skip
    kinds = ("all_gather", "reduce_scatter", "all_reduce")
    summary = {f"{name}_gib": 1.5 for name in names} | {f"{k}_bytes": 2e9 for k in kinds}
    summary |= {f"predicted_{k}_bytes": 3e9 for k in kinds} | {"simulation_s": 12.0}
    asked = {"model": "ViT-3B", "workload": "mae", "strategy": "FULL_SHARD", "gpus": 64}
    table = plan.simulated(run_folder(tmp_path, asked, summary))
    assert list(table.frame["simulated"]) == [1.5] * 4 + [2e9 / 2**30] * 3
    assert list(table.frame["arithmetic"])[-1] == 3e9 / 2**30
    assert not table.frame["of one rank"].str.contains("GB").any()
    for fact in ("FULL_SHARD on 64 GPUs", "12 s"):
        assert fact in table.caption


def test_predictions_that_have_not_seen_the_model_are_drawn():
    figure = claims.unseen_models()
    assert image(figure)
    assert len(figure.table) == 246
    assert "median error" in figure.alt


def test_precision_alone_gives_the_published_lead_and_the_assumption_is_said():
    table = claims.precision_predicted()
    assert list(table.frame["model"]) == ["ViT-Base", "ViT-Huge", "ViT-1B", "ViT-3B"]
    assert (table.frame["predicted unseen"] > 1.1).all()
    assert "NO_SHARD bf16 / DDP bf16" not in table.frame, "it is 1 by assumption"
    assert "that is an assumption, and not a result" in table.caption


def test_peaks_that_a_setting_moves_are_not_to_be_compared():
    table = pd.DataFrame({"strategy": ["DDP", "FULL_SHARD"], "compare": [False, True], "profile_steps": [20, 20]})
    assert measured._peaks(table) == ". Peaks depend on compare too, which differ, so compare speeds alone"
    assert measured._peaks(table.iloc[:1]) == ""
