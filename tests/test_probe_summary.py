"""jobs/probe_summary.py: intervals against tables of Student's t, and what the sentence says."""

import math

import numpy as np
import pytest

from geofm_lib.jobs.probe_summary import accuracies, interval, support, verdict


def test_the_interval_is_students():
    assert interval([1.0]) is None
    assert interval([1.0, 10.0]) is None, "12.7 standard errors of two values say nothing"
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3))
    spread = list(range(31))
    assert interval(spread) == pytest.approx(2.042272 * np.std(spread, ddof=1) / math.sqrt(31))


def test_accuracies_are_means_over_seeds_of_each_kind():
    rows = [{"features": "random", "top1": top1, "top5": 90.0} for top1 in (40.0, 44.0)]
    found = accuracies(rows, {"random": [30.0, 31.0]})
    assert found["top1_random_mean"] == 42.0
    assert found["top5_random_interval"] is None
    assert found["top1_random_values"] == [40.0, 44.0]
    assert found["knn_random"] == 30.5
    assert not [name for name in found if "pretrained" in name]


def test_the_verdict_says_when_a_difference_is_within_the_interval():
    found = {"classes": 4, "chance": 25.0, "top1_pretrained_mean": 60.0, "top1_pretrained_interval": 3.0,
             "top1_random_mean": 57.0, "top1_random_interval": 4.0, "histograms_top1": 70.0,
             "histograms_interval": 4.0}  # fmt: skip
    random, histograms = verdict(found).split("; ")[1:]
    assert "3.0 points (± 5.0) above" in random
    assert "no clear difference" in random
    assert "10.0 points (± 5.0) below" in histograms
    assert "no clear difference" not in histograms


def test_two_seeds_are_told_and_are_no_interval():
    found = {"classes": 4, "chance": 25.0, "top1_pretrained_mean": 60.0, "top1_pretrained_values": [56.0, 64.0],
             "top1_pretrained_interval": None, "top1_random_mean": 57.0, "top1_random_values": [55.0, 59.0],
             "histograms_top1": 40.0, "histograms_interval": 4.0}  # fmt: skip
    random, histograms = verdict(found).split("; ")[1:]
    assert random == (
        "3.0 points (two seeds: 56.0, 64.0 against two seeds: 55.0, 59.0) above the same encoder at random "
        "initialisation: no clear difference"
    )
    assert "20.0 points (two seeds: 56.0, 64.0 against 40.0 ± 4.0) above" in histograms
    assert "no clear difference" not in histograms


def test_the_verdict_of_several_labels_is_in_mean_average_precision():
    found = {"metric": "map", "classes": 17, "chance": 12.0, "map_pretrained_mean": 60.0, "histograms_map": 50.0,
             "histograms_interval": 2.0, "classes_untested": ["dock", "ship"]}  # fmt: skip
    said = verdict(found)
    assert "reach 60.0 % mAP (17 classes, chance 12.0 %)" in said
    assert "10.0 points (one seed: 60.0 against 50.0 ± 2.0) above colour and gradient histograms" in said
    assert "2 classes without a test image are not in it: dock, ship" in said


def test_a_class_without_a_training_image_is_told_in_the_answer():
    found = support(["a", "b", "c", "d"], [9.0, 3.0, 0.0, 7.0], [5.0, 5.0, 4.0, 0.0])
    assert (found["fewest_train"], found["fewest_class"], found["unlearned"]) == (3, "b", {"c": 4})
    assert found["classes_untested"] == ["d"]
    said = verdict(found | {"classes": 4, "chance": 25.0, "top1_pretrained_mean": 60.0})
    assert "class 'c' has 4 test images and no training image: their images count as wrong" in said
    assert "1 classes without a test image are not in it: d" in said
    assert "unlearned" not in verdict({"classes": 4, "chance": 25.0, "top1_pretrained_mean": 60.0})
    several = {"unlearned": {"c": 1, "e": 2}, "metric": "map", "map_pretrained_mean": 60.0, "classes": 4, "chance": 9.0}
    assert "2 classes, such as 'c' (1 test image), have test images and no training image" in verdict(several)
