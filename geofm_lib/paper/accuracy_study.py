"""The scaling study: its finished runs as rows of `reports/accuracy.csv`, and the tables that 07 draws from them.

Nothing but those rows is read for a table, so that whoever has the file can redo it. Other studies pretrain the same
sizes: a pretraining is this study's if it is an MAE on as many unique images as a row of its grids names.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.readouts import CONTROLS, FAST, GAIN, PLAIN, SCALED, UNTRAINED, WHOLE
from geofm_lib.paper import accuracy
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import grid, results
from geofm_lib.runs.run import Run
from geofm_lib.settings import objectives

GRIDS = ("accuracy", "accuracy_largest")  # of batch/grids, in the order in which they are run
RATES = "accuracy_rates"
COLLECTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(GRIDS, ("pretrain", "probe")),
    "transfer": ("transfer",),  # 08
    "series": ("transfer",),
    "objectives": ("pretrain", "probe", "transfer"),  # 09
}
"""Grids whose rows go into the same file -> their jobs that do."""
LOSS, CONTRAST, SPEED = "held-out loss", "held-out contrastive loss", "images/s"
MASKS, VIEWS, LAST = "fixed masks", "fixed views", "last"
WATTS = 5.0  # of one core under load: 280 W over the 64 cores of such an EPYC, and its memory; stated, not measured
OF_IMAGES, OF_STEPS = "95 %, over images", "median to fastest of the logged steps"
BEST = f"{WHOLE}, 4 orientations"  # how the best encoder is read out; fixed in reports/LOG.md before any was so
COLUMNS = ["model", "parameters_m", "images_seen", "flops", "pretraining_seed", "pretraining_run"]


def collect() -> Path:
    """Put what has finished of the study's grids, and of 08's and 09's, into reports/accuracy.csv.

    Rows of other runs stay. ValueError where nothing has finished.
    """
    rows = [row for _, _, run in finished() for row in ROWS[run.job](run)]
    if not rows:
        raise ValueError("No row of the study's grids has finished here, so accuracy.csv stays as it is; `make study`.")
    return accuracy.add(rows)


def finished() -> Iterator[tuple[str, str, Run]]:
    """(grid, row, run) of every run that has finished of the jobs in COLLECTED."""
    for name, jobs in COLLECTED.items():
        for row in grid.read(results.ROOT / "batch" / "grids" / f"{name}.csv")[0]:
            run = Run(row.folder)
            if run.finished and run.job in jobs:
                yield name, row.name, run


def of_pretraining(run: Run) -> list[dict[str, Any]]:
    """A finished pretraining's held-out losses and speed, as rows of accuracy.csv."""
    asked, summary, where = run.settings, run.summary, run.environment
    about = {
        "dataset": run.dataset,
        "n_train": asked.get("train_images") or summary["train_images"],
        "task": "reconstruction",
        "model": asked["model"],
        "parameters_m": round(parameters(asked["model"], "encoder", image_size=asked["image_size"]) / 1e6, 3),
        "pretraining_run": run.folder.name,
        **accuracy.pretrained(run),
        "source": "own",
        "commit": where.get("commit", ""),
        "date": str(where.get("launched", ""))[:10],
    }
    found = []
    for metric, name, before, how in HELD_OUT:
        if summary.get(name) is not None:
            loss, half = float(summary[name]), summary.get(f"{before}_interval") or np.nan
            shown = {"split": summary[f"{before}_side"], "n_test": summary[f"{before}_images"], "protocol": how}
            shown |= {"low": loss - half, "high": loss + half, "interval_kind": OF_IMAGES}
            task = "reconstruction" if objectives.rebuilds(asked.get("objective", "mae")) else "telling views apart"
            found.append(about | shown | {"metric": metric, "value": loss, "task": task})
    rates = run.metrics["images_per_s"].iloc[1:]  # the first step starts up
    if len(rates):
        low, value, high = (float(each) for each in np.percentile(rates, (50, 90, 100)))
        speed = {"low": low, "high": high, "interval_kind": OF_STEPS, "task": "cost", "metric": SPEED, "value": value}
        found.append(about | speed)
    return found


ROWS: dict[str, Callable[[Run], list[dict[str, Any]]]] = {
    "pretrain": of_pretraining, "probe": accuracy.of_run, "transfer": accuracy.of_run,
}  # fmt: skip
HELD_OUT = (  # metric, its name in a summary, and before what its side, images and interval stand there; of what
    (LOSS, "held_out_loss", "held_out", MASKS),
    (CONTRAST, "held_out_contrast", "held_out_contrast", VIEWS),
)


