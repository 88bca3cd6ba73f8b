"""04: what arithmetic says a strategy must hold and send, and what an image costs, beside the published. No torch."""

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures._axes import (
    GREEN,
    HOLDS,
    LIMIT,
    PEAK,
    PEAK_GIB,
    RED,
    WORDS,
    apart,
    legend_below,
    legend_of_marks,
    line_and_marks,
    node_axis,
    own_look,
    plain_log,
    planned,
    stacked_bars,
)
from geofm_lib.figures.display import Figure, Table, axes, styled
from geofm_lib.planning.conditions import (
    ALIKE,
    BATCH,
    BENCHMARK,
    FRONTIER,
    TABLE_I,
    WORKLOADS,
    conditions,
    gib,
    nodes_of,
)
from geofm_lib.planning.flops import flops, training_flops
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.steps import step_traffic
from geofm_lib.runs import results

KINDS = {
    "parameters": "weights (fp32 shard)",
    "optimiser": "optimiser",
    "gradients_by_then": "gradients",
    "unsharded": "gathered weights, unreduced gradients",
    "block": "one block's backward pass",
    "activations": "activations",
    "other": "libraries",
}
NEAR, FAR = "group inside one node", "group spans nodes"
PER_NODE = FRONTIER.devices_per_node


@styled
def memory(model: str, nodes: int = 8) -> Figure:
    """GiB per GPU of each strategy on `nodes` Frontier nodes, for the paper's benchmark; dots are published peaks."""
    rows, dots = {}, {}
    for name in STRATEGIES:
        peaks = [row["value"] for row in published.peaks(model=model, strategy=name) if row["nodes"] in (nodes, None)]
        how = conditions(name) if peaks else BENCHMARK
        label = apart(name, how.precision, how.synchronised)
        planned = rank_memory(model, name, nodes * PER_NODE, BATCH, how, stack="fsdp1")
        rows[label] = {words: gib(getattr(planned, kind)) for kind, words in KINDS.items()}
        if peaks:
            dots[label] = peaks[0]
    frame = pd.DataFrame(rows).T
    figure, ax = axes(height=3.9)
    stacked_bars(ax, frame, f"GiB per GPU, {nodes} nodes, {BATCH} images per GPU, activation checkpointing", HOLDS)
    ax.plot(list(dots.values()), list(dots), **own_look("published", label="published peak", linestyle="", zorder=3))
    ax.axvline(FRONTIER.memory_gib, **LIMIT)
    ax.text(FRONTIER.memory_gib, -0.75, "one GPU's memory", fontsize=8, color=WORDS, ha="center")
    legend_below(figure, [ax], 2)
    total = frame.sum(axis=1)
    words = [f"{name} {value:.1f}" + (f" (published {dots[name]:.1f})" if name in dots else "")
             for name, value in total.items()]  # fmt: skip
    alt = f"Stacked bars: peak GiB per GPU of {model} on {nodes} nodes by arithmetic ({PEAK}): {', '.join(words)}."
    table = frame.assign(**{"arithmetic, GiB": total, "published, GiB": pd.Series(dots, dtype=float)})
    return Figure(figure, alt, table.rename_axis("strategy").reset_index())


