"""07: whether larger models learn better features, and what it costs; every figure from rows of accuracies alone."""

from typing import Any

import pandas as pd

from geofm_lib.catalog.metrics import interval, plus_minus
from geofm_lib.catalog.readouts import CONTROLS, EQUAL, FAST, SCALED
from geofm_lib.figures._axes import (
    GREEN,
    GREY,
    HELD_OUT_LOSS,
    IDEAL,
    PALETTE,
    PARAMETERS,
    SEEN,
    legend_below,
    own_look,
    plain_log,
    ticks,
)
from geofm_lib.figures.display import NO_RESULTS, Answer, Figure, Note, Table, axes, styled
from geofm_lib.paper import accuracy, accuracy_study, claims
from geofm_lib.settings import AccuracySettings, ObjectivesSettings, SettingsError, expanded

NOT_YET = f"{NO_RESULTS}: no pretraining of the study is in the table; `make study` runs it, cheapest first."
NOT_PROBED = f"{NO_RESULTS}: no probe of the study's encoders on this data set is in the table."
WAITS = "This waits for probes of the study's encoders."  # below the answer, which says what is missing
SIDES = {"n_train": "train a head", "n_test": "test it"}
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


def probed(settings: AccuracySettings, **more: Any) -> pd.DataFrame:
    """`accuracy_study.probes` of the page's data set and readout."""
    return accuracy_study.probes(read(settings), settings.dataset, settings.pooling, **more)


def answer(settings: AccuracySettings) -> Answer:
    """What came out by the rule that was written down before, elsewhere too, beside controls, and what is missing."""
    table = read(settings)
    gains = accuracy_study.at_equal_images(probed(settings, gain=True))
    if gains.empty:
        words = NOT_PROBED if len(accuracy_study.losses(table)) else NOT_YET
        return Answer(words, accuracy_study.missing(table))
    if len(gains) == 1:
        return Answer("One size alone says nothing about size.", accuracy_study.missing(table))
    enough, helps = len(gains) >= claims.LEAST_SIZES, accuracy_study.rises(gains)
    judged = "Size helps" if helps else "Size is not shown to help"
    judged = judged if enough else f"Not known yet, of {len(gains)} sizes"
    first, last = gains.iloc[0], gains.iloc[-1]
    text = f"{judged}: pretraining adds {first['value']:.1f} points of top-1 to {first['model']} untrained and "
    text += f"{last['value']:.1f} to {last['model']}, {last['parameters_m'] / first['parameters_m']:.0f} times as large"
    others = accuracy_study.everywhere(table)
    fall = [f"{pooling} on {name}" for (name, pooling, cut), rows in others.items()
            if cut == SCALED and accuracy_study.falls(rows)]  # fmt: skip
    text += f"; with {' and with '.join(fall)} it adds less to larger ones." if fall else "."
    return Answer(text, " ".join(filter(None, [_beside(settings), _conditions(settings, gains), _here(settings)])))


def _beside(settings: AccuracySettings) -> str:
    """What no encoder has to do with, and whether it is better than the encoders of the first figure."""
    top = accuracy_study.at_equal_images(probed(settings))
    found = accuracy_study.controls(read(settings), settings.dataset)
    if found.empty or top.empty:
        return ""
    best, words = top.loc[top["value"].idxmax()], ", ".join(f"{name} {value:.1f} %" for name, value in found.items())
    more = " and ".join(str(name) for name in found[found > best["value"]].index)
    more = f", which {more} exceed" if more else ""
    return f"The best encoder here, {best['model']}, has {best['value']:.1f} %{more}; without any encoder: {words}."


def _conditions(settings: AccuracySettings, gains: pd.DataFrame) -> str:
    """Each gain with its interval, on which images, and of how many pretrainings."""
    rows = read(settings)
    rows = rows[(rows["dataset"] == settings.dataset) & rows["n_test"].notna() & (rows["protocol"] == FAST)]
    said = ", ".join(f"{model} {span}" for model, span in zip(gains["model"], _spans(gains), strict=True))
    sides = [f"{rows[name].iloc[0]:,.0f} images {does}" for name, does in SIDES.items()] if len(rows) else []
    seen = f"Each gain, after {gains['images_seen'].iloc[0]:,.0f} images of pretraining: {said}."
    several = [f"{row.seeds:.0f} of {row.model}" for row in gains.itertuples() if row.seeds > 1]
    of = f"{' and '.join(several)}, one of each other size" if several else "one of each size"
    return f"{seen} Pretrainings: {of}." + (f" On {settings.dataset} {' and '.join(sides)}." if sides else "")


