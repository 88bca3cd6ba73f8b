"""The first experiments and prefetching: recorded runs beside what is planned, simulated and published. No torch."""

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import studies
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.planner import as_published, predict

DEPTHS = (0, 1, 2)
BATCHES = (8, 16, 32, 64, 128, 256)
THREE_B = ("FULL_SHARD", "HYBRID_2GPUs", "HYBRID_4GPUs", "HYBRID_8GPUs")
EMPTY = "This grid was not run here; `make experiments` runs it."


@styled
def prefetch_depths() -> Figure:
    """FSDP2's prefetch depth: planned for the published case, with the published dots, and measured here."""
    figure, (left, right) = axes(height=3.1, columns=2, width_ratios=(3, 2))
    rows, said = [], []
    for k, (name, bars) in enumerate(published.prefetch().items()):
        told = [as_published("ViT-5B", name, 8, backward_prefetch=depth) for depth in DEPTHS]
        seen = {depth: row["value"] for depth, row in bars.items()}
        places = [depth + 0.27 * (k - 1) for depth in DEPTHS]
        left.bar(places, [row["images_per_s"] for row in told], 0.25, color=STRATEGIES[name].colour, label=name)
        left.plot([places[depth] for depth in seen], list(seen.values()), "o", color="black", markersize=4)
        rows += [{"where": "Frontier, ViT-5B, 64 GPUs", "strategy": name, "forward": 0, "backward": depth,
                  "images/s, planned": row["images_per_s"], "GiB per GPU, planned": row["memory_gib"],
                  "images/s, published": seen.get(depth)} for depth, row in zip(DEPTHS, told, strict=True)]  # fmt: skip
        said.append(" ".join([name, *(f"{row['images_per_s']:.0f}" for row in told)]))
    left.set(xlabel="blocks gathered ahead in the backward pass", ylabel="images/s", title="Planned (dots: published)")
    left.set_xticks(DEPTHS, ["0 (none)", "1 (BACKWARD_PRE)", "2"])
    left.grid(False, axis="x")
    frame = _against_round(studies.recorded("prefetch_small"))
    for x, (depth, ratios) in enumerate(frame.items()):
        right.plot([x] * len(ratios), ratios, "o", color="#0072B2", alpha=0.5)
        right.plot([x - 0.2, x + 0.2], [ratios.median()] * 2, color="#0072B2")
        rows.append({"where": "here, over gloo", "strategy": "FULL_SHARD", "forward": depth[0], "backward": depth[1],
                     "speed over (0, 1), median": ratios.median(), "low": ratios.min(),
                     "high": ratios.max()})  # fmt: skip
    right.axhline(1, color="#888888", linestyle="--", linewidth=1)
    right.set(xlabel="(forward, backward) blocks ahead", ylabel="speed over (0, 1) of the round", title="Measured here")
    right.set_xticks(range(len(frame)), [f"({f}, {b})" for f, b in frame])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    here = "; ".join(f"{depth} {ratios.median():.2f}" for depth, ratios in frame.items()) or "not run"
    alt = (f"Bars: images/s of ViT-5B on 8 nodes planned for 0, 1 and 2 blocks ahead: {', '.join(said)}; dots as "
           f"published without prefetching and with BACKWARD_PRE. Beside it runs of two CPU ranks, speed by (forward, "
           f"backward) depth over that of (0, 1): {here}.")  # fmt: skip
    return Figure(figure, alt, pd.DataFrame(rows))


def base_alone() -> Table:
    """ViT-Base with a small batch on one rank: real steps of this project's small machine beside the planner."""
    frame = studies.recorded("experiments")
    frame = frame[frame["name"] == "base_alone"]
    if frame.empty:
        return Table(frame, empty=EMPTY)
    row = frame.iloc[0]
    told = predict(row["model"], row["strategy"], "laptop", 1, int(row["batch_per_gpu"]), workload=row["workload"],
                   precision=row["precision"], activation_checkpointing=False)  # fmt: skip
    flops = training_flops(row["model"], row["workload"]) * row["batch_per_gpu"]
    lines = [
        ("seconds a step", row["step_s"], told["step_s"]),
        ("images/s", row["images_per_s"], told["images_per_s"]),
        ("model TFLOP/s", row["model_tflops_per_rank"], flops / told["step_s"] / 1e12),
        ("peak GiB", row["peak_memory_gib"], told["memory_gib"]),
    ]
    caption = (f"{row['model']}, {row['workload']}, {row['image_size']} px, {row['batch_per_gpu']} images a step, one "
               f"rank of {row['threads']:.0f} threads, {row['precision']}, median of {row['steps']} steps after "
               f"{row['warmup_steps']}; {studies.origin(frame)}; the measured peak is of the whole process, Python "
               "and torch included, the planned one of the tensors")  # fmt: skip
    return Table(pd.DataFrame(lines, columns=["one rank", "measured", "planned for machine 'laptop'"]), caption)


