"""The one look of all figures: colours, markers, words of axes; lines of strategies, bars, legends. No torch.

No other module of figures names a colour, or a unit of an axis (tests/test_looks.py); strategies have theirs in
catalog/strategies.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.peers import OURS, PEERS
from geofm_lib.catalog.readouts import CONVOLUTIONS, HISTOGRAMS
from geofm_lib.catalog.strategies import STRATEGIES, lookup
from geofm_lib.figures.display import Grouped
from geofm_lib.planning.conditions import BATCH, BENCHMARK, NODES, WORKLOADS, conditions
from geofm_lib.settings.objectives import COMPARED

# Okabe and Ito: colour-blind safe
BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PINK = (
    "#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00", "#CC79A7",
)  # fmt: skip
PALETTE = [BLUE, ORANGE, GREEN, RED, SKY, PINK, YELLOW]  # of what has no colour of its own, in this order
DOZEN = [*PALETTE, "#882255", "#44AA99", "#8c564b", "#000000", "#332288"]  # and without the grey of all others
DOZEN_WORDS = ("blue", "orange", "green", "red", "sky", "pink", "yellow", "wine", "teal", "brown", "black", "indigo")
GREY, FAINT, SHADE = "#7f7f7f", "#888888", "#eeeeee"
INK, WORDS = "#222222", "#444444"  # dots and whiskers over bars; words beside a line
MARKERS = "osD^vPX"
IDEAL: dict[str, Any] = {"color": FAINT, "linestyle": "--", "linewidth": 1}
LIMIT: dict[str, Any] = {"color": WORDS, "linestyle": ":", "linewidth": 1}
# Colour and marker of whatever is drawn on several pages, beside strategies.
LOOKS = {
    **{"train": (BLUE, "s"), "val": (GREEN, "^"), "test": (ORANGE, "D")},
    **{"pretrained": (BLUE, "o"), "untrained": (ORANGE, "s"), HISTOGRAMS: (GREY, "^")},
    CONVOLUTIONS: (INK, "v"),
    **{"measured": (BLUE, "o"), "published": (INK, "o"), "fitted": (PINK, "s")},
    **{"simulated": (GREEN, "^"), "predicted": (ORANGE, "D"), "counted": (SKY, "v")},  # how a verdict was obtained
    **dict(zip((OURS, *PEERS), ((BLUE, "o"), (GREEN, "s"), (PINK, "D")), strict=True)),
    **dict(zip(FAMILY, zip(PALETTE, MARKERS, strict=True), strict=False)),
    **dict(zip(COMPARED, ((BLUE, "o"), (SKY, "D"), (GREEN, "^"), (PINK, "v")), strict=True)),  # beside "untrained"
}
# What memory holds, the same in 03 and 04.
HOLDS = {
    **{"weights": BLUE, "weights (fp32 shard)": BLUE, "gradients": GREEN, "optimiser": ORANGE},
    **{"buffers": RED, "gathered weights, unreduced gradients": RED, "activations": SKY},
    **{"one block's backward pass": PINK, "libraries": GREY, "images": YELLOW},
}
# Words of axes, with their units.
IMAGES_PER_S, PER_GPU, ALL_RANKS = "images/s", "images/s per GPU", "images/s, all ranks"
TIMES, IDEAL_SHARE, PEAK_GIB = "images/s, as a multiple of", "% of ideal", "peak memory per GPU, GiB"
STEP_S, TRAINING_LOSS, HELD_OUT_LOSS = "seconds a step", "training loss", "held-out loss"
PARAMETERS, FLOPS, SEEN = "million parameters of the encoder", "FLOPs of the pretraining", "images seen"
RATE = "base learning rate, per 256 images"
NODES_OF_8 = "nodes (8 GPUs each)"
AS_PUBLISHED = BENCHMARK.told(BATCH)  # workload and window of what the paper measured, for captions
PEAK = f"{WORKLOADS['classify']}, {BATCH} images per GPU, peak of a step"


def look(strategy: str, **more: Any) -> dict[str, Any]:
    """A strategy's colour, marker and name, as arguments of a line."""
    row = lookup(strategy)
    return {"color": row.colour, "marker": row.marker, "label": strategy} | more


def own_look(what: str, **more: Any) -> dict[str, Any]:
    """Colour and marker of a row of LOOKS, and its name, as arguments of a line."""
    colour, marker = LOOKS[what]
    return {"color": colour, "marker": marker, "label": what} | more