def _here(settings: AccuracySettings) -> str:
    """What is missing of the study, and how much of it has been probed here."""
    table, count = read(settings), probed(settings)["pretraining_run"].nunique()
    return f"{accuracy_study.missing(table)} {count} of them are probed on {settings.dataset} by this readout."


@styled
def loss(settings: AccuracySettings) -> Figure | Note:
    """Held-out loss against images, a line a size, with the fit to all of them."""
    found = accuracy_study.by_size(accuracy_study.whole(read(settings)))
    return _lines(found, f"{HELD_OUT_LOSS}, fixed masks", "Held-out loss")


@styled
def gains(settings: AccuracySettings) -> Figure | Note:
    """Top-1 of the pretrained and of the untrained, and what lies between, by size at equal images."""
    top, gained = (accuracy_study.at_equal_images(probed(settings, gain=each)) for each in (False, True))
    if top.empty or gained.empty:
        return Note(WAITS)
    figure, (left, right) = axes(height=3.6, columns=2)
    left.plot(top["parameters_m"], top["untrained"], **own_look("untrained", linestyle="--"))
    left.errorbar(top["parameters_m"], top["value"], bars(top), **own_look("pretrained"))
    controls = accuracy_study.controls(read(settings), settings.dataset)
    for (name, value), line in zip(controls.items(), (":", "-."), strict=False):
        left.axhline(value, color=GREY, linestyle=line, label=name)
    right.errorbar(gained["parameters_m"], gained["value"], bars(gained), fmt="o-", color=GREEN, label="the gain")
    for ax, label in ((left, "top-1, %"), (right, "pretrained minus untrained, points")):
        ax.set(xscale="log", xlabel=PARAMETERS, ylabel=label)
        ticks(ax.xaxis, top["parameters_m"].round(1))
    right.axhline(0, **IDEAL)
    legend_below(figure, (left, right))
    said = [f"{t.model} {t.value:.1f} and {t.untrained:.1f} %, gain {g.value:.1f} ({g.low:.1f} to {g.high:.1f})"
            for t, g in zip(top.itertuples(), gained.itertuples(), strict=False)]  # fmt: skip
    said += [f"{name} {value:.1f} %" for name, value in controls.items()]
    alt = f"Top-1 of pretrained and untrained encoders on {settings.dataset}, {settings.pooling}: {'; '.join(said)}."
    return Figure(figure, alt, gained)


def everywhere(settings: AccuracySettings) -> Table:
    """The gain of each size at equal images on every data set, by both readouts, all dimensions and 64."""
    rows = []
    for (dataset, pooling, cut), found in accuracy_study.everywhere(read(settings)).items():
        own = {"data set": dataset, "readout": pooling, "dimensions": EQUAL if cut != SCALED else "all"}
        own |= dict(zip(found["model"], _spans(found), strict=True))
        enough = len(found) >= claims.LEAST_SIZES
        does = "rises" if accuracy_study.rises(found) else "falls" if accuracy_study.falls(found) else "not shown"
        rows.append(own | {"with size": does if enough else "too few sizes"})
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["with size"] = frame.pop("with size")  # behind all sizes
    return Table(frame.fillna("–"), "Points of top-1 over the untrained, with intervals", WAITS)


def best(settings: AccuracySettings) -> Table:
    """The study's best encoder beside the same one untrained and what no encoder has to do with, on every data set."""
    frame = accuracy_study.best(read(settings))
    if frame.empty:
        return Table(frame, empty=WAITS)
    found: dict[str, dict[str, object]] = {}
    for row in frame.to_dict("records"):
        name = f"{row['dataset']}: {row['model']} after {row['images_seen']:,.0f} images"
        found[name] = {
            "pretrained": interval(row["value"], row["low"], row["high"]),
            "the same untrained": f"{row['untrained']:.1f}",
            "gain, points": interval(row["gain"], row["gain_low"], row["gain_high"]),
            "pretrained, without turns": _one_place(row["once"]),
            **{f"{each}, without turns": _one_place(row.get(each)) for each in CONTROLS},
        }
    shown = pd.DataFrame(found).rename_axis("top-1, %").reset_index()
    among = int(frame["among"].max())
    chosen = f"the lowest held-out loss of the {among} encoders that were read out so"
    return Table(shown, f"{accuracy_study.BEST}; {chosen if among > 1 else 'the only encoder that was read out so'}")


def _one_place(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.1f}"


