"""Where a throughput run's time, memory and bytes went, measured beside arithmetic. No torch."""

from pathlib import Path

import pandas as pd
import seaborn as sns

from geofm_lib.desk.cost_figures import COLLECTIVES, stack, stacked_gib
from geofm_lib.desk.picture import Note, Picture, Table, axes, styled
from geofm_lib.planning import costs

BLUE = "#0072B2"
LOADER = Path(__file__).resolve().parents[2] / "reports" / "loader.csv"
PHASES = {"data": "images", "forward": "forward", "backward": "backward and reduction", "optimiser": "optimiser"}


def speed(run) -> Table:
    """The headline of a throughput run: our steady window beside the paper's own way of counting."""
    rows = [
        ("images/s, steady window", "images_per_s"),
        ("images/s, the paper's 30-step window", "paper_30_steps_images_per_s"),
        ("seconds a step, median of the slowest rank", "step_s"),
        ("seconds a step, mean over ranks", "mean_step_s"),
        ("seconds of start-up", "start_up_s"),
        ("model TFLOP/s per rank", "model_tflops_per_rank"),
        ("images in a step, all ranks", "global_batch"),
        ("warm-up steps, not counted", "warmup_steps"),
        ("steps measured", "measured_steps"),
    ]
    known = [(words, float(run.summary[key])) for words, key in rows if run.summary.get(key) is not None]
    asked = ", ".join(str(run.settings.get(n)) for n in ("model", "workload", "strategy", "precision"))
    return Table(pd.DataFrame(known, columns=["what", "value"]), asked, "The run measured nothing.")


@styled
def loader_speed(file: Path = LOADER) -> Picture | Note:
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
    return Picture(figure, f"Bars of images/s against torchvision's ImageFolder: {'; '.join(said)}.", table)


@styled
def phases(run) -> Picture | Note:
    """Seconds of a step that each rank spends in each phase (medians of the steady window)."""
    ranks = run.ranks
    names = [name for name in PHASES if f"{name}_s" in ranks]
    if not names:
        return Note("This run measured no phases.")
    frame = ranks[[f"{name}_s" for name in names]].astype(float).set_axis([PHASES[n] for n in names], axis=1)
    frame.index = [f"rank {rank}" for rank in ranks["rank"]]
    figure, ax = axes(height=1.3 + 0.3 * len(frame))
    stack(ax, frame)
    ax.set(xlabel="seconds of one step")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    shares = 100 * frame.sum() / frame.to_numpy().sum()
    said = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    alt = f"Stacked bars of {len(frame)} ranks: of a step's time, {said}."
    return Picture(figure, alt, frame.rename_axis("rank").reset_index())


@styled
def throughput(run) -> Picture | Note:
    """Seconds of each step, warm-up apart from the measured window, and the ranks' own numbers."""
    metrics = run.metrics
    if "step_s" not in metrics:
        return Note("The run logged no step times.")
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
    return Picture(figure, alt, run.ranks if len(run.ranks) else None)


@styled
def memory(run) -> Picture | Note:
    """Peak memory of each rank as measured, above the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    if "peak_memory_gib" not in ranks:
        return Note("This run measured no memory.")
    measured, world = ranks["peak_memory_gib"].astype(float), len(ranks)
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    held = costs.memory(asked["model"], asked["strategy"], world, asked["batch_per_gpu"], asked["workload"],
                        asked["precision"], asked["activation_checkpointing"], **size)  # fmt: skip
    figure, ax = axes(height=1.7 + 0.25 * world)
    ax.barh([f"rank {rank}" for rank in ranks["rank"]], measured, color="#999999", height=0.62, label="measured peak")
    stack(ax, pd.DataFrame({"arithmetic": stacked_gib(held)}).T)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    ax.set(xlabel="GiB")
    alt = (f"Bars: peak memory of {world} ranks, at most {measured.max():.3g} GiB; the arithmetic for weights, "
           f"optimiser, gradients and activations says {costs.gib(held.peak):.3g} GiB.")  # fmt: skip
    kinds = [name for name in ("parameters", "gradients", "optimiser") if f"{name}_gib" in ranks]
    rows = [("peak", measured.max(), costs.gib(held.peak))]
    rows += [(name, ranks[f"{name}_gib"].max(), costs.gib(getattr(held, name))) for name in kinds]
    return Picture(figure, alt, pd.DataFrame(rows, columns=["GiB on the fullest rank", "measured", "arithmetic"]))


def communication(run) -> Table:
    """Bytes and calls of each collective in one step of one rank, beside the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    told = costs.communication(asked["model"], asked["strategy"], max(1, len(ranks)), asked["workload"],
                               asked["precision"], **size)  # fmt: skip
    rows = []
    for name, words in COLLECTIVES.items():
        if f"{name}_bytes" in ranks:
            calls, mib = int(ranks[f"{name}_calls"].max()), ranks[f"{name}_bytes"].max() / 2**20
            rows.append((words, calls, mib, told[name].calls, told[name].payload / 2**20))
    columns = ["collective", "calls", "MiB", "calls, arithmetic", "MiB, arithmetic"]
    caption = "One step of one rank: whole tensors that are gathered or reduced"
    return Table(pd.DataFrame(rows, columns=columns), caption, "This run counted no collectives.")
