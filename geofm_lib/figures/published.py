"""04 and 06: what the paper published, drawn again from its numbers. No torch."""

from typing import Any

import pandas as pd
import seaborn as sns

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures._axes import (
    AS_PUBLISHED,
    IDEAL,
    IDEAL_SHARE,
    IMAGES_PER_S,
    LIMIT,
    PEAK,
    PEAK_GIB,
    apart,
    legend_below,
    look,
    node_axis,
    of_ideal,
    ticks,
)
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import verdicts
from geofm_lib.planning.conditions import FRONTIER, NODES, TABLE_I
from geofm_lib.planning.weights import parameters as count
from geofm_lib.runs.run import Run


def parameters(run: Run | None = None) -> Table:
    """Table I and our two readings of each row, counted in the networks of a `findings` run, else by arithmetic."""
    rows, counted = [], run.summary if run else {}
    for name, printed in TABLE_I.items():
        benchmark, plain = (
            counted.get(f"{family}_parameters_{name}", count(name, workload)) / 1e6
            for family, workload in (("benchmark", "classify"), ("pretrain", "encoder"))
        )
        as_benchmark, as_plain = (verdicts.of_counts({name: printed}, {name: each}) for each in (benchmark, plain))
        rows.append({"model": name, "published": int(printed), "benchmark network": benchmark,
                     "plain ViT encoder": plain, "plain / published": plain / printed, "as benchmark": as_benchmark,
                     "as plain ViT": as_plain})  # fmt: skip
    digits = {"published": "d", "benchmark network": ".3f", "plain ViT encoder": ".3f", "plain / published": ".3f"}
    return Table(pd.DataFrame(rows), "Parameters in millions, for images of 224 pixels", formats=digits)


@styled
def scaling(model: str) -> Figure | Note:
    """Weak scaling of `model` as published: images/s against nodes, and the share of ideal that is kept."""
    lines = published.scaling(model)
    if not lines:
        return Note(f"No weak-scaling numbers of {model} are in the published record.")
    figure, (left, right) = axes(height=3.9, columns=2, sharex=True)
    ends = []
    for name in [name for name in STRATEGIES if name in lines]:
        line = pd.Series(lines[name])
        kept = of_ideal(line)
        style = look(name, label=_conditions(published.rows(model=model, strategy=name)[0]))
        left.plot(line, **style)
        right.plot(kept, **style)
        ends.append((line.iloc[-1], f"{name} {line.iloc[-1]:,.0f} ({kept.iloc[-1]:.0f} %)"))
    best = max(line[1] for line in lines.values() if 1 in line)
    left.plot(NODES, [best * n for n in NODES], **IDEAL, label="ideal, from the best single node")
    right.axhline(100, **IDEAL)
    node_axis(left, yscale="log", ylabel=IMAGES_PER_S, title="Images per second")
    left.minorticks_off()  # a mark of SVG each, in six figures of 06
    node_axis(right, ylabel=IDEAL_SHARE, title="Share of ideal scaling", ylim=(0, None))
    legend_below(figure, [left])
    ranking = ", ".join(words for _, words in sorted(ends, reverse=True))
    alt = (f"{model} as published ({AS_PUBLISHED}), 1 to 128 nodes, one line per strategy. images/s at the last point "
           f"(share of ideal, counted from each line's own first point): {ranking}.")  # fmt: skip
    return Figure(figure, alt, pd.DataFrame(lines).rename_axis("nodes").sort_index().reset_index())


