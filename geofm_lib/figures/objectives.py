"""09: what an encoder should learn from, at equal compute; every figure from rows of accuracies alone."""

import numpy as np
import pandas as pd

from geofm_lib.catalog.metrics import counted, interval, with_ends
from geofm_lib.catalog.readouts import HISTOGRAMS
from geofm_lib.figures._axes import PARAMETERS, RATE, legend_below, own_look, ticks
from geofm_lib.figures.accuracy import bars, read
from geofm_lib.figures.accuracy_costs import lowest
from geofm_lib.figures.display import NO_RESULTS, Answer, Figure, Note, Table, axes, styled
from geofm_lib.files import read_csv
from geofm_lib.paper import objectives_study as study
from geofm_lib.paper.objectives_study import OUTCOMES, Outcome
from geofm_lib.runs import results
from geofm_lib.settings import ObjectivesSettings
from geofm_lib.settings.objectives import COMPARED, MAE, TWO_DATES, TWO_VIEWS

RUN = (
    "`GEOFM_DATA=FOLDER geofm submit batch/grids/objectives.csv --here` runs it, a seed at a time, and `geofm study "
    "accuracy` collects it"
)
NOT_YET = f"{NO_RESULTS}: no pretraining of the study is in the table yet; {RUN}."
NOT_JUDGED = f"{NO_RESULTS}: no encoder of the study has been judged yet."
WAITS = "This waits for judgements of the study's encoders."  # below the answer, which says what is missing
ONE = "Where there is one pretraining, its interval holds nothing of how pretrainings differ."
APART = 1.05  # times as far to the right is the bar of the next objective, so that none hides another
SIZE = {
    "more": "Size helps more under {} than under MAE",
    "less": "Size helps less under {} than under MAE",
    "not shown": "It is not shown that size helps otherwise under {} than under MAE",
}
DATES = {
    "yes": "Two dates find more places than two views at both sizes",
    "no": "Two dates find fewer places than two views at both sizes",
    "not shown": "That two dates find more places than two views is not shown at both sizes",
}


def answer(settings: ObjectivesSettings) -> Answer:
    """Is contrastive learning ahead of MAE under every judge? Then verdicts by the rules that were written before."""
    table = read(settings)
    judged = {each: found for each in OUTCOMES if len(found := study.values(table, each))}
    if not judged:
        return Answer(NOT_JUDGED if len(study.runs(table)) else NOT_YET, study.missing(table))
    more = [_listing(outcome, found, study.unlearned(table, outcome)) for outcome, found in judged.items()]
    first = _ahead(table, judged) or more.pop(0)
    if any((study.by_objective(found)["seeds"] == 1).any() for found in judged.values()):
        more.append(ONE)
    if times := _times(study.values(table, study.FINDS)):
        more.append(times)
    if (word := study.dates_help(table)) in DATES:
        more.append(f"{DATES[word]}.")
    sized = {name: study.changes(table, name) for name in COMPARED if name != MAE}
    for word, told in SIZE.items():
        if names := [name for name, found in sized.items() if found == word]:
            more.append(f"{told.format(' or '.join(names))}.")
    if set(sized.values()) == {"not known"}:
        more.append(f"Whether the objective changes how size helps is not known before {study.LEAST_SEEDS} seeds each.")
    return Answer(first, " ".join([*more, study.missing(table)]))


def _ahead(table: pd.DataFrame, judged: dict[Outcome, pd.DataFrame]) -> str:
    """The page's question in a sentence: the best other objective beside MAE under every judge, and histograms.

    "" where MAE, or every other one, has not been judged.
    """
    won, told, beside, models = [], [], [], []
    for outcome, found in judged.items():
        own = study.fullest(found)
        if not outcome.judges or not (best := _best(own)):
            continue
        top, value, mae = best
        won.append(value > mae)
        (row,) = study.above(own, top, MAE).to_dict("records") or [{"low": np.nan}]
        shown = "" if np.isnan(row["low"]) else f" (by {interval(row['value'], row['low'], row['high'])} points)"
        told.append(f"{outcome.short}: {value:.1f} by {top}, {mae:.1f} by {MAE}{shown}")
        models.append(own["model"].iloc[0])
        for model, other in found[~found["model"].isin(own["model"])].groupby("model"):
            if best := _best(other):
                told[-1] += f"; {model} {best[1]:.1f} and {best[2]:.1f}"
        beside += [
            f"{row.value:.1f}" for row in study.unlearned(table, outcome).itertuples() if row.model == HISTOGRAMS
        ]
    if not told:
        return ""
    lead = "Contrastive learning is ahead of MAE" if all(won) else "MAE is ahead" if not any(won) else "Neither leads"
    text = f"{lead} under every judge so far, on frozen features of {' and '.join(dict.fromkeys(models))}"
    learnt = (
        f". {HISTOGRAMS.capitalize()}, which learn nothing: {', '.join(beside)}" if len(beside) == len(told) else ""
    )
    return f"{text}. In %, {'. '.join(told)}{learnt}."


