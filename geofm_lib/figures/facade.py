"""The figures of a run, one function each: it takes a `Run` and returns what a notebook cell shows.

Every picture carries alt text that says what it shows, with its key numbers, and the numbers as a table. What the
paper published is drawn by `paper_figures`, what it says and what came of it by `statements`, the evidence for the four
findings by `finding_figures`, what arithmetic says by `cost_figures`, what is planned by `plan_figures` and `what_if`,
how it scales by `scaling_figures`, the small grids by `experiment_figures`, a throughput run by `time_figures` and
`step_figures`, a preparation's lists by `data_figures`, images by `photographs`; this module is the one door to all of
them. No torch.
"""

import numpy as np
import pandas as pd
import seaborn as sns

from geofm_lib.figures.claims import claims, reading, verdicts
from geofm_lib.figures.costs import image_costs, measured_runs, strategy_memory, strategy_traffic
from geofm_lib.figures.data import MOST_ROWS, card_counts, data_card, duplicates, image_sizes, packing
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.figures.experiments import base_alone, batch_scaling, prefetch_depths, three_b
from geofm_lib.figures.findings import precision_measured, precision_predicted, replicas, start_up, unseen_predictions
from geofm_lib.figures.images import contact_sheet, model_view, reconstruction
from geofm_lib.figures.plan import predicted_scaling, simulated
from geofm_lib.figures.plan_form import what_if
from geofm_lib.figures.published import (
    parameter_counts,
    published_memory,
    published_memory_by_nodes,
    published_prefetch,
    published_scaling,
)
from geofm_lib.figures.scaling import efficiency, measured_scaling, memory_by_nodes, ranking, strong_scaling
from geofm_lib.figures.steps import inputs, phases, phases_otherwise, timeline
from geofm_lib.figures.throughput import communication, loader_speed, memory, speed, throughput
from geofm_lib.runs import probe_advice

__all__ = [
    "base_alone", "batch_scaling", "card_counts", "claims", "class_counts", "communication", "contact_sheet",
    "data_card", "duplicates", "efficiency", "image_costs", "image_sizes", "inputs", "learning_rate",
    "loader_speed", "loss_curve", "measured_runs", "measured_scaling", "memory", "memory_by_nodes", "model_view",
    "packing", "parameter_counts", "phases", "phases_otherwise", "precision_measured", "precision_predicted",
    "predicted_scaling", "prefetch_depths", "probe_bars", "probe_curves", "probe_doubts", "published_memory",
    "published_memory_by_nodes", "published_prefetch", "published_scaling", "ranking", "reading", "reconstruction",
    "refused", "replicas", "simulated", "speed", "start_up", "strategy_memory", "strategy_traffic",
    "strong_scaling", "three_b", "throughput", "timeline", "unseen_predictions", "verdicts", "what_if",
]  # fmt: skip

PRETRAINED, RANDOM, HISTOGRAMS = "#0072B2", "#E69F00", "#7f7f7f"  # Okabe and Ito: colour-blind safe


# ---------------------------------------------------------------- 01: the images


@styled
def class_counts(run) -> Figure | Note:
    """Images per class, as the preparation counted them."""
    counts = run.summary.get("classes") or {}
    if not counts:
        return Note("These images have no labels, so there are no classes to count.")
    table = pd.DataFrame({"class": list(counts), "images": list(counts.values())})
    shown = table.nlargest(MOST_ROWS, "images", keep="first").sort_index()
    figure, ax = axes(height=0.8 + 0.19 * len(shown))
    sns.barplot(shown, x="images", y="class", color=PRETRAINED, ax=ax, width=0.7)
    ax.set(xlabel="images", ylabel="")
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(False, axis="y")
    low, high = table["images"].min(), table["images"].max()
    spread = f"{low} images in each" if low == high else f"from {low} to {high} images"
    sides = " and ".join(f"{run.summary[side]} {side}" for side in ("train", "test") if side in run.summary)
    alt = f"Bar chart of {len(table)} classes, {spread}."
    return Figure(figure, alt + (f" Sides of the split: {sides} images." if sides else ""), table)


def refused(run) -> Table:
    """Every file the preparation refused, with its reason."""
    frame = run.read_csv("refused.csv")
    rest = f", the first {MOST_ROWS} of them here and all in refused.csv" if len(frame) > MOST_ROWS else ""
    return Table(frame.head(MOST_ROWS), f"{len(frame)} files refused{rest}", "No file was refused.")


# ---------------------------------------------------------------- 02: pretraining


