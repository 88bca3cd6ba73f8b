"""What the planner predicts and the simulation found, beside what was published. No torch."""

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES, lookup, resolve
from geofm_lib.figures.display import Figure, Table, axes, styled
from geofm_lib.planning.planner import as_published, plan
from geofm_lib.planning.reference import ALIKE, FRONTIER, NODES, nodes_of


@styled
def predicted_scaling(model: str) -> Figure:
    """images/s per GPU against nodes: lines as predicted, bands that should hold nine of ten runs, published marks."""
    seen = published.scaling(model)
    names = list(seen) or ALIKE
    figure, ax = axes(height=4.2)
    rows = []
    for name in [name for name in STRATEGIES if name in names]:
        told = [as_published(model, name, nodes) for nodes in nodes_of(name)]
        gpus = [row["gpus"] for row in told]
        line = [row["images_per_s"] / n for row, n in zip(told, gpus, strict=True)]
        band = [[row[end] / n for row, n in zip(told, gpus, strict=True)] for end in ("low", "high")]
        nodes = [row["nodes"] for row in told]
        ax.plot(nodes, line, color=STRATEGIES[name].colour, label=name)
        ax.fill_between(nodes, *band, color=STRATEGIES[name].colour, alpha=0.12, linewidth=0)
        dots = seen.get(name, {})
        seen_per_gpu = [value / n / FRONTIER.devices_per_node for n, value in dots.items()]
        ax.plot(list(dots), seen_per_gpu, STRATEGIES[name].marker, color=STRATEGIES[name].colour)
        rows += [
            {"strategy": name, "nodes": row["nodes"], "published": dots.get(row["nodes"]),
             "predicted": row["images_per_s"], "low": row["low"], "high": row["high"]}
            for row in told
        ]  # fmt: skip
    ax.set(xscale="log", ylabel="images/s per GPU", ylim=(0, None))
    ax.xaxis.set_major_locator(FixedLocator(NODES))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("nodes (8 GPUs each)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    table = pd.DataFrame(rows).astype({"published": float})
    both = table.dropna(subset=["published"])
    off = (both["predicted"] / both["published"] - 1).abs() * 100
    said = f"median error {off.median():.1f} % over {len(off)} points" if len(off) else "no published points"
    last = table[table["nodes"] == NODES[-1]].sort_values("predicted", ascending=False)
    order = ", ".join(f"{row['strategy']} {row['predicted']:.0f}" for _, row in last.iterrows())
    alt = (f"Lines: images/s per GPU of {model} as predicted, 1 to 128 Frontier nodes, a band for nine of ten runs, "
           f"marks as published ({said}). images/s of all GPUs predicted on 128 nodes: {order}.")  # fmt: skip
    return Figure(figure, alt, table)


def plan_table(strategy: str = "", **asked) -> Table:
    """`plan` as a table, of every strategy or of one; one sentence when it cannot be answered."""
    try:
        rows = plan(**asked)
        if strategy:
            resolve(lookup(strategy), rows[0]["gpus"])
            rows = [row for row in rows if row["strategy"] == strategy]
    except ValueError as error:
        return Table(pd.DataFrame(), empty=str(error))
    columns = {"strategy": "strategy", "step_s": "step, s", "exposed_s": "of it communication, s",
               "images_per_s": "images/s", "low": "low", "high": "high", "memory_gib": "GiB per GPU", "fits": "fits",
               "node_hours": "node-hours"}  # fmt: skip
    what = f"{asked['model']}, {asked['workload']}, {asked['batch_per_gpu']} images per GPU, " \
           f"{asked.get('precision', 'bf16')}, steady"  # fmt: skip
    caption = (f"{what}: {asked['nodes']} nodes of {asked['machine']}; low to high should hold nine of ten runs; "
               f"node-hours for {asked['epochs']:g} epochs of {asked['images']:,} images")  # fmt: skip
    return Table(pd.DataFrame(rows)[list(columns)].rename(columns=columns), caption)


def simulated(run) -> Table:
    """Peak memory by kind, and bytes of each collective, as traced in a `simulate` run, beside the arithmetic."""
    told, asked = run.summary, run.settings
    rows = [("peak memory, GiB", told["peak_memory_gib"], told["predicted_peak_gib"])]
    rows += [(f"{kind}, GiB", told[f"{kind}_gib"], told[f"predicted_{kind}_gib"])
             for kind in ("parameters", "gradients", "optimiser")]  # fmt: skip
    rows += [(f"{kind.replace('_', '-')}, GB", told[f"{kind}_bytes"] / 1e9, told[f"predicted_{kind}_bytes"] / 1e9)
             for kind in ("all_gather", "reduce_scatter", "all_reduce")]  # fmt: skip
    caption = (f"{asked['model']}, {asked['workload']}, {asked['strategy']} on {asked['gpus']} GPUs, one rank: traced "
               f"in {told['simulation_s']:.0f} s without a GPU, and by arithmetic")  # fmt: skip
    return Table(pd.DataFrame(rows, columns=["of one rank", "simulated", "arithmetic"]), caption)
