"""profiling/trace.py on events and traces made up so that the answer is known."""

import pytest

from geofm_lib.profiling import trace
from geofm_lib.profiling.trace import Event, breakdown, minus, overlap, ranges, read, union, waits

# A step of 20 s. The rank works in the WORK spans; collective A is called at 3 and waited for, B ends while the rank
# works, C is hidden by work until 12 and ends at 14, D is the optimiser's.
MARKS = [Event("step", 0, 20, "step"), Event("data", 0, 2, "phase"), Event("forward", 2, 6, "phase"),
         Event("backward", 8, 8, "phase"), Event("optimiser", 16, 3, "phase")]  # fmt: skip
WORK = [(0.5, 2), (2, 3), (5, 8), (8, 9), (9.5, 12), (14.5, 16), (17.5, 18.5)]
SENT = {"A": (3, 4.5), "B": (5, 7), "C": (10, 14), "D": (16, 17)}
STEP = MARKS + [Event("work", a, b - a, "work") for a, b in WORK]
STEP += [Event(name, a, b - a, "collective") for name, (a, b) in SENT.items()]


@pytest.mark.parametrize(
    "on_gpu, expected, seconds",
    [
        # until the next operator: a CPU's rank was waiting when the collective ended
        (False, [(3, 5), (12, 14.5), (16, 17.5)], (4, 5.5, 1.5, 6)),
        # while no other kernel runs
        (True, [(3, 4.5), (12, 14), (16, 17)], (4.5, 6, 2, 4.5)),
    ],
)
def test_a_step_is_phases_and_waits(on_gpu, expected, seconds):
    found = waits(STEP, on_gpu)
    assert found == expected
    parts = breakdown(STEP, found)
    named = dict(zip(("forward", "backward", "optimiser", "communication"), seconds, strict=True))
    assert parts == pytest.approx({"data": 2, "other": 1, "step": 20, **named})


def test_a_phase_that_comes_twice_is_summed_and_nothing_waits_without_collectives():
    events = [Event("step", 0, 10, "step"), Event("forward", 0, 3, "phase"), Event("forward", 5, 4, "phase"),
              Event("work", 1, 1, "work")]  # fmt: skip
    assert waits(events, on_gpu=False) == waits(events, on_gpu=True) == []
    assert breakdown(events, []) == {"forward": 7, "communication": 0, "other": 3, "step": 10}


def test_spans():
    assert union([(3, 4), (0, 2), (1, 2.5)], gap=0.4) == [(0, 2.5), (3, 4)]
    assert overlap([(0, 2), (3, 5)], [(1, 4)]) == [(1, 2), (3, 4)]
    assert minus([(0, 10)], [(2, 3), (5, 12)]) == [(0, 2), (3, 5)]
    assert minus([(0, 1)], []) == [(0, 1)]
    assert overlap([], [(0, 1)]) == []


def test_ranges_to_draw_are_few_and_cover_the_same_time():
    busy = [Event("work", k, 0.4, "work") for k in range(1000)]
    events = [Event("step", 0, 1000, "step"), Event("forward", 0, 1000, "phase"), *busy]
    drawn = ranges(trace.Profile(events, [(2.0, 3.0)], {}), most=50)
    assert len(drawn) <= 50
    assert drawn[0] == ("phase", "forward", 0, 1000)
    assert ("wait", "waiting", 2.0, 1.0) in drawn
    work = [(start, duration) for lane, _, start, duration in drawn if lane == "work"]
    assert work[0][0] == 0
    assert sum(work[-1]) == pytest.approx(999.4)
    all_of_them = ranges(trace.Profile(events, [], {}), most=2000)
    assert len(all_of_them) == 1001


def row(name, start, end, tid=1, cat="cpu_op"):
    return {"ph": "X", "name": name, "ts": start * 1e6, "dur": (end - start) * 1e6, "tid": tid, "cat": cat}


MARKED = [row("geofm:step", 0, 10, cat="user_annotation"), row("geofm:forward", 0, 6, cat="user_annotation"),
          row("geofm:backward", 6, 10, cat="user_annotation")]  # fmt: skip


def test_a_trace_of_a_cpu():
    """gloo's threads run what the rank's thread calls; a wait inside an operator is no work."""
    rows = [
        *MARKED,
        row("aten::mm", 0, 2), row("aten::empty", 0.5, 1), row("FSDP::pre_forward", 2, 5, cat="user_annotation"),
        row("c10d::_allgather_base_", 2, 2.1), row("gloo:all_gather", 2.5, 4, tid=7), row("aten::copy_", 2.6, 3.9, 7),
        row("aten::mm", 4.5, 6), row("c10d::_reduce_scatter_base_", 6, 6.1), row("gloo:all_reduce", 6.2, 7, tid=8),
        row("aten::pow", 7, 9.5), row("c10d::allreduce_", 7.1, 7.2), row("_c10d_functional::wait_tensor", 7.5, 9),
        row("gloo:all_reduce", 7.3, 8.8, tid=7),
        row("c10d::allreduce_", 9.5, 9.8), row("aten::clone", 9.5, 9.75), row("aten::mm", 9.8, 10),
        row("gloo:all_reduce", 9.85, 12, tid=7),  # ends after the step: nobody waits, but for the copy in its call
        {"ph": "M", "name": "thread_name", "tid": 7},
    ]  # fmt: skip
    found = read({"traceEvents": rows, "baseTimeNanoseconds": 5 * 10**9})
    waited = [(7, 9.5), (11, 12), (12.1, 12.2), (12.5, 14), (14.5, 14.8)]
    assert [x for span in found.waits for x in span] == pytest.approx([x for span in waited for x in span])
    assert found.seconds == pytest.approx(
        {"forward": 3.5, "backward": 1.1, "communication": 5.4, "other": 0.0, "step": 10}
    )
    sent = [(event.name, *event.span) for event in found.events if event.kind == "collective"]
    assert sent == [("all-gather", 7, 9), ("reduce-scatter", 11, 12), ("all-reduce", 12.1, pytest.approx(13.8)),
                    ("all-reduce", 14.5, 17)]  # fmt: skip


def test_a_trace_of_a_gpu():
    """Kernels count, not the host's operators; what NCCL's kernels hide behind work costs nothing."""
    rows = [
        row("geofm:step", 0.1, 9, tid=20, cat="gpu_user_annotation"),
        row("geofm:forward", 0.1, 6, tid=20, cat="gpu_user_annotation"),
        *MARKED,
        row("aten::mm", 0, 9), row("c10d::_allgather_base_", 0, 1), row("_c10d_functional::wait_tensor", 1, 3),
        row("void gemm", 1, 3, tid=20, cat="kernel"), row("Memcpy DtoD", 3, 4, tid=20, cat="gpu_memcpy"),
        row("ncclDevKernel_AllGather_RING_LL(x)", 2, 5, tid=21, cat="kernel"),
        row("void gemm", 5, 8, tid=20, cat="kernel"),
        row("ncclDevKernel_ReduceScatter_Sum_bf16", 6, 9, tid=21, cat="kernel"),
    ]  # fmt: skip
    found = read({"traceEvents": rows})
    assert found.waits == [(4, 5), (8, 9)]
    assert found.seconds == pytest.approx({"forward": 5, "backward": 3, "communication": 2, "other": 0, "step": 10})
    assert [event.name for event in found.events if event.kind == "collective"] == ["all-gather", "reduce-scatter"]