@styled
def gains_by_images(settings: AccuracySettings) -> Figure | Note:
    """What pretraining adds, by how long it was."""
    found = accuracy_study.by_size(probed(settings, gain=True))
    return _lines(found, "pretrained minus untrained, points", "Points over the untrained")


@styled
def equal_compute(settings: AccuracySettings) -> Figure | Note:
    """IsoFLOP sections: the loss of each size at the same compute, between its horizons."""
    found = accuracy_study.at_equal_compute(accuracy_study.whole(read(settings)))
    if found.empty:
        return Note("No two sizes have seen two horizons with compute in common yet.")
    figure, ax = axes(height=3.4)
    said = []
    for (flops, part), colour in zip(found.groupby("flops"), PALETTE, strict=False):
        ax.errorbar(part["parameters_m"], part["value"], bars(part), fmt="o-", color=colour, capsize=2,
                    label=f"{flops:.1e} FLOPs")  # fmt: skip
        lowest = part.loc[part["value"].idxmin()]
        apart = (part["low"] > lowest["high"]).sum() == len(part) - 1
        sure = "" if apart else ", intervals overlap"
        said.append(f"{flops:.1e} FLOPs: lowest {lowest['model']} of {len(part)}{sure}")
    ax.set(xscale="log", xlabel=PARAMETERS, ylabel=HELD_OUT_LOSS)
    ticks(ax.xaxis, sorted(set(found["parameters_m"].round(1))))
    legend_below(figure, [ax])
    return Figure(figure, f"Held-out loss by size at equal compute. {'; '.join(said)}.", found)


def equal_epochs(settings: AccuracySettings) -> Table:
    """Equal images beside equal compute: the gain of each size, both ways."""
    gained = probed(settings, gain=True)
    same = accuracy_study.at_equal_images(gained)
    cut = accuracy_study.fullest(accuracy_study.at_equal_compute(gained))
    frame = pd.DataFrame({"model": same.get("model", []), "at equal images": _spans(same)})
    at = f"at {cut['flops'].iloc[0]:.1e} FLOPs" if len(cut) else "at equal FLOPs"
    other = dict(zip(cut["model"], _spans(cut), strict=True))
    frame[at] = [other.get(model, "–") for model in frame["model"]]
    return Table(frame, "Points of top-1 over the untrained", WAITS)


def _spans(found: pd.DataFrame) -> list[str]:
    return [f"{row.value:.1f} ({row.low:.1f} to {row.high:.1f})" for row in found.itertuples()]


@styled
def unique_images(settings: AccuracySettings) -> Figure | Note:
    """Held-out loss against the number of different images, at equal images seen."""
    found = accuracy_study.losses(read(settings))
    fewest = found["images_seen"].min() if len(found) else 0
    found = found[(found["images_seen"] < 1.1 * fewest) & (found["pretraining_seed"] == 0)]
    found = found[found.groupby("model")["unique"].transform("nunique") > 1]
    if found.empty:
        return Note("No pretraining on fewer unique images is in the table yet.")
    found = found.sort_values(["parameters_m", "unique"])[["model", "unique", "value", "low", "high"]]
    figure, ax = axes(height=3.2)
    said = []
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["unique"], part["value"], bars(part), **own_look(str(model)))
        few, all_ = part.iloc[0], part.iloc[-1]
        said.append(f"{model} {few['value']:.3f} on {few['unique']:,} different ones and {all_['value']:.3f} on "
                    f"{all_['unique']:,} (each ± {max(map(max, bars(part))):.3f} over held-out images)")  # fmt: skip
    ax.set(xscale="log", xlabel="unique images", ylabel=HELD_OUT_LOSS)
    ticks(ax.xaxis, sorted(set(found["unique"])))
    legend_below(figure, [ax])
    return Figure(figure, f"Held-out loss after {fewest:,.0f} images seen: {'; '.join(said)}. One run each.", found)


def bars(found: pd.DataFrame) -> list[pd.Series]:
    """What an interval has below and above its value, as matplotlib draws them; 0 where it leaves its value out."""
    return [each.clip(lower=0) for each in (found["value"] - found["low"], found["high"] - found["value"])]


def _lines(found: pd.DataFrame, label: str, what: str) -> Figure | Note:
    if found.empty:
        return Note(WAITS_FOR_LOSS)
    figure, ax = axes(height=3.4)
    for model, part in found.groupby("model", sort=False):
        ax.errorbar(part["images_seen"], part["value"], bars(part), **own_look(str(model)))
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
