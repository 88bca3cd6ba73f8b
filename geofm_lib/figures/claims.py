"""06: the four findings on how the paper's numbers came about, and predictions that have not seen a model. No torch."""

import pandas as pd

from geofm_lib.catalog import metrics
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures._axes import FAINT, IDEAL, IMAGES_PER_S, legend_below, look, node_axis, own_look, ticks
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper.claims import LOG_WINDOWS, window_over_steady
from geofm_lib.paper.performance import PREDICTED, UP_TO_3B, unseen
from geofm_lib.paper.verdicts import percent
from geofm_lib.planning.planner import as_published
from geofm_lib.runs.run import Run


def replicas(run: Run) -> Table | Note:
    """Finding 3: how far apart replicas are after one step and after the last, by wrapper and shard group."""
    found, rows = run.summary, []
    for kind, name in (("fsdp1", "FSDP1, HYBRID_SHARD"), ("ours", "FSDP2, as here")):
        for group in (1, 2):
            of = f"{kind}_group_{group}"
            if f"{of}_strategy" in found:
                apart = found[f"{of}_gradient_difference"]
                rows.append({"wrapper": name, "shard group": group, "strategy in effect": found[f"{of}_strategy"],
                             "largest difference of a gradient": apart,
                             f"of a weight after {run.settings['steps']} steps": found[f"{of}_weight_difference"],
                             "replicas": "drift apart" if apart else "agree"})  # fmt: skip
    if "fsdp1_group_1_strategy" not in found:
        agree = "agree" if all(row["replicas"] == "agree" for row in rows) else "do not agree"
        return Note(f"{found['fsdp1']} Under FSDP2 the replicas {agree} for shard groups of one and of two ranks.")
    caption = (f"{run.settings['model']} on {found['ranks']} ranks, other images on each; {found['fsdp1']}; between "
               "the ranks that should hold the same numbers")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def precision_measured(run: Run) -> Table:
    """Finding 2 here: a step of one model under DDP and NO_SHARD, in both precisions, taken in turn."""
    found, asked = run.summary, run.settings
    rows = [
        {"strategy": strategy, "precision": kind, "step, s (median)": found[f"{strategy}_{kind}_step_s"],
         "speed over DDP in fp32": found["DDP_fp32_step_s"] / found[f"{strategy}_{kind}_step_s"]}
        for kind in ("fp32", "bf16") for strategy in ("DDP", "NO_SHARD")
    ]  # fmt: skip
    caption = (f"{asked['larger_model']} on {found['ranks']} ranks, {asked['batch_per_gpu']} images each, activation "
               f"checkpointing; slowest rank, {asked['steps']} rounds; {found['device']}")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def precision_predicted() -> Table:
    """Finding 2 on Frontier: NO_SHARD in bf16 over DDP in fp32, as published and predicted, and over DDP in bf16."""
    rows = []
    for model in UP_TO_3B:  # ViT-5B does not fit one GPU
        seen = unseen(model)
        theirs, ours = ((seen[model, "NO_SHARD", 1][k] / seen[model, "DDP", 1][k] for k in (0, 1)) if seen
                        else (None, None))  # fmt: skip
        fp32, bf16 = (as_published(model, "DDP", 1, precision=kind)["images_per_s"] for kind in ("fp32", "bf16"))
        rows.append({"model": model, "published: NO_SHARD bf16 / DDP fp32": theirs, "predicted unseen": ours,
                     "DDP bf16 / DDP fp32, by the fit to all": bf16 / fp32})  # fmt: skip
    caption = (
        "images/s on one Frontier node, by the planner: unseen by a fit to the other models (F2), and the last "
        "column by the fit to all. The planner takes DDP and NO_SHARD for equally fast in the same precision: that is "
        "an assumption, and not a result"
    )
    return Table(pd.DataFrame(rows), caption, formats=dict.fromkeys(rows[0], ".2f"))


@styled
def start_up(run: Run) -> Figure:
    """Finding 4: what a window of 30 steps with start-up inside shows of the steady speed, by model."""
    found, asked = run.summary, run.settings
    bars = [(f"{asked['model']}, here", found["small_window_over_steady"], "measured"),
            (f"{asked['larger_model']}, here", found["larger_window_over_steady"], "measured"),
            ("ViT-Base, DDP, authors' log", LOG_WINDOWS[0] / LOG_WINDOWS[1], "published")]  # fmt: skip
    bars += [(f"{model}, Frontier", window_over_steady(model), "fitted") for model in PREDICTED]
    table = pd.DataFrame(bars, columns=["model", "window over steady", "how"])
    figure, ax = axes(height=2.9)
    names, colours = table["model"] + " (" + table["how"] + ")", [own_look(how)["color"] for how in table["how"]]
    drawn = ax.barh(names, table["window over steady"], color=colours, height=0.65)
    ax.bar_label(drawn, fmt="%.2f", padding=-26, fontsize=8.5, color="white")
    ax.axvline(1, **IDEAL)
    ax.set(xlim=(0, 1.02), xlabel="speed that the window shows, of the steady speed")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    words = ", ".join(f"{name} {value:.2f}" for name, value, _ in bars)
    alt = (f"Bars: what 30 steps by wall clock show of the steady speed. {words}. Start-up measured here: "
           f"{found['small_start_up_s']:.2f} s and {found['larger_start_up_s']:.2f} s.")  # fmt: skip
    return Figure(figure, alt, table.round(3))


@styled
def unseen_models() -> Figure | Note:
    """Predicted over published throughput against nodes, each model by a fit to the others."""
    rows = [(*key, ours / theirs) for key, (theirs, ours) in unseen(*PREDICTED).items()]
    if not rows:
        return Note("reports/unseen.csv is not there; make predictions writes it.")
    rows.sort(key=lambda row: (PREDICTED.index(row[0]), list(STRATEGIES).index(row[1])))
    table = pd.DataFrame(rows, columns=["model", "strategy", "nodes", "predicted / published"])
    figure, panels = axes(height=6.6, rows=3, columns=2, sharex=True, sharey=True)
    for ax, (model, part) in zip(panels.flat, table.groupby("model", sort=False), strict=True):
        for name, line in part.groupby("strategy", sort=False):
            ax.plot(line["nodes"], line["predicted / published"], **look(name, linewidth=0.8, markersize=4.5))
        ax.axhspan(0.9, 1.1, color=FAINT, alpha=0.15, linewidth=0)
        ax.axhline(1, color=FAINT, linewidth=1)
        node_axis(ax, title=model, yscale="log", ylim=(0.55, 3.2))
        ticks(ax.yaxis, [0.6, 0.8, 1, 1.5, 2, 3])
        ax.label_outer()
    figure.supylabel(f"predicted / published {IMAGES_PER_S}", fontsize=9.5)
    legend_below(figure, panels.flat, 4)
    off = table["predicted / published"].map(metrics.off)
    worst = table.loc[off.nlargest(3).index].itertuples(index=False, name=None)
    words = "; ".join(f"{model} {name} on {nodes} nodes {ratio:.2f}" for model, name, nodes, ratio in worst)
    alt = (f"Predicted over published images/s of {len(table)} points, each model predicted by a fit to the others: "
           f"median error {percent(off.median())}, {(off <= 0.1).sum()} within 10 %. Worst: {words}.")  # fmt: skip
    return Figure(figure, alt, table.round(3))
