"""The blind test, recomputed from its two files: predictions that are never written again, and the published rows."""

import csv
import hashlib
from statistics import median, quantiles

import pytest

from geofm_lib.catalog import published
from geofm_lib.figures import blind as shown
from geofm_lib.paper import blind, studies
from tests.support.figures import image


@pytest.fixture(scope="module")
def predictions(root):
    with open(root / "reports" / "predictions.csv", newline="") as file:
        return {(row["model"], row["strategy"], int(row["nodes"])): row for row in csv.DictReader(file)}


def test_the_predictions_are_those_of_then(root):
    """The very bytes of commit 3ce5472; no study writes them."""
    text = (root / "reports" / "predictions.csv").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "2c0596cd8ed53f4f3bd46dfaf38c91cfabb4d1d8024214eece9f3ec3d8d35f70"
    assert "predictions" not in studies.STUDIES


def test_throughput_coverage_and_errors(predictions):
    rows = [row for row in published.rows(metric="throughput") if row["model"] in ("ViT-1B", "ViT-15B")]
    pairs = [(row["value"], predictions[row["model"], row["strategy"], row["nodes"]]) for row in rows]
    off = [abs(float(own["images_per_s"]) / seen - 1) for seen, own in pairs]
    score = blind.score()
    assert len(off) == score["points"] == 79
    assert score["median"] == pytest.approx(median(off)) == pytest.approx(0.035, abs=5e-4)
    assert score["p90"] == pytest.approx(quantiles(off, n=10)[-1]) == pytest.approx(0.154, abs=5e-4)
    within = sum(float(own["low"]) <= seen <= float(own["high"]) for seen, own in pairs)
    assert within == score["inside"] == 73


def test_memory_errors(predictions):
    rows = [row for model in ("ViT-1B", "ViT-15B") for row in published.peaks(model=model) if row["nodes"]]
    memory = [(row["value"], predictions[row["model"], row["strategy"], row["nodes"]]["memory_gib"]) for row in rows]
    off = [abs(float(own) / seen - 1) for seen, own in memory]
    score = blind.score()
    assert len(off) == score["peaks"] == 24
    assert score["memory_median"] == pytest.approx(median(off)) == pytest.approx(0.022, abs=5e-4)
    assert score["bars"] == 7
    assert score["bars_median"] <= 0.02


def test_choices_and_the_three_misses():
    score = blind.score()
    assert (score["right"], score["cells"]) == (13, 16)
    assert {(row["model"], row["nodes"]): (row["chosen"], row["best"]) for row in blind.missed(blind.pairs())} == {
        ("ViT-1B", 64): ("HYBRID_2GPUs", "NO_SHARD"),
        ("ViT-1B", 128): ("HYBRID_2GPUs", "NO_SHARD"),
        ("ViT-15B", 128): ("HYBRID_8GPUs", "SHARD_GRAD_OP"),
    }


def test_the_page_s_words_figure_and_table():
    for words in ("79 throughputs with a median error of 3.5 % (90th percentile 15.4 %), 73 inside", "24 peaks",
                  "with 2.2 %", "In 13 of 16 cases", "commit 3ce5472"):  # fmt: skip
        assert words in shown.told()
    figure = shown.against_truth()
    assert image(figure)
    assert "6 of 79 points outside" in figure.alt
    assert "ViT-15B SHARD_GRAD_OP on 128 nodes 0.74" in figure.alt
    table = shown.by_strategy().frame
    assert table["points"].sum() == 79
    assert list(shown.misses().frame["nodes"]) == [64, 128, 128]
    assert "SHARD_GRAD_OP 2,196 (predicted 1,621)" in shown.misses().frame["best published"].iloc[-1]
    assert "in 45 of 48 cases" in shown.left_out().text


def test_without_the_file_nothing_is_said(monkeypatch):
    monkeypatch.setattr(blind.results, "read", lambda name: [])
    assert not blind.throughput()
    assert not blind.memory()
    assert blind.score() == {}
    assert shown.told() == ""
    assert "history" in shown.against_truth().text
