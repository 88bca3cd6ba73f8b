"""05: how well do frozen features tell the classes apart? No torch."""

import pandas as pd
import seaborn as sns

from geofm_lib.advice import signs
from geofm_lib.catalog import metrics
from geofm_lib.figures._axes import BLUE, GREY, LIMIT, ORANGE
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.runs.run import Run

# kind of features -> its columns in the summary: METRIC (see catalog/metrics), and the half of its 95 % interval
KINDS = {
    "pretrained, linear probe": ("METRIC_pretrained_mean", "METRIC_pretrained_interval"),
    "pretrained, nearest neighbours": ("knn_pretrained", ""),
    "random weights, linear probe": ("METRIC_random_mean", "METRIC_random_interval"),
    "random weights, nearest neighbours": ("knn_random", ""),
    "histograms, ridge": ("histograms_METRIC", "histograms_interval"),
}
NUMBERS = (
    "encoder", "classes", "metric", "train_", "test_", "chance", "guess", "top", "map", "knn", "hist", "head", "loss",
    "fewest", "unlearned", "unlabelled", "pretrained_on", "seen",
)  # fmt: skip


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
    """Top-1, or mean average precision, of every kind of features, with 95 % intervals over the probe seeds."""
    summary, key = run.summary, metrics.of(run.summary)
    columns = {name: [each.replace("METRIC", key) for each in pair] for name, pair in KINDS.items()}
    found = [(name, summary[mean], summary.get(half)) for name, (mean, half) in columns.items() if mean in summary]
    if not found:
        return Note("The run holds no probe result.")
    table = pd.DataFrame(found, columns=["features", key, "interval"]).astype({key: float, "interval": float})
    halves, chance = table["interval"].fillna(0), summary.get("chance")
    figure, ax = axes(height=0.9 + 0.36 * len(table))
    colours = [_colour(name) for name in table["features"]]
    ax.barh(table["features"], table[key], color=colours, height=0.62, xerr=halves, capsize=3)
    for y, (value, half) in enumerate(zip(table[key], halves, strict=True)):
        ax.text(value + half + 1, y, f"{value:.1f}", va="center", fontsize=8.5)
    if chance:
        ax.axvline(chance, **LIMIT)
        ax.text(chance, -0.62, " chance", fontsize=8, color="#444444", va="bottom")
    ax.invert_yaxis()
    ax.set(xlabel=f"{metrics.LONG[key]} on the test side, %", xlim=(0, 108), xticks=range(0, 101, 20))
    ax.grid(False, axis="y")
    values = [f"{name} {mean:.1f}" + (f" ± {half:.1f}" if half == half else "")
              for name, mean, half in table.itertuples(index=False)]  # fmt: skip
    alt = f"Bars of {metrics.LONG[key]} in percent: {'; '.join(values)}" + (
        f"; chance {chance:.1f}." if chance else "."
    )
    return Figure(figure, alt, table)


@styled
def curves(run: Run) -> Figure | Note:
    """What is measured on the test side (top-1 and top-5, or mAP) after every epoch of the linear probe."""
    frame = run.read_csv("probe.csv")
    measured = [key for key in metrics.LONG if key in frame]
    if not measured:
        return Note("The run holds no probe curve.")
    colours = {kind: _colour(kind) for kind in frame["features"].unique()}
    figure, panels = axes(height=2.9, columns=len(measured), sharex=True, squeeze=False)
    for ax, key in zip(panels[0], measured, strict=True):
        sns.lineplot(frame, x="epoch", y=key, hue="features", palette=colours, errorbar=("pi", 100), ax=ax)
        ax.set(xlabel="epoch", ylabel=f"{metrics.LONG[key]}, %")
        ax.get_legend().set_title(None)
    last = frame[frame["epoch"] == frame["epoch"].max()].groupby("features", sort=False)[measured].mean()
    ends = [f"{kind} " + " and ".join(f"{row[key]:.1f} {metrics.WORDS[key]}" for key in measured)
            for kind, row in last.iterrows()]  # fmt: skip
    alt = f"Lines over {int(frame['epoch'].max())} epochs, the band spans the probe seeds. "
    alt += f"At the end, in percent: {'; '.join(ends)}."
    return Figure(figure, alt, last.reset_index())


def _colour(name: str) -> str:
    return ORANGE if name.startswith("random") else GREY if name.startswith("histogram") else BLUE
