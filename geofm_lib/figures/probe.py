"""05: how well do frozen features tell the classes apart? No torch."""

import pandas as pd
import seaborn as sns

from geofm_lib.advice import signs
from geofm_lib.catalog import metrics
from geofm_lib.catalog.readouts import ANSWERS, DATES, GAIN, PRETRAINED, PROTOCOLS, SUPERVISED, UNTRAINED
from geofm_lib.figures import probe_controls
from geofm_lib.figures._axes import GREY, INK, LIMIT, LOOKS, WORDS, legend_below, own_look, whiskers
from geofm_lib.figures.display import Answer, Figure, Note, Table, axes, styled
from geofm_lib.runs.run import Run

# kind of features -> its columns in the summary: METRIC (see catalog/metrics), and the half of its 95 % interval
KINDS = {
    "pretrained, linear probe": ("METRIC_pretrained_mean", "METRIC_pretrained_interval"),
    "pretrained, nearest neighbours": ("knn_pretrained", "knn_pretrained_interval"),
    "untrained, linear probe": ("METRIC_random_mean", "METRIC_random_interval"),
    "untrained, nearest neighbours": ("knn_random", "knn_random_interval"),
    "histograms, ridge": ("histograms_METRIC", "histograms_interval"),
}
NUMBERS = (
    "encoder", "classes", "metric", "train_", "test_", "chance", "guess", "top", "map", "knn", "hist", "head", "loss",
    "fewest", "fast", "gain", "places", "groups", "splits", "readout", "unlearned", "unlabelled", "pretrained_on",
    "seen",
)  # fmt: skip


COLOURS = {PRETRAINED: own_look("pretrained")["color"], UNTRAINED: own_look("untrained")["color"]}
OTHER = "; Figure 1 has another head and several splits, so its numbers of the same encoders differ"
OF_BARS = "95 %, bootstrap over test images"
NONE = "The run holds no result of the fast protocol: run it with protocol=fast or both."


def verdict(run: Run) -> Answer | Note:
    """The probe's result in a sentence, and what else its run says below it."""
    whole = run.summary.get("verdict")
    if not whole:
        return Note("The run holds no probe result.")
    first = f"{run.summary['answer']}." if run.summary.get("answer") else whole
    frame, known = rows(run), probe_controls.widths(run)
    clause = probe_controls.beside(frame, known)[0] if len(frame) else ""
    more = [f"{run.summary.get('model', 'The encoder')} on {probe_controls.images(run)}."]
    if "gain" in run.summary:
        over = run.summary["gain_interval"].removeprefix("95 %, ")
        more.append(f"One pretraining: the interval is of a {over}, not over splits or seeds.")
    more += [probe_controls.splits(run, frame) if len(frame) else "", "" if clause else _best_control(run)]
    rest, answer = whole.removeprefix(first).strip(), first.removesuffix(".")
    more += [rest, _of_paper(run) if "±" in rest else ""]
    return Answer(f"{probe_controls.worded(answer, known, clause)}.", " ".join(filter(None, more)))


def _of_paper(run: Run) -> str:
    """What a ± of the paper's protocol is over."""
    seeds = run.summary.get("probe_seeds", 1)
    return f"Each ± is 95 % over {_counted(seeds, 'probe seed')}, that beside histograms over test images too."


def _best_control(run: Run) -> str:
    """The control that comes nearest to the encoder, or above it; '' without any beside untrained weights."""
    frame = rows(run)
    if frame.empty:
        return ""
    last = (
        (frame["layer"].fillna("last") == "last")
        & frame["shot"].isna()
        & ~frame["gain"]
        & frame["protocol"].isin(ANSWERS)
    )
    others = frame[last & ~frame["kind"].isin([PRETRAINED, UNTRAINED])]
    if others.empty:
        return ""
    best = others.loc[others["value"].idxmax()]
    return f"The strongest control without this encoder is {best['kind']}: {best['value']:.1f} %."


def doubts(run: Run) -> Table:
    """What speaks against a probe, with its evidence and what to do; one sentence when nothing does."""
    found, frame = signs.doubts(run.summary, run.read_csv("probe.csv")), rows(run)
    clause, evidence = probe_controls.beside(frame, probe_controls.widths(run)) if len(frame) else ("", "")
    if clause:
        doubt = clause.partition(",")[0]
        found.append({"doubt": doubt, "evidence": evidence, "what to do": probe_controls.NO_TRAINING})
    return Table(pd.DataFrame(found), empty="None of the usual signs of a poor probe.")


