"""03: where the time, the memory and the bytes of a throughput run go, measured beside arithmetic. No torch."""

from typing import Any

import pandas as pd
import seaborn as sns

from geofm_lib.advice import signs
from geofm_lib.catalog.metrics import number, with_ends
from geofm_lib.figures._axes import (
    ALL_RANKS,
    BLUE,
    GREY,
    HOLDS,
    SHADE,
    STEP_S,
    legend_below,
    stacked_bars,
    whiskers,
)
from geofm_lib.figures._step import COLOURS, LANES, PROFILED, SPEED, TRACKED, VARIANTS
from geofm_lib.figures.display import Answer, Figure, Note, Table, axes, styled
from geofm_lib.planning.conditions import WORKLOADS, Conditions, gib
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.steps import step_traffic
from geofm_lib.runs.comparison import of_window
from geofm_lib.runs.run import Run

MOST_RANKS = 16
HALF = "the middle half of the steps"
NO_SPREAD = "An earlier version kept no spread of the steps."
NO_PARTS = "This run measured no parts of a step."
NOT_PROFILED = "This run profiled no steps (profile_steps)."


def answer(run: Run) -> Answer:
    """Images/s with the spread of its steps, where most of a step goes, and the memory; with the conditions."""
    found, asked, ranks = run.summary, run.settings, run.ranks
    if found.get("images_per_s") is None:
        return Answer("The run has measured nothing yet.")
    own = run.metrics
    steps = own.loc[own["phase"].eq("steady window"), "step_s"].dropna() if "phase" in own else pd.Series(dtype=float)
    seconds, images = found["step_s"], found["global_batch"]
    low, high = (steps.quantile(0.25), steps.quantile(0.75)) if len(steps) > 1 else (seconds, seconds)
    low, high = _spread(run, "")[0] or (low, high)  # as in the table of speeds, of the slowest rank
    rates, times = with_ends(found["images_per_s"], images / high, images / low), with_ends(seconds, low, high)
    half = f" ({HALF}: {rates[1]} to {rates[2]})" if high > low else ""
    if sure := of_window(own, found["images_per_s"]):  # as in 10
        rates = with_ends(found["images_per_s"], *sure)
        half = f" (95 % interval {rates[1]} to {rates[2]}, over the steps of one run)"
    text = f"{rates[0]} images/s{half}: a step of {images:,} images takes {times[0]} s"
    text += f" ({HALF}: {times[1]} to {times[2]})" if high > low else ""
    kind = "profiled_" if "profiled_step_s" in ranks else ""
    phases = {words: ranks[f"{kind}{name}_s"].mean() for name, words in PROFILED.items() if f"{kind}{name}_s" in ranks}
    if phases:
        most = max(phases, key=phases.__getitem__)
        of = "a profiled step" if kind else "it"
        text += f"; {100 * phases[most] / sum(phases.values()):.0f} % of {of} is {most}"
        sent = PROFILED["communication"]
        text += f", {100 * phases[sent] / sum(phases.values()):.0f} % {sent}" if sent in phases and most != sent else ""
    if kept := _kept(found):
        text += f"; {kept}"
    if found.get("peak_memory_gib") is not None:
        whole = "process of a rank" if run.environment.get("device_type") == "cpu" else "rank"
        text += f"; the fullest {whole} holds {found['peak_memory_gib']:.2g} GiB"
        text += ", Python and torch included" if whole != "rank" else ""
    names = ", ".join(str(asked[name]) for name in ("model", "strategy", "precision") if name in asked)
    names += f", {WORKLOADS.get(asked['workload'], asked['workload'])}" if "workload" in asked else ""
    names += f", {asked['image_size']} px" if "image_size" in asked else ""
    return Answer(
        f"{text}.",
        f"{names}; one run, {len(ranks)} rank{'s' * (len(ranks) != 1)}, {run.environment.get('device', '')}.",
    )