def _best(found: pd.DataFrame) -> tuple[str, float, float] | None:
    """(the best objective but MAE, its mean over seeds, MAE's mean) of one size; None without both."""
    means = study.by_objective(found).set_index("objective")["value"]
    if MAE not in means or len(means) < 2:
        return None
    top = str(means.drop(MAE).idxmax())
    return top, float(means[top]), float(means[MAE])


def _listing(outcome: Outcome, found: pd.DataFrame, beside: pd.DataFrame) -> str:
    """The objectives at the size that was judged most, best first, and whether the first is clearly ahead.

    beside: what stands beside them that learnt nothing.
    """
    own = study.fullest(found)
    means = study.shares(own).sort_values("value", ascending=False)
    told = ", ".join(f"{row.objective} {interval(row.value, row.low, row.high)}" for row in means.itertuples())
    told += "".join(f"; {row.model} {row.value:.1f}" for row in beside.itertuples())
    text = f"{outcome.words[0].upper()}{outcome.words[1:]}, {means['model'].iloc[0]}, %: {told}"
    if len(means) < 2:
        return f"{text}."
    first, second = means["objective"].iloc[:2]
    ahead = study.above(own, first, second)
    if ahead.empty or np.isnan(ahead["low"].iloc[0]):
        return f"{text}."
    value, low, high = with_ends(*ahead[["value", "low", "high"]].iloc[0])
    clear = "ahead" if ahead["low"].iloc[0] > 0 else "not clearly ahead"
    return f"{text}; {first} is {clear} of {second}, by {value} points ({low} to {high})."


def _times(found: pd.DataFrame) -> str:
    """How many times as many places as MAE two dates find at each size; the verdict is the largest size's."""
    ratio = study.above(found, TWO_DATES, MAE, ratio=True)
    if ratio.empty:
        return ""
    told = []
    for row in ratio.itertuples():
        known, size = not np.isnan(row.low), f"at {row.model} ({counted(row.seeds, 'seed')}"
        verdict = f"; at least twice is {_twice(row.low, row.high)}" if known else ""
        times = interval(row.value, row.low, row.high) if known else f"{row.value:.2f}"
        told.append(f"{times} {size}{verdict})")
    last = ratio.iloc[-1]
    rule = f"By the rule, which is of {last['model']}, at least twice is {_twice(last['low'], last['high'])}."
    return f"Times as many places as MAE that two dates find: {', '.join(told)}. {rule}"


def _twice(low: float, high: float) -> str:
    return "shown" if low >= study.TWICE else "refuted" if high < study.TWICE else "not shown"


