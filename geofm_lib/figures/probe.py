"""05: how well do frozen features tell the classes apart? No torch."""

import pandas as pd
import seaborn as sns

from geofm_lib.advice import signs
from geofm_lib.figures._axes import BLUE, GREY, LIMIT, ORANGE
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.runs.run import Run

# kind of features -> its columns in the summary: top-1, and the half of its 95 % interval
KINDS = {
    "pretrained, linear probe": ("top1_pretrained_mean", "top1_pretrained_interval"),
    "pretrained, nearest neighbours": ("knn_pretrained", ""),
    "random weights, linear probe": ("top1_random_mean", "top1_random_interval"),
    "random weights, nearest neighbours": ("knn_random", ""),
    "histograms, ridge": ("histograms_top1", "histograms_interval"),
}
NUMBERS = ("encoder", "classes", "train_", "test_", "chance", "top", "knn", "hist", "head", "loss")


def verdict(run: Run) -> Note:
    """The probe's result in a sentence."""
    return Note(run.summary.get("verdict", "The run holds no probe result."))


def doubts(run: Run) -> Table:
    """What speaks against a probe, with its evidence and what to do; one sentence when nothing does."""
    rows = signs.doubts(run.summary, run.read_csv("probe.csv"))
    return Table(pd.DataFrame(rows), empty="None of the usual signs of a poor probe.")


def numbers(run: Run) -> Table:
    """Every number of the run's summary."""
    found = [(name, value) for name, value in run.summary.items() if name.startswith(NUMBERS)]
    return Table(pd.DataFrame(found, columns=["number", "value"]), empty="The run holds no probe result.")


@styled
def accuracy(run: Run) -> Figure | Note:
    """Top-1 of every kind of features, with 95 % intervals over the probe seeds."""
    summary = run.summary
    found = [(name, summary[top1], summary.get(half)) for name, (top1, half) in KINDS.items() if top1 in summary]
    if not found:
        return Note("The run holds no probe result.")
    table = pd.DataFrame(found, columns=["features", "top1", "interval"]).astype({"top1": float, "interval": float})
    halves, chance = table["interval"].fillna(0), summary.get("chance")
    figure, ax = axes(height=0.9 + 0.36 * len(table))
    colours = [_colour(name) for name in table["features"]]
    ax.barh(table["features"], table["top1"], color=colours, height=0.62, xerr=halves, capsize=3)
    for y, (value, half) in enumerate(zip(table["top1"], halves, strict=True)):
        ax.text(value + half + 1, y, f"{value:.1f}", va="center", fontsize=8.5)
    if chance:
        ax.axvline(chance, **LIMIT)
        ax.text(chance, -0.62, " chance", fontsize=8, color="#444444", va="bottom")
    ax.invert_yaxis()
    ax.set(xlabel="top-1 accuracy on the test side, %", xlim=(0, 108), xticks=range(0, 101, 20))
    ax.grid(False, axis="y")
    values = [f"{name} {top1:.1f}" + (f" ± {half:.1f}" if half == half else "")
              for name, top1, half in table.itertuples(index=False)]  # fmt: skip
    alt = f"Bars of top-1 accuracy in percent: {'; '.join(values)}" + (f"; chance {chance:.1f}." if chance else ".")
    return Figure(figure, alt, table)


@styled
def curves(run: Run) -> Figure | Note:
    """Top-1 and top-5 accuracy on the test side after every epoch of the linear probe."""
    frame = run.read_csv("probe.csv")
    if "top1" not in frame:
        return Note("The run holds no probe curve.")
    colours = {kind: _colour(kind) for kind in frame["features"].unique()}
    figure, panels = axes(height=2.9, columns=2, sharex=True)
    for ax, column in zip(panels, ("top1", "top5"), strict=True):
        sns.lineplot(frame, x="epoch", y=column, hue="features", palette=colours, errorbar=("pi", 100), ax=ax)
        ax.set(xlabel="epoch", ylabel=f"{column.replace('top', 'top-')} accuracy, %")
        ax.get_legend().set_title(None)
    last = frame[frame["epoch"] == frame["epoch"].max()].groupby("features", sort=False)[["top1", "top5"]].mean()
    ends = [f"{kind} {row.top1:.1f} top-1 and {row.top5:.1f} top-5" for kind, row in last.iterrows()]
    alt = f"Lines over {int(frame['epoch'].max())} epochs, the band spans the probe seeds. "
    alt += f"At the end, in percent: {'; '.join(ends)}."
    return Figure(figure, alt, last.reset_index())


def _colour(name: str) -> str:
    return ORANGE if name.startswith("random") else GREY if name.startswith("histogram") else BLUE
