"""07: what accuracy costs: fits and their floors, the sweep of rates, the prediction, and node-hours. No torch."""

import math

import pandas as pd

from geofm_lib.catalog.metrics import heading, interval, number
from geofm_lib.catalog.models import FAMILY
from geofm_lib.figures._axes import FLOPS, GREY, HELD_OUT_LOSS, IDEAL, PALETTE, RATE, legend_below, own_look, ticks
from geofm_lib.figures.accuracy import WAITS, bars, probed, read
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.files import read_csv
from geofm_lib.paper import accuracy_cost, accuracy_fits, accuracy_study
from geofm_lib.planning.conditions import BATCH
from geofm_lib.runs import results
from geofm_lib.settings import AccuracySettings

FLOORS_APART = 1.1  # times, from which two fits of the same value are said to contradict each other


def fits(settings: AccuracySettings) -> Table | Note:
    """Floors and exponents of loss and error by parameters and images, and by compute."""
    rows, why, floors = [], "", dict[str, list[float]]()
    for name, frame in accuracy_cost.outcomes(read(settings), settings.dataset).items():
        for by in accuracy_fits.CAUSES:
            found = accuracy_fits.fit(frame, by)
            if isinstance(found, str):
                why = found
                continue
            floors.setdefault(name, []).append(found.floor)
            floor, least, most = (number(round(each, 3)) for each in (found.floor, *found.floors))
            for cause, (exponent, low, high) in found.exponents.items():
                rows.append({"value": name, "by": heading(cause), "exponent": exponent, "low": low, "high": high,
                             "floor": f"{floor} ({least} to {most})", "runs": found.runs})  # fmt: skip
    ends = " and ".join(number(each) for each in accuracy_fits.EXPONENTS)
    caption = f"Fits; intervals hold 95 % of the bootstraps over runs. Exponents are searched between {ends}"
    apart = [f"{name} {' and '.join(number(round(floor, 3)) for floor in each)}" for name, each in floors.items()
             if max(each) > FLOORS_APART * min(each)]  # fmt: skip
    caption += f". The two forms do not agree on the floor: {'; '.join(apart)}. So neither is known" if apart else ""
    return Table(pd.DataFrame(rows), caption) if rows else Note(why)


@styled
def rates(settings: AccuracySettings) -> Figure | Note:
    """The sweep: held-out loss against the learning rate at two widths, with one rate and with a share."""
    file = results.file(accuracy_study.RATES)
    found = pd.DataFrame(read_csv(file) if file.is_file() else [])
    if found.empty:
        return Note("The sweep of learning rates is not recorded yet: `geofm study accuracy_rates` does it.")
    numbers = ["rate", "loss", "interval"]
    found[numbers] = found[numbers].astype(float)
    figure, ax = axes(height=3.2)
    said = []
    for ((model, rule), part), colour in zip(found.groupby(["model", "rule"]), PALETTE, strict=False):
        part = part.sort_values("rate")
        ax.errorbar(part["rate"], part["loss"], part["interval"], fmt="o-", color=colour, capsize=2,
                    label=f"{model}, {rule}")  # fmt: skip
        said.append(f"{model}, {rule}: {lowest(part)}")
    ax.set(xscale="log", xlabel=RATE, ylabel=HELD_OUT_LOSS)
    ticks(ax.xaxis, sorted(set(found["rate"])))
    legend_below(figure, [ax])
    repeats = found.groupby(["model", "rule", "rate"]).size()
    spread = "One run each" if (repeats == 1).all() else "A dot a run"
    spread += "; bars are 95 % over held-out images, the same for all, and say nothing of the spread between seeds"
    taken = f"The study takes {accuracy_study.base_rate()} for all sizes, by the share of base_width."
    alt = f"Base learning rates of the lowest held-out loss. {'; '.join(said)}. {_swept(found)} {taken} {spread}."
    return Figure(figure, alt, found)


def lowest(part: pd.DataFrame) -> str:
    """The rate of a line's lowest loss, whether it lies at an edge of the sweep, and which rates are not worse."""
    best, tied = part.loc[part["loss"].idxmin()], _tied(part)
    edge = ", the edge of the sweep" if best["rate"] in (part["rate"].min(), part["rate"].max()) else ""
    beside = f"not distinguishable from {', '.join(f'{each:g}' for each in tied)}" if tied else "apart from all others"
    return f"{best['rate']:g}{edge} ({beside})"


def _tied(part: pd.DataFrame) -> list[float]:
    """The other rates of a line whose interval overlaps that of its lowest loss."""
    best = part.loc[part["loss"].idxmin()]
    overlap = part["loss"] - part["interval"] <= best["loss"] + best["interval"]
    return sorted(part.loc[overlap & (part["rate"] != best["rate"]), "rate"])


def _swept(found: pd.DataFrame) -> str:
    """What the sweep says of the question, as far as the intervals carry."""
    lines = [part for _, part in found.groupby(["model", "rule"])]
    worse = sorted({float(r) for p in lines for r in p["rate"]}.intersection(
        *[set(p["rate"]) - {p.loc[p["loss"].idxmin(), "rate"], *_tied(p)} for p in lines]))  # fmt: skip
    far = f"; at {', '.join(f'{each:g}' for each in worse)} every line is worse" if worse else ""
    if any(_tied(part) for part in lines):
        return f"Verdict: by these intervals the sweep does not tell whether the best rate moves with width{far}."
    return f"Verdict: each line has one best rate{far}."