@styled
def judged(settings: ObjectivesSettings) -> Figure | Note:
    """Every outcome by size, a line an objective, and the untrained encoders of these sizes."""
    table, said, frames = read(settings), [], []
    shown = [each for each in OUTCOMES if len(study.values(table, each))]
    if not shown:
        return Note(WAITS)
    figure, found = axes(height=3.1 * -(-len(shown) // 2), rows=-(-len(shown) // 2), columns=min(2, len(shown)))
    panels = np.atleast_1d(found).ravel()
    for ax, outcome in zip(panels, shown, strict=False):
        values = study.shares(study.values(table, outcome))
        gains = study.by_objective(study.values(table, outcome, gain=True))
        for k, name in enumerate(COMPARED):
            part = values[values["objective"] == name]
            ax.errorbar(APART**k * part["parameters_m"], part["value"], bars(part), **own_look(name))
        if len(beside := untrained(values, gains)):
            ax.plot(beside, **own_look("untrained", linestyle="--"))
        for row in study.unlearned(table, outcome).itertuples():
            ax.axhline(row.value, linestyle=":", **own_look(row.model, marker=""))
        ax.set(xscale="log", xlabel=PARAMETERS, ylabel=f"{outcome.words.replace(', ', chr(10))}, %")
        ticks(ax.xaxis, sorted(set(values["parameters_m"].round(1))))
        frames.append(values.assign(outcome=outcome.words))
        said.append(f"{outcome.short}: {_listed(values)}")
    for ax in panels[len(shown) :]:
        ax.set_axis_off()
    legend_below(figure, panels[: len(shown)], 2)
    named = ["outcome", "model", "objective", "value", "low", "high", "seeds"]
    spread = (
        "of one pretraining's"
        if all((each["seeds"] == 1).all() for each in frames)
        else "that hold the spread between seeds where there are several"
    )
    alt = f"Each outcome by size, in percent, with intervals {spread}. {'. '.join(said)}."
    return Figure(figure, alt, pd.concat(frames)[named])


def untrained(values: pd.DataFrame, gains: pd.DataFrame) -> pd.Series:
    """What untrained encoders of each size have, by their millions of parameters: values less gains."""
    both = values.merge(gains, on=["objective", "parameters_m"], suffixes=("", "_gain"))
    return (both["value"] - both["value_gain"]).groupby(both["parameters_m"]).mean()


def _listed(values: pd.DataFrame) -> str:
    told = []
    for model, part in values.groupby("model", sort=False):
        named = [f"{row.objective} {row.value:.1f}" for row in part.itertuples()]
        told.append(f"{model} {', '.join(named)}")
    return "; ".join(told)


def table(settings: ObjectivesSettings) -> Table:
    """What each objective adds to untrained encoders of the same size, under every outcome."""
    parts = []
    for outcome in OUTCOMES:
        found = study.by_objective(study.values(read(settings), outcome, gain=True))
        told = [interval(*each) for each in found.reindex(columns=["value", "low", "high"]).to_numpy()]
        parts += [(row.model, row.objective, row.seeds, outcome.short, words)
                  for row, words in zip(found.itertuples(), told, strict=True)]  # fmt: skip
    if not parts:
        return Table(pd.DataFrame(), empty=WAITS)
    frame = pd.DataFrame(parts, columns=["model", "objective", "seeds", "outcome", "gain"])
    seeds = frame.groupby(["model", "objective"])["seeds"].max().rename("seeds")
    wide = frame.pivot(index=["model", "objective"], columns="outcome", values="gain").join(seeds)
    order = [(model, name) for model in dict.fromkeys(frame["model"]) for name in COMPARED]
    wide = wide.reindex([each for each in order if each in wide.index]).fillna("not judged").reset_index()
    named = ["model", "objective", "seeds", *(each.short for each in OUTCOMES if each.short in wide)]
    return Table(
        wide[named], "Points over the same architecture untrained: recall at 1 on the other date, top-1, Dubai's mIoU"
    )


def dates(settings: ObjectivesSettings) -> Table:
    """Recall at 1 with two dates beside two views and MAE at each size: differences and the ratio, seed by seed."""
    found = study.values(read(settings), study.FINDS)
    kinds = {
        "two dates less two views, points": study.above(found, TWO_DATES, TWO_VIEWS),
        "two dates less MAE, points": study.above(found, TWO_DATES, MAE),
        "two dates over MAE, times": study.above(found, TWO_DATES, MAE, ratio=True),
    }
    frames = [frame.assign(what=what)[["what", *frame]] for what, frame in kinds.items() if len(frame)]
    frame = pd.concat(frames) if frames else pd.DataFrame()
    return Table(frame, "Recall at 1; low and high by Student's t over seeds, from three on", WAITS)


def sizes(settings: ObjectivesSettings) -> Table:
    """What the larger size adds under an objective less what it adds under MAE, in points, of the same seeds."""
    parts = []
    for outcome in OUTCOMES:
        found = study.values(read(settings), outcome)
        for name in COMPARED:
            if name != MAE and (told := study.with_size(found, name)):
                parts.append({"outcome": outcome.short, "objective": name,
                              **dict(zip(("value", "low", "high", "seeds"), told, strict=True))})  # fmt: skip
    caption = "What the larger size adds, less what it adds under MAE, points; low and high by Student's t over seeds"
    return Table(pd.DataFrame(parts), caption, WAITS)


def cost(settings: ObjectivesSettings) -> Table:
    """Compute, images and speed of the pretrainings; equal compute is what makes them comparable."""
    found = study.runs(read(settings))
    if found.empty:
        return Table(found, empty="No pretraining of the study is in the table.")
    found["hours"] = found["images_seen"] / found["images_per_s"] / 3600
    grouped = found.astype({"flops": float}).groupby(["parameters_m", "model", "objective"], sort=False)
    means = grouped[["images_seen", "flops", "images_per_s", "hours"]].mean().join(grouped.size().rename("seeds"))
    caption = (
        f"Pretrainings on {min(study.unique()):,} images; images/s are the fastest tenth's least, of this grid's ranks"
    )
    return Table(means.reset_index().drop(columns="parameters_m"), caption, formats={"flops": ".2e"})


def controls(settings: ObjectivesSettings) -> Table:
    """What no encoder has to do with finds of the same places."""
    frame = study.unlearned(read(settings), study.FINDS)
    return Table(frame, "Recall at 1 of what nobody trained, %", WAITS)


@styled
def rates(settings: ObjectivesSettings) -> Figure | Note:
    """The sweep: each objective's own held-out loss against the learning rate; none of them is a test score."""
    found = _swept()
    if found.empty:
        return Note(
            f"The sweep of learning rates is not recorded yet: `geofm submit batch/grids/{study.RATES}.csv --here`, "
            f"then `geofm study {study.RATES}`."
        )
    groups = list(found.groupby("objective", sort=False))
    figure, panels = axes(height=2.9, columns=len(groups))
    said = []
    for ax, (name, part) in zip(np.atleast_1d(panels), groups, strict=True):
        part = part.sort_values("rate")
        ax.errorbar(part["rate"], part["loss"], part["interval"], **own_look(str(name)))
        ax.set(xscale="log", xlabel=RATE, ylabel=part["of"].iloc[0])
        ticks(ax.xaxis, sorted(set(part["rate"])))
        said.append(f"{name}: {lowest(part)}")
    legend_below(figure, np.atleast_1d(panels))
    return Figure(
        figure, f"Learning rates of the lowest held-out loss, intervals over images. {'; '.join(said)}.", found
    )


def doubts(settings: ObjectivesSettings) -> Table:
    """What speaks against the comparison, with its evidence and what to do."""
    table = read(settings)
    found = study.runs(table)
    rows: list[tuple[str, str, str]] = []
    few = found.groupby(["model", "objective"]).size()
    if len(few) and few.min() < study.LEAST_SEEDS:
        evidence = f"{counted(int(few.min()), 'seed')} of {few.idxmin()[0]}, {few.idxmin()[1]}"
        rows.append(("too few seeds to tell a difference from chance", evidence, "run the rest of the grid"))
    for outcome in OUTCOMES:
        most = study.by_objective(study.values(table, outcome)).get("value", pd.Series(dtype=float)).max()
        for row in study.unlearned(table, outcome).itertuples():
            if row.value > most:
                evidence = f"{outcome.short}: {row.model} {row.value:.1f}, the best encoder {most:.1f}"
                rows.append(
                    ("what learns nothing has more", evidence, "larger images, encoders and sets; more readouts")
                )
    for row in study.unequal(table).to_dict("records"):
        evidence = f"{row['model']}: {row['min']:.3g} to {row['max']:.3g} FLOPs"
        rows.append(("compute is not equal", evidence, "set the epochs of the grid anew"))
    seen = found.groupby("model", sort=False)["images_seen"].agg(["min", "max"])
    if len(seen):
        evidence = "; ".join(f"{row.Index}: {row.min:,.0f} to {row.max:,.0f} images" for row in seen.itertuples())
        why = "equal compute is not equal images: what sees whole views sees fewer of them"
        rows.append((why, evidence, "compare at equal images too"))
    for name, part in _swept().groupby("objective", sort=False):
        if "edge" in (told := lowest(part)):
            what = f"add a row beyond it to batch/grids/{study.RATES}.csv"
            rows.append((f"the best learning rate of {name} may lie outside the sweep", told, what))
    frame = pd.DataFrame(rows, columns=["doubt", "evidence", "what to do"])
    return Table(frame, empty="There is nothing in the table yet that could be doubted.")


def _swept() -> pd.DataFrame:
    """The sweep's rows, numbers as numbers; none where it is not recorded."""
    file, numbers = results.file(study.RATES), ["rate", "loss", "interval"]
    found = pd.DataFrame(read_csv(file) if file.is_file() else [], columns=["model", "objective", "of", *numbers])
    return found.astype(dict.fromkeys(numbers, float))
