"""04: how speed scales with nodes, predicted and published, and which strategy comes first. No torch."""

import functools
from contextlib import suppress
from typing import Any

import pandas as pd
from scipy import stats

from geofm_lib.catalog import machines, published
from geofm_lib.catalog.metrics import counted, number, rough, with_ends
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures import choice
from geofm_lib.figures._axes import (
    AS_PUBLISHED,
    IDEAL,
    IDEAL_SHARE,
    IMAGES_PER_S,
    INK,
    NODES_OF_8,
    PER_GPU,
    as_run,
    legend_below,
    legend_of_marks,
    line_and_marks,
    look,
    node_axis,
    of_ideal,
    plain_log,
)
from geofm_lib.figures.display import Answer, Figure, Note, axes, styled
from geofm_lib.paper import blind
from geofm_lib.paper.performance import PREDICTED, unseen
from geofm_lib.planning.conditions import ALIKE, FRONTIER, NODES, TABLE_I, WINDOWS, WORKLOADS, nodes_of
from geofm_lib.planning.planner import CLOSE, as_published, first_choice, predict
from geofm_lib.runs.compared import in_words
from geofm_lib.settings import ScalingSettings

MOST_TIED = 3  # strategies that a sentence lists
SHORT = {"FULL_SHARD": "FULL", "SHARD_GRAD_OP": "GRAD", "NO_SHARD": "NO"}  # a cell is narrow; HYBRID_2GPUs is H2


@styled
def predicted(model: str) -> Figure:
    """images/s per GPU against nodes: lines as predicted, bands that should hold nine of ten runs, published marks."""
    table = _weak(model)
    figure, ax = axes(height=4.2)
    for name, part in table.groupby("strategy", sort=False):
        per_gpu = part.set_index("nodes").drop(columns="strategy")
        per_gpu = per_gpu.div(per_gpu.index * FRONTIER.devices_per_node, axis=0)
        line_and_marks(ax, name, per_gpu["predicted"], per_gpu["published"])
        colour = STRATEGIES[name].colour
        ax.fill_between(per_gpu.index, per_gpu["low"], per_gpu["high"], color=colour, alpha=0.12, linewidth=0)
    node_axis(ax, ylabel=PER_GPU, ylim=(0, None))
    legend_of_marks(ax, line="predicted", marks="published", band="nine of ten runs")
    legend_below(figure, [ax])
    off = (table["predicted"] / table["published"] - 1).abs().dropna() * 100
    error = f"median error {off.median():.1f} % over {len(off)} points" if len(off) else "no published points"
    last = table[table["nodes"] == NODES[-1]].sort_values("predicted", ascending=False)
    order = ", ".join(f"{row.strategy} {number(row.predicted, 4)}" for row in last.itertuples())
    alt = (f"Lines: images/s per GPU of {model} as predicted for {AS_PUBLISHED}, 1 to 128 Frontier nodes, a band for "
           f"nine of ten runs, marks as published ({error}). images/s of all GPUs predicted on 128 nodes: "
           f"{order}.")  # fmt: skip
    return Figure(figure, alt, table)


@styled
def efficiency(model: str) -> Figure:
    """Weak scaling as a share of the ideal: lines as predicted, marks as published, each from its own first point."""
    figure, ax = axes(height=3.6)
    parts = []
    for name, part in _weak(model).groupby("strategy", sort=False):
        part = part.set_index("nodes")
        line, marks = of_ideal(part["predicted"]), of_ideal(part["published"])
        line_and_marks(ax, name, line, marks)
        parts.append(pd.DataFrame({"strategy": name, "predicted, % of ideal": line, "published, % of ideal": marks}))
    ax.axhline(100, **IDEAL, label="ideal")
    legend_of_marks(ax, line="predicted", marks="published")
    node_axis(ax, ylabel=IDEAL_SHARE, ylim=(0, None))
    legend_below(figure, [ax])
    table = pd.concat(parts).set_index("strategy", append=True).swaplevel().reset_index()
    last = table[table["nodes"] == NODES[-1]].itertuples(index=False, name=None)
    words = [f"{as_run(name)} {ours:.0f}" + (f" ({theirs:.0f})" if theirs == theirs else "")
             for name, _, ours, theirs in last]  # fmt: skip
    alt = f"Weak-scaling efficiency of {model} on 128 nodes, predicted (published) in % of ideal for {AS_PUBLISHED}: "
    alt += f"{', '.join(words)}."
    return Figure(figure, alt, table)