@styled
def loss_curve(run) -> Figure | Note:
    """Training loss against epochs."""
    metrics = run.metrics
    if not _has(metrics, "loss"):
        return Note("The run logged no step, so there is no loss to draw.")
    metrics = metrics.dropna(subset=["loss"])
    x = "epoch" if _has(metrics, "epoch") and metrics["epoch"].is_unique else "step"
    figure, ax = axes()
    sns.lineplot(metrics, x=x, y="loss", ax=ax, color=PRETRAINED, alpha=0.35, linewidth=1)
    smooth = metrics["loss"].rolling(max(1, len(metrics) // 30), min_periods=1).mean()
    ax.plot(metrics[x], smooth, color=PRETRAINED)
    ax.set(xlabel=x, ylabel="loss on masked patches")
    first, last = metrics["loss"].iloc[0], metrics["loss"].iloc[-1]
    change = f"{'falls' if last < first else 'rises'} from {first:.4f} to {last:.4f}"
    steps = int(metrics["step"].iloc[-1])
    kept = [name for name in ("step", "epoch", "loss", "learning_rate", "grad_norm") if name in metrics]
    thin = metrics[kept].iloc[np.unique(np.linspace(0, len(metrics) - 1, 21).astype(int))]
    return Figure(figure, f"Line: the training loss {change} over {steps} steps.", thin)


@styled
def learning_rate(run) -> Figure | Note:
    """Learning rate and gradient norm against steps."""
    if not _has(run.metrics, "learning_rate"):
        return Note("The run logged no learning rate.")
    metrics, norms = run.metrics, _has(run.metrics, "grad_norm")
    figure, panels = axes(height=2.5, columns=1 + norms, squeeze=False)
    sns.lineplot(metrics, x="step", y="learning_rate", ax=panels[0, 0], color=PRETRAINED)
    panels[0, 0].set(xlabel="step", ylabel="learning rate")
    rates = metrics["learning_rate"]
    alt = f"Line: the learning rate peaks at {rates.max():.3g} and ends at {rates.iloc[-1]:.3g}."
    if norms:
        sns.lineplot(metrics, x="step", y="grad_norm", ax=panels[0, 1], color=RANDOM)
        panels[0, 1].set(xlabel="step", ylabel="gradient norm")
        alt += f" Beside it the gradient norm, median {metrics['grad_norm'].median():.3g}."
    return Figure(figure, alt)


# ---------------------------------------------------------------- 05: the probe


@styled
def probe_bars(run) -> Figure | Note:
    """Top-1 of every kind of features, with 95 % intervals over the probe seeds."""
    table = _probe_table(run.summary)
    if table.empty:
        return Note("The run holds no probe result.")
    figure, ax = axes(height=0.9 + 0.36 * len(table))
    colours = [_feature_colour(name) for name in table["features"]]
    ax.barh(table["features"], table["top1"], color=colours, height=0.62, xerr=table["interval"].fillna(0), capsize=3)
    for y, (value, half) in enumerate(zip(table["top1"], table["interval"].fillna(0), strict=True)):
        ax.text(value + half + 1, y, f"{value:.1f}", va="center", fontsize=8.5)
    chance = run.summary.get("chance")
    if chance:
        ax.axvline(chance, color="#444444", linestyle=":", linewidth=1)
        ax.text(chance, -0.62, " chance", fontsize=8, color="#444444", va="bottom")
    ax.invert_yaxis()
    ax.set(xlabel="top-1 accuracy on the test side, %", xlim=(0, 108))
    ax.set_xticks(range(0, 101, 20))
    ax.grid(False, axis="y")
    values = [f"{name} {top1:.1f}" + (f" ± {half:.1f}" if half == half else "")
              for name, top1, half in table.itertuples(index=False)]  # fmt: skip
    alt = f"Bars of top-1 accuracy in percent: {'; '.join(values)}" + (f"; chance {chance:.1f}." if chance else ".")
    return Figure(figure, alt, table)


@styled
def probe_curves(run) -> Figure | Note:
    """Top-1 and top-5 accuracy on the test side after every epoch of the linear probe."""
    curves = run.read_csv("probe.csv")
    if not _has(curves, "top1"):
        return Note("The run holds no probe curve.")
    kinds = list(dict.fromkeys(curves["features"]))
    colours = {kind: _feature_colour(kind) for kind in kinds}
    figure, panels = axes(height=2.9, columns=2, sharex=True)
    for ax, column in zip(panels, ("top1", "top5"), strict=True):
        sns.lineplot(curves, x="epoch", y=column, hue="features", palette=colours, errorbar=("pi", 100), ax=ax)
        ax.set(xlabel="epoch", ylabel=f"{column.replace('top', 'top-')} accuracy, %")
        if ax.get_legend():
            ax.get_legend().set_title(None)
    last = curves[curves["epoch"] == curves["epoch"].max()].groupby("features", sort=False)[["top1", "top5"]].mean()
    ends = [f"{kind} {row.top1:.1f} top-1 and {row.top5:.1f} top-5" for kind, row in last.iterrows()]
    alt = f"Lines over {int(curves['epoch'].max())} epochs, the band spans the probe seeds. "
    alt += f"At the end, in percent: {'; '.join(ends)}."
    return Figure(figure, alt, last.reset_index())


def probe_doubts(run) -> Table:
    """What speaks against a probe, with its evidence and what to do; one sentence when nothing does."""
    rows = probe_advice.doubts(run.summary, run.read_csv("probe.csv"))
    none = "None of the usual signs of a poor probe."
    return Table(pd.DataFrame(rows), empty=none)


# ---------------------------------------------------------------- pieces


def _probe_table(summary: dict) -> pd.DataFrame:
    rows = [
        ("pretrained, linear probe", "top1_pretrained_mean", "top1_pretrained_interval"),
        ("pretrained, nearest neighbours", "knn_pretrained", ""),
        ("random weights, linear probe", "top1_random_mean", "top1_random_interval"),
        ("random weights, nearest neighbours", "knn_random", ""),
        ("histograms, ridge", "histograms_top1", "histograms_interval"),
    ]
    found = [(n, summary[top1], summary.get(half)) for n, top1, half in rows if summary.get(top1) is not None]
    return pd.DataFrame(found, columns=["features", "top1", "interval"]).astype({"top1": float, "interval": float})


def _feature_colour(name: str) -> str:
    return RANDOM if name.startswith("random") else HISTOGRAMS if name.startswith("histogram") else PRETRAINED


def _has(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and frame[column].notna().any()