@styled
def batch_scaling() -> Figure | Note:
    """Images/s against the batch under NO_SHARD: measured with a small model here, planned for ViT-Base on a node."""
    frame = studies.recorded("experiments")
    frame = frame[frame["name"].str.startswith("no_shard")].sort_values("batch_per_gpu")
    if frame.empty:
        return Note(EMPTY)
    told = {b: predict("ViT-Base", "NO_SHARD", "frontier", 1, b) for b in BATCHES}
    figure, panels = axes(height=2.9, columns=2)
    sides = (("measured: " + frame["model"].iloc[0] + ", 2 CPU ranks", frame["batch_per_gpu"], frame["images_per_s"]),
             ("planned: ViT-Base, 8 GPUs of Frontier", BATCHES,
              [row["images_per_s"] for row in told.values()]))  # fmt: skip
    for ax, (title, batches, speeds) in zip(panels, sides, strict=True):
        ax.plot(list(batches), list(speeds), marker=STRATEGIES["NO_SHARD"].marker, color=STRATEGIES["NO_SHARD"].colour)
        ax.set(title=title, xlabel="images a rank", xscale="log", ylim=(0, None))
        ax.set_xticks(list(batches), [str(b) for b in batches])
        ax.minorticks_off()
    panels[0].set(ylabel="images/s")
    rows = [{"where": "here", "model": row.model, "images a rank": row.batch_per_gpu, "images/s": row.images_per_s,
             "GiB": row.peak_memory_gib} for row in frame.itertuples()]  # fmt: skip
    rows += [{"where": "planned", "model": "ViT-Base", "images a rank": b, "images/s": row["images_per_s"],
              "GiB": row["memory_gib"], "of it communication, %": 100 * row["exposed_s"] / row["step_s"]}
             for b, row in told.items()]  # fmt: skip
    said = [f"{row['where']} {row['images a rank']}: {row['images/s']:.0f}" for row in rows]
    return Figure(figure, f"images/s under NO_SHARD by images a rank. {', '.join(said)}.", pd.DataFrame(rows))


def three_b() -> Table:
    """ViT-3B on 8 nodes of Frontier, FULL_SHARD against the hybrids: simulated, planned and published."""
    frame = studies.recorded("experiments")
    simulated = frame[frame["how"] == "simulated"].set_index("strategy")["peak_memory_gib"]
    rows = []
    for name in THREE_B:
        told = as_published("ViT-3B", name, 8)
        peaks = [row["value"] for row in published.peaks(model="ViT-3B", strategy=name) if row["nodes"] in (None, 8)]
        rows.append({"strategy": name, "GiB simulated": simulated.get(name), "arithmetic": told["memory_gib"],
                     "published": next(iter(peaks), None), "images/s planned": told["images_per_s"],
                     "low": told["low"], "high": told["high"],
                     "images/s published": published.scaling("ViT-3B").get(name, {}).get(8),
                     "exposed, s": told["exposed_s"]})  # fmt: skip
    caption = ("ViT-3B, 8 nodes of Frontier, 32 images per GPU, the paper's benchmark and window; published memory is "
               "that of FSDP1, the others of FSDP2; exposed: communication in a step that nothing hides")  # fmt: skip
    return Table(pd.DataFrame(rows), caption)


def _against_round(frame: pd.DataFrame) -> dict[tuple[int, int], pd.Series]:
    """{(forward, backward): speed over that of (0, 1) in the same round}, one value a round."""
    if frame.empty:
        return {}
    wide = frame.pivot(index="seed", columns=["forward_prefetch", "backward_prefetch"], values="images_per_s")
    return {depth: wide[depth] / wide[0, 1] for depth in wide.columns}
