"""What the paper published, drawn, beside what arithmetic and our runs say. No torch.

Lines and bars are the numbers of `catalog/published`, coloured and marked by `catalog/strategies`. A condition that
differs from the others of a figure (DDP's precision, gradients left unsynchronised) is in the legend, read from
the row.
"""

import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from geofm_lib.catalog import published
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import verdicts
from geofm_lib.planning.reference import NODES
from geofm_lib.planning.weights import parameters

GPU_GIB = MACHINES["frontier"].memory_gib


# ---------------------------------------------------------------- tables


def parameter_counts(run=None) -> Table:
    """Table I, row by row: the printed count, our two readings of the row, and what comes of it.

    Counted in the networks where a `findings` run is given, by arithmetic without one.
    """
    rows, counted = [], run.summary if run else {}
    for row in _paper_models():
        printed = {row.name: row.published_params_M}
        benchmark, plain = (
            counted.get(f"{family}_parameters_{row.name}", parameters(row.name, workload)) / 1e6
            for family, workload in (("benchmark", "classify"), ("pretrain", "encoder"))
        )
        rows.append({
            "model": row.name,
            "published": int(row.published_params_M),
            "benchmark network": benchmark,
            "plain ViT encoder": plain,
            "plain / published": plain / row.published_params_M,
            "as benchmark": verdicts.of_counts(printed, {row.name: benchmark}),
            "as plain ViT": verdicts.of_counts(printed, {row.name: plain}),
        })  # fmt: skip
    digits = {"published": "d", "benchmark network": ".3f", "plain ViT encoder": ".3f", "plain / published": ".3f"}
    return Table(pd.DataFrame(rows), "Parameters in millions, for images of 224 pixels", formats=digits)


# ---------------------------------------------------------------- published figures


@styled
def published_scaling(model: str) -> Figure | Note:
    """Weak scaling of `model` as published: images/s against nodes, and the share of ideal that is kept."""
    lines = published.scaling(model)
    if not lines:
        return Note(f"No weak-scaling numbers of {model} are in the published record.")
    figure, (left, right) = axes(height=3.9, columns=2, sharex=True)
    ends = []
    for name in [name for name in STRATEGIES if name in lines]:
        nodes, values = list(lines[name]), list(lines[name].values())
        ideal = [values[0] / nodes[0] * n for n in nodes]
        kept = [100 * value / best for value, best in zip(values, ideal, strict=True)]
        label = _conditions(published.rows(model=model, strategy=name)[0])
        look = {"color": STRATEGIES[name].colour, "marker": STRATEGIES[name].marker, "label": label}
        left.plot(nodes, values, **look)
        right.plot(nodes, kept, **look)
        ends.append((values[-1], f"{name} {values[-1]:.0f} ({kept[-1]:.0f} %)"))
    best = max(line[1] for line in lines.values() if 1 in line)
    dashed = {"color": "#888888", "linestyle": "--", "linewidth": 1}
    left.plot(NODES, [best * n for n in NODES], **dashed, label="ideal, from the best single node")
    right.axhline(100, **dashed)
    left.set(xscale="log", yscale="log", ylabel="images/s", title="Images per second")
    right.set(xscale="log", ylabel="% of ideal", title="Share of ideal scaling", ylim=(0, None))
    for ax in (left, right):
        _node_axis(ax)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    ranking = ", ".join(text for _, text in sorted(ends, reverse=True))
    alt = (f"{model} as published, 1 to 128 nodes, one line per strategy. images/s at the last point (share of ideal, "
           f"counted from each line's own first point): {ranking}.")  # fmt: skip
    frame = pd.DataFrame(lines).rename_axis("nodes").sort_index().reset_index()
    return Figure(figure, alt, frame)


def published_memory() -> Figure:
    """Peak memory per GPU by strategy, as published (constant in the number of nodes)."""
    return _memory_bars("memory bars", "GPU memory peak active")


