"""07: fits that find what was put in, a verdict that untrained families fail, a page that is right with few rows."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geofm_lib.catalog import readouts
from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.readouts import ACCURACY, GAIN
from geofm_lib.figures import accuracy as shown
from geofm_lib.figures import accuracy_costs as priced
from geofm_lib.figures.display import Answer, Figure, Note, Table
from geofm_lib.paper import accuracy, accuracy_cost, accuracy_fits, accuracy_study, claims, studies
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import results
from geofm_lib.settings import AccuracySettings, SettingsError

HORIZONS = (47_104, 94_208, 188_416)
PAGE = ("answer", "gains", "everywhere", "loss", "equal_compute", "equal_epochs", "gains_by_images", "unique_images",
        "best")  # fmt: skip
COSTS = ("fits", "predicted", "pareto", "one_more_point", "extrapolated", "rates")


def size(model):
    return round(parameters(model, "encoder", image_size=64) / 1e6, 3)


def rows(models=FAMILY, horizons=HORIZONS, gain=lambda m, h: 6 + 3 * np.log2(m / 0.4) + np.log2(h / 47_104), seeds=1):
    """Rows as the study writes them: a known loss, untrained encoders that rise by 4 points a doubling, and `gain`."""
    found = []
    for model in models:
        m, flops = size(model), training_flops(model, "mae", image_size=64)
        for h in horizons:
            for seed in range(seeds):
                run = {"model": model, "parameters_m": m, "objective": "MAE", "pretraining_run": f"{model}-{h}-{seed}",
                       "images_seen": h, "flops": flops * h, "pretraining_seed": seed}  # fmt: skip
                loss = 0.5 + 0.06 * m**-0.4 + 0.08 * (h / 1e5) ** -0.5 + 0.002 * seed
                found.append(run | {"metric": accuracy_study.LOSS, "value": loss, "low": loss - 0.01,
                                    "high": loss + 0.01, "n_train": 23_552, "commit": "abc"})  # fmt: skip
                found.append(run | {"metric": accuracy_study.SPEED, "value": 300 / m**0.5})
                g, untrained = gain(m, h) + 0.1 * seed, 40 + 4 * np.log2(m / 0.4)
                for how in (readouts.SCALED, readouts.EQUALLY):
                    about = run | {"dataset": "ucm", "pooling": "mean", "normalisation": how, "protocol": "fast"}
                    for metric, value in (("top1", untrained + g), ("top1" + GAIN, g)):
                        found.append(about | {"metric": metric, "value": value, "low": value - 1, "high": value + 1,
                                              "difference_to_untrained": g, "layer": "last"})  # fmt: skip
                    for other in ({"layer": "block 1"}, {"layer": "last", "shot": "10 %"}):
                        found.append(about | {"metric": "top1", "value": 0.0, "low": 0.0, "high": 0.0} | other)
    return pd.DataFrame(found, columns=list(ACCURACY))


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Let everybody read these rows; reports/ is empty."""
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    for name, few in (("BOOTSTRAPS", 4), ("STARTS", [0.3]), ("FLOORS", [0.5])):
        monkeypatch.setattr(accuracy_fits, name, few)

    def let(found):
        monkeypatch.setattr(accuracy, "read", lambda file=None: found)
        return found

    return let


def test_a_fit_finds_the_exponents_that_were_put_in():
    found = accuracy_fits.fit(accuracy_study.whole(rows()), bootstraps=8)
    assert found.floor == pytest.approx(0.5, abs=1e-3)
    assert found.exponents["parameters_m"][0] == pytest.approx(0.4, abs=0.01)
    assert found.exponents["images_seen"][0] == pytest.approx(0.5, abs=0.01)
    ahead = pd.DataFrame({"parameters_m": [100.0], "images_seen": [1e6]})
    assert found.at(ahead)["predicted"].item() == pytest.approx(0.5 + 0.06 * 100**-0.4 + 0.08 * 10**-0.5, abs=1e-3)


def test_one_odd_run_does_not_decide_a_fit():
    found = accuracy_study.whole(rows())
    found.loc[4, "value"] *= 1.3
    assert accuracy_fits.fit(found, bootstraps=2).floor == pytest.approx(0.5, abs=0.02)


def test_too_few_runs_are_not_fitted():
    told = accuracy_fits.fit(accuracy_study.whole(rows(FAMILY[:2])))
    assert told == "Nothing is fitted: 6 runs, 3 sizes and 2 horizons are needed, and 6, 2 and 3 are here."


