"""The evidence of a `findings` run, drawn, beside what the planner says of Frontier. No torch."""

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper.findings import LOG_WINDOWS, window_over_steady
from geofm_lib.paper.performance import PREDICTED, UP_TO_3B, unseen
from geofm_lib.paper.verdicts import percent
from geofm_lib.planning.planner import as_published
from geofm_lib.planning.reference import NODES

WRAPPERS = {"fsdp1": "FSDP1, HYBRID_SHARD", "ours": "FSDP2, as here"}
MEASURED, FITTED, PUBLISHED = "#0072B2", "#7f7f7f", "#E69F00"


def replicas(run) -> Table | Note:
    """Finding 3: how far apart replicas are after one step and after the last, by wrapper and shard group."""
    told, rows = run.summary, []
    for kind, name in WRAPPERS.items():
        for group in (1, 2):
            if f"{kind}_group_{group}_strategy" in told:
                held = {what: told[f"{kind}_group_{group}_{what}"] for what in ("strategy", "gradient_difference",
                                                                               "weight_difference")}  # fmt: skip
                rows.append({"wrapper": name, "shard group": group, "strategy in effect": held["strategy"],
                             "largest difference of a gradient": held["gradient_difference"],
                             f"of a weight after {run.settings['steps']} steps": held["weight_difference"],
                             "replicas": "agree" if not held["gradient_difference"] else "drift apart"})  # fmt: skip
    if "fsdp1_group_1_strategy" not in told:
        return Note(f"{told['fsdp1']} {_agree(rows)}")
    caption = (f"{run.settings['model']} on {told['ranks']} ranks, other images on each; {told['fsdp1']}; between the "
               "ranks that should hold the same numbers")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def _agree(rows: list[dict]) -> str:
    agree = all(row["replicas"] == "agree" for row in rows)
    return f"Under FSDP2 the replicas {'agree' if agree else 'do not agree'} for shard groups of one and of two ranks."


def precision_measured(run) -> Table:
    """Finding 2 here: a step of one model under DDP and NO_SHARD, in both precisions, taken in turn."""
    told = run.summary
    first = told["DDP_fp32_step_s"]
    rows = [
        {"strategy": strategy, "precision": kind, "step, s (median)": told[f"{strategy}_{kind}_step_s"],
         "speed over DDP in fp32": first / told[f"{strategy}_{kind}_step_s"]}
        for kind in ("fp32", "bf16") for strategy in ("DDP", "NO_SHARD")
    ]  # fmt: skip
    caption = (f"{run.settings['larger_model']} on {told['ranks']} ranks, {run.settings['batch_per_gpu']} images each, "
               f"activation checkpointing; slowest rank, {run.settings['steps']} rounds; {told['device']}")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def precision_predicted() -> Table:
    """Finding 2 on Frontier: NO_SHARD in bf16 over DDP in fp32, as published and predicted, and over DDP in bf16."""
    rows = []
    for model in UP_TO_3B:  # ViT-5B does not fit one GPU
        seen = unseen(model)
        both = [(seen[model, "NO_SHARD", 1][k] / seen[model, "DDP", 1][k]) for k in (0, 1)] if seen else [None, None]
        fsdp, fp32, bf16 = (
            as_published(model, name, 1, precision=kind)
            for name, kind in (("NO_SHARD", "bf16"), ("DDP", "fp32"), ("DDP", "bf16"))
        )
        rows.append({
            "model": model, "published: NO_SHARD bf16 / DDP fp32": both[0], "predicted unseen": both[1],
            "DDP bf16 / DDP fp32": bf16["images_per_s"] / fp32["images_per_s"],
            "NO_SHARD bf16 / DDP bf16": fsdp["images_per_s"] / bf16["images_per_s"],
        })  # fmt: skip
    caption = ("images/s on one Frontier node, by the planner (unseen: by a fit to the other models). It assumes that "
               "DDP and NO_SHARD take the same time in the same precision")  # fmt: skip
    return Table(pd.DataFrame(rows), caption, formats=dict.fromkeys(rows[0], ".2f"))