def _kept(found: dict[str, Any]) -> str:
    """What most of the tensors are at the fullest moment, in words; '' of a run that tracked none."""
    held = {words: found[f"tracked_{name}_gib"] for name, words in TRACKED.items() if found.get(f"tracked_{name}_gib")}
    if not held or not found.get("tracked_peak_gib"):
        return ""
    most, whole = max(held, key=held.__getitem__), found["tracked_peak_gib"]
    return f"{100 * held[most] / whole:.0f} % of {number(whole)} GiB of tensors is {most}"


def speed(run: Run) -> Table:
    """The headline of a throughput run: our steady window beside the paper's own way of counting."""
    summary = run.summary
    rows = [(words, float(summary[name])) for name, words in SPEED.items() if summary.get(name) is not None]
    asked = run.settings
    caption = ", ".join(str(asked.get(name)) for name in ("model", "strategy", "precision"))
    caption += f", {WORKLOADS.get(asked.get('workload', ''), asked.get('workload'))}"
    caption += f"; power: {summary['power_source']}" if "power_source" in summary else ""
    on_cpu = run.environment.get("device_type", "cpu") == "cpu"
    if summary.get("busy_percent") is not None:
        caption += "; busy: processor time over the window's seconds and the rank's threads" if on_cpu else (
            "; busy: as the GPU's driver says")  # fmt: skip
    if on_cpu and len(run.ranks) > 1 and summary.get("matmul_tflops"):
        caption += "; all ranks' matrix products run at once, while 11's peak is of one process alone with all threads"
    frame = pd.DataFrame(rows, columns=["what", "value"])
    steps, rates = _spread(run, "")
    if steps is not None:
        caption += f"; from and to: {HALF}"
        for name, values in (("step_s", steps), ("images_per_s", rates)):
            frame.loc[frame["what"] == SPEED[name], ["from", "to"]] = values
    return Table(frame, caption, "The run measured nothing.")


def _spread(run: Run, kind: str) -> tuple[list[float] | None, list[float]]:
    """Seconds a step and images/s, from and to, of the middle half of the slowest rank's steps; (None, []) if unknown.

    `kind`: of which steps, as columns of ranks.csv begin: "", "real_", "synthetic_", "no_communication_".
    """
    ranks, images = run.ranks, run.summary.get("global_batch")
    if f"{kind}step_low_s" not in ranks or not images:
        return None, []
    seconds = [float(ranks[f"{kind}step_{end}_s"].max()) for end in ("low", "high")]
    return seconds, [images / each for each in reversed(seconds)]


def kernels(run: Run) -> Table:
    """How the blocks of each stack compute, and the milliseconds that were measured for it."""
    found = run.kernels
    columns = {
        "stack": "blocks of",
        "images": "images",
        "tokens": "tokens",
        "attention": "attention",
        "linear": "linear",
    }
    rows = [
        {words: row.get(name) for name, words in columns.items()}
        | {f"ms, {name.replace('+', ' and ')}": ms for name, ms in row.get("ms", {}).items()}
        for row in found.get("stacks", [])
    ]
    caption = f"Chosen: {found.get('how')}; one block forward and backward on {found.get('device')}" if rows else ""
    return Table(pd.DataFrame(rows), caption, "This run was made before kernels were chosen: fused attention, matmul.")


@styled
def steps(run: Run) -> Figure | Note:
    """Seconds of each step, warm-up apart from the measured window, and the ranks' own numbers."""
    metrics = run.metrics
    if "step_s" not in metrics:
        return Note("The run logged no step times.")
    metrics = metrics.dropna(subset=["step_s"])  # profiled steps have none
    warm, first = int(run.settings.get("warmup_steps", 0)), metrics["step"].min()
    figure, ax = axes(height=2.8)
    sns.lineplot(metrics, x="step", y="step_s", ax=ax, color=BLUE, marker="o", markeredgewidth=0)
    if warm:
        ax.axvspan(first - 0.5, first + warm - 0.5, color=SHADE, zorder=0, label="warm-up, not counted")
        ax.legend()
    ax.set(xlabel="step", ylabel=STEP_S, ylim=(0, None))
    steady = metrics["step_s"].iloc[warm:] if len(metrics) > warm else metrics["step_s"]
    rate = run.summary.get("images_per_s")
    low, high = steady.quantile(0.25), steady.quantile(0.75)
    alt = (
        f"Line of {len(metrics)} steps; in the steady window a step takes {number(steady.median())} s (median, half of "
    )
    alt += f"the steps {number(low)} to {number(high)})" + (
        f", {number(rate)} images/s over all ranks." if rate else "."
    )
    return Figure(figure, alt, run.ranks if len(run.ranks) else None)


