"""05 beside what nobody pretrained: random convolutions, sizes of readouts, and what each split tests."""

import pandas as pd
import pytest

from geofm_lib.catalog.readouts import ACCURACY, EQUALLY, SCALED
from geofm_lib.figures import probe, probe_controls
from tests.support.figures import run_folder

SPLITS = (("3 splits", "", 250), ("own", 20.0, 400), ("seed 1", 18.0, 190), ("seed 2", 16.0, 200))
SUMMARY = {"encoder": "mine", "model": "ViT-Pico", "metric": "top1", "splits": 3, "gain": 18.0, "seen_exact": 0,
           "seen_near": 0, "pretrained_on": "known", "gain_interval": "95 %, paired bootstrap over test images",
           "unlearned": {}, "classes_untested": [], "fewest_train": 200, "fewest_class": "a"}  # fmt: skip
ANSWER = ("Pretraining adds +18.0 points (+17.0 to +19.0) of top-1 under mean: 68.0 %, untrained 50.0 %; histograms "
          "64.9 % (3 splits, logistic regression, 95 % intervals over test images)")  # fmt: skip


def rows(pooling, model, value, half, normalisation=SCALED, **more):
    """One over all splits, and one a split for the encoder."""
    about = dict.fromkeys(ACCURACY, "") | {"protocol": "fast", "layer": "last", "metric": "top1", "pooling": pooling}
    about |= {"model": model, "objective": "none", "normalisation": normalisation, **more}
    for split, gain, tested in SPLITS[: 4 if more else 1]:
        ends = {"low": value - half, "high": value + half, "interval_kind": "95 %"} if split[0] == "3" else {}
        yield about | {"split": split, "value": value, "n_test": tested, "difference_to_untrained": gain, **ends}


@pytest.fixture
def probed(tmp_path):
    """Writes a probe whose convolutions reach so much."""

    def made(convolutions, **summary):
        own = {"objective": "MAE", "pretraining_run": "mine"}
        found = [*rows("mean", "ViT-Pico", 68.0, 1.5, **own), *rows("mean", "ViT-Pico", 63.0, 1.5, EQUALLY, **own)]
        for kind, name in ((convolutions, SCALED), (convolutions - 6, EQUALLY)):
            found += rows("random convolutions", "random convolutions", kind, 1.5, name)
        sizes = [("pretrained", "mean", 192), ("random convolutions", "random convolutions", 1024)]
        run = run_folder(
            tmp_path, {"dataset": "scenes"}, SUMMARY | {"answer": ANSWER, "verdict": f"{ANSWER}."} | summary
        )
        pd.DataFrame(found).to_csv(run.folder / "accuracy.csv", index=False)
        pd.DataFrame(sizes, columns=["kind", "pooling", "width"]).to_csv(run.folder / "features.csv", index=False)
        return run

    return made


def test_convolutions_that_are_as_good_stand_in_the_answer_and_among_the_doubts(probed):
    run = probed(73.8)
    said = probe.verdict(run)
    assert "adds 18.0 points" in said.text and "with the readout mean (192 features): 68.0 %" in said.text
    assert "; worse than random convolutions, which train nothing (73.8 %, 1,024 features) (3 splits" in said.text
    (row,) = probe.doubts(run).frame.to_dict("records")
    assert row["doubt"] == "worse than random convolutions"
    assert "68.0 % (66.5 to 69.5), 5.8 points below (intervals do not overlap)" in row["evidence"]
    assert "With 64 features each (PCA): random convolutions 67.8 %, mean 63.0 %" in row["evidence"]
    assert probe.doubts(probed(69.0)).frame["doubt"].tolist() == ["no better than random convolutions"]


def test_convolutions_that_are_weaker_are_no_doubt(probed):
    run = probed(60.0)
    assert probe.doubts(run).frame.empty
    assert "no better" not in probe.verdict(run).text
    assert "strongest control without this encoder is random convolutions: 60.0 %" in probe.verdict(run).more


def test_the_first_screen_says_what_the_interval_is_over_and_what_each_split_tests(probed):
    more = probe.verdict(probed(60.0)).more
    assert (
        "on drawn (synthetic) scenes. One pretraining: the interval is of a paired bootstrap over test images" in more
    )
    assert "own split and 2 drawn ones: 20.0, 18.0, 16.0. The own split tests 400 images, 0 of them pretrained" in more
    assert "test 190 to 200, none that it was pretrained on; their train sides may hold such images" in more
    assert "which of these the encoder was pretrained on is not known" in (
        probe.verdict(probed(60.0, pretrained_on="not known")).more
    )


def test_the_numbers_of_the_figure_have_its_bars(probed):
    run = probed(73.8)
    table = probe.gains(run).table
    assert table[["kind", "features", "value"]].to_numpy().tolist() == [
        ["pretrained", 192, 68.0], ["pretrained", 64, 63.0], ["random convolutions", 1024, 73.8],
        ["random convolutions", 64, 67.8]]  # fmt: skip
    assert "{}" not in repr(probe.numbers(run)) and "[]" not in repr(probe.numbers(run))
    assert probe_controls.widths(run)["pretrained", "mean"] == 192