@styled
def strong(settings: ScalingSettings) -> Figure | Note:
    """The settings' global batch over more and more nodes, as planned, where it fits; the paper only scaled weakly."""
    machine = machines.lookup(settings.machine)
    images = settings.nodes * machine.devices_per_node * settings.batch_per_gpu
    shares = {n: images / (n * machine.devices_per_node) for n in NODES if n <= machine.nodes}
    nodes = [n for n, share in shares.items() if share.is_integer()]
    rows = [row for name in ALIKE for n in nodes if (row := _split(settings, name, n, int(shares[n])))]
    table = pd.DataFrame(rows)
    if not rows or not table["fits"].any():
        return Note(f"No strategy fits {images} images of {settings.model} on so many nodes of {settings.machine}.")
    fewest = table[table["fits"] & (table["nodes"] == table["nodes"][table["fits"]].min())]
    ideal = table["nodes"] * (fewest["images/s"] / fewest["nodes"]).max()
    table["% of ideal"] = (100 * table["images/s"] / ideal).where(table["fits"])
    figure, (left, right) = axes(height=3.6, columns=2, sharex=True)
    words = []
    for name, line in table[table["fits"]].groupby("strategy", sort=False):
        left.plot(line["nodes"], line["images/s"], **look(name, markersize=4))
        right.plot(line["nodes"], line["% of ideal"], **look(name, markersize=4))
        end = line.iloc[-1]
        words.append(f"{name} {rough(end['images/s'])} ({end['% of ideal']:.0f} %) on {counted(end['nodes'], 'node')}")
    right.axhline(100, **IDEAL)
    plain_log(left)
    node_axis(left, nodes, ylabel=IMAGES_PER_S, title="Images per second")
    node_axis(right, nodes, ylabel=IDEAL_SHARE, title="Share of ideal scaling", ylim=(0, None))
    legend_below(figure, [left], 4)
    how = f"{WORKLOADS[settings.workload]}, {WINDOWS['steady']}"
    alt = (f"Strong scaling planned for {settings.model} on {settings.machine} ({how}), {images:,} images a step in "
           f"all. images/s on the most nodes (share of ideal from the fastest on the fewest): "
           f"{', '.join(words)}.")  # fmt: skip
    return Figure(figure, alt, table)


def answer() -> Answer:
    """Which strategy is predicted to win on one node and on the most, and how often the published points agree."""
    table, found = _choices(), blind.choices(unseen(*PREDICTED))
    ends = [
        f"on {nodes} node{'s' * (nodes > 1)} {_grouped(table[table['nodes'] == nodes])}"
        for nodes in (NODES[0], NODES[-1])
    ]
    text = f"Predicted for Frontier: {'; '.join(ends)}. "
    if worth := [row["of_best"] for row in found]:
        right = sum(each >= 1 - CLOSE for each in worth)
        share = stats.binomtest(right, len(worth)).proportion_ci(method="wilson")
        _, low, high = with_ends(100 * right / len(worth), 100 * share.low, 100 * share.high)
        text += f"By a fit to the other models the choice is within {100 * CLOSE:.0f} % of the best in {right} of the "
        text += (
            f"{len(worth)} published cases (95 % interval {low} to {high} % of cases), and {100 * min(worth):.0f} % "
        )
        text += "of it at worst."
    more = "FSDP1 as published: 32 images per GPU, all tokens, bf16, start-up included; HYBRID_1GPU and DDP aside. The "
    more += "plan itself is of speeds fitted to all these models. MAE pretraining sends as much for "
    return Answer(text, f"{more}less computing, so its plan further down may name others.")


def _grouped(table: pd.DataFrame) -> str:
    """FULL_SHARD for ViT-Base and ViT-Huge, SHARD_GRAD_OP or HYBRID_8GPUs for ViT-5B."""
    if table["ties"].astype(bool).all():
        return f"no strategy wins for any of {len(table)} models (others are within {100 * CLOSE:.0f} %)"
    best = [_tied(*row) for row in table[["predicted best", "ties"]].itertuples(index=False)]
    found = table.assign(best=best).groupby("best", sort=False)["model"].agg(list)
    return ", ".join(f"{strategy} for {in_words(models)}" for strategy, models in found.items())


def _tied(first: str, ties: tuple[str, ...]) -> str:
    """The first, and what is too near to it for that to be a win, in the usual order."""
    shown = sorted((first, *ties), key=list(STRATEGIES).index)
    said = " or ".join(shown) if len(shown) <= MOST_TIED else f"any of {len(shown)}"
    return f"{said} (a tie)" if ties else said


