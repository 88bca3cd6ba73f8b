"""The study of objectives: which of the rows of `reports/accuracy.csv` are its own, and the tables that 09 draws.

A pretraining is the study's if it saw as many unique images as its grid names; no other study's did. Nothing but rows
of accuracies is read, so that whoever has the file can redo every table. Differences are between pretrainings of the
same seed, which began with the same images in the same order; the rules are those of reports/LOG.md.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.readouts import CONTROLS, DATES, FAST, GAIN, PLAIN
from geofm_lib.paper import accuracy_study
from geofm_lib.runs import grid, results
from geofm_lib.settings import objectives
from geofm_lib.settings.objectives import COMPARED, MAE, TWO_DATES, TWO_VIEWS

GRID, RATES = "objectives", "objectives_rates"
LEAST_SEEDS = 3  # two seeds are no interval
EQUAL = 0.03  # by how much the compute of two pretrainings of a size may differ
TWICE = 2.0  # times MAE's recall at 1 that two dates were expected to reach
AGREE = 2  # of the outcomes that judge, before an objective is said to change how size helps


class Outcome(NamedTuple):
    """What encoders are judged by: rows of one data set, metric and readout, whose protocol begins so.

    judges: does it take part in the verdict on size? Segmentation has one pretraining seed. short: as a column's name.
    """

    words: str
    short: str
    dataset: str
    metric: str
    protocol: str
    pooling: str = PLAIN
    judges: bool = True


FINDS = Outcome("places found on their other date, recall at 1", "recall at 1", "harvey", "recall1", DATES)
OUTCOMES = (
    FINDS,
    Outcome("UC Merced, top-1", "UC Merced", "ucm", "top1", FAST),
    Outcome("AID, top-1", "AID", "aid96", "top1", FAST),
    Outcome("Dubai's pixels, mIoU", "Dubai", "dubai_seg", "miou", "frozen", "light", judges=False),
)
KEYS = ["model", "objective", "pretraining_seed"]


def rows() -> list[dict[str, str]]:
    """The grid's pretrainings as text; no data needs to be there."""
    return [row for row in grid.texts(results.ROOT / "batch" / "grids" / f"{GRID}.csv") if "objective" in row]


@cache
def unique() -> frozenset[int]:
    """How many unique images the study's pretrainings see."""
    return frozenset(int(row["train_images"]) for row in rows())


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """A row a pretraining of the study: KEYS, pretraining_run, parameters_m, images_seen, flops, images_per_s."""
    own = (table["metric"] == accuracy_study.SPEED) & table["n_train"].isin(unique())
    found = table[own & table["model"].isin(FAMILY) & table["objective"].isin(COMPARED)]
    found = found.rename(columns={"value": "images_per_s"})
    named = [*KEYS, "pretraining_run", "parameters_m", "images_seen", "flops", "images_per_s"]
    order = found["objective"].map(COMPARED.index)
    return found.assign(order=order).sort_values(["parameters_m", "order", "pretraining_seed"], ignore_index=True)[
        named
    ]


def values(table: pd.DataFrame, outcome: Outcome, gain: bool = False) -> pd.DataFrame:
    """`runs` that were judged so, with value, low and high in percent (of its gain over untrained ones: in points)."""
    there = _under(table, outcome, outcome.metric + GAIN * gain) & table["pooling"].eq(outcome.pooling)
    there &= table["layer"].eq(accuracy_study.LAST)
    found = table[there][["pretraining_run", "value", "low", "high"]].drop_duplicates("pretraining_run")
    return runs(table).merge(found, on="pretraining_run").reset_index(drop=True)