@styled
def memory_by_nodes(model: str) -> Figure:
    """Peak GiB per GPU against nodes: FSDP1 by arithmetic and as published, FSDP2 by arithmetic and as simulated."""
    seen = {("fsdp1", row["strategy"], row["nodes"] or 8): row["value"] for row in published.peaks(model=model)}
    seen |= {("fsdp2", row["strategy"], int(row["gpus"]) // PER_NODE): float(row["simulated_gib"])
             for row in results.read("simulated") if row["model"] == model}  # fmt: skip
    titles = {"fsdp1": "FSDP1, as published", "fsdp2": "FSDP2, as simulated"}
    rows = [
        {"stack": stack, "strategy": name, "nodes": n,
         "arithmetic, GiB": gib(rank_memory(model, name, n * PER_NODE, BATCH, BENCHMARK, stack=stack).peak),
         "published or simulated, GiB": seen.get((stack, name, n))}
        for stack in titles for name in ALIKE for n in nodes_of(name)
    ]  # fmt: skip
    table = pd.DataFrame(rows).astype({"published or simulated, GiB": float})
    figure, panels = axes(height=3.7, columns=2, sharey=True, sharex=True)
    for ax, (stack, title) in zip(panels, titles.items(), strict=True):
        for name, part in table[table["stack"] == stack].set_index("nodes").groupby("strategy", sort=False):
            line_and_marks(ax, name, part["arithmetic, GiB"], part["published or simulated, GiB"])
        ax.axhline(FRONTIER.memory_gib, **LIMIT)
        plain_log(ax)
        node_axis(ax, title=title)
    panels[0].set(ylabel=PEAK_GIB)
    legend_of_marks(panels[1], line="arithmetic", marks="published (left), simulated (right)")
    legend_below(figure, panels, 4)
    both = table.dropna()
    off = (both["arithmetic, GiB"] / both["published or simulated, GiB"] - 1).abs() * 100
    worst = [f"{name} {part.max():.1f} %" for name, part in off.groupby(both["stack"])]
    alt = (f"Peak GiB per GPU of {model} against nodes ({PEAK}). Lines are arithmetic, marks published "
           f"(left, FSDP1) and simulated (right, FSDP2); the dotted line is a GPU's memory. Largest difference: "
           f"{', '.join(worst) or 'no marks'}.")  # fmt: skip
    return Figure(figure, alt, table)


@styled
def traffic(model: str, nodes: int = 8) -> Figure:
    """GiB one GPU sends in one optimiser step under each strategy, by whether the group it sends in spans nodes."""
    rows = []
    for name, strategy in STRATEGIES.items():
        for kind, each in step_traffic(model, name, nodes * PER_NODE, BENCHMARK).items():
            inside = kind != "all_reduce" and (strategy.shard_group or nodes * PER_NODE) <= PER_NODE
            rows.append({"strategy": planned(name), "collective": kind.replace("_", "-"),
                         "ranks in a group": each.group, "calls": each.calls, "where": NEAR if inside else FAR,
                         "GiB sent": gib(each.sent)})  # fmt: skip
    table = pd.DataFrame(rows).query("calls > 0")
    frame = table.pivot_table(index="strategy", columns="where", values="GiB sent", aggfunc="sum", fill_value=0)
    frame = frame.reindex(index=list(map(planned, STRATEGIES)), columns=[NEAR, FAR]).fillna(0.0)
    figure, ax = axes(height=3.4)
    stacked_bars(ax, frame, f"GiB sent by one GPU per step, {nodes} nodes, all in bf16", {NEAR: GREEN, FAR: RED})
    legend_below(figure, [ax], 2)
    words = [f"{name} {row.sum():.1f} ({row[FAR]:.1f})" for name, row in frame.iterrows()]
    alt = (f"Stacked bars: GiB one GPU sends in one step of {model} on {nodes} nodes ({WORKLOADS['classify']}, any "
           f"number of images), in brackets the part sent in groups that span nodes: {', '.join(words)}. All are in "
           "bf16 and synchronised; the paper ran DDP in fp32, which sends twice as much, and HYBRID_1GPU without "
           "synchronising, which sends nothing.")  # fmt: skip
    return Figure(figure, alt, table)


def image() -> Table:
    """GFLOP of the forward pass for one 224-pixel image: MAE pretraining beside the paper's all-token benchmark."""
    rows = []
    for name in TABLE_I:
        mae, classify = (flops(name, workload) for workload in ("mae", "classify"))
        rows.append({"model": name, "MAE, GFLOP": mae.forward / 1e9, "benchmark, GFLOP": classify.forward / 1e9,
                     "benchmark / MAE": classify.forward / mae.forward,
                     "benchmark step with recomputation, GFLOP": classify.step(True) / 1e9})  # fmt: skip
    ours = training_flops("ViT-Base", "classify", activation_checkpointing=True) * BATCH / 1e12
    theirs = next(row["value"] for row in published.rows(unit="TFLOP", model="ViT-Base"))
    caption = (f"One image of 224 pixels. Check: {BATCH} images of ViT-Base are {ours:.4f} TFLOP a step; the authors' "
               f"own log counts {theirs}.")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)