@functools.cache
def _choices() -> pd.DataFrame:
    """The best strategy of each model and number of nodes, predicted and published; planned once for two cells."""
    table = pd.DataFrame([first_choice(model, nodes) for model in TABLE_I for nodes in NODES])
    table.columns = ["model", "nodes", "predicted best", "published best", "of best published", "ties"]
    return table.assign(missed=table["of best published"] < 1 - CLOSE)


@styled
def ranking(settings: ScalingSettings | None = None) -> Figure:
    """The best strategy by model and nodes, HYBRID_1GPU and DDP aside: predicted above, published below.

    `settings`: a job whose plan may name another strategy; then a sentence says why.
    """
    table = _choices()
    places = list(TABLE_I)
    figure, ax = axes(height=3.9)
    for model, nodes, ours, theirs, _, ties, missed in table.itertuples(index=False):
        x, y = NODES.index(nodes), places.index(model)
        for lift, name in ((0.0, ours), (0.4, theirs)):
            if isinstance(name, str):
                ax.barh(y + lift, 0.94, 0.38, left=x - 0.47, color=STRATEGIES[name].colour, alpha=0.75)
                short = SHORT.get(name, name.replace("HYBRID_", "H").replace("GPUs", "").replace("GPU", ""))
                short += " ≈" * bool(ties and not lift)
                ax.text(x, y + lift, short, ha="center", va="center", fontsize=8)
        if missed:
            ax.plot(x + 0.4, y + 0.2, "x", color=INK, markersize=6, label="below 95 % of the best published")
    if table["ties"].any():
        tie = f"a tie: another within {100 * CLOSE:.0f} %"
        ax.plot([], [], marker=r"$\approx$", linestyle="", color=INK, markersize=9, label=tie)
    ax.set_xticks(range(len(NODES)), NODES)
    ax.set_yticks([y + 0.2 for y in range(len(places))], places)
    ax.set(xlabel=NODES_OF_8, xlim=(-0.5, len(NODES) - 0.5))
    ax.invert_yaxis()
    ax.grid(False)
    legend_below(figure, [ax])
    known = table.dropna(subset=["of best published"])
    words = [f"{row.model} on {counted(row.nodes, 'node')}: {row[3]} has {row[5]:.2f} of {row[4]}"
             for row in known[known["missed"]].itertuples()]  # fmt: skip
    alt = (f"Best strategy by model and nodes for {AS_PUBLISHED}, predicted above and published below. FULL, GRAD, NO "
           "and Hk stand for FULL_SHARD, SHARD_GRAD_OP, NO_SHARD and HYBRID_kGPUs; ≈ marks a tie, another predicted "
           f"within {100 * CLOSE:.0f} %, in {table['ties'].astype(bool).sum()} of {len(table)} cells. "
           f"The predicted choice has at least {100 * (1 - CLOSE):.0f} % of the best published throughput in "
           f"{(~known['missed']).sum()} of {len(known)} cells; crosses mark others: {'; '.join(words)}.")  # fmt: skip
    with suppress(ValueError):  # a job that cannot be planned: the plan says so
        alt += f" {choice.differing(**choice.asked(settings))}".rstrip() if settings else ""
    return Figure(figure, alt, table.drop(columns="missed").assign(ties=table["ties"].map(", ".join)))


def _weak(model: str) -> pd.DataFrame:
    """images/s of each strategy and number of nodes, published, and predicted under the published conditions."""
    seen = published.scaling(model)
    rows = []
    for name in [name for name in STRATEGIES if name in seen] or ALIKE:
        for nodes in nodes_of(name):
            found = as_published(model, name, nodes)
            rows.append({"strategy": name, "nodes": nodes, "published": seen.get(name, {}).get(nodes),
                         "predicted": found["images_per_s"], "low": found["low"], "high": found["high"]})  # fmt: skip
    return pd.DataFrame(rows).astype({"published": float})


def _split(settings: ScalingSettings, strategy: str, nodes: int, batch: int) -> dict[str, Any]:
    """A row of strong scaling; {} where the shard group does not divide so few GPUs."""
    try:
        planned = predict(settings.model, strategy, settings.machine, nodes, batch, workload=settings.workload)
    except ValueError:
        return {}
    return {"strategy": strategy, "nodes": nodes, "images per GPU": batch, "images/s": planned["images_per_s"],
            "low": planned["low"], "high": planned["high"], "GiB per GPU": planned["memory_gib"],
            "fits": planned["fits"]}  # fmt: skip