def unlearned(table: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    """What no encoder has to do with under the same outcome: model (of CONTROLS), value, low, high, interval_kind."""
    own = _under(table, outcome, outcome.metric) & table["model"].isin(CONTROLS)
    return table[own].drop_duplicates("model")[["model", "value", "low", "high", "interval_kind"]]


def _under(table: pd.DataFrame, outcome: Outcome, metric: str) -> pd.Series:
    """Which rows are of an outcome's data set, protocol and metric, of all labels and the usual features."""
    scaled = table["normalisation"].isna() | table["normalisation"].eq(accuracy_study.SCALED)
    there = table["dataset"].eq(outcome.dataset) & table["metric"].eq(metric) & table["shot"].isna() & scaled
    return there & table["protocol"].astype(str).str.startswith(outcome.protocol)


def by_objective(found: pd.DataFrame) -> pd.DataFrame:
    """Over seeds, a row a size and objective: means, low and high that hold the spread between seeds too, seeds."""
    parts = [
        accuracy_study.by_size(part).assign(objective=name)
        for name in COMPARED
        if len(part := found[found["objective"] == name].drop(columns="objective"))
    ]
    return pd.concat(parts, ignore_index=True) if parts else found.assign(seeds=0)


def shares(found: pd.DataFrame) -> pd.DataFrame:
    """`by_objective` of percentages, whose intervals end at 0 and 100 however seeds spread."""
    means = by_objective(found)
    return means.assign(**{end: means[end].clip(0, 100) for end in ("low", "high") if end in means})


def fullest(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the size of which most pretrainings were judged, of equals the largest."""
    counts = found.groupby("parameters_m").size()
    return found[found["parameters_m"] == counts[counts == counts.max()].index.max()]


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean, low and high of one difference a seed, by Student's t; low and high are NaN below LEAST_SEEDS."""
    mean, count = float(np.mean(differences)), len(differences)
    if count < LEAST_SEEDS:
        return mean, float("nan"), float("nan")
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / count**0.5)
    return mean, mean - half, mean + half


def above(found: pd.DataFrame, first: str, second: str, ratio: bool = False) -> pd.DataFrame:
    """By how much one objective's value is above another's (ratio: how many times it is), of the same seeds.

    A row a size: model, value, low, high, seeds. found: of `values`.
    """
    wide = found.pivot_table(index=["parameters_m", "model", "pretraining_seed"], columns="objective", values="value")
    if not {first, second} <= set(wide):
        return pd.DataFrame(columns=["model", "value", "low", "high", "seeds"])
    scaled = np.log(wide) if ratio else wide
    pairs = (scaled[first] - scaled[second]).replace([np.inf, -np.inf], np.nan).dropna()
    told = [(model, *interval(each.to_numpy()), len(each)) for (_, model), each in pairs.groupby(level=[0, 1])]
    frame = pd.DataFrame(told, columns=["model", "value", "low", "high", "seeds"])
    ends = ["value", "low", "high"]
    return frame.assign(**{name: np.exp(frame[name]) for name in ends}) if ratio else frame


def with_size(found: pd.DataFrame, objective: str) -> tuple[float, float, float, int] | None:
    """(mean, low, high, seeds) of what the larger size adds under this objective, less what it adds under MAE.

    In points; None without both sizes of both. Untrained encoders are the same for all objectives, so they cancel.
    """
    wide = found.pivot_table(index="pretraining_seed", columns=["objective", "parameters_m"], values="value")
    sizes = sorted(found["parameters_m"].unique())
    wanted = [(name, size) for name in (objective, MAE) for size in sizes[:: max(1, len(sizes) - 1)]]
    if len(sizes) < 2 or not set(wanted) <= set(wide.columns):
        return None
    small, large, mae_small, mae_large = (wide[each] for each in wanted)
    each = ((large - small) - (mae_large - mae_small)).dropna().to_numpy()
    return (*interval(each), len(each)) if len(each) else None


def changes(table: pd.DataFrame, objective: str) -> str:
    """Does this objective change how size helps? "more", "less", "not shown", or "not known" without all its seeds."""
    found = [with_size(values(table, each), objective) for each in OUTCOMES if each.judges]
    if any(each is None or each[3] < LEAST_SEEDS for each in found):
        return "not known"
    known = [each for each in found if each is not None]
    more, less = sum(low > 0 for _, low, _, _ in known), sum(high < 0 for _, _, high, _ in known)
    return "more" if more >= AGREE and not less else "less" if less >= AGREE and not more else "not shown"


def dates_help(table: pd.DataFrame) -> str:
    """Do two dates find more places than two views, at every size? "yes", "no" (they find fewer), else as `changes`."""
    found = above(values(table, FINDS), TWO_DATES, TWO_VIEWS)
    planned = {row["model"] for row in rows()}
    if set(found["model"]) != planned or (found["seeds"] < LEAST_SEEDS).any():
        return "not known"
    return "yes" if (found["low"] > 0).all() else "no" if (found["high"] < 0).all() else "not shown"


def unequal(table: pd.DataFrame) -> pd.DataFrame:
    """Sizes whose pretrainings differ in compute by more than EQUAL: a row each with the least and the most FLOPs."""
    spans = runs(table).astype({"flops": float}).groupby("model")["flops"].agg(["min", "max"])
    return spans[spans["max"] > (1 + EQUAL) * spans["min"]].reset_index()


def missing(table: pd.DataFrame) -> str:
    """In a sentence, which pretrainings and judgements of the grid are not in the table; "" where nothing is."""
    planned, here = rows(), runs(table)
    parts = []
    if len(here) < len(planned):
        want = pd.Series([(row["model"], objectives.words(row["objective"], row.get("positives", "views")))
                          for row in planned]).value_counts()  # fmt: skip
        have = pd.Series(list(zip(here["model"], here["objective"], strict=True)), dtype=object).value_counts()
        left = want.sub(have, fill_value=0).clip(lower=0)
        names = [f"{count:.0f} of {model} by {name}" for (model, name), count in left.items() if count]
        parts.append(f"{len(here)} of {len(planned)} pretrainings are here; missing are {', '.join(names)}")
    for outcome in OUTCOMES:
        asked = len(here) if outcome.judges else (here["pretraining_seed"] == 0).sum()
        if (count := len(values(table, outcome))) < asked:
            parts.append(f"{asked - count} of {asked} are not judged by {outcome.words}")
    return f"{'; '.join(parts)}." if parts else ""
