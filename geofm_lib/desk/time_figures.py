"""Where a throughput run's time, memory and bytes went, measured beside arithmetic. No torch."""

from pathlib import Path

import pandas as pd
import seaborn as sns

from geofm_lib.desk.cost_figures import COLLECTIVES, stack
from geofm_lib.desk.picture import Note, Picture, Table, axes, styled
from geofm_lib.planning import costs

BLUE = "#0072B2"
LOADER = Path(__file__).resolve().parents[2] / "reports" / "loader.csv"
PHASES = {"data": "images", "forward": "forward", "backward": "backward", "optimiser": "optimiser"}
PROFILED = PHASES | {"communication": "exposed communication", "other": "other"}
COLOURS = {"images": "#56B4E9", "forward": "#0072B2", "backward": "#009E73", "optimiser": "#CC79A7",
           "exposed communication": "#D55E00", "other": "#999999"}  # fmt: skip
VARIANTS = {"real": "real images", "synthetic": "synthetic images", "silent": "synthetic, no communication"}
LANES = {"phase": "phase", "work": "work", "collective": "collective", "wait": "waiting"}
LANE_COLOURS = {"work": "#555555", "waiting": "#D55E00", "all-gather": "#E69F00", "reduce-scatter": "#F0E442",
                "all-reduce": "#8c564b", "broadcast": "#bbbbbb", "collective": "#E69F00"}  # fmt: skip
MOST_RANKS = 16
HELD = {"parameters": "weights", "gradients": "gradients", "optimiser": "optimiser", "unsharded": "buffers",
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
        ("share of that", "share_of_matmul_peak"),
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
    """Seconds of a step that each rank spends in each phase, of profiled steps, else of the steady window."""
    ranks = _slowest(run.ranks)
    profiled = "profiled_step_s" in ranks
    names = [name for name in (PROFILED if profiled else PHASES) if f"{name}_s" in ranks or profiled]
    if not names:
        return Note("This run measured no phases.")
    columns = [f"profiled_{name}_s" if profiled else f"{name}_s" for name in names]
    frame = ranks[columns].astype(float).set_axis([PROFILED[n] for n in names], axis=1)
    frame.index = [f"rank {rank}" for rank in ranks["rank"]]
    figure, ax = axes(height=1.4 + 0.3 * len(frame))
    stack(ax, frame, COLOURS)
    ax.set(xlabel="seconds of one step" + ("" if profiled else ", waits for other ranks inside"))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    shares = 100 * frame.sum() / frame.to_numpy().sum()
    said = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    alt = f"Stacked bars of {len(frame)} ranks: of a step's time, {said}."
    return Picture(figure, alt, frame.rename_axis("rank").reset_index())


def phases_otherwise(run) -> Table:
    """The profiler's phases beside two others: the host's clock in the steady window, and a step that sends nothing."""
    ranks, rows = run.ranks, []
    if "profiled_step_s" not in ranks:
        return Table(pd.DataFrame(), "", "This run profiled no steps (profile_steps).")
    silent = "silent_step_s" in ranks
    mean = {name: float(values.mean()) for name, values in ranks.select_dtypes("number").items()}
    for name in ("data", "forward", "backward", "optimiser"):
        rows.append((PROFILED[name], mean[f"profiled_{name}_s"], mean[f"{name}_s"], mean.get(f"silent_{name}_s")))
    without = mean["synthetic_step_s"] - mean["silent_step_s"] if silent else None
    rows.append((PROFILED["communication"], mean["profiled_communication_s"], None, without))
    rows.append(("step", mean["profiled_step_s"], mean["step_s"], mean.get("silent_step_s")))
    columns = ["seconds", "profiler", "clock, waits inside", "nothing sent (communication: what that saves)"]
    slower = mean["profiled_step_s"] / mean["step_s"]
    caption = (f"The middle half of {run.settings.get('profile_steps')} steps by length, mean over ranks; a profiled "
               f"step takes {slower:.2f} times as long as one of the steady window")  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns).astype({name: float for name in columns[1:]})
    return Table(frame if silent else frame.iloc[:, :3], caption)


