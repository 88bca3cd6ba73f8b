"""04: what was measured here on small machines, beside what is planned, simulated and published. No torch."""

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.catalog.headlines import AFTER
from geofm_lib.catalog.metrics import number, rough
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures._axes import AS_PUBLISHED, BLUE, IDEAL, IMAGES_PER_S, STEP_S, legend_below, look, own_look
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import studies
from geofm_lib.planning.conditions import WINDOWS, WORKLOADS
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.planner import as_published, predict
from geofm_lib.runs.compared import in_words
from geofm_lib.runs.run import run_table
from geofm_lib.settings.places import one_spelling

DEPTHS = {0: "0 (none)", 1: "1 (BACKWARD_PRE)", 2: "2"}  # blocks gathered ahead in the backward pass
EMPTY = "This grid was not run here; `make experiments` runs it."
CONDITIONS = {
    "model": "model", "strategy": "strategy", "ranks": "ranks", "images_per_s": IMAGES_PER_S, "step_s": STEP_S,
    "peak_memory_gib": "peak GiB, fullest rank", "batch_per_gpu": "images a rank", "image_size": "image, px",
    "workload": "workload", "precision": "precision", "activation_checkpointing": "activations recomputed",
    "input": "images", "communication": "communication",
}  # fmt: skip


def runs(runs_dir: str) -> Table:
    """Finished throughput runs under `runs_dir`, one row each; their conditions stand beside their numbers."""
    table = run_table(runs_dir)
    if len(table):
        table = table[(table["job"] == "throughput") & (table["status"] == "finished")]
    shown = one_spelling(str(runs_dir))  # a page says nothing of where somebody's clone lies
    empty = f"There is no finished throughput run in '{shown}' yet; notebook 03 makes them."
    caption = f"Finished throughput runs in '{shown}', steps of all ranks in the steady window, one run each"
    caption += _peaks(table) + _not_recorded(table)
    return Table(table.filter(list(CONDITIONS)).rename(columns=CONDITIONS), caption, empty)


def _peaks(table: pd.DataFrame) -> str:
    """Which peaks cannot be compared, since settings that move memory alone differ; '' where all can."""
    moved = [name for name in AFTER if name in table and table[name].nunique() > 1]
    return f". Peaks depend on {in_words(moved)} too, which differ, so compare speeds alone" if moved else ""


def _not_recorded(table: pd.DataFrame) -> str:
    """Where a recorded grid of 04 has the settings of a run here, why the two numbers differ; '' where none has."""
    frame = studies.recorded("experiments")
    same = ["model", "strategy", "ranks", "batch_per_gpu", "image_size", "workload", "precision"]
    if frame.empty or not set(same) <= set(table):
        return ""
    both = table.merge(frame, on=same, suffixes=(" here", " recorded"))
    if both.empty:
        return ""
    row = both.iloc[0]
    here, recorded = (number(row[f"images_per_s {when}"]) for when in ("here", "recorded"))
    images = number(row["batch_per_gpu"])
    return (f". {row['strategy']} with {images} images a rank has {here} images/s here and {recorded} in 04's figure "
            f"of growing batches: that grid is older ({studies.origin(frame)}; since then kernels are chosen by "
            "measuring). Compare only within one of the two")  # fmt: skip


def scaling() -> Table:
    """Weak and strong scaling from one rank to two on this project's own small machine, medians over rounds."""
    frame = studies.recorded("scaling_small")
    if frame.empty:
        return Table(frame, empty=EMPTY)
    median = frame.groupby(["strategy", "ranks", "batch_per_gpu"], sort=False)["images_per_s"].median()
    rows = [
        {"strategy": strategy, "scaling": kind, "images/s, 1 rank of 2 threads": median[strategy, 1, images],
         "images/s, 2 ranks of 1": median[strategy, 2, 32],
         "kept, %": 100 * median[strategy, 2, 32] / median[strategy, 1, images]}
        for strategy in frame["strategy"].unique()
        for kind, images in (("weak, 32 images a rank", 32), ("strong, 64 images in all", 64))
    ]  # fmt: skip
    caption = f"{_how(frame)}, median of {frame['seed'].nunique()} rounds, {studies.origin(frame)}"
    return Table(pd.DataFrame(rows), caption)


