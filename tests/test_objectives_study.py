"""09: rows of accuracies become verdicts by the rules of the log, apart from 07's study; the grid is what it says."""

import os
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.readouts import ACCURACY, GAIN
from geofm_lib.figures import objectives as shown
from geofm_lib.figures.display import Answer, Figure, Note, Table
from geofm_lib.paper import accuracy, accuracy_study, questions, studies
from geofm_lib.paper import objectives_study as study
from geofm_lib.runs import grid, results
from geofm_lib.settings import AccuracySettings, ObjectivesSettings, PretrainSettings, objectives
from geofm_lib.settings.objectives import BOTH, COMPARED, MAE, TWO_DATES, TWO_VIEWS
from tests import test_accuracy_study as of_07

SIZES = FAMILY[:2]
PAGE = ("answer", "judged", "table", "dates", "controls", "sizes", "cost", "rates", "doubts")
LEVEL = {MAE: 10.0, TWO_VIEWS: 15.0, TWO_DATES: 30.0, BOTH: 20.0}


def rows(compared=COMPARED, models=SIZES, seeds=3, more=lambda name, k: 2.0 * k, outcomes=study.OUTCOMES):
    """Rows as the grid's runs give them: untrained encoders at 8 and 12 %, LEVEL, and `more` with the k-th size."""
    found = []
    for k, model in enumerate(models):
        for name in compared:
            for seed in range(seeds):
                run = {"model": model, "parameters_m": of_07.size(model), "objective": name, "flops": 4e13 * (1 + k),
                       "pretraining_run": f"{name} {model} {seed}", "images_seen": 9_088 * (20 - 5 * (name != MAE)),
                       "pretraining_seed": seed}  # fmt: skip
                trained = run | {"n_train": min(study.unique()), "dataset": "aid96 + harvey + ucm", "commit": "abc"}
                found.append(trained | {"metric": accuracy_study.SPEED, "value": 500.0 / (1 + k), "task": "cost"})
                loss = accuracy_study.LOSS if "MAE" in name else accuracy_study.CONTRAST
                found.append(trained | {"metric": loss, "value": 0.1, "low": 0.1, "high": 0.1})
                for outcome in outcomes:
                    if seed and not outcome.judges:
                        continue
                    gain = LEVEL[name] + more(name, k) + 0.2 * np.sin(7 * seed + len(name) + 3 * k)
                    about = run | {"dataset": outcome.dataset, "pooling": outcome.pooling, "layer": "last",
                                   "protocol": outcome.protocol + ", AdamW" * (not outcome.judges)}  # fmt: skip
                    about |= {"normalisation": "standardised"} if outcome.judges else {}
                    for metric, value in ((outcome.metric, 8 + 4 * k + gain), (outcome.metric + GAIN, gain)):
                        found.append(about | {"metric": metric, "value": value, "low": value - 1, "high": value + 1})
                    found.append(about | {"metric": outcome.metric, "value": 0.0, "layer": "block 1"})
    finds = study.FINDS
    control = {
        "model": "histograms",
        "objective": "none",
        "dataset": finds.dataset,
        "metric": finds.metric,
        "protocol": finds.protocol,
    }
    found.append(control | {"value": 6.0, "low": 5.0, "high": 7.0, "interval_kind": "95 %"})
    return pd.DataFrame(found, columns=list(ACCURACY))


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Let everybody read these rows; reports/ is empty."""
    monkeypatch.setattr(results, "REPORTS", tmp_path)

    def let(found):
        monkeypatch.setattr(accuracy, "read", lambda file=None: found)
        return found

    return let


def same(first, second):
    """Equal numbers and words, whatever the types of their columns."""
    if isinstance(first, str):
        assert first == second
    else:
        pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(second), check_dtype=False)


def test_neither_study_takes_in_rows_of_the_other():
    alone, other = of_07.rows(seeds=2), rows()
    both = pd.concat([other, alone, other], ignore_index=True).drop_duplicates()
    for ask in (accuracy_study.losses, accuracy_study.whole, accuracy_study.missing, accuracy_study.speeds):
        same(ask(both), ask(alone))
    for gain in (False, True):
        same(accuracy_study.probes(both, "ucm", gain=gain), accuracy_study.probes(alone, "ucm", gain=gain))
    assert len(study.runs(alone)) == 0
    for ask in (study.runs, study.missing, study.unequal, study.dates_help):
        same(ask(both), ask(other))
    for outcome in study.OUTCOMES:
        same(study.values(both, outcome), study.values(other, outcome))
    assert not study.unique() & accuracy_study._unique(), "the number of unique images tells them apart"


def test_other_pretrainings_of_the_same_size_are_of_no_study(table):
    run = {"model": SIZES[0], "parameters_m": 0.4, "objective": MAE, "pretraining_run": "mine", "images_seen": 6_400}
    run |= {"value": 0.7, "n_train": 640, "flops": 1e12}
    metrics = accuracy_study.LOSS, accuracy_study.SPEED
    mine = pd.DataFrame([run | {"metric": each} for each in metrics], columns=list(ACCURACY))
    table(mine)
    assert study.runs(mine).empty
    assert accuracy_study.losses(mine).empty
    assert repr(shown.answer(ObjectivesSettings())).startswith("No results yet: no pretraining of the study")
    assert repr(of_07.shown.answer(AccuracySettings())).startswith("No results yet: ")


@pytest.mark.parametrize(
    ("more", "changed"),
    [
        (lambda name, k: 2.0 * k, "not shown"),
        (lambda name, k: 2.0 * k + 4.0 * k * (name == TWO_DATES), "more"),
        (lambda name, k: 6.0 * k - 4.0 * k * (name == TWO_DATES), "less"),
    ],
)
def test_an_objective_changes_how_size_helps_by_the_rule_of_the_log(table, more, changed):
    found = table(rows(more=more))
    assert study.changes(found, TWO_DATES) == changed
    assert study.changes(found, TWO_VIEWS) == "not shown"
    said = repr(shown.answer(ObjectivesSettings()))
    assert ("Size helps more under contrastive (two dates) than under MAE." in said) == (changed == "more")
    assert ("Size helps less under contrastive (two dates) than under MAE." in said) == (changed == "less")
    value, low, high, seeds = study.with_size(study.values(found, study.FINDS), TWO_DATES)
    assert low < value < high and seeds == 3
    assert value == pytest.approx(more(TWO_DATES, 1) - more(MAE, 1), abs=0.5)


def test_one_outcome_alone_or_two_that_disagree_change_nothing():
    def of(*signs):
        parts = [rows(more=lambda name, k, s=s: 2.0 * k + s * k * (name == BOTH), outcomes=[outcome])
                 for s, outcome in zip(signs, study.OUTCOMES, strict=False)]  # fmt: skip
        return study.changes(pd.concat(parts, ignore_index=True).drop_duplicates(), BOTH)

    assert [of(5, 0, 0), of(5, 5, 0), of(5, 5, -5), of(0, -5, -5)] == ["not shown", "more", "not shown", "less"]
    assert of(5, 5) == "not known", "an outcome that has no rows"


def test_two_dates_help_where_they_do_at_both_sizes(table):
    found = table(rows())
    assert study.dates_help(found) == "yes"
    times = study.above(study.values(found, study.FINDS), TWO_DATES, MAE, ratio=True)
    assert list(times["model"]) == list(SIZES)
    assert times["value"].iloc[0] == pytest.approx(38 / 18, rel=0.02)
    assert times["value"].iloc[1] == pytest.approx(44 / 24, rel=0.02)
    said = repr(shown.answer(ObjectivesSettings()))
    assert re.search(
        r"2\.1\d* \(2\.\d+ to 2\.\d+\) at ViT-0\.4M \(3 seeds; at least twice is shown\), "
        r"1\.8\d* \(1\.\d+ to 1\.\d+\) at ViT-1\.6M \(3 seeds; at least twice is refuted\)\. By the rule, ",
        said,
    )
    assert "Two dates find more places than two views at both sizes." in said
    assert re.search(r"contrastive \(two dates\) is ahead of MAE \+ contrastive \(two dates\), by (9\.9|10\.)", said)
    assert study.dates_help(rows(more=lambda name, k: -20.0 * (name == TWO_DATES))) == "no"
    assert study.dates_help(rows(more=lambda name, k: -15.0 * k * (name == TWO_DATES))) == "not shown"
    assert study.dates_help(rows(models=SIZES[:1])) == study.dates_help(rows(seeds=2)) == "not known"


def test_the_answer_is_of_the_size_that_was_judged_most(table):
    """Three seeds of the smaller size say more than one of the larger."""
    one = rows(seeds=1)
    table(pd.concat([rows(models=SIZES[:1]), one[one["model"] == SIZES[1]]], ignore_index=True))
    said = shown.answer(ObjectivesSettings()).text
    assert said.startswith(
        "Contrastive learning is ahead of MAE under every judge so far, on frozen features of ViT-0.4M"
    )
    assert re.search(
        r"recall at 1: 37\.\d by contrastive \(two dates\), 17\.9 by MAE "
        r"\(by 19\.9\d* \(19\.\d+ to 20\.\d+\) points\); ViT-1\.6M 4",
        said,
    )
    table(rows(models=SIZES[:1], more=lambda name, k: 40.0 * (name == MAE)))
    assert shown.answer(ObjectivesSettings()).text.startswith("MAE is ahead under every judge so far")
    table(rows((MAE,), SIZES[:1], 1))
    said = repr(shown.answer(ObjectivesSettings()))
    assert "ahead" not in said and "holds nothing of how pretrainings differ" in said


def test_two_seeds_are_no_interval():
    mean, low, high = study.interval(np.array([1.0, 3.0]))
    assert mean == 2.0 and np.isnan(low) and np.isnan(high)
    mean, low, high = study.interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("compared", "models", "seeds"),
    [((), SIZES, 1), ((MAE,), SIZES[:1], 1), (COMPARED, SIZES, 1), (COMPARED, SIZES, 3)],
)
def test_the_page_is_right_with_any_rows(table, compared, models, seeds):
    table(rows(compared, models, seeds))
    found = {name: getattr(shown, name)(ObjectivesSettings()) for name in PAGE}
    assert all(isinstance(each, Answer | Figure | Note | Table) for each in found.values())
    answer = repr(found["answer"])
    assert answer.startswith("No results yet") == (not compared)
    assert isinstance(found["judged"], Figure) == bool(compared)
    planned = len(study.rows())
    here = len(compared) * len(models) * seeds
    assert (f"{here} of {planned} pretrainings are here; missing are" in answer) == (here < planned)
    assert ("geofm submit batch/grids/objectives.csv --here" in answer) == (not compared)
    assert "nan" not in answer
    if compared == COMPARED:
        assert found["judged"].alt.count("MAE + contrastive (two dates)") >= 6
        assert len(found["table"].frame) == 8
        assert (seeds == 1) == ("too few seeds" in repr(found["doubts"]))
        assert len(found["controls"].frame) == 1


def test_encoders_that_wait_for_their_judges_are_told(table):
    found = table(rows(seeds=1, outcomes=study.OUTCOMES[:1]))
    told = study.missing(found)
    assert "8 of 24 pretrainings are here; missing are 2 of ViT-0.4M by MAE" in told
    assert "8 of 8 are not judged by UC Merced, top-1; 8 of 8 are not judged by AID, top-1; 8 of 8 are not" in told
    found = table(rows(outcomes=()))
    assert repr(shown.answer(ObjectivesSettings())).startswith(
        "No results yet: no encoder of the study has been judged"
    )
    unequal = found.copy()
    unequal.loc[unequal["objective"] == MAE, "flops"] *= 1.1
    table(unequal)
    assert "compute is not equal" in repr(shown.doubts(ObjectivesSettings()))


def test_every_objective_is_told_in_its_column(tmp_path):
    summary = {"steps": 142, "global_batch": 64, "train_images": 9_088, "held_out_contrast": 2.5}
    summary |= {"held_out_contrast_interval": 0.1, "held_out_contrast_side": "val", "held_out_contrast_images": 256}
    told = {}
    for name, positives in (("mae", "views"), ("contrastive", "views"), ("contrastive", "dates"), ("both", "dates")):
        asked = PretrainSettings(model=SIZES[0], objective=name, global_batch=64).asked() | {"positives": positives}
        own = summary if name == "contrastive" else summary | {"held_out_contrast": None}
        run = SimpleNamespace(
            settings=asked, summary=own, environment={}, metrics=pd.DataFrame({"images_per_s": [1, 2]}),
            read_json=lambda name: {},
        )  # fmt: skip
        run.folder, run.dataset = tmp_path / f"{name} {positives}", "sets"
        file = accuracy.add(accuracy_study.of_pretraining(run), tmp_path / "accuracy.csv")
        told[f"{name} {positives}"] = accuracy.of_image(asked) * 9_088
    found = pd.read_csv(file)
    speeds = found[found["metric"] == accuracy_study.SPEED].set_index("pretraining_run")
    assert tuple(speeds.loc[list(told), "objective"]) == COMPARED
    assert list(speeds.loc[list(told), "flops"].astype(float)) == pytest.approx(list(told.values()), rel=1e-3)
    contrast = found[found["metric"] == accuracy_study.CONTRAST]
    assert list(contrast["low"]) == [2.4, 2.4]
    assert set(contrast["task"]) == {"telling views apart"}


def test_the_grid_gives_equal_compute_and_a_whole_seed_before_the_next():
    planned = grid.texts(results.ROOT / "batch" / "grids" / "objectives.csv")
    compute, order = {}, []
    for row in study.rows():
        kept = ("model", "objective", "train_images", "epochs", "global_batch", "seed", "base_width", "warmup_epochs")
        asked = PretrainSettings(**{name: row[name] for name in kept}, positives=row.get("positives", "views"))
        words = objectives.words(asked.objective, asked.positives)
        images = asked.steps(asked.train_images)[0] * asked.global_batch
        compute.setdefault(asked.model, set()).add(accuracy.of_image(asked.model_dump()) * images)
        order.append((asked.seed, asked.model, words))
    assert order == [(seed, model, words) for seed in range(3) for model in SIZES for words in COMPARED]
    for model, each in compute.items():
        assert max(each) < (1 + study.EQUAL) * min(each), model
    judged = Counter((row["name"][-1], row.get("protocol", row.get("task"))) for row in planned if "encoder" in row)
    finds = {(seed, "dates"): 8 for seed in "012"} | {(seed, "fast"): 16 for seed in "012"}
    whole = sum(row["name"].startswith("whole_") for row in planned)  # under another readout
    assert whole == 16 and judged == finds | {("0", "fast"): 16 + whole, ("0", "segment"): 8}
    seeds = [row["name"][-1] for row in planned if row["notebook"] != "01_data"]
    assert seeds == sorted(seeds)
    swept = [row for row in grid.texts(results.ROOT / "batch" / "grids" / f"{study.RATES}.csv") if "objective" in row]
    assert Counter(row["objective"] for row in swept) == {"mae": 4, "contrastive": 3}
    assert {row["train_images"] for row in swept} == {str(each) for each in study.unique()}


def test_every_row_of_the_grids_can_be_run_on_the_real_sets(monkeypatch):
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    monkeypatch.setenv("GEOFM_DATA", os.environ["GEOFM_TEST_DATA"])
    for name in (study.GRID, study.RATES):
        found, faults = grid.read(results.ROOT / "batch" / "grids" / f"{name}.csv")
        assert not faults
        assert len(found) == len(grid.texts(results.ROOT / "batch" / "grids" / f"{name}.csv"))


def test_the_sweep_is_told_by_each_objectives_own_loss(monkeypatch, table, tmp_path):
    table(rows(()).iloc[:0])
    runs = []
    for name, key, losses in (
        ("mae", "held_out_", (0.8, 0.7, 0.9)),
        ("contrastive", "held_out_contrast_", (4.0, 3.0, 2.0)),
    ):
        for rate, loss in zip((4e-3, 8e-3, 1.6e-2), losses, strict=True):
            asked = {"model": SIZES[0], "objective": name, "positives": "views", "base_learning_rate": rate}
            told = {"held_out_loss" if name == "mae" else "held_out_contrast": loss, f"{key}interval": 0.01}
            runs.append(SimpleNamespace(job="pretrain", finished=True, settings=asked, summary=told))
    monkeypatch.setattr(studies.grid, "read", lambda file: ([SimpleNamespace(folder=each) for each in runs], []))
    monkeypatch.setattr(studies, "Run", lambda folder: folder)
    assert isinstance(shown.rates(ObjectivesSettings()), Note)
    studies.study("objectives_rates")
    drawn = shown.rates(ObjectivesSettings())
    assert "MAE: 0.008 (apart from all others)" in drawn.alt
    assert "contrastive (two views): 0.016, the edge of the sweep (apart from all others)" in drawn.alt
    assert "of contrastive (two views) may lie outside the sweep" in repr(shown.doubts(ObjectivesSettings()))
    monkeypatch.setattr(studies.grid, "read", lambda file: ([], []))
    with pytest.raises(ValueError, match="^No row of batch/grids/objectives_rates.csv has finished here"):
        studies.study("objectives_rates")


def test_06_answers_what_the_paper_leaves_open_from_rows_alone(table):
    table(rows(()).iloc[:0])
    for ask in (questions.other_tasks, questions.other_objective):
        assert ask({}).verdict == "not measured"
        assert ask({}).ours.startswith("Not measured yet: ")
    table(rows(seeds=2))
    told = questions.other_objective({})
    assert told.verdict == "in part"
    assert "recall at 1, ViT-1.6M: contrastive (two dates) 4" in told.ours
    table(rows(more=lambda name, k: 2.0 * k + 4.0 * k * (name == TWO_DATES)))
    told = questions.other_objective({})
    assert told.verdict == "answered"
    assert "under contrastive (two dates) size helps more than under MAE" in told.ours
    assert f"that it helps otherwise under {BOTH} is not shown" in told.ours
    row = {"dataset": "ucm", "task": "classification", "metric": "top1" + GAIN, "objective": MAE, "low": 1.0,
           "protocol": "whole network, AdamW, 50 epochs", "value": 3.0, "high": 5.0}  # fmt: skip
    tuned = [row | {"model": model, "parameters_m": of_07.size(model)} for model in FAMILY[:3]]
    table(pd.DataFrame(tuned[:1], columns=list(ACCURACY)))
    assert questions.other_tasks({}).verdict == "in part"
    told = "ViT-0.4M +3.0 (+1.0 to +5.0) on ucm, classification (50 epochs); 1 size on a task cannot"
    assert told in questions.other_tasks({}).ours
    table(pd.DataFrame(tuned, columns=list(ACCURACY)))
    assert questions.other_tasks({}).verdict == "answered"