@styled
def timeline(run) -> Picture | Note:
    """One profiled step of the first ranks: its phases, when operators or kernels run, collectives, and waits."""
    frame = run.read_csv("timeline.csv")
    if frame.empty:
        return Note("This run profiled no steps (profile_steps), so there is none to draw.")
    ranks = sorted(frame["rank"].unique())
    lanes = [(rank, lane) for rank in ranks for lane in LANES]
    figure, ax = axes(height=1.2 + 0.2 * len(lanes))
    shown: dict[str, object] = {}
    for place, (rank, lane) in enumerate(lanes):
        for name, rows in frame[(frame["rank"] == rank) & (frame["lane"] == lane)].groupby("name", sort=False):
            name = PROFILED.get(name, name)
            bars = rows[["start_s", "duration_s"]].itertuples(index=False, name=None)
            colour = (COLOURS | LANE_COLOURS).get(name, "#999999")
            shown[name] = ax.broken_barh(list(bars), (place - 0.42, 0.84), facecolors=colour, linewidth=0)
    names = [f"rank {rank}: {LANES[lane]}" if lane == "phase" else LANES[lane] for rank, lane in lanes]
    ax.set_yticks(range(len(lanes)), names, fontsize=8)
    ax.set(xlabel="seconds since the first rank began", ylim=(len(lanes) - 0.4, -0.6))
    ax.grid(False, axis="y")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5)
    table = frame.groupby(["rank", "lane", "name"], sort=False)["duration_s"].agg(["count", "sum"]).reset_index()
    table.columns = ["rank", "lane", "name", "ranges", "seconds"]
    waits = table[table["lane"] == "wait"].set_index("rank")["seconds"]
    ends = frame.assign(end=frame["start_s"] + frame["duration_s"]).groupby("rank")
    took = ends["end"].max() - ends["start_s"].min()
    said = [f"rank {rank} {waits.get(rank, 0.0):.3g} of {took[rank]:.3g} s" for rank in ranks]
    alt = f"Lanes of one step by time, a group of {len(LANES)} a rank. Waiting for collectives: {', '.join(said)}."
    return Picture(figure, alt, table)


@styled
def inputs(run) -> Picture | Note:
    """Images/s with real images, with synthetic ones, and with nothing sent: the paper's first figure, of one run."""
    told = {VARIANTS[name]: run.summary.get(f"images_per_s_{name}") for name in VARIANTS}
    table = pd.DataFrame([(n, float(v)) for n, v in told.items() if v], columns=["what", "images/s"])
    if table.empty:
        return Note("Not measured: compare=True takes the same step with real images, synthetic ones, and in silence.")
    figure, ax = axes(height=1.9)
    sns.barplot(table, x="images/s", y="what", color=BLUE, ax=ax, width=0.62)
    ax.set(xlabel="images/s, all ranks", ylabel="")
    ax.grid(False, axis="y")
    said = "; ".join(f"{row.what} {row._2:.4g}" for row in table.itertuples())
    return Picture(figure, f"Bars of images/s: {said}.", table)


@styled
def throughput(run) -> Picture | Note:
    """Seconds of each step, warm-up apart from the measured window, and the ranks' own numbers."""
    metrics = run.metrics
    if "step_s" not in metrics:
        return Note("The run logged no step times.")
    metrics = metrics.dropna(subset=["step_s"])  # steps that were taken apart afterwards have none
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
    """Tensors that each rank holds at its fullest moment, by kind, above the arithmetic for the same settings."""
    ranks, asked = run.ranks, run.settings
    if "peak_memory_gib" not in ranks:
        return Note("This run measured no memory.")
    peak, world = float(ranks["peak_memory_gib"].max()), len(ranks)
    if "held_peak_gib" not in ranks:
        return Note(f"The peak was {peak:.3g} GiB; by kind it was not watched (compiled blocks hold other tensors).")
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    told = costs.memory(asked["model"], asked["strategy"], world, asked["batch_per_gpu"], asked["workload"],
                        asked["precision"], asked["activation_checkpointing"], **size)  # fmt: skip
    arithmetic = (told.parameters, told.gradients_by_then, told.optimiser, told.unsharded,
                  told.activations + told.block, 0.0)  # fmt: skip
    fullest = _slowest(ranks, "held_peak_gib")
    frame = fullest[[f"held_{name}_gib" for name in HELD]].astype(float).set_axis(list(HELD.values()), axis=1)
    frame.index = [f"rank {rank}" for rank in fullest["rank"]]
    most = frame.max()
    frame.loc["arithmetic"] = [costs.gib(size) for size in arithmetic]
    rows = [(f"{name} at the fullest moment", most[name], frame.loc["arithmetic", name]) for name in frame]
    rows += [("all of that", ranks["held_peak_gib"].max(), costs.gib(told.peak))]
    rows += [(f"{HELD[name]}, once all are there", ranks[f"{name}_gib"].max(), costs.gib(getattr(told, name)))
             for name in WHOLE]  # fmt: skip
    rows += [("peak of the allocator (GPU) or the process (CPU)", peak, None)]
    table = pd.DataFrame(rows, columns=["GiB on the fullest rank", "measured", "arithmetic"])
    figure, ax = axes(height=1.5 + 0.28 * len(frame))
    stack(ax, frame)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(HELD))
    ax.set(xlabel="GiB")
    said = ", ".join(f"{name} {most[name]:.3g}" for name in frame)
    alt = (f"Stacked bars: GiB of tensors that {world} ranks hold at most, {said}; together "
           f"{ranks['held_peak_gib'].max():.3g}, by arithmetic {costs.gib(told.peak):.3g}.")  # fmt: skip
    return Picture(figure, alt, table)


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


def _slowest(ranks: pd.DataFrame, column: str = "step_s") -> pd.DataFrame:
    """All ranks, or those with the largest values where they are too many to draw."""
    return ranks.nlargest(MOST_RANKS, column).sort_index() if len(ranks) > MOST_RANKS else ranks
