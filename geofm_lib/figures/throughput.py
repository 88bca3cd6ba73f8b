"""Where a throughput run's time, memory and bytes went, measured beside arithmetic. No torch."""

from pathlib import Path

import pandas as pd
import seaborn as sns

from geofm_lib.figures.costs import COLLECTIVES, stack
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.figures.steps import BLUE, widest
from geofm_lib.planning.communication import step_traffic
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.sizes import gib

LOADER = Path(__file__).resolve().parents[2] / "reports" / "loader.csv"
TRACKED = {"parameters": "weights", "gradients": "gradients", "optimiser": "optimiser", "unsharded": "buffers",
        "activations": "activations", "inputs": "images"}  # fmt: skip
WHOLE = ("parameters", "gradients", "optimiser")


def speed(run) -> Table:
    """The headline of a throughput run: our steady window beside the paper's own way of counting."""
    rows = [
        ("images/s, steady window", "images_per_s"),
        ("images/s, the paper's 30-step window", "paper_30_steps_images_per_s"),
        ("seconds a step, median of the slowest rank", "step_s"),
        ("seconds a step, mean over ranks", "mean_step_s"),
        ("seconds of start-up", "start_up_s"),
        ("model TFLOP/s per rank", "model_tflops_per_rank"),
        ("TFLOP/s of a matrix product, all ranks at once, slowest", "matmul_tflops"),
        ("MFU, of that measured peak", "mfu_of_measured_peak"),
        ("MFU, of the data sheet's peak", "mfu_of_datasheet_peak"),
        ("percent busy, the idlest rank", "busy_percent"),
        ("watts", "power_w"),
        ("images in a step, all ranks", "global_batch"),
        ("warm-up steps, not counted", "warmup_steps"),
        ("steps measured", "measured_steps"),
    ]
    known = [(words, float(run.summary[key])) for words, key in rows if run.summary.get(key) is not None]
    asked = ", ".join(str(run.settings.get(n)) for n in ("model", "workload", "strategy", "precision"))
    asked += f"; power: {run.summary['power_source']}" if "power_source" in run.summary else ""
    return Table(pd.DataFrame(known, columns=["what", "value"]), asked, "The run measured nothing.")


@styled
def loader_speed(file: Path = LOADER) -> Figure | Note:
    """How fast images come, ours beside two others, as `make loader` measured it on its machine."""
    if not file.is_file():
        return Note("reports/loader.csv is not there: `make loader` measures and writes it.")
    table = pd.read_csv(file)
    table["workers"] = table["workers"].map({0: "no worker process"}).fillna(table["workers"].astype(str) + " workers")
    figure, ax = axes(height=3.0)
    sns.barplot(table, x="ratio_to_imagefolder", y="pipeline", hue="workers", palette="colorblind", ax=ax, width=0.75)
    ax.axvline(1, color="#444444", linewidth=1)
    ax.set(xlabel="images/s, as a multiple of ImageFolder's with as many workers", ylabel="")
    ax.get_legend().set_title(None)
    said = [f"{row.pipeline} {row.ratio_to_imagefolder:g} ({row.workers})" for row in table.itertuples()]
    return Figure(figure, f"Bars of images/s against torchvision's ImageFolder: {'; '.join(said)}.", table)


@styled
def throughput(run) -> Figure | Note:
    """Seconds of each step, warm-up apart from the measured window, and the ranks' own numbers."""
    metrics = run.metrics
    if "step_s" not in metrics:
        return Note("The run logged no step times.")
    metrics = metrics.dropna(subset=["step_s"])  # steps that were profiled afterwards have none
    warm = int(run.settings.get("warmup_steps", 0))
    figure, ax = axes(height=2.8)
    sns.lineplot(metrics, x="step", y="step_s", ax=ax, color=BLUE, marker="o", markeredgewidth=0)
    first = metrics["step"].min()
    if warm:
        ax.axvspan(first - 0.5, first + warm - 0.5, color="#eeeeee", zorder=0, label="warm-up, not counted")
        ax.legend()
    ax.set(xlabel="step", ylabel="seconds per step")
    ax.set_ylim(bottom=0)
    steady = metrics["step_s"].iloc[warm:] if len(metrics) > warm else metrics["step_s"]
    speed = run.summary.get("images_per_s")
    alt = f"Line of {len(metrics)} steps; in the steady window a step takes {steady.median():.4g} s (median)"
    alt += f", {speed:.4g} images/s over all ranks." if speed else "."
    return Figure(figure, alt, run.ranks if len(run.ranks) else None)


@styled
def memory(run) -> Figure | Note:
    """Tensors that each rank holds at its fullest moment, by kind, above the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    if "peak_memory_gib" not in ranks:
        return Note("This run measured no memory.")
    peak, world = float(ranks["peak_memory_gib"].max()), len(ranks)
    if "tracked_peak_gib" not in ranks:
        return Note(f"The peak was {peak:.3g} GiB; by kind it was not watched (compiled blocks hold other tensors).")
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    job = (asked["model"], asked["strategy"], world, asked["batch_per_gpu"])
    told = rank_memory(*job, Conditions.of(asked), **size)
    arithmetic = (told.parameters, told.gradients_by_then, told.optimiser, told.unsharded,
                  told.activations + told.block, 0.0)  # fmt: skip
    fullest = widest(ranks, "tracked_peak_gib")
    frame = fullest[[f"tracked_{name}_gib" for name in TRACKED]].astype(float).set_axis(list(TRACKED.values()), axis=1)
    frame.index = [f"rank {rank}" for rank in fullest["rank"]]
    most = frame.max()
    frame.loc["arithmetic"] = [gib(size) for size in arithmetic]
    rows = [(f"{name} at the fullest moment", most[name], frame.loc["arithmetic", name]) for name in frame]
    rows += [("all of that", ranks["tracked_peak_gib"].max(), gib(told.peak))]
    rows += [(f"{TRACKED[name]}, once all are there", ranks[f"{name}_gib"].max(), gib(getattr(told, name)))
             for name in WHOLE]  # fmt: skip
    rows += [("peak of the allocator (GPU) or the process (CPU)", peak, None)]
    table = pd.DataFrame(rows, columns=["GiB on the fullest rank", "measured", "arithmetic"])
    figure, ax = axes(height=1.5 + 0.28 * len(frame))
    stack(ax, frame)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(TRACKED))
    ax.set(xlabel="GiB")
    said = ", ".join(f"{name} {most[name]:.3g}" for name in frame)
    alt = (f"Stacked bars: GiB of tensors that {world} ranks hold at most, {said}; together "
           f"{ranks['tracked_peak_gib'].max():.3g}, by arithmetic {gib(told.peak):.3g}.")  # fmt: skip
    return Figure(figure, alt, table)


def communication(run) -> Table:
    """Bytes and calls of each collective in one step of one rank, beside the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    told = step_traffic(asked["model"], asked["strategy"], max(1, len(ranks)), Conditions.of(asked), **size)
    rows = []
    for name, words in COLLECTIVES.items():
        if f"{name}_bytes" in ranks:
            calls, mib = int(ranks[f"{name}_calls"].max()), ranks[f"{name}_bytes"].max() / 2**20
            rows.append((words, calls, mib, told[name].calls, told[name].payload / 2**20))
    columns = ["collective", "calls", "MiB", "calls, arithmetic", "MiB, arithmetic"]
    caption = "One step of one rank: whole tensors that are gathered or reduced"
    return Table(pd.DataFrame(rows, columns=columns), caption, "This run counted no collectives.")