def line_and_marks(ax: Any, strategy: str, line: pd.Series, marks: pd.Series) -> None:
    """A strategy's prediction as a line, and what it is compared with as marks; both are indexed by x."""
    row = STRATEGIES[strategy]
    ax.plot(line, color=row.colour)
    ax.plot(marks, row.marker, color=row.colour)
    ax.plot([], [], **look(strategy, label=as_run(strategy)))


def as_run(strategy: str) -> str:
    """A strategy's name with what sets its published runs apart: 'DDP (fp32)', 'HYBRID_1GPU (not synchronised)'."""
    how = conditions(strategy)
    return apart(strategy, how.precision, how.synchronised)


def planned(strategy: str) -> str:
    """Its name where all are in bf16 and synchronised, and the published runs of it were not."""
    how = conditions(strategy)
    words = ["bf16"] * (how.precision != "bf16") + ["synchronised"] * (not how.synchronised)
    return f"{strategy} ({', '.join(words)})" if words else strategy


def apart(strategy: str, precision: str, synchronised: bool) -> str:
    """A strategy's name for a legend, with what sets its published numbers apart from the others."""
    words = [precision] * (precision != "bf16") + ["not synchronised"] * (not synchronised)
    return f"{strategy} ({', '.join(words)})" if words else strategy


def legend_of_marks(ax: Any, **words: str) -> None:
    """Adds to the legend what lines, marks and bands are, whatever their colour: line=..., marks=..., band=..."""
    for kind, said in words.items():
        if kind == "band":
            ax.fill_between([], [], [], color=GREY, alpha=0.25, linewidth=0, label=said)
        else:
            ax.plot([], [], "-" if kind == "line" else "o", color=GREY, label=said)


def smoothed(values: pd.Series, window: int) -> np.ndarray:
    """The mean over about `window` values around each. It shrinks alike on both sides at the ends, so it never lags.

    What is no number is left out; NaN where there is none.
    """
    numbers = values.to_numpy(float)
    finite, places = np.isfinite(numbers), np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(places, places[::-1]))
    sums, counts = (np.concatenate([[0.0], each.cumsum()]) for each in (np.where(finite, numbers, 0.0), finite))
    total, count = (each[places + half + 1] - each[places - half] for each in (sums, counts))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def of_ideal(line: pd.Series) -> pd.Series:
    """% of ideal scaling, from images/s indexed by nodes and counted from the first point."""
    per_node = line / line.index
    return 100 * per_node / per_node.bfill().iloc[0]


def ticks(axis: Any, values: Iterable[float]) -> None:
    """Ticks at these values, written out, and none between."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(Grouped())


def node_axis(ax: Any, nodes: Iterable[int] = NODES, **more: Any) -> None:
    """A logarithmic x axis of nodes, and what else is set of the axes."""
    ax.set(xscale="log", xlabel=NODES_OF_8, **more)
    ticks(ax.xaxis, nodes)


def plain_log(ax: Any) -> None:
    """A logarithmic y axis with ticks at 1, 2 and 5, written out."""
    ax.set(yscale="log")
    ticks(ax.yaxis, ())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def legend_below(figure: Any, panels: Any, columns: int = 3) -> None:
    """One legend under the figure, of every label that its axes have."""
    found: dict[str, Any] = {}
    for ax in panels:
        lines, labels = ax.get_legend_handles_labels()
        if own := ax.get_legend():  # seaborn's
            lines, labels = own.legend_handles, [text.get_text() for text in own.get_texts()]
            own.remove()
        found |= dict(zip(labels, lines, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def stacked_bars(
    ax: Any,
    frame: pd.DataFrame,
    unit: str,
    colours: Mapping[str, str] | None = None,
    spread: pd.DataFrame | None = None,
    of: str = "",
) -> None:
    """Horizontal bars, one a row of `frame`, its columns stacked; `unit` is the label below.

    `spread`: from and to of each whole bar, of what `of` says.
    """
    left = pd.Series(0.0, index=frame.index)
    for usual, (name, values) in zip(PALETTE, frame.items(), strict=False):
        ax.barh(frame.index, values, left=left, height=0.62, color=(colours or {}).get(name, usual), label=name)
        left += values
    if spread is not None:
        whiskers(ax, left, frame.index, spread.set_axis(["low", "high"], axis=1), of)
    ax.set(xlabel=unit)
    ax.invert_yaxis()
    ax.grid(False, axis="y")


def whiskers(ax: Any, values: pd.Series, places: Any, spread: pd.DataFrame, label: str) -> None:
    """The spread (`low` and `high`) of values along x, over bars at these places."""
    sides = [(values - spread["low"].to_numpy()).clip(0), (spread["high"].to_numpy() - values).clip(0)]
    ax.errorbar(values, places, xerr=sides, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3, label=label)