def missing(table: pd.DataFrame) -> str:
    """In a sentence, how much of the grids is not in the table; "" where nothing is."""
    lines = [row for name in GRIDS for row in _grid(name) if row["notebook"] == "02_pretrain"]
    planned, here = pd.Series([row["model"] for row in lines], dtype=str), losses(table)
    counts = planned.value_counts().sub(here["model"].value_counts(), fill_value=0).clip(lower=0)
    left = [f"{counts[model]:.0f} of {model}" for model in FAMILY if counts.get(model, 0)]
    return f"{len(here)} of {len(planned)} pretrainings are here; missing are {', '.join(left)}." if left else ""


def _grid(name: str) -> list[dict[str, str]]:
    """The rows of a grid as text; no data needs to be there."""
    file = results.ROOT / "batch" / "grids" / f"{name}.csv"
    return grid.texts(file) if file.is_file() else []


@cache
def _unique() -> frozenset[int]:
    """How many unique images the study's pretrainings see, as its grids say."""
    return frozenset(int(row["train_images"]) for name in GRIDS for row in _grid(name) if row.get("train_images"))


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """A row a pretraining of the study: COLUMNS, unique (images), value, low, high of the held-out loss."""
    own = (table["objective"] == objectives.words("mae")) & table["n_train"].isin(_unique())
    rows = table[own & (table["metric"] == LOSS) & table["model"].isin(FAMILY)]
    found = rows[[*COLUMNS, "n_train", "value", "low", "high", "commit", "date"]]
    return (
        found.rename(columns={"n_train": "unique"}).sort_values(["parameters_m", "images_seen"]).reset_index(drop=True)
    )


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """`losses` of the runs that saw all images of the study; the others are the ablation of unique images."""
    found = losses(table)
    return found[found["unique"] == found["unique"].max()].reset_index(drop=True)


def probes(
    table: pd.DataFrame, dataset: str, pooling: str = PLAIN, normalisation: str = SCALED, gain: bool = False
) -> pd.DataFrame:
    """A row a pretraining that saw all images: COLUMNS, value, low, high of top-1 (or its gain), untrained, error.

    parameters_m is that of the pretraining: a probe of larger images has more positions. Rows of single blocks and of
    fewer labels are other questions.
    """
    sizes = whole(table).set_index("pretraining_run")["parameters_m"]
    says = {"metric": "top1" + GAIN * gain, "dataset": dataset, "pooling": pooling, "normalisation": normalisation}
    says |= {"protocol": FAST, "layer": LAST}
    rows = table[(table[list(says)] == pd.Series(says)).all(axis=1) & table["shot"].isna()]
    rows = rows[rows["pretraining_run"].isin(sizes.index) & (rows["objective"] != UNTRAINED)]
    found = rows[[*COLUMNS, "value", "low", "high"]].assign(parameters_m=rows["pretraining_run"].map(sizes))
    if not gain:
        found = found.assign(untrained=rows["value"] - rows["difference_to_untrained"], error=100 - rows["value"])
    return found.sort_values(["parameters_m", "images_seen"]).reset_index(drop=True)


def best(table: pd.DataFrame) -> pd.DataFrame:
    """The study's best encoder under BEST, a row a data set: COLUMNS, value, low, high, untrained, error, the gain
    with its interval (gain, gain_low, gain_high), CONTROLS under the same head, `once` (its top-1 under WHOLE, without
    turns) and `among` (how many encoders were read out so).

    Of the encoders that were read out so there it is the one of the lowest held-out loss: no test image chooses it.
    """
    ran, found = whole(table).sort_values("value")["pretraining_run"], []
    readout = table[(table["pooling"] == BEST) & table["pretraining_run"].isin(ran)]
    for dataset, there in readout.groupby("dataset"):
        run = ran[ran.isin(there["pretraining_run"])].iloc[0]
        top, gain = (probes(table, dataset, BEST, gain=each) for each in (False, True))
        gain = gain.rename(columns={"value": "gain", "low": "gain_low", "high": "gain_high"})
        own = top.merge(gain[["pretraining_run", "gain", "gain_low", "gain_high"]], on="pretraining_run")
        once = probes(table, dataset, WHOLE).set_index("pretraining_run")["value"].get(run)
        own = own[own["pretraining_run"] == run].assign(dataset=dataset, once=once, among=len(top))
        found.append(own.assign(**controls(table, str(dataset))))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def by_size(found: pd.DataFrame) -> pd.DataFrame:
    """Over pretraining seeds, at each size and number of images: means, and an interval that holds their spread too.

    That is the root of the mean square of what one seed leaves open, and of 1.96 times the standard deviation between
    seeds. One seed keeps its own interval, in which there is no spread between seeds.
    """
    if found.empty:
        return found.assign(seeds=0)
    rows = []
    found = found.drop(columns=["pretraining_seed"])
    for (model, images), part in found.groupby(["model", "images_seen"], sort=False):
        within = ((part["high"] - part["low"]) / 2).pow(2).mean()
        between = (1.96 * part["value"].std(ddof=1)) ** 2 if len(part) > 1 else 0.0
        half, value = float(np.sqrt(within + between)), part["value"].mean()
        numbers = {name: part[name].mean() for name in part.columns if pd.api.types.is_numeric_dtype(part[name])}
        spread = {"low": value - half, "high": value + half} if len(part) > 1 else {}
        rows.append(numbers | spread | {"model": model, "images_seen": images, "seeds": len(part)})
    return pd.DataFrame(rows).sort_values(["parameters_m", "images_seen"]).reset_index(drop=True)