@styled
def pareto(settings: AccuracySettings) -> Figure | Note:
    """Top-1 against compute, with the front; core-hours and watt-hours in the table."""
    table, found = read(settings), accuracy_study.by_size(probed(settings))
    if found.empty:
        return Note(WAITS)
    best = accuracy_study.front(found)
    figure, ax = axes(height=3.4)
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["flops"], part["value"], bars(part), **own_look(str(model), linestyle=""))
    ax.step(best["flops"], best["value"], where="post", color=GREY, label="front")
    ax.set(xscale="log", xlabel=FLOPS, ylabel=f"top-1 on {settings.dataset}, %")
    legend_below(figure, [ax])
    said = ", ".join(f"{row.model} after {row.images_seen:,.0f} images {row.value:.1f} %" for row in best.itertuples())
    shown = accuracy_cost.costs(table, found)
    names = ["model", "images_seen", "flops", "core_hours", "watt_hours", "value", "low", "high", "seeds"]
    hours = ["core_hours", "watt_hours"]
    shown[hours] = shown[hours].map(lambda each: float(f"{each:.1g}"))
    return Figure(figure, f"Top-1 against compute; on the front are {said}.", shown[names])


@styled
def extrapolated(settings: AccuracySettings) -> Figure | Note:
    """The fit of error to compute with its interval, as far as the paper's models; beyond a line it is not asked."""
    found = probed(settings)
    fitted = accuracy_fits.fit(found.assign(value=found["error"]), "compute")
    if isinstance(fitted, str):
        return Note("There is no fit yet, so nothing is drawn beyond the runs.")
    papers = accuracy_cost.papers()
    first, last = found["flops"].min(), max(papers.values())
    line = pd.DataFrame({"flops": [first * (last / first) ** (k / 60) for k in range(61)]})
    line = line.join(fitted.at(line))
    figure, ax = axes(height=3.4)
    ax.fill_between(line["flops"], line["low"], line["high"], color=GREY, alpha=0.15, linewidth=0)
    ax.plot(line["flops"], line["predicted"], color=GREY, label="fitted")
    ax.plot(found["flops"], found["error"], **own_look("measured", linestyle=""))
    ax.axvline(accuracy_fits.BEYOND * found["flops"].max(), **IDEAL, label="asked no further")
    for name, flops in papers.items():
        ax.axvline(flops, color=GREY, linewidth=0.5)
        ax.text(flops, ax.get_ylim()[1], name, rotation=90, va="top", ha="right", fontsize=8)
    ax.set(xscale="log", xlabel=FLOPS, ylabel=f"error on {settings.dataset}, %")
    legend_below(figure, [ax])
    end = line.iloc[-1]
    alt = (f"Error against compute, fitted to {fitted.runs} runs. At the compute of ViT-3B the fit would say "
           f"{end['predicted']:.0f} % ({end['low']:.0f} to {end['high']:.0f}), which it does not carry.")  # fmt: skip
    return Figure(figure, alt, line)


def one_more_point(settings: AccuracySettings) -> Table:
    """What one point more is predicted to cost, or why it cannot be said."""
    frame = accuracy_cost.one_more_point(read(settings), settings.dataset)
    then = bool((frame["why"].fillna("") == "").any()) if len(frame) else False
    about = _priced(then)
    if len(frame):
        frame["high"] = frame["high"].astype(object).replace(math.inf, "no bound")
        for why, part in frame.loc[frame["why"].fillna("") != ""].groupby("why", sort=False):
            of = "" if len(part) == len(frame) else f" of {' and '.join(part['model'].unique())}"
            about += f". One point more cannot be said{of}: {why[:1].lower()}{why[1:].rstrip('.')}"
        frame = frame.drop(columns="why").dropna(axis=1, how="all")
    names = {
        "flops": FLOPS,
        "now_node_hours": "node-hours now",
        "now_low": "low now",
        "now_high": "high now",
        "node_hours": "node-hours with one point more",
    }
    return Table(frame.rename(columns=names), about, WAITS, {FLOPS: ".1e"})


def _priced(then: bool) -> str:
    """What the table of node-hours is of; `then`: one point more is among it."""
    what = "now and with one point more" if then else "now"
    return (f"Node-hours of a whole pretraining, {what}, planned for the nodes and the fastest strategy that fits "
            f"there ({BATCH} images per GPU; low to high should hold nine of ten runs; the paper's models: "
            f"{accuracy_cost.EPOCHS} epochs of Million-AID)")  # fmt: skip


def predicted(settings: AccuracySettings) -> Table:
    """The largest size as predicted before it ran, and what came, beside what the next smaller size came to."""
    frame = accuracy_cost.held_against(read(settings), settings.dataset)
    if len(frame):
        told = [interval(*ends) for ends in frame[["predicted", "low", "high"]].to_numpy()]
        frame = frame.assign(predicted=told)[["quantity", "images_seen", "predicted", "measured", "within",
                                              "next_smaller", "commit"]]  # fmt: skip
        frame = frame.rename(columns={"next_smaller": f"{FAMILY[-2]}, without a fit"})
    empty = f"{accuracy_cost.LARGEST} is not predicted yet: `geofm study predicted_accuracy`, then commit the file."
    return Table(frame, f"{accuracy_cost.LARGEST}, predicted from all smaller sizes; commit is the prediction's", empty)