def test_one_more_point_is_said_only_where_a_fit_carries_it():
    """error = 10 + 30 (C / 1e13) ** -0.2: at C = 1e13 the next point takes (30 / 29) ** 5 times as much."""
    cells = [(model, h, 10 ** (12 + (i + 3 * j) / 4)) for i, model in enumerate(FAMILY) for j, h in enumerate(HORIZONS)]
    frame = pd.DataFrame(cells, columns=["model", "images_seen", "flops"]).assign(
        parameters_m=lambda f: f["model"].map(size)
    )
    frame["value"] = 10 + 30 * (frame["flops"] / 1e13) ** -0.2
    fitted, largest = accuracy_fits.fit(frame, "compute", bootstraps=8), frame["flops"].max()
    times, low, high = accuracy_fits.one_point(fitted, 1e13, largest)
    assert times == pytest.approx((30 / 29) ** 5, rel=1e-3)
    assert low <= times <= high
    assert "More than 100 times the compute of the largest run" in accuracy_fits.one_point(
        fitted, 1e3 * largest, largest
    )
    flat = frame.assign(value=30 + np.resize([1.0, -1.0, 0.5], len(frame)))
    assert isinstance(accuracy_fits.one_point(accuracy_fits.fit(flat, "compute", bootstraps=8), 1e13, largest), str)


@pytest.mark.parametrize(
    "gain, verdict, words",
    [
        (lambda m, h: 6 + 3 * np.log2(m / 0.4), "same ordering", "Size helps"),
        (lambda m, h: 0.0, "differs", "is not shown to help"),  # an untrained family, whose top-1 rises
        (lambda m, h: 8.0, "differs", "is not shown to help"),  # trained, and width alone makes the rise
        (lambda m, h: 9 - 2 * np.log2(m / 0.4), "differs", "it adds less to larger ones"),
    ],
)
def test_size_is_judged_by_what_pretraining_adds(table, gain, verdict, words):
    found = table(rows(gain=gain))
    top = accuracy_study.at_equal_images(accuracy_study.probes(found, "ucm"))
    if verdict == "differs" and gain(30, 1) >= gain(1, 1):
        assert accuracy_study.rises(top), "the old check, on top-1 alone, is passed by untrained encoders"
    assert claims.larger_probe_better({}).verdict == verdict
    assert words in repr(shown.answer(AccuracySettings()))
    assert "ViT-25M" in claims.gain_of_largest({}).ours


def test_without_three_sizes_the_claim_is_not_measured(table):
    table(rows(FAMILY[:2]))
    assert claims.larger_probe_better({}).verdict == claims.gain_of_largest({}).verdict == "not measured"
    assert "Not known yet, of 2 sizes: pretraining adds" in repr(shown.answer(AccuracySettings()))


def test_seeds_widen_the_interval_and_fewer_unique_images_are_no_horizon(table):
    found = rows(FAMILY[:3], seeds=3)
    few = found.iloc[[0]].assign(n_train=1_472, pretraining_run="few", value=0.7)
    found = table(pd.concat([found, few]))
    sized = accuracy_study.by_size(accuracy_study.whole(found))
    assert len(sized) == 9
    assert set(sized["seeds"]) == {3}
    half = (sized["high"] - sized["low"]) / 2
    assert half.to_numpy() == pytest.approx(np.hypot(0.01, 1.96 * 0.002))
    assert isinstance(shown.unique_images(AccuracySettings()), Figure)


def test_equal_compute_asks_between_horizons_only():
    found = accuracy_study.whole(rows(FAMILY[:2]))
    cut = accuracy_study.at_equal_compute(found)
    for model, part in cut.groupby("model"):
        own = found[found["model"] == model]
        assert part["flops"].between(own["flops"].min(), own["flops"].max()).all()
        assert part["value"].between(own["value"].min(), own["value"].max()).all()


def test_the_largest_is_predicted_before_it_runs_and_never_after(table):
    everything = rows()
    table(everything[everything["model"] != FAMILY[-1]])
    studies.study("predicted_accuracy")
    before = accuracy_cost.held_against(everything[everything["model"] != FAMILY[-1]])
    assert len(before) == 6
    assert before["measured"].isna().all()
    after = accuracy_cost.held_against(everything)
    loss = after[after["quantity"] == accuracy_study.LOSS]
    assert loss["off_percent"].abs().max() < 0.2
    table(everything)
    with pytest.raises(ValueError, match="^ViT-25M has run, so it can no longer be predicted; .* stays as it is.$"):
        studies.study("predicted_accuracy")


@pytest.mark.parametrize(
    "models, horizons", [((), ()), (FAMILY[:1], HORIZONS[:1]), (FAMILY[:2], HORIZONS), (FAMILY, HORIZONS)]
)
def test_the_page_is_right_with_any_rows(table, models, horizons):
    table(rows(models, horizons))
    found = {name: getattr(shown, name)(AccuracySettings()) for name in PAGE}
    found |= {name: getattr(priced, name)(AccuracySettings()) for name in COSTS}
    assert all(isinstance(each, Answer | Figure | Note | Table) for each in found.values())
    drawn = {name for name, each in found.items() if isinstance(each, Figure)}
    assert drawn >= ({"gains", "loss", "pareto", "equal_compute", "extrapolated"} if len(models) == 5 else set())
    answer = repr(found["answer"])
    assert answer.startswith("No results yet") == (not models)
    assert ("One size alone says nothing about size." in answer) == (len(models) == 1)
    assert "pretrainings are here; missing are" in answer
    for each in drawn:
        assert "nan" not in found[each].alt