def numbers(run: Run) -> Table:
    """Every number of the run's summary."""
    found = [(metrics.heading(name).replace("_", " "), "none" if value in ({}, []) else value)
             for name, value in run.summary.items() if name.startswith(NUMBERS)]  # fmt: skip
    return Table(pd.DataFrame(found, columns=["number", "value"]), empty="The run holds no probe result.")


def protocols() -> Table:
    """How each protocol trains its head, on which images, and what it chooses on the train side."""
    return Table(pd.DataFrame(PROTOCOLS).rename(columns={"chosen": "chosen on validation"}))


def rows(run: Run) -> pd.DataFrame:
    """The fast protocol's rows over all splits, empty without any. kind: pretrained, untrained, or what else it is.

    gain: is it what pretraining adds?
    """
    frame = run.read_csv("accuracy.csv")
    if frame.empty:
        return frame
    frame = frame[frame["interval_kind"] != ""].replace("", pd.NA)
    if run.settings.get("protocol") == DATES:  # whose rows have several metrics
        key = metrics.of(run.summary)
        frame = frame[frame["metric"].isin([key, key + GAIN])]
    frame = frame.astype(dict.fromkeys(("value", "low", "high", "n_train"), float))
    own = frame["pretraining_run"] == run.summary.get("encoder")
    other = frame["pretraining_run"].fillna(frame["model"])
    frame["kind"] = other.mask(frame["objective"] == UNTRAINED, UNTRAINED).mask(own, PRETRAINED)
    frame["kind"] = frame["kind"].mask(frame["objective"] == SUPERVISED, "trained on the labels from scratch")
    frame["gain"] = frame["metric"].str.endswith(GAIN)
    return frame


