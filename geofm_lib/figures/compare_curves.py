"""10: the curves of several runs over each other, or their numbers as bars with what they spread. No torch."""

from typing import Any

import pandas as pd

from geofm_lib.catalog import headlines
from geofm_lib.catalog.headlines import Headline
from geofm_lib.catalog.metrics import number
from geofm_lib.catalog.strategies import lookup
from geofm_lib.figures._axes import BLUE, DOZEN, GREY, INK, LIMIT, SEEN, TRAINING_LOSS, legend_below, smoothed
from geofm_lib.figures.compare import about_memory, marked
from geofm_lib.figures.display import Figure, Note, axes, styled
from geofm_lib.runs.comparison import Comparison, Group, own_interval
from geofm_lib.runs.member import Member

MOST_CURVES = 12  # with a colour and name of their own; the others are grey
MOST_PANELS = 4
MOST_TOLD = 6  # runs in a caption


def drawn(found: Comparison) -> Figure | Note:
    """Loss against images seen of pretrainings, else bars of what the runs are ranked by."""
    return losses(found) if found.job == "pretrain" else bars(found)


@styled
def losses(found: Comparison) -> Figure | Note:
    """The training loss of every run that has one, also of those that have not finished, against images seen."""
    curves = {each.name: frame for each in found.members if len(frame := _curve(each))}
    if not curves:
        return Note("No run has logged a loss, so there is no curve to draw.")
    labels = _labels(found, curves)
    coloured = _coloured(found, labels)
    panels: dict[str, list[Member]] = {}
    for each in filter(lambda each: each.name in curves, found.members):
        panels.setdefault(repr([each.fact(name) for name in found.kind.alike]), []).append(each)
    parts = list(panels.values()) if len(panels) <= MOST_PANELS else [sum(panels.values(), [])]
    rows = -(-min(len(coloured) + 1, len(set(labels.values()))) // 2)
    figure, grid = axes(2.6 * len(parts) + 0.6 + 0.2 * rows, len(parts), squeeze=False, sharex=True)
    for ax, part in zip(grid[:, 0], parts, strict=True):
        for each in sorted(part, key=lambda each: list(labels).index(each.name)):
            frame, done, label = curves[each.name], each.state == "finished", labels[each.name]
            own = {"color": coloured.get(label, GREY), "linestyle": "-" if done else "--"}
            ax.plot(frame["images"], frame["smooth"], label=label if label in coloured else "others", **own)
            if not done:
                ax.plot(frame["images"].iloc[-1:], frame["smooth"].iloc[-1:], "x", color=own["color"])
        ended = [each for each in part if each.state == "finished"] or part  # one that has just begun is all warm-up
        late = [curves[each.name]["smooth"].iloc[len(curves[each.name]) // 10 :].max() for each in ended]
        low = min(curves[each.name]["smooth"].min() for each in part)
        if max(late) > low:
            ax.set_ylim(low - 0.05 * (max(late) - low), max(late) + 0.05 * (max(late) - low))
        differs = [name for name in found.kind.alike if len({repr(p[0].fact(name)) for p in parts}) > 1]
        ax.set(ylabel=TRAINING_LOSS, title=", ".join(f"{name} {part[0].fact(name)}" for name in differs))
    grid[-1, 0].set(xlabel=SEEN)
    ends: dict[str, list[Any]] = {}
    for name, label in labels.items():
        ends.setdefault(label, []).append(curves[name].iloc[-1])
    legend_below(figure, grid[:, 0], 2)
    words = "Lines: the training loss against images seen, a centred mean, without its first tenth where that is higher"
    words += "; dashed, with a cross where it is: a run that has not finished" if len(found.unranked) else ""
    words += ". Panels differ in what loss depends on, and must not be compared" if len(parts) > 1 else ""
    told = [
        f"{label}: {', '.join(number(end['smooth']) for end in each)} after "
        f"{int(max(end['images'] for end in each)):,} images"
        for label, each in ends.items()
    ]
    return Figure(figure, f"{words}. At the end, {_told(told)}.")


def _told(each_of: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(each_of) - MOST_TOLD} more" if len(each_of) > MOST_TOLD else ""
    return "; ".join(each_of[:MOST_TOLD]) + more


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
            ax.barh(y, mean, height=0.62, color=_colour(found, group), xerr=errors, capsize=3)
            if values[1:]:
                ax.plot(values, [y] * len(values), "o", color=INK, markersize=3)
            rows.append({"run": names[y], "number": headlines.words(headline, known[0].summary), "value": mean,
                         "low": own and own[0], "high": own and own[1]})  # fmt: skip
        ax.axvline(0, **LIMIT)
        ax.set(xlabel=headlines.words(headline, groups[0][1].members[0].summary) + headline.unit.replace(" ", ", "))
        ax.grid(False, axis="y")
    panels[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0, 0].invert_yaxis()
    table = pd.DataFrame(rows)
    told = _told(
        [
            f"{name} {group.told}"
            for name, (_, group) in zip(names, groups, strict=True)
            if group.headline == groups[0][1].headline
        ]  # fmt: skip
    )
    over = list(dict.fromkeys(group.over for _, group in groups if group.interval))
    words = ["Bars"] + [f"with 95 % intervals {' and '.join(over)}"] * bool(over)
    words += ["(not over runs of equal settings)"] * any(g.interval and len(g.members) == 1 for _, g in groups)
    seeds = ", a dot a seed" if any(len(group.members) > 1 for _, group in groups) else ""
    ranked = str(rows[0]["number"])
    memory = f" {said}." if (said := about_memory(found)) else ""
    return Figure(figure, f"{' '.join(words)}{seeds}. {ranked[:1].upper()}{ranked[1:]}: {told}.{memory}", table)


def _labels(found: Comparison, curves: dict[str, Any]) -> dict[str, str]:
    """The runs that have a curve, best first, and what each is called: runs of a group the same."""
    groups = [group for section in found.sections for group in section.groups]
    named = {each.name: group.label for group in groups for each in group.members}
    named |= {each.name: f"{found.label([each])} ({each.state})" for each in found.unranked}
    return {name: label for name, label in named.items() if name in curves}


def _coloured(found: Comparison, labels: dict[str, str]) -> dict[str, Any]:
    """A colour for each label that has one: those that have not finished, as far as they fit, and the best."""
    left = [labels[each.name] for each in found.unranked if each.name in labels][: MOST_CURVES // 2]
    best = [label for label in dict.fromkeys(labels.values()) if label not in left][: MOST_CURVES - len(left)]
    return dict(zip([*best, *left], DOZEN, strict=False))


def _columns(found: Comparison) -> list[Headline]:
    """What is drawn: the numbers that runs are ranked by, then what stands beside them for two runs or more."""
    known = [each.summary for section in found.sections for group in section.groups for each in group.members]
    own = list(dict.fromkeys(section.headline for section in found.sections))
    beside = [each for each in found.beside if sum(headlines.has(each, one) for one in known) > 1]
    return list(dict.fromkeys([*own, *beside]))[:2]


def _colour(found: Comparison, group: Group) -> str:
    """A strategy's own where strategies are compared."""
    strategy = group.members[0].settings.get("strategy")
    return lookup(strategy).colour if strategy and "strategy" in found.differing and found.job != "probe" else BLUE


def _curve(member: Member) -> pd.DataFrame:
    """images, loss and smooth of each logged step; no rows where there is none, or its file cannot be believed."""
    frame, _ = member.rows
    if "loss" not in frame or "step" not in frame:
        return pd.DataFrame()
    frame = frame.dropna(subset=["loss"])
    images = frame["step"] * int(member.settings.get("global_batch") or 1)
    smooth = smoothed(frame["loss"], len(frame) // 30)
    return pd.DataFrame({"images": images, "loss": frame["loss"], "smooth": smooth})
