"""10: the curves of several runs over each other, or their numbers as bars with what they spread. No torch."""

from typing import Any

import pandas as pd
import seaborn as sns

from geofm_lib import files
from geofm_lib.catalog import headlines
from geofm_lib.catalog.headlines import Headline
from geofm_lib.figures._axes import BLUE, GREY, LIMIT, legend_below
from geofm_lib.figures.compare import marked
from geofm_lib.figures.display import Figure, Note, axes, styled
from geofm_lib.runs.compared import Member
from geofm_lib.runs.comparison import Comparison, own_interval

MOST_CURVES = 12  # with a colour and name of their own; the others are grey
MOST_PANELS = 4


def drawn(found: Comparison) -> Figure | Note:
    """Loss against images seen of pretrainings, else bars of what the runs are ranked by."""
    return losses(found) if found.job == "pretrain" else bars(found)


@styled
def losses(found: Comparison) -> Figure | Note:
    """The training loss of every run that has one, also of those that have not finished, against images seen."""
    curves = {each.name: frame for each in found.members if len(frame := _curve(each))}
    if not curves:
        return Note("No run has logged a loss, so there is no curve to draw.")
    best = [each for section in found.sections for group in section.groups for each in group.members]
    order = [each for each in [*best, *found.unranked] if each.name in curves]
    panels: dict[str, list[Member]] = {}
    for each in order:
        panels.setdefault(repr([each.fact(name) for name in found.kind.alike]), []).append(each)
    parts = list(panels.values()) if len(panels) <= MOST_PANELS else [order]
    figure, grid = axes(2.6 * len(parts) + 0.7, len(parts), squeeze=False, sharex=True)
    colours = dict(zip([each.name for each in order], sns.color_palette("colorblind", 10) + ["#000000", "#555555"],
                       strict=False))  # fmt: skip
    ends = []
    for ax, part in zip(grid[:, 0], parts, strict=True):
        for each in part:
            frame, done = curves[each.name], each.state == "finished"
            label = found.label([each]) + ("" if done else f" ({each.state})")
            own = {"color": colours.get(each.name, GREY), "linestyle": "-" if done else "--"}
            ax.plot(frame["images"], frame["smooth"], label=label if each.name in colours else "others", **own)
            if not done:
                ax.plot(frame["images"].iloc[-1:], frame["smooth"].iloc[-1:], "x", color=own["color"])
            ends.append(f"{label} {frame['smooth'].iloc[-1]:.3g} after {int(frame['images'].iloc[-1]):,} images")
        differs = [name for name in found.kind.alike if len({repr(p[0].fact(name)) for p in parts}) > 1]
        ax.set(ylabel="training loss", title=", ".join(f"{name} {part[0].fact(name)}" for name in differs))
    grid[-1, 0].set(xlabel="images seen")
    legend_below(figure, grid[:, 0], 2)
    words = "Lines: the training loss against images seen, a centred mean; dashed: a run that has not finished"
    words += ". Panels differ in what loss depends on, and must not be compared" if len(parts) > 1 else ""
    return Figure(figure, f"{words}. At the end: {'; '.join(ends[:MOST_CURVES])}.")


@styled
def bars(found: Comparison) -> Figure | Note:
    """What runs are ranked by, and what stands beside it: a bar a group, its 95 % interval, a dot a seed."""
    groups = [(mark, group) for mark, section in marked(found) for group in section.groups]
    if not groups:
        return Note("No run has a value yet, so there is nothing to draw.")
    columns = _columns(found)
    figure, panels = axes(1.0 + 0.34 * len(groups), columns=len(columns), sharey=True, squeeze=False)
    names = [f"{mark} {group.label}".strip() for mark, group in groups]
    rows = []
    for ax, headline in zip(panels[0], columns, strict=True):
        for y, (_, group) in enumerate(groups):
            known = [each for each in group.members if headlines.has(headline, each.summary)]
            if not known:
                continue
            values = [float(headline.named(each.summary, headline.key)) for each in known]
            mean = sum(values) / len(values)
            own = group.interval if headline == group.headline else None
            own = own_interval(known[0], headline) if own is None and len(known) == 1 else own
            errors = [[mean - own[0]], [own[1] - mean]] if own else None
            ax.barh(y, mean, height=0.62, color=BLUE, xerr=errors, capsize=3)
            if values[1:]:
                ax.plot(values, [y] * len(values), "o", color="black", markersize=3)
            rows.append({"run": names[y], "number": headlines.words(headline, known[0].summary), "value": mean,
                         "low": own and own[0], "high": own and own[1]})  # fmt: skip
        ax.axvline(0, **LIMIT)
        ax.set(xlabel=headlines.words(headline, groups[0][1].members[0].summary) + headline.unit)
        ax.grid(False, axis="y")
    panels[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0, 0].invert_yaxis()
    table = pd.DataFrame(rows)
    told = "; ".join(f"{row['run']} {row['value']:.3g}" for row in rows if row["number"] == rows[0]["number"])
    seeds = ", a dot a seed" if any(len(group.members) > 1 for _, group in groups) else ""
    return Figure(figure, f"Bars with 95 % intervals{seeds}. {rows[0]['number']}: {told}.", table)


def _columns(found: Comparison) -> list[Headline]:
    """What is drawn: the numbers that runs are ranked by, then what stands beside them for two runs or more."""
    known = [each.summary for section in found.sections for group in section.groups for each in group.members]
    own = list(dict.fromkeys(section.headline for section in found.sections))
    beside = [each for each in found.kind.beside if sum(headlines.has(each, one) for one in known) > 1]
    return list(dict.fromkeys([*own, *beside]))[:2]


def _curve(member: Member) -> pd.DataFrame:
    """images, loss and smooth of each logged step; no rows where there is none, or its file cannot be believed."""
    try:
        frame: Any = member.run.metrics
    except files.Damaged:
        return pd.DataFrame()
    if "loss" not in frame or "step" not in frame:
        return pd.DataFrame()
    frame = frame.dropna(subset=["loss"])
    images = frame["step"] * int(member.settings.get("global_batch") or 1)
    smooth = frame["loss"].rolling(max(1, len(frame) // 30), min_periods=1, center=True).mean()
    return pd.DataFrame({"images": images, "loss": frame["loss"], "smooth": smooth})
