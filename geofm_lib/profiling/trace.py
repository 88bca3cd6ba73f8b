"""Where one step's time goes, from torch.profiler: phases, waiting for collectives, and ranges to draw.

A step and its phases are ranges that `meters` marks. Inside them a rank either works or waits for a collective that
nothing hides. Both are read from the profiler's trace, so a collective that runs beside work costs nothing here.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from geofm_lib.profiling.meters import MARK, collective

STEP = f"{MARK}step"
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")  # the trace's categories of what runs on a GPU
OPERATORS = ("aten::", "fsdp::", "Torch-Compiled Region", "CompiledFunctionBackward")  # on a CPU
WAITS = "_c10d_functional::wait_tensor"  # inside the operator that first needs a tensor on its way

Span = tuple[float, float]  # start and end, seconds


class Event(NamedTuple):
    """A range of the trace; seconds since 1970.

    `kind`: step, phase, work, collective, or call (on a CPU: what the rank's own thread does to send or receive).
    """

    name: str
    start: float
    duration: float
    kind: str

    @property
    def span(self) -> Span:
        return self.start, self.start + self.duration


class Profile(NamedTuple):
    """One rank's profiled step."""

    events: list[Event]
    waits: list[Span]
    seconds: dict[str, float]  # of each phase without its waits, of `communication` and `other`; they add up to `step`


def profiled(step: Callable[[], object], keep: Path | None = None) -> Profile:
    """Run `step` under torch.profiler and read its trace; `keep` is a file for the trace itself (Chrome's format).

    `step` marks itself and its phases by `meters.Phases`: "step" around all others.
    """
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = keep or Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return read(json.loads(file.read_text()))


def read(trace: dict) -> Profile:
    """The step of a trace in Chrome's format, as torch.profiler writes it."""
    rows = [row for row in trace["traceEvents"] if row.get("ph") == "X"]
    marks = [row for row in rows if row["name"].startswith(MARK) and row.get("cat") == "user_annotation"]  # the host's
    main = next(row["tid"] for row in marks if row["name"] == STEP)
    own = [row for row in rows if row["tid"] == main]
    epoch = trace.get("baseTimeNanoseconds", 0) / 1e9
    kernels = [row for row in rows if row.get("cat") in KERNELS]
    calls: list[Span] = []
    blocked: list[Span] = []
    if kernels:
        sends = [row for row in kernels if "nccl" in row["name"].lower()]  # RCCL's kernels have the same names
        worked = [row for row in kernels if "nccl" not in row["name"].lower()]
        pending = [(_drawn(row) or "collective", *_span(row)) for row in sends]
    else:
        worked = [row for row in own if row["name"].startswith(OPERATORS)]
        pending = _gloo(own, rows)
        # gloo copies what it sends first; torch's fake group, which sends nothing, copies too, but nobody waits for it
        calls = union(_span(row) for row in own if row["name"].startswith("c10d::")) if pending else []
        blocked = union([*calls, *(_span(row) for row in own if row["name"] == WAITS)])
    events = [Event(row["name"].removeprefix(MARK), row["ts"] / 1e6, row["dur"] / 1e6,
                    "step" if row["name"] == STEP else "phase") for row in marks]  # fmt: skip
    events += [Event("work", start, end - start, "work") for start, end in minus(union(map(_span, worked)), blocked)]
    events += [Event("call", start, end - start, "call") for start, end in calls]
    pending.sort(key=itemgetter(1))
    events += [Event(name, start, end - start, "collective") for name, start, end in pending]
    events = [event._replace(start=event.start + epoch) for event in events]
    found = waits(events, on_gpu=bool(kernels))
    return Profile(events, found, breakdown(events, found))


def step_of(events: list[Event]) -> Event:
    """The step among its events."""
    return next(event for event in events if event.kind == "step")


def breakdown(events: list[Event], waits: list[Span]) -> dict[str, float]:
    """Seconds of the step by phase, each without the waits in it, `communication` (the waits), `other` and `step`."""
    step = step_of(events)
    found: dict[str, float] = {}
    for event in events:
        if event.kind == "phase":
            found[event.name] = found.get(event.name, 0.0) + event.duration - length(overlap([event.span], waits))
    found["communication"] = length(overlap([step.span], waits))
    found["other"] = step.duration - sum(found.values())
    return found | {"step": step.duration}


def waits(events: list[Event], on_gpu: bool) -> list[Span]:
    """When the rank does nothing but a collective.

    On a GPU a collective is a kernel, and waiting is the time in which no other kernel runs. On a CPU gloo's threads
    run it beside the rank's own, whose operators have gaps anyway (Python, the profiler). A gap is a wait when a
    collective ends in it: the rank had nothing to do then. It lasts from the collective's call to the next operator.
    The calls themselves count too: gloo copies what it sends in them.
    """
    work = union(event.span for event in events if event.kind == "work")
    sent = [event.span for event in events if event.kind == "collective"]
    idle = minus([step_of(events).span], work)
    if on_gpu:
        return overlap(idle, union(sent))
    found = []
    for start, end in idle:
        called = [s for s, e in sent if start <= e <= end]
        found += [(max(start, min(called)), end)] if called else []
    return union([*found, *(event.span for event in events if event.kind == "call")])


def ranges(profile: Profile, most: int) -> list[tuple[str, str, float, float]]:
    """(lane, name, start, duration) to draw, at most about `most` of them: phases, work, collectives and waits.

    Neighbours of one name are drawn as one where the gap between them is small; start counts from the step's.
    """
    step = step_of(profile.events)
    lanes: dict[tuple[str, str], list[Span]] = {}
    for event in profile.events:
        if event.kind not in ("step", "call"):
            lanes.setdefault((event.kind, event.name), []).append(event.span)
    lanes["wait", "waiting"] = profile.waits
    gap = step.duration / 2000
    while True:
        merged = [(*lane, a, b) for lane, spans in lanes.items() for a, b in union(spans, gap)]
        if len(merged) <= max(most, len(lanes)):
            return [(lane, name, a - step.start, b - a) for lane, name, a, b in sorted(merged)]
        gap *= 2


def union(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """Sorted spans without overlaps; those at most `gap` apart become one: [(3, 4), (0, 2), (1, 3)] -> [(0, 4)]."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def overlap(left: list[Span], right: list[Span]) -> list[Span]:
    """What two sorted lists of spans without overlaps share: [(0, 2), (3, 5)], [(1, 4)] -> [(1, 2), (3, 4)]."""
    found: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        found += [(start, end)] if start < end else []
        i, j = (i + 1, j) if left[i][1] < right[j][1] else (i, j + 1)
    return found


def minus(left: list[Span], right: list[Span]) -> list[Span]:
    """What of the sorted spans `left` is not in the sorted spans `right`: [(0, 10)], [(2, 3)] -> [(0, 2), (3, 10)]."""
    ends = [float("-inf"), *(x for span in right for x in span), float("inf")]
    return overlap(left, list(zip(ends[::2], ends[1::2], strict=True)))


def length(spans: Iterable[Span]) -> float:
    """Seconds of all spans together."""
    return sum(end - start for start, end in spans)


def _gloo(own: list[dict], rows: list[dict]) -> list[tuple[str, float, float]]:
    """(name, call, end) of each collective on a CPU: called in the rank's thread, done in one of gloo's.

    gloo takes them in the order of their calls, and runs a reduce-scatter as an all-reduce.
    """
    calls = sorted((_span(row)[0], _drawn(row)) for row in own if row["name"].startswith("c10d::") and _drawn(row))
    done = sorted(_span(row) for row in rows if row["name"].startswith("gloo:"))
    if len(calls) != len(done):  # a collective that some version of torch cuts into several
        return [("collective", *span) for span in done]
    return [(name, called, end) for (called, name), (_, end) in zip(calls, done, strict=True)]


def _drawn(row: dict) -> str:
    return collective(row["name"]).replace("_", "-")


def _span(row: dict) -> Span:
    return row["ts"] / 1e6, (row["ts"] + row["dur"]) / 1e6
