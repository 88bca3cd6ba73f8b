"""01, 02 and 08 of series: what is drawn over dates where the pages of images have pictures. No torch."""

import textwrap
from typing import Any

import numpy as np

from geofm_lib.figures._axes import BLUE, GREY, INK, ORANGE, RED, legend_below
from geofm_lib.figures.display import Figure, axes, styled

Arrays = dict[str, np.ndarray]
COLUMNS, MOST, TITLE = 4, 24, 24  # panels side by side, and on a page; letters in a line above one
DATE, VALUE = "date, by its number", "value, normalised"


def _panels(count: int) -> tuple[Any, list[Any]]:
    rows = -(-count // COLUMNS)
    figure, grid = axes(0.8 + 1.4 * rows, rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_visible(False)
    for ax in grid.flat[max(0, count - COLUMNS) : count]:  # the lowest of each column
        ax.set_xlabel(DATE, fontsize=8)
        ax.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def _dates(count: int) -> np.ndarray:
    return np.arange(1, count + 1)


@styled
def sheet(arrays: Arrays) -> Figure:
    """A few series of each class, their first band; dates that were not measured are gaps."""
    series, labels = arrays["series"], arrays["labels"].astype(str)
    classes = list(dict.fromkeys(labels))[:MOST]
    figure, panels = _panels(len(classes))
    for ax, name in zip(panels, classes, strict=True):
        for each in series[labels == name]:
            ax.plot(_dates(len(each)), each[:, 0], color=BLUE, linewidth=1)
        ax.set_title(textwrap.fill(name or "no label", TITLE), fontsize=8)
    left = len(set(labels)) - len(classes)
    more = f", and {left} classes that are not drawn" if left else ""
    words = ", ".join(name or "no label" for name in classes)
    return Figure(
        figure, f"Lines: series of the data set over their dates, first band, a panel a class: {words}{more}."
    )


@styled
def rebuilt(arrays: Arrays, side: str) -> Figure:
    """Series, the dates that the model saw, and what it rebuilt of the others; first band."""
    values, found, hidden = arrays["series"][..., 0], arrays["rebuilt"][..., 0], arrays["hidden"]
    figure, panels = _panels(len(values))
    for ax, own, guess, masked in zip(panels, values, found, hidden, strict=True):
        dates = _dates(len(own))
        ax.plot(dates, own, color=GREY, linewidth=1, label="measured")
        ax.plot(dates[~masked], own[~masked], ".", color=INK, markersize=4, label="visible dates")
        ax.plot(dates[masked], guess[masked], ".", color=ORANGE, markersize=4, label="rebuilt dates")
    figure.supylabel(VALUE, fontsize=9)
    legend_below(figure, panels)
    error = np.sqrt(np.nanmean(np.square(found - values)[hidden]))
    usual = np.sqrt(np.nanmean(np.square(values[hidden])))
    alt = (
        f"{len(values)} {side} series over their dates: as measured, the dates that the model saw, and what it rebuilt "
    )
    alt += f"of the others. Root mean square error of the rebuilt dates {error:.3f}; of the set's mean {usual:.3f}."
    return Figure(figure, alt)


@styled
def said(arrays: Arrays, arm: str) -> Figure:
    """Test series, the quartiles of the train series of their class, and what a network says of them."""
    names = arrays["classes"].astype(str)
    figure, panels = _panels(len(arrays["values"]))
    told = []
    for ax, own, truth, word in zip(panels, arrays["values"], arrays["truth"], arrays["said"], strict=True):
        low, middle, high = arrays["quartiles"][truth]
        dates, right = _dates(len(own)), truth == word
        ax.fill_between(dates, low, high, color=GREY, alpha=0.25, linewidth=0, label="its class, train side: quartiles")
        ax.plot(dates, middle, color=GREY, linewidth=1, label="its class: median")
        ax.plot(
            dates, own, color=BLUE if right else RED, linewidth=1.2, label="series" if right else "taken for another"
        )
        told.append(f"{names[truth]}" if right else f"{names[truth]}, taken for {names[word]}")
        ax.set_title(textwrap.fill(told[-1], TITLE), fontsize=8)
    figure.supylabel(VALUE, fontsize=9)
    legend_below(figure, panels, 2)
    alt = f"{len(told)} test series over their dates, beside the quartiles of the train series of their class. By the "
    return Figure(figure, f"{alt}{arm} network: {'; '.join(told)}.")