def test_a_table_that_is_not_there_or_is_another_is_one_sentence(tmp_path):
    with pytest.raises(SettingsError, match="^table: there is no file 'nowhere.csv'; leave it empty"):
        shown.read(AccuracySettings(table="nowhere.csv"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SettingsError, match="lacks the column dataset; give a file like accuracy.csv"):
        shown.read(AccuracySettings(table=str(tmp_path / "other.csv")))


def test_a_finished_pretraining_is_a_row_of_its_loss_and_one_of_its_speed(tmp_path):
    sizes = dict.fromkeys(("patch_size", "decoder_width", "decoder_depth", "decoder_heads"), 0) | {"image_size": 64}
    asked = sizes | {"model": FAMILY[0], "mask_ratio": 0.75, "train_images": 23_552, "seed": 2}
    summary = {"steps": 736, "global_batch": 64, "train_images": 23_552, "held_out_loss": 0.7}
    summary |= {"held_out_interval": 0.02, "held_out_side": "test", "held_out_images": 256}
    where = {"commit": "abc", "launched": "2026-11-26T16:00"}
    metrics = pd.DataFrame({"images_per_s": [5.0, *range(100, 111)]})
    run = SimpleNamespace(settings=asked, summary=summary, environment=where, metrics=metrics)
    run.read_json = lambda name: {}
    run.folder, run.dataset = tmp_path / "pretrain-x", "aid96 + harvey + ucm"
    file = accuracy.add(accuracy_study.of_pretraining(run), tmp_path / "accuracy.csv")
    loss, speed = (
        pd.read_csv(file).set_index("metric").loc[name] for name in (accuracy_study.LOSS, accuracy_study.SPEED)
    )
    assert (loss["value"], loss["low"], loss["high"], loss["n_train"]) == (0.7, 0.68, 0.72, 23_552)
    assert (loss["images_seen"], loss["parameters_m"], loss["pretraining_seed"]) == (47_104, 0.417, 2)
    assert float(loss["flops"]) == pytest.approx(training_flops(FAMILY[0], "mae", image_size=64) * 47_104, rel=1e-3)
    assert (speed["value"], speed["low"], speed["high"]) == (109.0, 105.0, 110.0), "without the step that starts up"
    summary["held_out_loss"] = None
    assert [row["metric"] for row in accuracy_study.of_pretraining(run)] == [accuracy_study.SPEED]


def test_without_results_the_page_says_so_and_a_sweep_says_only_what_its_intervals_carry(table):
    table(rows(FAMILY[:1]).iloc[:0])
    assert repr(shown.answer(AccuracySettings())).startswith("No results yet: ")
    line = pd.DataFrame({"model": "a", "rule": "one rate", "rate": [0.004, 0.008, 0.032], "loss": [0.80, 0.81, 1.0]})
    line["interval"] = 0.01
    assert priced.lowest(line) == "0.004, the edge of the sweep (not distinguishable from 0.008)"
    assert priced._swept(line).endswith("whether the best rate moves with width; at 0.032 every line is worse.")
    found = priced.one_more_point(AccuracySettings())
    assert {"nodes", "strategy", "node-hours now", "low now", "high now"} <= set(found.frame)
    assert "one point more, planned" not in found.caption


def test_the_best_encoder_is_chosen_by_held_out_loss_and_stands_beside_its_controls(table):
    found = rows(FAMILY[:2])
    turned = found[(found["pooling"] == "mean") & (found["images_seen"] > HORIZONS[0])].assign(
        pooling=accuracy_study.BEST
    )
    turned.loc[turned["model"] == FAMILY[0], "value"] += 50  # the better on test images, and not taken for that
    scored = {"dataset": "ucm", "protocol": "fast", "normalisation": "standardised", "metric": "top1", "value": 64.0}
    found = table(pd.concat([found, turned, pd.DataFrame([scored | {"model": "histograms"}])]))
    (best,) = accuracy_study.best(found).to_dict("records")
    assert (best["model"], best["images_seen"], best["histograms"]) == (FAMILY[1], HORIZONS[-1], 64.0)
    assert best["gain"] == pytest.approx(best["value"] - best["untrained"])
    page = shown.best(AccuracySettings())
    told = page.frame.set_index("top-1, %").iloc[:, 0]
    assert told["pretrained"].startswith(f"{best['value']:.1f} (") and told["histograms, without turns"] == "64.0"
    assert told["pretrained, without turns"] == told["random convolutions, without turns"] == "–", "were not scored"
    assert page.caption.endswith("the lowest held-out loss of the 4 encoders that were read out so")
    assert repr(shown.best(AccuracySettings())) != shown.WAITS
    table(rows(FAMILY[:2]))
    assert repr(shown.best(AccuracySettings())) == shown.WAITS
