"""04 and 06: what was predicted of ViT-1B and ViT-15B before their figures were seen, beside the truth. No torch."""

from statistics import median

import pandas as pd

from geofm_lib.catalog.metrics import MINUS, counted
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures._axes import FAINT, IMAGES_PER_S, INK, apart, legend_below, look, node_axis, ticks
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.paper import blind
from geofm_lib.paper.performance import PREDICTED, unseen
from geofm_lib.paper.verdicts import number, percent
from geofm_lib.planning.conditions import conditions
from geofm_lib.planning.planner import CLOSE

MISSING = "reports/predictions.csv is not there; it is in the repository's history."
APART = 0.04  # of a doubling of nodes, between the marks of strategies


def told() -> str:
    """The blind test in a sentence or two; "" without predictions."""
    if not (found := blind.score()):
        return ""
    return (
        f"Predicted in commit {blind.COMMIT} ({blind.DATE}), before anybody here had seen the figures of ViT-1B and "
        f"ViT-15B: {found['points']} throughputs with a median error of {percent(found['median'])} (90th percentile "
        f"{percent(found['p90'])}), {found['inside']} inside their interval for nine of ten runs; "
        f"{found['peaks']} peaks of memory against nodes with {percent(found['memory_median'])}, "
        f"and {found['bars']} for any number of nodes with {percent(found['bars_median'])}. "
        f"In {found['right']} of {found['cells']} cases the strategy predicted first is within {100 * CLOSE:.0f} % of "
        "the best."
    )


@styled
def against_truth() -> Figure | Note:
    """Predicted over published images/s of the blind test, with its intervals."""
    rows = blind.throughput()
    table = pd.DataFrame(rows)
    if table.empty:
        return Note(MISSING)
    figure, panels = axes(height=3.9, columns=2, sharex=True, sharey=True)
    for ax, (model, part) in zip(panels, table.groupby("model", sort=False), strict=True):
        names = [name for name in STRATEGIES if name in set(part["strategy"])]
        for place, name in enumerate(names):
            line = part[part["strategy"] == name].sort_values("nodes")
            at = line["nodes"] * 2 ** (APART * (2 * place - len(names)))
            ratio, low, high = (line[each] / line["published"] for each in ("predicted", "low", "high"))
            how = conditions(name)
            ax.vlines(at, low, high, color=STRATEGIES[name].colour, linewidth=1)
            label = apart(name, how.precision, how.synchronised)
            ax.plot(at, ratio, **look(name, linestyle="", markersize=4.5, label=label))
            out = ~line.apply(blind.inside, axis=1)
            ax.plot(at[out], ratio[out], "x", color=INK, markersize=9, label="published outside the interval")
        ax.axhline(1, color=FAINT, linewidth=1)
        node_axis(ax, title=model, yscale="log", ylim=(0.4, 3.3))
        ticks(ax.yaxis, [0.5, 0.7, 1, 1.5, 2, 3])
        ax.label_outer()
    panels[0].set(ylabel=f"predicted / published {IMAGES_PER_S}")
    legend_below(figure, panels, 3)
    out = [row for row in rows if not blind.inside(row)]
    worst = [f"{row['model']} {row['strategy']} on {counted(row['nodes'], 'node')} "
             f"{row['predicted'] / row['published']:.2f}"
             for row in out]  # fmt: skip
    alt = (f"Predicted over published images/s, bars for nine of ten runs, made in commit {blind.COMMIT} without these "
           f"figures. Crosses mark the {len(out)} of {len(table)} points outside: {'; '.join(worst)}.")  # fmt: skip
    return Figure(figure, alt, table.round(1))


def by_strategy() -> Table | Note:
    """The blind test by model and strategy: errors, and how many points their intervals held."""
    found, peaks = blind.throughput(), blind.memory()
    rows = []
    for model, name in dict.fromkeys((row["model"], row["strategy"]) for row in found):
        own, held = ([row for row in table if (row["model"], row["strategy"]) == (model, name)]
                     for table in (found, peaks))  # fmt: skip
        off = blind.errors(own)
        worst = own[off.index(max(off))]
        share = f"{100 * (worst['predicted'] / worst['published'] - 1):+.0f} %".replace("-", MINUS)
        rows.append({
            "model": model, "strategy": name, "points": len(own), "median error, %": 100 * median(off),
            "worst": f"{share} on {counted(worst['nodes'], 'node')}",
            "in the interval": f"{sum(map(blind.inside, own))} of {len(own)}",
            "memory, median error, %": 100 * median(blind.errors(held)) if held else None,
        })  # fmt: skip
    if not rows:
        return Note(MISSING)
    formats = {"median error, %": ".1f", "memory, median error, %": ".1f"}
    return Table(pd.DataFrame(rows), told(), formats=formats)


def misses() -> Table | Note:
    """The choices that the blind test got wrong, and why, as the refit shows it."""
    points = blind.pairs()
    rows = []
    for row in blind.missed(points):
        ours, best = (points[row["model"], row[kind], row["nodes"]] for kind in ("chosen", "best"))
        rows.append({
            "model": row["model"], "nodes": row["nodes"],
            "predicted first": f"{row['chosen']} {number(ours[1])} (published {number(ours[0])})",
            "best published": f"{row['best']} {number(best[0])} (predicted {number(best[1])})",
            "why": blind.WHY[row["model"]],
        })  # fmt: skip
    return Table(pd.DataFrame(rows), "The choices that were missed, images/s", empty="No choice was missed.")


def left_out() -> Note:
    """What the refit to all six models is worth: each model by a fit to the five others, and the choices it misses."""
    points = unseen(*PREDICTED)
    if not points:
        return Note("reports/unseen.csv is not there; make predictions writes it.")
    missed = [f"{row['model']} on {counted(row['nodes'], 'node')} "
              f"({row['chosen']} has {row['of_best']:.2f} of {row['best']})"
              for row in blind.missed(points)]  # fmt: skip
    right = len(blind.choices(points)) - len(missed)
    return Note(f"Each of {len(points)} published points by a fit to the five other models: median error "
                f"{percent(median(blind.errors_of(points)))}. "
                f"The strategy predicted first is within {100 * CLOSE:.0f} % of the best in "
                f"{right} of {right + len(missed)} cases; the others are {', '.join(missed)}.")  # fmt: skip
