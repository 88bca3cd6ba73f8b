"""07: whether larger models learn better features, and what it costs; every figure from rows of accuracies alone."""

import math
from typing import Any

import pandas as pd

from geofm_lib.catalog.metrics import plus_minus, with_ends
from geofm_lib.catalog.readouts import CONTROLS, EQUALLY, SCALED
from geofm_lib.figures._axes import (
    FLOPS,
    GREEN,
    GREY,
    HELD_OUT_LOSS,
    IDEAL,
    PALETTE,
    PARAMETERS,
    RATE,
    SEEN,
    legend_below,
    own_look,
    plain_log,
    ticks,
)
from geofm_lib.figures.display import NO_RESULTS, Answer, Figure, Note, Table, axes, styled
from geofm_lib.files import read_csv
from geofm_lib.paper import accuracy, accuracy_cost, accuracy_fits, accuracy_study, claims
from geofm_lib.planning.conditions import BATCH
from geofm_lib.runs import results
from geofm_lib.settings import AccuracySettings, ObjectivesSettings, SettingsError, expanded

NOT_YET = f"{NO_RESULTS}: no pretraining of the study is in the table; `make study` runs it, cheapest first."
NOT_PROBED = f"{NO_RESULTS}: no probe of the study's encoders on this data set is in the table."
WAITS = "This waits for probes of the study's encoders."  # below the answer, which says what is missing
WAITS_FOR_LOSS = "This waits for pretrainings of the study."


def read(settings: ObjectivesSettings) -> pd.DataFrame:
    """The rows; SettingsError for a file that is not there, or that lacks a column."""
    file = expanded(settings.table) if settings.table else None
    if file and not file.is_file():
        raise SettingsError(f"table: there is no file '{settings.table}'; leave it empty for reports/accuracy.csv")
    table = accuracy.read(file)
    if lacking := [name for name in accuracy.ACCURACY if name not in table]:
        raise SettingsError(f"table: '{settings.table}' lacks the column {lacking[0]}; give a file like accuracy.csv")
    return table


def _probed(settings: AccuracySettings, **more: Any) -> pd.DataFrame:
    return accuracy_study.probes(read(settings), settings.dataset, settings.pooling, **more)


def answer(settings: AccuracySettings) -> Answer:
    """What came out, by the rule that was written down before, and what is missing."""
    table = read(settings)
    gains = accuracy_study.at_equal_images(_probed(settings, gain=True))
    words = [NOT_PROBED if len(accuracy_study.losses(table)) else NOT_YET]
    if len(gains):
        first, last = gains.iloc[0], gains.iloc[-1]
        said = ", ".join(f"{row.model} {row.value:.1f} ({row.low:.1f} to {row.high:.1f})" for row in gains.itertuples())
        does = "helps" if accuracy_study.rises(gains) else "does not show that it helps"
        times = last["parameters_m"] / first["parameters_m"]
        judged = f"Size {does}" if len(gains) >= claims.LEAST_SIZES else f"Not known yet, of {len(gains)} sizes"
        words = [f"{judged}: pretraining adds {said} points of top-1 over the same architecture untrained,"]
        each = "one pretraining each" if gains["seeds"].max() == 1 else "one to several pretrainings each"
        words += [f"after {first['images_seen']:,.0f} images each ({each}), over {times:.0f} times the size."]
        cut = accuracy_study.fullest(accuracy_study.at_equal_compute(_probed(settings, gain=True), levels=16))
        if len(cut):
            each = ", ".join(f"{row.model} {row.value:.1f}" for row in cut.itertuples())
            words.append(f"At equal compute ({cut['flops'].iloc[0]:.1e} FLOPs) it adds {each}.")
        words = ["One size alone says nothing about size."] if len(gains) == 1 else words
    missing = accuracy_study.missing(table)
    return Answer(" ".join(words), missing)


@styled
def loss(settings: AccuracySettings) -> Figure | Note:
    """Held-out loss against images, a line a size, with the fit to all of them."""
    found = accuracy_study.by_size(accuracy_study.whole(read(settings)))
    return _lines(found, f"{HELD_OUT_LOSS}, fixed masks", "Held-out loss")