@styled
def prefetch() -> Figure:
    """FSDP2's prefetch depth: planned for the published case, with the published dots, and measured here."""
    rows = [
        {"where": "Frontier, ViT-5B, 64 GPUs", "strategy": name, "forward": 0, "backward": depth,
         "images/s, planned": found["images_per_s"], "GiB per GPU, planned": found["memory_gib"],
         "images/s, published": bars[depth]["value"] if depth in bars else None}
        for name, bars in published.prefetch().items() for depth in DEPTHS
        for found in [as_published("ViT-5B", name, 8, backward_prefetch=depth)]
    ]  # fmt: skip
    figure, (left, right) = axes(height=3.1, columns=2, width_ratios=(3, 2))
    planned = []
    for aside, (name, part) in zip((-0.27, 0, 0.27), pd.DataFrame(rows).groupby("strategy", sort=False), strict=True):
        places, speeds = part["backward"] + aside, part["images/s, planned"]
        left.bar(places, speeds, 0.25, color=STRATEGIES[name].colour, label=name)
        left.plot(places, part["images/s, published"], **own_look("published", linestyle="", markersize=4))
        planned.append(" ".join([name, *(number(speed) for speed in speeds)]))
    left.set(xlabel="blocks gathered ahead in the backward pass", ylabel=IMAGES_PER_S, title="Planned")
    left.set_xticks(list(DEPTHS), DEPTHS.values())
    left.grid(False, axis="x")
    frame, measured = studies.recorded("prefetch_small"), {}
    if len(frame):
        wide = frame.pivot(index="seed", columns=["forward_prefetch", "backward_prefetch"], values="images_per_s")
        measured = {depth: wide[depth] / wide[0, 1] for depth in wide.columns}
    for x, (depth, ratios) in enumerate(measured.items()):
        right.plot([x] * len(ratios), ratios, "o", color=BLUE, alpha=0.5, label="" if x else "a round here")
        right.plot([x - 0.2, x + 0.2], [ratios.median()] * 2, color=BLUE, label="" if x else "their median")
        rows.append({"where": "here, over gloo", "strategy": "FULL_SHARD", "forward": depth[0], "backward": depth[1],
                     "speed over (0, 1), median": ratios.median(), "low": ratios.min(),
                     "high": ratios.max()})  # fmt: skip
    right.axhline(1, **IDEAL)
    right.set(xlabel="(forward, backward) blocks ahead", ylabel="speed over (0, 1) of the round", title="Measured here")
    right.set_xticks(range(len(measured)), [f"({f}, {b})" for f, b in measured])
    legend_below(figure, [left, right])
    here = "; ".join(f"{depth} {ratios.median():.2f}" for depth, ratios in measured.items()) or "not run"
    how = f" ({_how(frame)})" if len(frame) else ""
    alt = (f"Bars: images/s of ViT-5B on 8 nodes ({AS_PUBLISHED}) planned for 0, 1 and 2 blocks ahead: "
           f"{', '.join(planned)}; dots as published without prefetching and with BACKWARD_PRE. Beside it runs of two "
           f"CPU ranks{how}, speed by (forward, backward) depth over that of (0, 1): {here}.")  # fmt: skip
    return Figure(figure, alt, pd.DataFrame(rows))


def base_alone() -> Table:
    """ViT-Base with a small batch on one rank: real steps of this project's small machine beside the planner."""
    frame = studies.recorded("experiments")
    frame = frame[frame["name"] == "base_alone"]
    if frame.empty:
        return Table(frame, empty=EMPTY)
    row = frame.iloc[0]
    planned = predict(row["model"], row["strategy"], "laptop", 1, int(row["batch_per_gpu"]), workload=row["workload"],
                      precision=row["precision"], activation_checkpointing=False)  # fmt: skip
    flops = training_flops(row["model"], row["workload"]) * row["batch_per_gpu"]
    lines = [
        ("seconds a step", row["step_s"], planned["step_s"]),
        ("images/s", row["images_per_s"], planned["images_per_s"]),
        ("model TFLOP/s", row["model_tflops_per_rank"], flops / planned["step_s"] / 1e12),
        ("peak GiB", row["peak_memory_gib"], planned["memory_gib"]),
    ]
    caption = (f"{row['model']}, {WORKLOADS[row['workload']]}, {row['image_size']} px, {row['batch_per_gpu']} images a "
               f"step, one rank of {row['threads']:.0f} threads, {row['precision']}, median of {row['steps']} steps "
               f"after {row['warmup_steps']}; {studies.origin(frame)}; the measured peak is of the whole process, "
               "Python and torch included, the planned one of the tensors")  # fmt: skip
    return Table(pd.DataFrame(lines, columns=["one rank", "measured", "planned for machine 'laptop'"]), caption)


