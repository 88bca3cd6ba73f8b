"""Times and rates: over all starts of a run, and smoothed."""

import json
from types import SimpleNamespace

import pytest

from geofm_lib.jobs import pace, prepare_pack


def test_time_left_is_of_a_smoothed_rate_without_the_start():
    speed = pace.Pace()
    assert speed.left(10) == 0.0, "nothing is known"
    speed.took(1, 60.0)
    assert speed.left(10) == 600.0, "all that is known"
    told = []
    for k in range(200):
        speed.took(1, 1.0 if k % 2 else 3.0)
        told.append(speed.left(100))
    assert max(told[10:]) < 240, "never a step's alone (100 s and 300 s), nor that of the start"
    assert min(told[10:]) > 170
    for _ in range(100):
        speed.took(10, 40.0)
    assert speed.left(100) == pytest.approx(400, rel=0.02), "what lasts is believed"


def test_rates_leave_out_the_first_row_of_each_start(tmp_path):
    rows = [{"step": step, "images_per_s": 1.0 if step in (1, 4, 7) else 10.0} for step in range(1, 9)]
    (tmp_path / "history.jsonl").write_text(json.dumps({"from_step": 0}) + "\n" + json.dumps({"from_step": 3}) + "\n")
    (tmp_path / "environment.json").write_text(json.dumps({"from_step": 6}))
    assert [row["step"] for row in pace.steady(rows, tmp_path)] == [2, 3, 5, 6, 8]
    assert pace.steady(rows[:1], tmp_path) == rows[:1], "where there are no others"
    assert pace.steady([], tmp_path) == []


def test_packing_is_timed_over_all_starts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(prepare_pack.time, "monotonic", lambda: now[0])
    kept = [{"step": 40, "packing_s": 4.0}, {"step": 80, "packing_s": 8.0}]
    clock = prepare_pack.Clock(SimpleNamespace(metrics=lambda: kept), 100)
    assert clock.rate(100) == 10.0, "a start that finds all done tells the rate of those before"
    now[0] += 10
    assert clock.rate(150) == 7.5
    clock = prepare_pack.Clock(SimpleNamespace(metrics=list), 100)
    now[0] += 10
    assert clock.rate(150) == 5.0, "of an earlier start that left no time, its images are left out"