@styled
def gains(settings: AccuracySettings) -> Figure | Note:
    """Top-1 of the pretrained and of the untrained, and what lies between, by size at equal images."""
    top, gained = (accuracy_study.at_equal_images(_probed(settings, gain=each)) for each in (False, True))
    if top.empty or gained.empty:
        return Note(WAITS)
    figure, (left, right) = axes(height=3.4, columns=2)
    left.plot(top["parameters_m"], top["untrained"], **own_look("untrained", linestyle="--"))
    left.errorbar(top["parameters_m"], top["value"], _half(top), **own_look("pretrained"))
    right.errorbar(gained["parameters_m"], gained["value"], _half(gained), fmt="o-", color=GREEN, label="the gain")
    for ax, label in ((left, "top-1, %"), (right, "pretrained minus untrained, points")):
        ax.set(xscale="log", xlabel=PARAMETERS, ylabel=label)
        ticks(ax.xaxis, top["parameters_m"].round(1))
    right.axhline(0, **IDEAL)
    legend_below(figure, (left, right))
    said = [f"{t.model} {t.value:.1f} and {t.untrained:.1f} %, gain {g.value:.1f} ({g.low:.1f} to {g.high:.1f})"
            for t, g in zip(top.itertuples(), gained.itertuples(), strict=False)]  # fmt: skip
    alt = f"Top-1 of pretrained and untrained encoders on {settings.dataset}, {settings.pooling}: {'; '.join(said)}."
    return Figure(figure, alt, gained)


def equal_dimension(settings: AccuracySettings) -> Table:
    """The same with every encoder's features cut to 64 by PCA, so that width alone can add nothing."""
    found = [accuracy_study.at_equal_images(_probed(settings, gain=True, normalisation=each)) for each in
             (SCALED, EQUALLY)]  # fmt: skip
    named = [each[["model", "value", "low", "high", "seeds"]] for each in found if len(each)]
    frame = (
        named[0].merge(named[1], on="model", suffixes=("", ", 64 dimensions")) if len(named) == 2 else pd.DataFrame()
    )
    return Table(frame, "Points of top-1 over the untrained", WAITS)


def best(settings: AccuracySettings) -> Table:
    """The study's best encoder beside the same one untrained and what no encoder has to do with, on every data set."""
    frame = accuracy_study.best(read(settings))
    if frame.empty:
        return Table(frame, empty=WAITS)
    names = ("value", "low", "high"), ("gain", "gain_low", "gain_high")
    told = ["{} ({} to {})".format(*with_ends(*ends)) for each in names for ends in frame[list(each)].to_numpy()]
    shown = frame.reindex(columns=["dataset", "model", "images_seen", "untrained", *CONTROLS])
    shown.insert(3, "pretrained", told[: len(frame)])
    shown.insert(5, "gain", told[len(frame) :])
    shown["model"] += [f", {each:,.0f} images" for each in shown.pop("images_seen")]
    return Table(shown, f"Top-1, %: {accuracy_study.BEST}")


def fits(settings: AccuracySettings) -> Table | Note:
    """Floors and exponents of loss and error by parameters and images, and by compute."""
    rows, why = [], ""
    for name, frame in accuracy_cost.outcomes(read(settings), settings.dataset).items():
        for by in accuracy_fits.CAUSES:
            found = accuracy_fits.fit(frame, by)
            if isinstance(found, str):
                why = found
                continue
            for cause, (exponent, low, high) in found.exponents.items():
                rows.append({"value": name, "by": cause, "exponent": exponent, "low": low, "high": high,
                             "floor": found.floor, "runs": found.runs})  # fmt: skip
    return Table(pd.DataFrame(rows), "Fits; low and high hold 95 % of the bootstraps over runs") if rows else Note(why)


@styled
def equal_compute(settings: AccuracySettings) -> Figure | Note:
    """IsoFLOP sections: the loss of each size at the same compute, between its horizons."""
    found = accuracy_study.at_equal_compute(accuracy_study.whole(read(settings)))
    found = found[found.groupby("flops")["model"].transform("size") > 1]
    if found.empty:
        return Note("No two sizes have seen two horizons with compute in common yet.")
    figure, ax = axes(height=3.4)
    said = []
    for (flops, part), colour in zip(found.groupby("flops"), PALETTE, strict=False):
        ax.plot(part["parameters_m"], part["value"], "o-", color=colour, label=f"{flops:.1e} FLOPs")
        said.append(f"{flops:.1e} FLOPs: best {part.loc[part['value'].idxmin(), 'model']} of {len(part)}")
    ax.set(xscale="log", xlabel=PARAMETERS, ylabel=HELD_OUT_LOSS)
    ticks(ax.xaxis, sorted(set(found["parameters_m"].round(1))))
    legend_below(figure, [ax])
    return Figure(figure, f"Held-out loss by size at equal compute. {'; '.join(said)}.", found)