@styled
def gains(run: Run) -> Figure | Note:
    """Every control beside the encoder under each readout, and below what pretraining adds, also at equal dimension."""
    frame = rows(run)
    if frame.empty:
        return Note(NONE)
    supervised = frame["objective"] == SUPERVISED
    inner = frame["layer"].str.startswith("block", na=False)
    usual = frame[(frame["protocol"].isin(ANSWERS) & frame["shot"].isna() & ~inner) | supervised]
    same = usual["normalisation"].eq(usual["normalisation"].iloc[0]) | usual["objective"].eq(SUPERVISED)
    plain = usual[~usual["gain"] & same]
    shown = plain.groupby(["pooling", "kind"], sort=False)[["value", "low", "high"]].mean().reset_index()
    names = [
        kind if kind == pooling else f"{kind}, {pooling}"
        for pooling, kind in zip(shown["pooling"], shown["kind"], strict=True)
    ]
    figure, ax = axes(height=0.9 + 0.3 * len(shown))
    colours = [COLOURS.get(kind, GREY) for kind in shown["kind"]]
    errors = [shown["value"] - shown["low"], shown["high"] - shown["value"]]
    ax.barh(names, shown["value"], color=colours, height=0.62, xerr=errors, capsize=3)
    for y, (value, high) in enumerate(zip(shown["value"], shown["high"], strict=True)):
        ax.annotate(f"{value:.1f}", (high, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.invert_yaxis()
    ax.set(xlabel=f"{metrics.LONG[metrics.of(run.summary)]} on the test sides, %", xlim=(0, 108))
    ax.grid(False, axis="y")
    values = [f"{name} {value:.1f}" for name, value in zip(names, shown["value"], strict=True)]
    which = ["kind", "pooling", "normalisation"]  # the last two are empty of what has no readout
    bars = usual[~usual["gain"]].fillna({"pooling": "", "normalisation": ""}).groupby(which, sort=False)
    bars = (
        bars[["value", "low", "high"]]
        .mean()
        .reset_index()
        .assign(interval_kind=run.summary.get("fast_intervals", OF_BARS))
    )
    bars.loc[bars["kind"] == UNTRAINED, "interval_kind"] += ", mean of the untrained draws"
    added = usual[usual["gain"]].assign(kind="pretrained minus untrained, points")
    table = pd.concat([bars, added[[*bars]]], ignore_index=True)
    table.insert(3, "features", probe_controls.features(table, probe_controls.widths(run)))
    how = f"logistic regression, mean of {_counted(run.summary.get('splits'), 'split')} and of all untrained draws"
    if run.settings.get("protocol") == DATES:
        how = f"nearest by cosine among {run.summary['places']:,} places, mean of all untrained draws"
    named = metrics.LONG[metrics.of(run.summary)]
    over = run.summary.get("fast_intervals", OF_BARS).partition(" over ")[2]
    alt = f"{named} in percent ({how}), with 95 % intervals over {over}: {'; '.join(values)}."
    return Figure(figure, alt[0].upper() + alt[1:], table)


def _counted(number: int | None, word: str) -> str:
    return f"{number or 'the'} {word}{'s' * (number != 1)}"


@styled
def accuracy(run: Run) -> Figure | Note:
    """Top-1, or mean average precision, of every kind of features, with 95 % intervals over the probe seeds."""
    summary, key = run.summary, metrics.of(run.summary)
    columns = {name: [each.replace("METRIC", key) for each in pair] for name, pair in KINDS.items()}
    found = [(name, summary[mean], summary.get(half)) for name, (mean, half) in columns.items() if mean in summary]
    if not found:
        return Note("The run has no result of the paper's protocol (protocol=fast).")
    table = pd.DataFrame(found, columns=["features", key, "interval"]).astype({key: float, "interval": float})
    halves, chance = table["interval"].fillna(0), summary.get("chance")
    figure, ax = axes(height=0.9 + 0.36 * len(table))
    colours = [_colour(name) for name in table["features"]]
    ax.barh(table["features"], table[key], color=colours, height=0.62)
    known = table[table["interval"].notna()].rename(columns={key: "value"})
    sides = pd.DataFrame({"low": known["value"] - known["interval"], "high": known["value"] + known["interval"]})
    whiskers(ax, known["value"], known["features"], sides, "95 % interval") if len(known) else None
    seeds = {name: summary[f"{stem}_values"] for name, (mean, _) in columns.items()
             if f"{(stem := mean.removesuffix('_mean'))}_values" in summary}  # fmt: skip
    for k, (name, values) in enumerate(seeds.items()):
        ax.plot(values, [name] * 2, "o", color=INK, markersize=4, label="" if k else "each of two seeds")
    for y, (value, half) in enumerate(zip(table[key], halves, strict=True)):
        ax.text(value + half + 1, y, f"{value:.1f}", va="center", fontsize=8.5)
    if chance:
        ax.axvline(chance, **LIMIT)
        ax.text(chance, -0.62, " chance", fontsize=8, color=WORDS, va="bottom")
    ax.invert_yaxis()
    ax.set(xlabel=f"{metrics.LONG[key]} on the test side, %", xlim=(0, 108), xticks=range(0, 101, 20))
    ax.grid(False, axis="y")
    values = [f"{name} {mean:.1f}" + (f" ± {half:.1f}" if half == half else "")
              + (f" ({metrics.two_seeds(seeds[name])})" if name in seeds else "")
              for name, mean, half in table.itertuples(index=False)]  # fmt: skip
    legend_below(figure, [ax]) if seeds or len(known) else None
    alt = f"{metrics.LONG[key][0].upper()}{metrics.LONG[key][1:]} in percent: {'; '.join(values)}" + (
        f"; chance {chance:.1f}." if chance else "."
    )
    alt += " ± is 95 % over the probe seeds, of histograms over test images." if "±" in alt else ""
    alt += f" Here a linear layer is trained by LARS on the set's own split{OTHER if 'fast_value' in summary else ''}."
    return Figure(figure, alt, table)


@styled
def curves(run: Run) -> Figure | Note:
    """What is measured on the test side (top-1 and top-5, or mAP) after every epoch of the linear probe."""
    frame = run.read_csv("probe.csv").replace({"features": {"random": "untrained"}})
    measured = [key for key in metrics.LONG if key in frame]
    if not measured:
        return Note("The run has no curve of the paper's protocol (protocol=fast).")
    colours = {kind: _colour(kind) for kind in frame["features"].unique()}
    figure, panels = axes(height=2.9, columns=len(measured), sharex=True, squeeze=False)
    for ax, key in zip(panels[0], measured, strict=True):
        sns.lineplot(frame, x="epoch", y=key, hue="features", palette=colours, errorbar=("pi", 100), ax=ax)
        ax.set(xlabel="epoch", ylabel=f"{metrics.LONG[key]}, %")
        ax.get_legend().set_title(None)
    last = frame[frame["epoch"] == frame["epoch"].max()].groupby("features", sort=False)[measured].mean()
    ends = [f"{kind} " + " and ".join(f"{row[key]:.1f} {metrics.WORDS[key]}" for key in measured)
            for kind, row in last.iterrows()]  # fmt: skip
    alt = f"Lines over {int(frame['epoch'].max())} epochs, the band spans the probe seeds. "
    alt += f"At the end, in percent: {'; '.join(ends)}."
    return Figure(figure, alt, last.reset_index())


def _colour(name: str) -> str:
    return str(own_look(next((what for what in LOOKS if name.startswith(what)), "pretrained"))["color"])