@styled
def step_breakdown(run: Run) -> Figure | Note:
    """Seconds of a step that each rank spends in each phase, of profiled steps, else of the steady window."""
    ranks = run.ranks
    kind = "profiled_" if "profiled_step_s" in ranks else ""
    columns = {f"{kind}{name}_s": words for name, words in PROFILED.items() if f"{kind}{name}_s" in ranks}
    if not columns:
        return Note("This run measured no phases.")
    frame = _by_rank(ranks, columns, "step_s")
    figure, ax = axes(height=1.6 + 0.3 * len(frame))
    ends, spread = {f"{kind}step_{end}_s": end for end in ("low", "high")}, None
    if set(ends) <= set(ranks):
        spread = _by_rank(ranks, ends, "step_s")
    unit = STEP_S + ("" if kind else ", waits for other ranks inside")
    stacked_bars(ax, frame, unit, COLOURS, spread, HALF)
    legend_below(figure, [ax], 4)
    shares = 100 * frame.sum() / frame.to_numpy().sum()
    found = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    alt = f"Stacked bars of {len(frame)} ranks: of a step's time, {found}. "
    alt += NO_SPREAD if spread is None else f"Whiskers: {HALF}."
    return Figure(figure, alt, frame.rename_axis("rank").reset_index())


def breakdown_compared(run: Run) -> Table:
    """The profiler's step breakdown beside the host's clock in the steady window, and a no-communication run."""
    ranks = run.ranks
    if "profiled_step_s" not in ranks:
        return Table(pd.DataFrame(), empty=NOT_PROFILED)
    mean = ranks.select_dtypes("number").mean().to_dict()
    if "no_communication_step_s" in mean:
        mean["no_communication_communication_s"] = mean["synthetic_step_s"] - mean["no_communication_step_s"]
    rows = [
        {"seconds": words, "profiler": mean[f"profiled_{name}_s"], "clock, waits inside": mean.get(f"{name}_s"),
         "no communication (and what that saves)": mean.get(f"no_communication_{name}_s")}
        for name, words in (PROFILED | {"step": "step"}).items() if name != "other"
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype(dict.fromkeys(list(rows[0])[1:], float))
    slower = mean["profiled_step_s"] / mean["step_s"]
    caption = (f"The middle half of {run.settings.get('profile_steps')} steps by length, mean over ranks; a profiled "
               f"step takes {slower:.2f} times as long as one of the steady window")  # fmt: skip
    if "no_communication_step_s" in mean:
        caption += (f". What no communication saves is against {number(mean['synthetic_step_s'])} s, a step of "
                    "the same model with synthetic images and communication")  # fmt: skip
    return Table(frame if "no_communication_step_s" in mean else frame.iloc[:, :3], caption)


@styled
def timeline(run: Run) -> Figure | Note:
    """One profiled step of the first ranks: its phases, when operators or kernels run, collectives, and waits."""
    frame = run.read_csv("timeline.csv")
    if frame.empty:
        return Note(NOT_PROFILED)
    ranks = sorted(frame["rank"].unique())
    lanes = [(rank, lane) for rank in ranks for lane in LANES]
    figure, ax = axes(height=1.2 + 0.2 * len(lanes))
    frame["place"] = [lanes.index(lane) for lane in zip(frame["rank"], frame["lane"], strict=True)]
    for (place, name), rows in frame.sort_values("place", kind="stable").groupby(["place", "name"], sort=False):
        bars, words = list(zip(rows["start_s"], rows["duration_s"], strict=True)), PROFILED.get(name, name)
        ax.broken_barh(bars, (place - 0.42, 0.84), facecolors=COLOURS.get(words, GREY), linewidth=0, label=words)
    names = [f"rank {rank}: {words}" if lane == "phase" else words for rank in ranks for lane, words in LANES.items()]
    ax.set_yticks(range(len(lanes)), names, fontsize=8)
    ax.set(xlabel="seconds since the first rank began", ylim=(len(lanes) - 0.4, -0.6))
    ax.grid(False, axis="y")
    legend_below(figure, [ax], 5)
    lengths = frame.groupby(["rank", "lane", "name"], sort=False)["duration_s"]
    table = lengths.agg(ranges="count", seconds="sum").reset_index()
    waits = table[table["lane"] == "wait"].set_index("rank")["seconds"]
    ends = frame.assign(end=frame["start_s"] + frame["duration_s"]).groupby("rank")
    took = ends["end"].max() - ends["start_s"].min()
    found = [f"rank {rank} {number(waits.get(rank, 0.0))} of {number(took[rank])} s" for rank in ranks]
    alt = f"Lanes of one step by time, a group of {len(LANES)} a rank. Waiting for collectives: {', '.join(found)}."
    return Figure(figure, alt, table)


def advice(run: Run) -> Table:
    """What stands out in a step of this run, the largest part first, each with what to change."""
    shares = signs.shares(run.ranks)
    known = ", ".join(f"{PROFILED[name]} {100 * share:.0f} %" for name, share in shares.items())
    stands = f"from which on it is named ({signs.NAMED}). Shares: {known}"
    empty = f"Nothing stands out: no part of the step has the share {stands}." if known else NO_PARTS
    rows = signs.slow(run.ranks, run.settings, run.environment)
    caption = f"Parts of a step that stand out. One is named from this share on: {signs.NAMED}. Shares: {known}"
    return Table(pd.DataFrame(rows, columns=["found", "what to change"]), caption, empty=empty)


@styled
def inputs(run: Run) -> Figure | Note:
    """Images/s with real images, with synthetic ones, and without communication: the paper's first figure."""
    found = {words: run.summary.get(f"{name}_images_per_s") for name, words in VARIANTS.items()}
    rows = [(name, float(value)) for name, value in found.items() if value]
    table = pd.DataFrame(rows, columns=["what", "images/s"])
    if table.empty:
        return Note("Not measured: compare=True also takes steps with real images and without communication.")
    figure, ax = axes(height=2.2)
    spread = [_spread(run, f"{name}_")[1] for name, words in VARIANTS.items() if found[words]]
    sns.barplot(table, x="images/s", y="what", color=BLUE, saturation=1, ax=ax, width=0.62)
    ax.set(xlabel=ALL_RANKS, ylabel="")
    ax.grid(False, axis="y")
    words, told = "; ".join(f"{name} {number(value)}" for name, value in table.itertuples(index=False)), NO_SPREAD
    held = _held_back(run)
    if all(spread):
        table[["low", "high"]] = spread
        whiskers(ax, table["images/s"], table["what"], table, HALF)
        legend_below(figure, [ax])
        told = f"Whiskers: {HALF}."
    return Figure(figure, f"{held}Bars of images/s: {words}. {told}", table)


def _held_back(run: Run) -> str:
    """What images and communication each take of the images/s, and whether the steps tell; '' where not measured."""
    found, said = [run.summary.get(f"{name}_images_per_s") for name in VARIANTS], []
    if not all(found):
        return ""
    for what, slow, fast in (("Images", "real", "synthetic"), ("communication", "synthetic", "no_communication")):
        lost = 100 * (1 - run.summary[f"{slow}_images_per_s"] / run.summary[f"{fast}_images_per_s"])
        low, high = (_spread(run, f"{name}_")[1] for name in (slow, fast))
        sure = "" if not (low and high) or low[1] < high[0] else f", which {HALF} do not tell from none"
        said.append(f"{what} take {lost:.0f} % of the images/s{sure}" if what == "Images" else
                    f"{what} takes {lost:.0f} %{sure}")  # fmt: skip
    return f"{'; '.join(said)}. "


@styled
def memory(run: Run) -> Figure | Note:
    """Tensors that each rank holds at its fullest moment, by kind, above the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    if "peak_memory_gib" not in ranks:
        return Note("This run measured no memory.")
    peak = float(ranks["peak_memory_gib"].max())
    if "tracked_peak_gib" not in ranks:
        return Note(
            f"The peak was {number(peak)} GiB; by kind it was not tracked (compiled blocks hold other tensors)."
        )
    planned = rank_memory(asked["model"], asked["strategy"], len(ranks), asked["batch_per_gpu"], Conditions.of(asked),
                          **_sizes(asked))  # fmt: skip
    frame = _by_rank(ranks, {f"tracked_{name}_gib": words for name, words in TRACKED.items()}, "tracked_peak_gib")
    most = frame.max()
    arithmetic = (planned.parameters, planned.gradients_by_then, planned.optimiser, planned.unsharded,
                  planned.activations + planned.block, 0.0)  # fmt: skip
    frame.loc["arithmetic"] = [gib(size) for size in arithmetic]
    rows = [(f"{name} at the fullest moment", most[name], frame.loc["arithmetic", name]) for name in frame]
    rows.append(("all of that", ranks["tracked_peak_gib"].max(), gib(planned.peak)))
    rows += [(f"{TRACKED[name]}, once all are there", ranks[f"{name}_gib"].max(), gib(getattr(planned, name)))
             for name in ("parameters", "gradients", "optimiser")]  # fmt: skip
    rows.append(("peak of the allocator (GPU) or the process (CPU)", peak, None))
    table = pd.DataFrame(rows, columns=["GiB on the fullest rank", "measured", "arithmetic"])
    figure, ax = axes(height=1.5 + 0.28 * len(frame))
    stacked_bars(ax, frame, "GiB", HOLDS)
    legend_below(figure, [ax], len(TRACKED))
    found = ", ".join(f"{name} {number(most[name])}" for name in most.index)
    alt = (f"Stacked bars: GiB of tensors that {len(ranks)} ranks hold at most, {found}; together "
           f"{number(ranks['tracked_peak_gib'].max())}, by arithmetic {number(gib(planned.peak))}. "
           "One step.")  # fmt: skip
    return Figure(figure, alt, table)


def communication(run: Run) -> Table:
    """Bytes and calls of each collective in one step of one rank, beside the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    planned = step_traffic(asked["model"], asked["strategy"], max(1, len(ranks)), Conditions.of(asked), **_sizes(asked))
    rows = [
        {"collective": name.replace("_", "-"), "calls": int(ranks[f"{name}_calls"].max()),
         "MiB": ranks[f"{name}_bytes"].max() / 2**20, "calls, arithmetic": traffic.calls,
         "MiB, arithmetic": traffic.payload / 2**20}
        for name, traffic in planned.items() if f"{name}_bytes" in ranks
    ]  # fmt: skip
    caption = "One step of one rank: whole tensors that are gathered or reduced"
    return Table(pd.DataFrame(rows), caption, "This run counted no collectives.")


def _sizes(asked: dict[str, Any]) -> dict[str, Any]:
    """The sizes of images and patches that a run was given; 0 is the model's own."""
    return {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}


def _by_rank(ranks: pd.DataFrame, columns: dict[str, str], by: str) -> pd.DataFrame:
    """These columns under their words, one row a rank; those with the largest `by` where too many to draw."""
    if len(ranks) > MOST_RANKS:
        ranks = ranks.nlargest(MOST_RANKS, by).sort_index()
    frame = ranks[list(columns)].astype(float).set_axis(list(columns.values()), axis=1)
    frame.index = [f"rank {rank}" for rank in ranks["rank"]]
    return frame