@styled
def start_up(run) -> Figure:
    """Finding 4: what a window of 30 steps with start-up inside shows of the settled speed, by model."""
    told, asked = run.summary, run.settings
    bars = [(f"{asked['model']}, here", told["small_window_over_steady"], "measured"),
            (f"{asked['larger_model']}, here", told["larger_window_over_steady"], "measured"),
            ("ViT-Base, DDP, authors' log", LOG_WINDOWS[0] / LOG_WINDOWS[1], "published")]  # fmt: skip
    bars += [(f"{model}, Frontier", window_over_steady(model), "fitted") for model in PREDICTED]
    frame = pd.DataFrame(bars, columns=["model", "window over settled", "how"])
    figure, ax = axes(height=2.9)
    colours = frame["how"].map({"measured": MEASURED, "published": PUBLISHED, "fitted": FITTED})
    drawn = ax.barh(
        frame["model"] + " (" + frame["how"] + ")", frame["window over settled"], color=colours, height=0.65
    )
    ax.bar_label(drawn, fmt="%.2f", padding=-26, fontsize=8.5, color="white")
    ax.axvline(1, color="#888888", linestyle="--", linewidth=1)
    ax.set(xlim=(0, 1.02), xlabel="speed that the window shows, of the settled speed")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    said = ", ".join(f"{name} {value:.2f}" for name, value, _ in bars)
    alt = (f"Bars: what 30 steps by wall clock show of the settled speed. {said}. Start-up measured here: "
           f"{told['small_start_up_s']:.2f} s and {told['larger_start_up_s']:.2f} s.")  # fmt: skip
    return Figure(figure, alt, frame.round(3))


@styled
def unseen_predictions() -> Figure | Note:
    """Predicted over published throughput against nodes, each model by a fit to the others."""
    found = {model: unseen(model) for model in PREDICTED}
    if not all(found.values()):
        return Note("reports/unseen.csv is not there; make predictions writes it.")
    figure, panels = axes(height=5.0, rows=2, columns=2, sharex=True, sharey=True)
    rows = []
    for ax, (model, points) in zip(panels.flat, found.items(), strict=True):
        for name in [name for name in STRATEGIES if any(key[1] == name for key in points)]:
            line = {key[2]: ours / theirs for key, (theirs, ours) in points.items() if key[1] == name}
            ax.plot(list(line), list(line.values()), STRATEGIES[name].marker, color=STRATEGIES[name].colour,
                    linestyle="-", linewidth=0.8, markersize=4.5, label=name)  # fmt: skip
            rows += [
                {"model": model, "strategy": name, "nodes": n, "predicted / published": v} for n, v in line.items()
            ]
        ax.axhspan(0.9, 1.1, color="#888888", alpha=0.15, linewidth=0)
        ax.axhline(1, color="#888888", linewidth=1)
        ax.set(title=model, xscale="log", yscale="log", ylim=(0.6, 3.2))
        ax.xaxis.set_major_locator(FixedLocator(NODES))
        ax.yaxis.set_major_locator(FixedLocator([0.7, 1, 1.5, 2, 3]))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(ScalarFormatter())
    for ax in panels[1]:
        ax.set_xlabel("nodes (8 GPUs each)")
    figure.supylabel("predicted / published images/s", fontsize=9.5)
    handles = {label: line for ax in panels.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    table = pd.DataFrame(rows)
    off = (table["predicted / published"] - 1).abs()
    worst = table.loc[off.nlargest(3).index]
    named = "; ".join(f"{r['model']} {r['strategy']} on {r['nodes']} nodes {r['predicted / published']:.2f}"
                      for _, r in worst.iterrows())  # fmt: skip
    alt = (f"Predicted over published images/s of {len(table)} points, each model predicted by a fit to the others: "
           f"median error {percent(off.median())}, {(off <= 0.1).sum()} within 10 %. Worst: {named}.")  # fmt: skip
    return Figure(figure, alt, table.round(3))