@styled
def published_memory_by_nodes() -> Figure:
    """Peak memory per GPU against nodes, as published, for the strategies that shard over all GPUs."""
    chosen = [r for r in published.rows(metric="GPU memory peak active") if r["figure"].startswith("memory vs nodes")]
    frame = pd.DataFrame(chosen)
    figure, ax = axes(height=3.4)
    ends = []
    for (model, strategy), line in frame.groupby(["model", "strategy"], sort=False):
        look = STRATEGIES[strategy]
        ax.plot(line["nodes"], line["value"], color=look.colour, marker=look.marker, label=strategy)
        ax.annotate(f"{model}   ", (1, line["value"].iloc[0]), fontsize=8, va="center", ha="right")
        ends.append(f"{model} {strategy} from {line['value'].iloc[0]:.2f} to {line['value'].iloc[-1]:.2f}")
    ax.set(xscale="log", yscale="log", ylabel="peak memory per GPU, GiB")
    _node_axis(ax)
    ax.set_xlim(0.55, 150)
    ax.set_yticks([1, 2, 5, 10, 20])
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(handles.values(), handles.keys(), loc="upper right", bbox_to_anchor=(1, 1.04), ncols=2)
    table = frame.pivot_table(index="nodes", columns=["model", "strategy"], values="value", sort=False).sort_index()
    table.columns = [f"{model} {strategy}" for model, strategy in table.columns]
    return Figure(figure, f"Peak memory per GPU in GiB, 1 to 128 nodes, as published: {'; '.join(ends)}.",
                   table.reset_index())  # fmt: skip


@styled
def published_prefetch() -> Figure:
    """ViT-5B on 8 nodes under FSDP1's prefetch and limit_all_gathers settings, as published."""
    chosen = [r for r in published.rows(metric="throughput") if r["figure"].startswith("prefetch")]
    split = [(*row["strategy"].split(" | prefetch="), row["value"]) for row in chosen]
    frame = pd.DataFrame(split, columns=["strategy", "setting", "images/s"])
    frame["setting"] = frame["setting"].str.replace("+limit_all_gathers", "\n+ limit", regex=False)
    figure, ax = axes(height=3.0)
    colours = {name: STRATEGIES[name].colour for name in frame["strategy"].unique()}
    sns.barplot(frame, x="setting", y="images/s", hue="strategy", palette=colours, saturation=1, ax=ax)
    ax.set(xlabel="", ylabel="images/s")
    ax.grid(False, axis="x")
    ax.tick_params(axis="x", labelsize=7.5)
    ax.legend(title=None, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    frame["setting"] = frame["setting"].str.replace("\n", " ")
    wide = frame.pivot(index="setting", columns="strategy", values="images/s")
    best = [f"{name} {column.max():.0f} with {column.idxmax()}" for name, column in wide.items()]
    alt = f"Bars: ViT-5B on 8 nodes under six prefetch settings, images/s as published. Best: {'; '.join(best)}."
    return Figure(figure, alt, wide.loc[frame["setting"].unique()].reset_index())


# ---------------------------------------------------------------- pieces


def _paper_models():
    return [row for row in MODELS.values() if row.published_params_M]


@styled
def _memory_bars(figure_name: str, metric: str) -> Figure:
    rows = [r for r in published.rows(metric=metric) if r["figure"].startswith(figure_name)]
    frame = pd.DataFrame([{"model": r["model"], "strategy": _conditions(r), "value": r["value"]} for r in rows])
    known = {_conditions(r): STRATEGIES[r["strategy"]] for r in rows}
    order = sorted(known, key=lambda name: list(STRATEGIES).index(known[name].name))
    figure, ax = axes(height=3.0)
    colours = {name: known[name].colour for name in order}
    sns.barplot(frame, x="model", y="value", hue="strategy", hue_order=order, palette=colours, saturation=1, ax=ax)
    ax.axhline(GPU_GIB, color="#444444", linestyle=":", linewidth=1)
    ax.text(-0.45, GPU_GIB + 0.6, f"one GPU holds {GPU_GIB:.0f} GiB", fontsize=8, color="#444444")
    ax.set(xlabel="", ylabel="peak memory per GPU, GiB", ylim=(0, 72))
    ax.grid(False, axis="x")
    ax.legend(title=None, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    wide = frame.pivot(index="strategy", columns="model", values="value")[list(frame["model"].unique())].loc[order]
    most = frame.loc[frame["value"].idxmax()]
    alt = (f"Bars of peak active memory per GPU in GiB, as published, for {', '.join(wide.columns)}. The most is "
           f"{most['model']} with {most['strategy']}, {most['value']:.1f} of the GPU's {GPU_GIB:.0f}.")  # fmt: skip
    return Figure(figure, alt, wide.reset_index())


def _conditions(row: dict) -> str:
    """A published row's strategy for a legend, with what sets the row apart from the others."""
    apart = [row["precision"]] if row["precision"] != "bf16" else []
    apart += ["not synchronised"] if not row["synchronised"] else []
    return f"{row['strategy']} ({', '.join(apart)})" if apart else row["strategy"]


def _node_axis(ax) -> None:
    ax.xaxis.set_major_locator(FixedLocator(NODES))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("nodes (8 GPUs each)")
