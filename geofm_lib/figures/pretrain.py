"""02: does a pretraining converge? No torch."""

import numpy as np
import seaborn as sns

from geofm_lib.figures._axes import BLUE, ORANGE
from geofm_lib.figures.display import Figure, Note, axes, styled
from geofm_lib.runs.run import Run

COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm")
MOST_ROWS = 21  # of the folded table


@styled
def loss(run: Run) -> Figure | Note:
    """Training loss against epochs."""
    metrics = run.metrics
    if "loss" not in metrics or not metrics["loss"].notna().any():
        return Note("The run logged no step, so there is no loss to draw.")
    metrics = metrics.dropna(subset=["loss"])
    x = "epoch" if "epoch" in metrics and metrics["epoch"].is_unique else "step"
    figure, ax = axes()
    sns.lineplot(metrics, x=x, y="loss", ax=ax, color=BLUE, alpha=0.35, linewidth=1)
    smooth = metrics["loss"].rolling(max(1, len(metrics) // 30), min_periods=1).mean()
    ax.plot(metrics[x], smooth, color=BLUE)
    ax.set(xlabel=x, ylabel="loss on masked patches")
    first, last = metrics["loss"].iloc[0], metrics["loss"].iloc[-1]
    change = f"{'falls' if last < first else 'rises'} from {first:.4f} to {last:.4f}"
    alt = f"Line: the training loss {change} over {int(metrics['step'].iloc[-1])} steps."
    kept = np.unique(np.linspace(0, len(metrics) - 1, MOST_ROWS).astype(int))
    return Figure(figure, alt, metrics[[name for name in COLUMNS if name in metrics]].iloc[kept])


@styled
def learning_rate(run: Run) -> Figure | Note:
    """Learning rate and gradient norm against steps."""
    metrics = run.metrics
    if "learning_rate" not in metrics or not metrics["learning_rate"].notna().any():
        return Note("The run logged no learning rate.")
    rates = metrics["learning_rate"]
    alt = f"Line: the learning rate peaks at {rates.max():.3g} and ends at {rates.iloc[-1]:.3g}."
    curves = [("learning_rate", "learning rate", BLUE)]
    if "grad_norm" in metrics and metrics["grad_norm"].notna().any():
        curves.append(("grad_norm", "gradient norm", ORANGE))
        alt += f" Beside it the gradient norm, median {metrics['grad_norm'].median():.3g}."
    figure, panels = axes(height=2.5, columns=len(curves), squeeze=False)
    for ax, (column, words, colour) in zip(panels[0], curves, strict=True):
        sns.lineplot(metrics, x="step", y=column, ax=ax, color=colour)
        ax.set(xlabel="step", ylabel=words)
    return Figure(figure, alt)
