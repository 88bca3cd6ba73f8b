"""What arithmetic says a step costs (`planning`), drawn beside what was published or measured. No torch."""

import pandas as pd
import seaborn as sns

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Figure, Table, axes, styled
from geofm_lib.planning.communication import step_traffic
from geofm_lib.planning.flops import flops, training_flops
from geofm_lib.planning.memory import Memory, rank_memory
from geofm_lib.planning.reference import BATCH, BENCHMARK, FRONTIER, TABLE_I, conditions
from geofm_lib.planning.sizes import gib
from geofm_lib.runs import records

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
COLLECTIVES = {"all_gather": "all-gather", "reduce_scatter": "reduce-scatter", "all_reduce": "all-reduce"}


@styled
def strategy_memory(model: str, nodes: int = 8) -> Figure:
    """GiB per GPU of each strategy on `nodes` Frontier nodes, for the paper's benchmark; dots are published peaks."""
    world = nodes * FRONTIER.devices_per_node
    held, dots = {}, {}
    for name in STRATEGIES:
        seen = [row["value"] for row in published.peaks(model=model, strategy=name) if row["nodes"] in (nodes, None)]
        how = conditions(name) if seen else BENCHMARK
        label = f"{name} ({how.precision})" if how.precision != "bf16" else name
        held[label] = stacked_gib(rank_memory(model, name, world, BATCH, how, stack="fsdp1"))
        dots |= {label: seen[0]} if seen else {}
    frame = pd.DataFrame(held).T
    figure, ax = axes(height=3.9)
    stack(ax, frame)
    ax.plot(list(dots.values()), list(dots), "o", color="black", markersize=6, label="published peak", zorder=3)
    ax.axvline(FRONTIER.memory_gib, color="#444444", linestyle=":", linewidth=1)
    ax.text(FRONTIER.memory_gib, -0.75, "one GPU's memory", fontsize=8, color="#444444", ha="center")
    ax.set(xlabel=f"GiB per GPU, {nodes} nodes, {BATCH} images per GPU, activation checkpointing")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    table = frame.assign(arithmetic=frame.sum(axis=1), published=pd.Series(dots, dtype=float))
    seen = {name: f" (published {value:.1f})" for name, value in dots.items()}
    said = [f"{name} {value:.1f}{seen.get(name, '')}" for name, value in table["arithmetic"].items()]
    alt = f"Stacked bars: peak GiB per GPU of {model} on {nodes} nodes by arithmetic: {', '.join(said)}."
    table = table.rename(columns=KINDS | {"arithmetic": "arithmetic, GiB", "published": "published, GiB"})
    return Figure(figure, alt, table.rename_axis("strategy").reset_index())


@styled
def strategy_traffic(model: str, nodes: int = 8) -> Figure:
    """GiB one GPU sends in one optimiser step under each strategy, by whether the group it sends in spans nodes."""
    gpus = FRONTIER.devices_per_node
    rows = []
    for name, strategy in STRATEGIES.items():
        shard = strategy.shard_group or nodes * gpus
        for kind, traffic in step_traffic(model, name, nodes * gpus, BENCHMARK).items():
            local = traffic.group > 1 and kind != "all_reduce" and shard <= gpus
            rows.append({"strategy": name, "collective": COLLECTIVES[kind], "ranks in a group": traffic.group,
                         "calls": traffic.calls, "where": NEAR if local else FAR,
                         "GiB sent": gib(traffic.sent)})  # fmt: skip
    table = pd.DataFrame(rows).query("calls > 0")
    frame = table.pivot_table(index="strategy", columns="where", values="GiB sent", aggfunc="sum", fill_value=0)
    frame = frame.reindex(list(STRATEGIES)).fillna(0.0)
    figure, ax = axes(height=3.4)
    stack(ax, frame, {NEAR: "#009E73", FAR: "#D55E00"})
    ax.set(xlabel=f"GiB sent by one GPU per step, {nodes} nodes, bf16")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    far = frame.get(FAR, frame.sum(axis=1) * 0)
    said = [f"{name} {total:.1f} ({far[name]:.1f})" for name, total in frame.sum(axis=1).items()]
    alt = (f"Stacked bars: GiB one GPU sends per step for {model} on {nodes} nodes, in brackets the part sent in "
           f"groups that span nodes: {', '.join(said)}.")  # fmt: skip
    return Figure(figure, alt, table)


def image_costs() -> Table:
    """GFLOP of the forward pass for one 224-pixel image: MAE pretraining beside the paper's all-token benchmark."""
    rows = []
    for name in TABLE_I:
        mae, classify = (flops(name, workload) for workload in ("mae", "classify"))
        rows.append({"model": name, "MAE, GFLOP": mae.forward / 1e9, "benchmark, GFLOP": classify.forward / 1e9,
                     "benchmark / MAE": classify.forward / mae.forward,
                     "benchmark step with recomputation, GFLOP": classify.step(True) / 1e9})  # fmt: skip
    ours = training_flops("ViT-Base", "classify", activation_checkpointing=True) * BATCH / 1e12
    theirs = next(row["value"] for row in published.rows(unit="TFLOP", model="ViT-Base"))
    caption = f"One image of 224 pixels. Check: {BATCH} images of ViT-Base are {ours:.4f} TFLOP a step; " \
              f"the authors' own log counts {theirs}."  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def measured_runs(runs_dir: str) -> Table:
    """Finished throughput runs under `runs_dir`, one row each; their conditions stand beside their numbers."""
    table = records.table(f"{runs_dir}/*")
    if len(table):
        table = table[(table["job"] == "throughput") & (table["status"] == "finished")]
    wanted = ["model", "strategy", "ranks", "images_per_s", "step_s", "peak_memory_gib", "batch_per_gpu", "image_size",
              "workload", "precision", "activation_checkpointing", "input", "communication", "window"]  # fmt: skip
    kept = table[[name for name in wanted if name in table]]
    empty = f"There is no finished throughput run in '{runs_dir}' yet; notebook 03 makes them."
    return Table(kept, f"Finished throughput runs in '{runs_dir}'", empty)


def stacked_gib(held: Memory) -> dict[str, float]:
    """GiB by KINDS; they add up to the peak."""
    return {name: gib(getattr(held, name)) for name in KINDS}


def stack(ax, frame: pd.DataFrame, colours: dict[str, str] | None = None) -> None:
    """Horizontal bars, one a row of `frame`, its columns stacked."""
    left = pd.Series(0.0, index=frame.index)
    for colour, (name, values) in zip(sns.color_palette("colorblind"), frame.items(), strict=False):
        ax.barh(frame.index, values, left=left, height=0.62, color=(colours or {}).get(name, colour),
                label=KINDS.get(name, name))  # fmt: skip
        left += values
    ax.invert_yaxis()
    ax.grid(False, axis="y")