def equal_epochs(settings: AccuracySettings) -> Table:
    """Equal images beside equal compute: the gain of each size, both ways."""
    gained = _probed(settings, gain=True)
    same = accuracy_study.at_equal_images(gained)[["model", "images_seen", "value"]]
    compute = accuracy_study.fullest(accuracy_study.at_equal_compute(gained, levels=16))
    at = compute[["model", "flops", "value"]].rename(columns={"value": "gain at equal compute"})
    frame = same.rename(columns={"value": "gain at equal images"}).merge(at, on="model", how="left")
    return Table(frame, "Points of top-1 over the untrained", WAITS, {"flops": ".1e"})


@styled
def unique_images(settings: AccuracySettings) -> Figure | Note:
    """Held-out loss against the number of different images, at equal images seen."""
    found = accuracy_study.losses(read(settings))
    fewest = found["images_seen"].min() if len(found) else 0
    found = found[(found["images_seen"] < 1.1 * fewest) & (found["pretraining_seed"] == 0)]
    found = found[found.groupby("model")["unique"].transform("nunique") > 1]
    if found.empty:
        return Note("No pretraining on fewer unique images is in the table yet.")
    figure, ax = axes(height=3.2)
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["unique"], part["value"], _half(part), **own_look(str(model)))
    ax.set(xscale="log", xlabel="unique images", ylabel=HELD_OUT_LOSS)
    ticks(ax.xaxis, sorted(set(found["unique"])))
    legend_below(figure, [ax])
    alt = f"Held-out loss by unique images after {fewest:,.0f} images seen, {found['model'].nunique()} sizes."
    return Figure(figure, alt, found)


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
    return Figure(
        figure, f"Base learning rates of the lowest held-out loss. {'; '.join(said)}. {_swept(found)} {spread}.", found
    )


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
    table, found = read(settings), accuracy_study.by_size(_probed(settings))
    if found.empty:
        return Note(WAITS)
    best = accuracy_study.front(found)
    figure, ax = axes(height=3.4)
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["flops"], part["value"], _half(part), **own_look(str(model), linestyle=""))
    ax.step(best["flops"], best["value"], where="post", color=GREY, label="front")
    ax.set(xscale="log", xlabel=FLOPS, ylabel=f"top-1 on {settings.dataset}, %")
    legend_below(figure, [ax])
    said = ", ".join(f"{row.model} after {row.images_seen:,.0f} images {row.value:.1f} %" for row in best.itertuples())
    shown = accuracy_cost.costs(table, found)
    names = ["model", "images_seen", "flops", "core_hours", "watt_hours", "value", "low", "high", "seeds"]
    return Figure(figure, f"Top-1 against compute; on the front are {said}.", shown[names])


@styled
def extrapolated(settings: AccuracySettings) -> Figure | Note:
    """The fit of error to compute with its interval, as far as the paper's models; beyond a line it is not asked."""
    found = _probed(settings)
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
    """The largest size as predicted before it ran, and what came."""
    frame = accuracy_cost.held_against(read(settings), settings.dataset)
    empty = f"{accuracy_cost.LARGEST} is not predicted yet: `geofm study predicted_accuracy`, then commit the file."
    return Table(frame, f"{accuracy_cost.LARGEST}, predicted from all smaller sizes", empty)


def _half(found: pd.DataFrame) -> pd.Series:
    return (found["high"] - found["low"]) / 2


def _lines(found: pd.DataFrame, label: str, what: str) -> Figure | Note:
    if found.empty:
        return Note(WAITS_FOR_LOSS)
    figure, ax = axes(height=3.4)
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["images_seen"], part["value"], _half(part), **own_look(str(model)))
    plain_log(ax)
    ax.set(xscale="log", xlabel=SEEN, ylabel=label)
    ticks(ax.xaxis, sorted(set(found["images_seen"])))
    legend_below(figure, [ax])
    last = found.groupby("model", sort=False).tail(1)
    said = ", ".join(
        f"{row.model} {plus_minus(row.value, (row.high - row.low) / 2)} after {row.images_seen:,.0f}"
        for row in last.itertuples()
    )
    return Figure(figure, f"{what} by images seen: {said}.", found)
