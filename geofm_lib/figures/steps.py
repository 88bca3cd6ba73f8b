"""The step breakdown of a throughput run: its phases by two clocks, its timeline, and what images and messages cost.

No torch.
"""

import pandas as pd
import seaborn as sns

from geofm_lib.figures.costs import stack
from geofm_lib.figures.display import Figure, Note, Table, axes, styled

BLUE = "#0072B2"
PHASES = {"data": "images", "forward": "forward", "backward": "backward", "optimiser": "optimiser"}
PROFILED = PHASES | {"communication": "exposed communication", "other": "the rest"}
COLOURS = {"images": "#56B4E9", "forward": "#0072B2", "backward": "#009E73", "optimiser": "#CC79A7",
           "exposed communication": "#D55E00", "the rest": "#999999"}  # fmt: skip
VARIANTS = {"real": "real images", "synthetic": "synthetic images", "no_communication": "synthetic, no communication"}
LANES = {"phase": "phase", "work": "work", "collective": "collective", "wait": "waiting"}
LANE_COLOURS = {"work": "#555555", "waiting": "#D55E00", "all-gather": "#E69F00", "reduce-scatter": "#F0E442",
                "all-reduce": "#8c564b", "broadcast": "#bbbbbb", "collective": "#E69F00"}  # fmt: skip
MOST_RANKS = 16


@styled
def phases(run) -> Figure | Note:
    """Seconds of a step that each rank spends in each phase, of profiled steps, else of the steady window."""
    ranks = widest(run.ranks)
    profiled = "profiled_step_s" in ranks
    names = [name for name in (PROFILED if profiled else PHASES) if f"{name}_s" in ranks or profiled]
    if not names:
        return Note("This run measured no phases.")
    columns = [f"profiled_{name}_s" if profiled else f"{name}_s" for name in names]
    frame = ranks[columns].astype(float).set_axis([PROFILED[n] for n in names], axis=1)
    frame.index = [f"rank {rank}" for rank in ranks["rank"]]
    figure, ax = axes(height=1.4 + 0.3 * len(frame))
    stack(ax, frame, COLOURS)
    ax.set(xlabel="seconds of one step" + ("" if profiled else ", waits for other ranks inside"))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    shares = 100 * frame.sum() / frame.to_numpy().sum()
    said = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    alt = f"Stacked bars of {len(frame)} ranks: of a step's time, {said}."
    return Figure(figure, alt, frame.rename_axis("rank").reset_index())


def phases_otherwise(run) -> Table:
    """The profiler's phases beside two others: the host's clock in the steady window, and a step that sends nothing."""
    ranks, rows = run.ranks, []
    if "profiled_step_s" not in ranks:
        return Table(pd.DataFrame(), "", "This run profiled no steps (profile_steps).")
    compared = "no_communication_step_s" in ranks
    mean = {name: float(values.mean()) for name, values in ranks.select_dtypes("number").items()}
    for name in ("data", "forward", "backward", "optimiser"):
        rows.append(
            (PROFILED[name], mean[f"profiled_{name}_s"], mean[f"{name}_s"], mean.get(f"no_communication_{name}_s"))
        )
    without = mean["synthetic_step_s"] - mean["no_communication_step_s"] if compared else None
    rows.append((PROFILED["communication"], mean["profiled_communication_s"], None, without))
    rows.append(("step", mean["profiled_step_s"], mean["step_s"], mean.get("no_communication_step_s")))
    columns = ["seconds", "profiler", "clock, waits inside", "nothing sent (and what that saves)"]
    slower = mean["profiled_step_s"] / mean["step_s"]
    caption = (f"The middle half of {run.settings.get('profile_steps')} steps by length, mean over ranks; a profiled "
               f"step takes {slower:.2f} times as long as one of the steady window")  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns).astype({name: float for name in columns[1:]})
    return Table(frame if compared else frame.iloc[:, :3], caption)


@styled
def timeline(run) -> Figure | Note:
    """One profiled step of the first ranks: its phases, when operators or kernels run, collectives, and waits."""
    frame = run.read_csv("timeline.csv")
    if frame.empty:
        return Note("This run profiled no steps (profile_steps), so there is none to draw.")
    ranks = sorted(frame["rank"].unique())
    lanes = [(rank, lane) for rank in ranks for lane in LANES]
    figure, ax = axes(height=1.2 + 0.2 * len(lanes))
    shown: dict[str, object] = {}
    for place, (rank, lane) in enumerate(lanes):
        for name, rows in frame[(frame["rank"] == rank) & (frame["lane"] == lane)].groupby("name", sort=False):
            name = PROFILED.get(name, name)
            bars = rows[["start_s", "duration_s"]].itertuples(index=False, name=None)
            colour = (COLOURS | LANE_COLOURS).get(name, "#999999")
            shown[name] = ax.broken_barh(list(bars), (place - 0.42, 0.84), facecolors=colour, linewidth=0)
    names = [f"rank {rank}: {LANES[lane]}" if lane == "phase" else LANES[lane] for rank, lane in lanes]
    ax.set_yticks(range(len(lanes)), names, fontsize=8)
    ax.set(xlabel="seconds since the first rank began", ylim=(len(lanes) - 0.4, -0.6))
    ax.grid(False, axis="y")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5)
    table = frame.groupby(["rank", "lane", "name"], sort=False)["duration_s"].agg(["count", "sum"]).reset_index()
    table.columns = ["rank", "lane", "name", "ranges", "seconds"]
    waits = table[table["lane"] == "wait"].set_index("rank")["seconds"]
    ends = frame.assign(end=frame["start_s"] + frame["duration_s"]).groupby("rank")
    took = ends["end"].max() - ends["start_s"].min()
    said = [f"rank {rank} {waits.get(rank, 0.0):.3g} of {took[rank]:.3g} s" for rank in ranks]
    alt = f"Lanes of one step by time, a group of {len(LANES)} a rank. Waiting for collectives: {', '.join(said)}."
    return Figure(figure, alt, table)


@styled
def inputs(run) -> Figure | Note:
    """Images/s with real images, with synthetic ones, and with nothing sent: the paper's first figure, of one run."""
    told = {VARIANTS[name]: run.summary.get(f"{name}_images_per_s") for name in VARIANTS}
    table = pd.DataFrame([(n, float(v)) for n, v in told.items() if v], columns=["what", "images/s"])
    if table.empty:
        return Note(
            "Not measured: compare=True takes the same step with real images, with synthetic ones, and sending nothing."
        )
    figure, ax = axes(height=1.9)
    sns.barplot(table, x="images/s", y="what", color=BLUE, ax=ax, width=0.62)
    ax.set(xlabel="images/s, all ranks", ylabel="")
    ax.grid(False, axis="y")
    said = "; ".join(f"{row.what} {row._2:.4g}" for row in table.itertuples())
    return Figure(figure, f"Bars of images/s: {said}.", table)


def widest(ranks: pd.DataFrame, column: str = "step_s") -> pd.DataFrame:
    """All ranks, or those with the largest values where they are too many to draw."""
    return ranks.nlargest(MOST_RANKS, column).sort_index() if len(ranks) > MOST_RANKS else ranks