def at_equal_images(found: pd.DataFrame) -> pd.DataFrame:
    """`by_size` at the number of images that most sizes have seen; at the largest of those."""
    sized = by_size(found)
    if sized.empty:
        return sized
    counts = sized.groupby("images_seen")["model"].nunique()
    return sized[sized["images_seen"] == counts[counts == counts.max()].index.max()].reset_index(drop=True)


def rises(found: pd.DataFrame) -> bool:
    """Is the last above the first by more than both intervals, and none below the one before it by more?"""
    pairs = zip(found.itertuples(), found.iloc[1:].itertuples(), strict=False)
    falls = any(after.high < before.low for before, after in pairs)
    return len(found) > 1 and found["low"].iloc[-1] > found["high"].iloc[0] and not falls


def falls(found: pd.DataFrame) -> bool:
    """`rises`, mirrored."""
    return rises(found.assign(low=-found["high"], high=-found["low"]))


def everywhere(table: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """{(data set, readout, normalisation): the gain of each size at equal images}, wherever two sizes were probed."""
    plain = table["pooling"].isin([PLAIN, WHOLE]) & (table["metric"] == "top1" + GAIN)
    kinds = {
        (str(a), str(b), str(c)) for a, b, c in table.loc[plain, ["dataset", "pooling", "normalisation"]].to_numpy()
    }
    # UC Merced before AID, the plain readout before the other, all dimensions before 64: as LOG names them.
    ordered = sorted(kinds, key=lambda kind: (kind[0] != "ucm", kind))
    found = {(a, b, c): at_equal_images(probes(table, a, b, c, gain=True)) for a, b, c in ordered}
    return {kind: rows for kind, rows in found.items() if len(rows) > 1}


def controls(table: pd.DataFrame, dataset: str) -> pd.Series:
    """Top-1 of what no encoder has to do with, under the same head, by CONTROLS as far as they were scored."""
    of = table[(table["dataset"] == dataset) & (table["protocol"] == FAST) & (table["normalisation"] == SCALED)]
    return of[of["model"].isin(CONTROLS) & of["shot"].isna()].groupby("model")["value"].first()


def base_rate() -> str:
    """The base learning rate of the study's pretrainings, as its grids say."""
    return ", ".join(dict.fromkeys(row["base_learning_rate"] for name in GRIDS for row in _grid(name)
                                   if row.get("base_learning_rate")))  # fmt: skip


def at_equal_compute(found: pd.DataFrame) -> pd.DataFrame:
    """value, low, high of each size at the FLOPs of every horizon of any size that another size reaches too.

    Between its own horizons a size lies on a line in logarithms of FLOPs; beyond them it is left out.
    """
    sized = by_size(found)
    spans = {model: part.sort_values("flops") for model, part in sized.groupby("model", sort=False) if len(part) > 1}
    rows = []
    for flops in sorted(set(sized.get("flops", ()))):
        for model, part in spans.items():
            if part["flops"].min() <= flops <= part["flops"].max():
                at = {"flops": flops, "model": model, "parameters_m": part["parameters_m"].iloc[0]}
                ends = {n: np.interp(np.log(flops), np.log(part["flops"]), part[n]) for n in ("value", "low", "high")}
                rows.append(at | ends)
    cut = pd.DataFrame(rows, columns=["flops", "model", "parameters_m", "value", "low", "high"])
    return cut[cut.groupby("flops")["model"].transform("size") > 1].reset_index(drop=True)


def fullest(cut: pd.DataFrame) -> pd.DataFrame:
    """Of `at_equal_compute`, the level that most sizes reach, the higher of several; empty below two sizes."""
    counts = cut.groupby("flops")["model"].nunique()
    return cut[cut["flops"] == counts[counts == counts.max()].index.max()] if len(cut) else cut


def speeds(table: pd.DataFrame) -> pd.Series:
    """images/s of one core by model: the most of the runs' nine tenths, since other programs ran beside some."""
    rows = table[(table["metric"] == SPEED) & table["pretraining_run"].isin(losses(table)["pretraining_run"])]
    return rows.groupby("model")["value"].max()


def front(found: pd.DataFrame) -> pd.DataFrame:
    """Those that no other beats at no more compute."""
    ordered = found.sort_values("flops")
    return ordered[ordered["value"] > ordered["value"].cummax().shift(fill_value=-np.inf)]
