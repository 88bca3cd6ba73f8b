"""What the tests stand on: the order of files, and time-outs that know how busy the machine is."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import reorder
from tests.support import timing


def ordered(order: str) -> list[str]:
    """Tests of four files, two in each, in the order asked for."""
    items = [SimpleNamespace(path=Path(file), name=f"{file}{k}") for file in "abcd" for k in (1, 2)]
    reorder(items, order)
    return [item.name for item in items]


def test_whole_files_are_reordered_and_each_keeps_its_own_order():
    assert ordered("") == ["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"]
    assert ordered("reverse") == ["d1", "d2", "c1", "c2", "b1", "b2", "a1", "a2"]
    assert ordered("random:3") == ordered("random:3")  # xdist's workers must agree
    assert len({tuple(ordered(f"random:{seed}")) for seed in range(20)}) > 10
    for seed in range(20):
        names = ordered(f"random:{seed}")
        assert [name[0] for name in names[::2]] == [name[0] for name in names[1::2]]
        assert [name[1] for name in names] == ["1", "2"] * 4


@pytest.mark.parametrize("order", ["revers", "random", "random:", "random:x"])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(pytest.UsageError, match="'reverse' or 'random:SEED'"):
        ordered(order)


@pytest.mark.parametrize("start_s, factor", [(0.1, 1.0), (timing.USUAL_START_S, 1.0), (0.9, 2.0), (100.0, timing.MOST)])
def test_time_outs_scale_with_the_start_of_a_python(monkeypatch, start_s, factor):
    monkeypatch.delenv(timing.VARIABLE, raising=False)
    monkeypatch.setattr(timing, "_start_s", lambda: start_s)
    timing.slowness.cache_clear()
    try:
        assert timing.scaled(30) == 30 * factor
    finally:
        timing.slowness.cache_clear()


def test_waiting_gives_the_value_or_says_what_did_not_come():
    values = iter([None, 0, "here"])
    assert timing.wait_for(lambda: next(values)) == "here"
    with pytest.raises(AssertionError, match="no light within .* s\nit is night"):
        timing.wait_for(lambda: False, 0.01, "no light", lambda: "it is night")