@styled
def memory() -> Figure:
    """Peak memory per GPU by strategy, as published (constant in the number of nodes)."""
    rows = [row for row in published.peaks() if row["figure"].startswith("memory bars")]
    frame = pd.DataFrame([{"model": r["model"], "strategy": _conditions(r), "value": r["value"]} for r in rows])
    known = {_conditions(row): row["strategy"] for row in rows}
    order = sorted(known, key=lambda label: list(STRATEGIES).index(known[label]))
    colours = {label: STRATEGIES[known[label]].colour for label in order}
    figure, ax = axes(height=3.0)
    sns.barplot(frame, x="model", y="value", hue="strategy", hue_order=order, palette=colours, saturation=1, ax=ax)
    room = FRONTIER.memory_gib
    ax.axhline(room, **LIMIT)
    ax.annotate(f"one GPU holds {room:.0f} GiB", (-0.45, room), (0, 2), textcoords="offset points", fontsize=8)
    ax.set(xlabel="", ylabel=PEAK_GIB, ylim=(0, 72))
    ax.grid(False, axis="x")
    legend_below(figure, [ax], 4)
    wide = frame.pivot(index="strategy", columns="model", values="value")[list(frame["model"].unique())].loc[order]
    most = frame.loc[frame["value"].idxmax()]
    alt = (f"Bars of peak active memory per GPU in GiB, as published ({PEAK}), for {', '.join(wide.columns)}. "
           f"The most is {most['model']} with {most['strategy']}, {most['value']:.1f} of the GPU's "
           f"{room:.0f}.")  # fmt: skip
    return Figure(figure, alt, wide.reset_index())


@styled
def memory_by_nodes() -> Figure:
    """Peak memory per GPU against nodes, as published, for the strategies that shard over all GPUs."""
    frame = pd.DataFrame([row for row in published.peaks() if row["figure"].startswith("memory vs nodes")])
    figure, ax = axes(height=3.4)
    ends = []
    for (model, strategy), line in frame.groupby(["model", "strategy"], sort=False):
        ax.plot(line["nodes"], line["value"], **look(strategy))
        first, last = line["value"].iloc[0], line["value"].iloc[-1]
        ax.annotate(f"{model}   ", (1, first), fontsize=8, va="center", ha="right")
        ends.append(f"{model} {strategy} from {first:.2f} to {last:.2f}")
    node_axis(ax, yscale="log", ylabel=PEAK_GIB, xlim=(0.4, 150))
    ticks(ax.yaxis, [1, 2, 5, 10, 20])
    legend_below(figure, [ax])
    table = frame.pivot_table(index="nodes", columns=["model", "strategy"], values="value", sort=False).sort_index()
    table.columns = [f"{model} {strategy}" for model, strategy in table.columns]
    alt = f"Peak memory per GPU in GiB, 1 to 128 nodes, as published ({PEAK}): {'; '.join(ends)}."
    return Figure(figure, alt, table.reset_index())


@styled
def prefetch() -> Figure:
    """ViT-5B on 8 nodes under FSDP1's prefetch and limit_all_gathers settings, as published."""
    rows = [row for row in published.rows(metric="throughput") if row["figure"].startswith("prefetch")]
    split = [(*row["strategy"].split(" | prefetch="), row["value"]) for row in rows]
    frame = pd.DataFrame(split, columns=["strategy", "setting", "images/s"])
    frame["setting"] = frame["setting"].str.replace("+limit_all_gathers", "\n+ limit", regex=False)
    colours = {name: STRATEGIES[name].colour for name in frame["strategy"].unique()}
    figure, ax = axes(height=3.0)
    sns.barplot(frame, x="setting", y="images/s", hue="strategy", palette=colours, saturation=1, ax=ax)
    ax.set(xlabel="", ylabel=IMAGES_PER_S)
    ax.grid(False, axis="x")
    ax.tick_params(axis="x", labelsize=8)
    legend_below(figure, [ax])
    frame["setting"] = frame["setting"].str.replace("\n", " ")
    wide = frame.pivot(index="setting", columns="strategy", values="images/s")
    best = [f"{name} {column.max():.0f} with {column.idxmax()}" for name, column in wide.items()]
    alt = f"Bars: ViT-5B on 8 nodes under six prefetch settings, images/s as published ({AS_PUBLISHED}). "
    alt += f"Best: {'; '.join(best)}."
    return Figure(figure, alt, wide.loc[frame["setting"].unique()].reset_index())


def _conditions(row: dict[str, Any]) -> str:
    """A published row's strategy for a legend."""
    return apart(row["strategy"], row["precision"], row["synchronised"])