@styled
def batches() -> Figure | Note:
    """Images/s against the batch under NO_SHARD: measured with a small model here, planned for ViT-Base on a node."""
    frame = studies.recorded("experiments")
    frame = frame[frame["name"].str.startswith("no_shard")].sort_values("batch_per_gpu")
    if frame.empty:
        return Note(EMPTY)
    rows = [{"where": "here", "model": row.model, "images a rank": row.batch_per_gpu, "images/s": row.images_per_s,
             "GiB": row.peak_memory_gib} for row in frame.itertuples()]  # fmt: skip
    for batch in (8, 16, 32, 64, 128, 256):
        row = predict("ViT-Base", "NO_SHARD", "frontier", 1, batch)
        rows.append({"where": "planned", "model": "ViT-Base", "images a rank": batch, "images/s": row["images_per_s"],
                     "GiB": row["memory_gib"],
                     "of it communication, %": 100 * row["exposed_s"] / row["step_s"]})  # fmt: skip
    table = pd.DataFrame(rows)
    figure, panels = axes(height=2.9, columns=2)
    titles = {"here": f"measured: {rows[0]['model']}, 2 CPU ranks", "planned": "planned: ViT-Base, 8 GPUs of Frontier"}
    for ax, (where, title) in zip(panels, titles.items(), strict=True):
        part = table[table["where"] == where]
        ax.plot(part["images a rank"], part["images/s"], **look("NO_SHARD"))
        ax.set(title=title, xlabel="images a rank", xscale="log", ylim=(0, None))
        ax.set_xticks(part["images a rank"], part["images a rank"].astype(str))
        ax.minorticks_off()
    panels[0].set(ylabel=IMAGES_PER_S)
    told = {"here": number, "planned": rough}
    words = [f"{row['where']} {row['images a rank']}: {told[row['where']](row['images/s'])}" for row in rows]
    how = (
        f"Here: {_how(frame)}, one run each, {studies.origin(frame)}; later versions choose faster kernels, so runs of "
    )
    how += f"today are faster than these. Planned: {WORKLOADS['mae']}, {WINDOWS['steady']}."
    return Figure(figure, f"images/s under NO_SHARD by images a rank. {', '.join(words)}. {how}", table)


def _how(frame: pd.DataFrame) -> str:
    """Model, workload and window of recorded runs."""
    row = frame.iloc[0]
    window = f"{row['steps']:.0f} steps after {row['warmup_steps']:.0f}"
    return f"{row['model']}, {WORKLOADS[row['workload']]}, {row['image_size']:.0f} px, {row['precision']}, {window}"


def three_b() -> Table:
    """ViT-3B on 8 nodes of Frontier, FULL_SHARD against the hybrids: simulated, planned and published."""
    frame = studies.recorded("experiments")
    simulated = frame[frame["how"] == "simulated"].set_index("strategy")["peak_memory_gib"]
    rows = []
    for name in ("FULL_SHARD", "HYBRID_2GPUs", "HYBRID_4GPUs", "HYBRID_8GPUs"):
        planned = as_published("ViT-3B", name, 8)
        peaks = [row["value"] for row in published.peaks(model="ViT-3B", strategy=name) if row["nodes"] in (None, 8)]
        rows.append({"strategy": name, "GiB simulated": simulated.get(name), "arithmetic": planned["memory_gib"],
                     "published": next(iter(peaks), None), "images/s planned": planned["images_per_s"],
                     "low": planned["low"], "high": planned["high"],
                     "images/s published": published.scaling("ViT-3B").get(name, {}).get(8),
                     "exposed, s": planned["exposed_s"]})  # fmt: skip
    caption = ("ViT-3B, 8 nodes of Frontier, 32 images per GPU, the paper's benchmark and window; published memory is "
               "that of FSDP1, the others of FSDP2; exposed: communication in a step that nothing hides")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)
