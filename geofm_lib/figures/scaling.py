"""How speed and memory scale with nodes: predicted, published, simulated and measured side by side. No torch."""

import pandas as pd
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

from geofm_lib.catalog import published
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import studies
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.planner import as_published, predict
from geofm_lib.planning.ranking import CLOSE, first_choice
from geofm_lib.planning.reference import ALIKE, BATCH, BENCHMARK, FRONTIER, NODES, TABLE_I, nodes_of
from geofm_lib.planning.sizes import gib
from geofm_lib.runs import results

SHORT = {"FULL_SHARD": "FULL", "SHARD_GRAD_OP": "GRAD", "NO_SHARD": "NO"}  # a cell is narrow; HYBRID_2GPUs is H2


@styled
def efficiency(model: str) -> Figure:
    """Weak scaling as a share of the ideal: lines as predicted, marks as published, each from its own first point."""
    seen = published.scaling(model)
    figure, ax = axes(height=3.6)
    rows = []
    for name in [name for name in STRATEGIES if name in seen] or ALIKE:
        told = {n: as_published(model, name, n)["images_per_s"] for n in nodes_of(name)}
        predicted, dots = _of_ideal(told), _of_ideal(seen.get(name, {}))
        look = STRATEGIES[name]
        ax.plot(list(predicted), list(predicted.values()), color=look.colour, label=name)
        ax.plot(list(dots), list(dots.values()), look.marker, color=look.colour)
        rows += [{"strategy": name, "nodes": n, "predicted, % of ideal": predicted[n],
                  "published, % of ideal": dots.get(n)} for n in predicted]  # fmt: skip
    ax.axhline(100, color="#888888", linestyle="--", linewidth=1)
    ax.set(ylabel="% of ideal", ylim=(0, None))
    _node_axis(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    table = pd.DataFrame(rows).astype({"published, % of ideal": float})
    last = table[table["nodes"] == NODES[-1]]
    said = [_beside(row.strategy, row[3], row[4]) for row in last.itertuples()]
    alt = f"Weak-scaling efficiency of {model} on 128 nodes, predicted (published) in % of ideal: {', '.join(said)}."
    return Figure(figure, alt, table)


@styled
def strong_scaling(settings) -> Figure | Note:
    """One global batch over more and more nodes: images/s and share of the ideal, as planned, where it fits.

    The global batch is that of the settings' job. Nothing was published: the paper only scaled weakly.
    """
    per_node = MACHINES[settings.machine].devices_per_node
    images = settings.nodes * per_node * settings.batch_per_gpu
    most = MACHINES[settings.machine].nodes
    nodes = [n for n in NODES if n <= most and images % (n * per_node) == 0]
    rows = []
    for name in ALIKE:
        for n in nodes:
            try:
                told = predict(settings.model, name, settings.machine, n, images // (n * per_node),
                               workload=settings.workload)  # fmt: skip
            except ValueError:  # the shard group does not divide so few GPUs
                continue
            rows.append({"strategy": name, "nodes": n, "images per GPU": images // (n * per_node),
                         "images/s": told["images_per_s"], "low": told["low"], "high": told["high"],
                         "GiB per GPU": told["memory_gib"], "fits": told["fits"]})  # fmt: skip
    table = pd.DataFrame(rows)
    fitting = table[table["fits"]] if rows else table
    if not len(fitting):
        return Note(f"No strategy fits {images} images of {settings.model} on so many nodes of {settings.machine}.")
    figure, (left, right) = axes(height=3.6, columns=2, sharex=True)
    best = fitting.loc[fitting[fitting["nodes"] == fitting["nodes"].min()]["images/s"].idxmax()]
    said = []
    for name, line in fitting.groupby("strategy", sort=False):
        look = {"color": STRATEGIES[name].colour, "marker": STRATEGIES[name].marker, "markersize": 4, "label": name}
        kept = 100 * line["images/s"] / (best["images/s"] * line["nodes"] / best["nodes"])
        left.plot(line["nodes"], line["images/s"], **look)
        right.plot(line["nodes"], kept, **look)
        end = line.iloc[-1]
        said.append(f"{name} {end['images/s']:.0f} ({kept.iloc[-1]:.0f} %) on {end['nodes']} nodes")
        table.loc[line.index, "% of ideal"] = kept
    right.axhline(100, color="#888888", linestyle="--", linewidth=1)
    left.set(yscale="log", ylabel="images/s", title="Images per second")
    _plain_log(left)
    right.set(ylabel="% of ideal", title="Share of ideal scaling", ylim=(0, None))
    for ax in (left, right):
        _node_axis(ax, nodes)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    alt = (f"Strong scaling planned for {settings.model} on {settings.machine}, {images:,} images a step in all. "
           f"images/s on the most nodes (share of ideal from the fastest on the fewest): "
           f"{', '.join(said)}.")  # fmt: skip
    return Figure(figure, alt, table)


def measured_scaling() -> Table:
    """Weak and strong scaling from one rank to two on this project's own small machine, medians over rounds."""
    frame = studies.recorded("scaling_small")
    empty = "The small scaling grid was not run here; `make experiments` runs it."
    if frame.empty:
        return Table(frame, empty=empty)
    median = frame.groupby(["strategy", "ranks", "batch_per_gpu"], sort=False)["images_per_s"].median()
    rows = []
    for strategy in frame["strategy"].unique():
        two = median[strategy, 2, 32]
        for kind, alone in (("weak, 32 images a rank", median[strategy, 1, 32]),
                            ("strong, 64 images in all", median[strategy, 1, 64])):  # fmt: skip
            rows.append({"strategy": strategy, "scaling": kind, "images/s, 1 rank of 2 threads": alone,
                         "images/s, 2 ranks of 1": two, "kept, %": 100 * two / alone})  # fmt: skip
    caption = f"{frame['model'].iloc[0]}, median of {frame['seed'].nunique()} rounds, {studies.origin(frame)}"
    return Table(pd.DataFrame(rows), caption)


@styled
def ranking() -> Figure:
    """The best strategy by model and nodes, HYBRID_1GPU and DDP aside: predicted above, published below."""
    models = list(TABLE_I)
    table = pd.DataFrame([first_choice(model, nodes) for model in models for nodes in NODES])
    table.columns = ["model", "nodes", "predicted best", "published best", "of best published"]
    figure, ax = axes(height=3.9)
    for y, model in enumerate(models):
        for x, nodes in enumerate(NODES):
            cell = table[(table["model"] == model) & (table["nodes"] == nodes)].iloc[0]
            for lift, name in ((0.0, cell["predicted best"]), (0.4, cell["published best"])):
                if isinstance(name, str):
                    ax.barh(y + lift, 0.94, 0.38, left=x - 0.47, color=STRATEGIES[name].colour, alpha=0.75)
                    ax.text(x, y + lift, short(name), ha="center", va="center", fontsize=7.5)
            if cell["of best published"] < 1 - CLOSE:
                ax.plot(x + 0.4, y + 0.2, "x", color="black", markersize=6)
    ax.set_xticks(range(len(NODES)), NODES)
    ax.set_yticks([y + 0.2 for y in range(len(models))], models)
    ax.set(xlabel="nodes (8 GPUs each)", xlim=(-0.5, len(NODES) - 0.5))
    ax.invert_yaxis()
    ax.grid(False)
    known = table.dropna(subset=["of best published"])
    right = (known["of best published"] >= 1 - CLOSE).sum()
    missed = known[known["of best published"] < 1 - CLOSE]
    words = [f"{row.model} on {row.nodes} nodes: {row[3]} has {row[5]:.2f} of {row[4]}" for row in missed.itertuples()]
    alt = (f"Grid of the best strategy by model and nodes, predicted above and published below. The predicted choice "
           f"has at least {1 - CLOSE:.0%} of the best published throughput in {right} of {len(known)} cells; a cross "
           f"marks the others: {'; '.join(words)}.")  # fmt: skip
    return Figure(figure, alt, table)


@styled
def memory_by_nodes(model: str) -> Figure:
    """Peak GiB per GPU against nodes: FSDP1 by arithmetic and as published, FSDP2 by arithmetic and as simulated."""
    simulated = pd.read_csv(results.file("simulated"))
    simulated = simulated[simulated["model"] == model]
    seen = published.peaks(model=model)
    figure, panels = axes(height=3.7, columns=2, sharey=True, sharex=True)
    rows = []
    titles = {"fsdp1": "FSDP1, as published", "fsdp2": "FSDP2, as simulated"}
    for ax, (stack, title) in zip(panels, titles.items(), strict=True):
        for name in ALIKE:
            line = {n: _peak(model, name, n, stack) for n in nodes_of(name)}
            if stack == "fsdp1":
                dots = {row["nodes"] or 8: row["value"] for row in seen if row["strategy"] == name}
            else:
                mine = simulated[simulated["strategy"] == name]
                dots = dict(zip(mine["gpus"] // 8, mine["simulated_gib"], strict=True))
            look = STRATEGIES[name]
            ax.plot(list(line), list(line.values()), color=look.colour, label=name)
            ax.plot(list(dots), list(dots.values()), look.marker, color=look.colour)
            rows += [{"stack": stack, "strategy": name, "nodes": n, "arithmetic, GiB": line[n],
                      "published or simulated, GiB": dots.get(n)} for n in line]  # fmt: skip
        ax.axhline(FRONTIER.memory_gib, color="#444444", linestyle=":", linewidth=1)
        ax.set(yscale="log", title=title)
        _node_axis(ax)
    panels[0].set(ylabel="peak GiB per GPU")
    _plain_log(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    table = pd.DataFrame(rows).astype({"published or simulated, GiB": float})
    both = table.dropna()
    off = (both["arithmetic, GiB"] / both["published or simulated, GiB"] - 1).abs() * 100
    worst = [f"{name} {part.max():.1f} %" for name, part in off.groupby(both["stack"])]
    alt = (f"Peak GiB per GPU of {model} against nodes. Lines are arithmetic, marks published (left, FSDP1) and "
           f"simulated (right, FSDP2); the dotted line is a GPU's memory. Largest difference: "
           f"{', '.join(worst) or 'no marks'}.")  # fmt: skip
    return Figure(figure, alt, table)


def short(name: str) -> str:
    """A strategy in four letters: FULL, GRAD, NO, DDP, H16."""
    return SHORT.get(name, name.replace("HYBRID_", "H").replace("GPUs", "").replace("GPU", ""))


def _of_ideal(line: dict[int, float]) -> dict[int, float]:
    """{nodes: % of the ideal} from {nodes: images/s}, counted from the first point."""
    first = next(iter(line.items()), None)
    return {n: 100 * value / (first[1] / first[0] * n) for n, value in line.items()}


def _beside(name: str, predicted: float, seen: float) -> str:
    return f"{name} {predicted:.0f}" + (f" ({seen:.0f})" if seen == seen else "")


def _peak(model: str, strategy: str, nodes: int, stack: str) -> float:
    world = nodes * FRONTIER.devices_per_node
    return gib(rank_memory(model, strategy, world, BATCH, BENCHMARK, stack=stack).peak)


def _node_axis(ax, nodes=NODES) -> None:
    ax.set(xscale="log", xlabel="nodes (8 GPUs each)")
    ax.xaxis.set_major_locator(FixedLocator(nodes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())


def _plain_log(ax) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written out."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
