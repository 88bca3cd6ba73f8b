"""The `fast` protocol: every encoder under every readout on the same splits, and what pretraining adds.

Differences are paired: the same images are drawn for both, in all splits at once, and what belongs together (a set of
duplicates, a place) is drawn together.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn

from geofm_lib.catalog.readouts import (
    ACCURACY,
    EQUAL,
    EQUALLY,
    FAST,
    GAIN,
    KNN,
    PRETRAINED,
    SCALED,
    SHARES,
    SHOTS,
    UNTRAINED,
)  # fmt: skip
from geofm_lib.jobs import probe_splits
from geofm_lib.jobs.probe_metrics import Metric
from geofm_lib.jobs.probe_splits import Images, Split
from geofm_lib.model import logistic, neighbours

OF_IMAGES = "95 %, bootstrap over test images"
OF_BOTH = "95 %, paired bootstrap over test images and untrained draws"
CHOSEN = "chosen"
FORMAT = 1  # another number where heads of the same features and splits would give other results
Rows = list[dict[str, Any]]


class Task(NamedTuple):
    """One comparison: the columns that name it, its head, how many features PCA leaves (0: all), and its splits.

    few: of how many training images a class, or of which share of the train side (0: all of it). splits: how many of
    the first (0: all).
    """

    protocol: str
    normalisation: str
    head: Callable[..., logistic.Scores]
    dimension: int = 0
    few: float = 0
    splits: int = 0

    @property
    def shot(self) -> str:
        """As rows have it: "5" images a class, "10 %" of the train side, "" for all."""
        return f"{self.few:.0%}".replace("%", " %") if 0 < self.few < 1 else f"{self.few:g}" if self.few else ""


PLAIN = Task(FAST, SCALED, logistic.scores)
BLOCK = (Task(FAST, SCALED, logistic.scores, splits=1),)
USUAL = (PLAIN, Task(FAST, EQUALLY, logistic.scores, EQUAL), Task(KNN, CHOSEN, neighbours.scores))
ALL = (*USUAL, *(Task(FAST, SCALED, logistic.scores, few=few) for few in (*SHOTS, *SHARES)))


class Source(NamedTuple):
    """Features of all images, and what rows say of where they come from.

    kind: pretrained, untrained, or what else stands beside them. folder: where its features are kept, and what its
    heads come to. about: columns of a row. tasks: of each readout, as rows name it. features: readout -> [n, D].
    """

    kind: str
    folder: Path
    about: dict[str, Any]
    tasks: dict[str, tuple[Task, ...]]
    features: Callable[[str], np.ndarray]


class Result(NamedTuple):
    """values: [splits, columns of the metric], percent. draws: [draws of test images], means over splits of the first.

    scores: of the first split, float32 [its test images, K].
    """

    values: np.ndarray
    draws: np.ndarray
    scores: np.ndarray


def drawn(group: np.ndarray, tested: np.ndarray, draws: int) -> np.ndarray:
    """How often each image is there in each draw of a bootstrap, float32 [draws, n]; 0 of what is not `tested`.

    group: int64 [n], the same for images that are drawn together.
    """
    groups, number = np.unique(group, return_inverse=True)
    asked = np.unique(number[tested])
    found = np.zeros((draws, len(groups)), np.float32)
    found[:, asked] = np.random.default_rng(0).multinomial(len(asked), np.full(len(asked), 1 / len(asked)), size=draws)
    return found[:, number]


class Judge:
    """Scores features; holds which images are drawn for intervals, the same for everybody."""

    def __init__(self, images: Images, splits: list[Split], truth: np.ndarray, classes: int, metric: Metric) -> None:
        self.truth, self.classes, self.metric = truth, classes, metric
        self.splits = {0.0: splits} | {few: probe_splits.fewer(images, splits, few) for few in (*SHOTS, *SHARES)}
        self.weights = drawn(images.group, np.concatenate([split.test for split in splits]), metric.draws)
        made_by = (FORMAT, sklearn.__version__, classes, metric.columns)
        self.common = hashlib.sha256(repr(made_by).encode() + truth.tobytes() + self.weights.tobytes())

    def digest(self, task: Task) -> str:
        """Of all that a task's result depends on beside the features: labels, splits, draws, head and versions."""
        found = self.common.copy()
        found.update(repr((task.protocol, task.normalisation, task.dimension)).encode())
        for split in self.of(task):
            for part in (split.train, split.test, *split.validation):
                found.update(part.tobytes() + b"/")
        return found.hexdigest()

    def result(self, features: np.ndarray, task: Task) -> Result:
        """The task's heads on features [n, D] of all images, one a split."""
        values, draws, scores = list[tuple[float, ...]](), list[np.ndarray](), list[np.ndarray]()
        for split in self.of(task):
            known, truth, unknown = features[split.train], self.truth[split.train], features[split.test]
            given = (known, truth, unknown, split.validation, self.metric.measure, self.classes, task.dimension)
            scores.append(task.head(*given).scores)
            values.append(self.metric.measure(scores[-1], self.truth[split.test]))
            draws.append(self._draws(split, scores[-1]))
        return Result(np.array(values), np.nanmean(draws, axis=0), scores[0])

    def of(self, task: Task) -> list[Split]:
        """The splits of a task."""
        return self.splits[task.few][: task.splits or None]

    def _draws(self, split: Split, scores: np.ndarray) -> np.ndarray:
        return self.metric.weighted(scores, self.truth[split.test], self.weights[:, split.test])

    def own(self, scores: np.ndarray, about: dict[str, Any], kind: str = OF_IMAGES) -> dict[str, Any]:
        """The row of scores [n, K] of the first split's test side, however they were made."""
        split = self.splits[0][0]
        measured = self.metric.measure(scores, self.truth[split.test])
        return row(self.metric, about, (split.name, len(split.train), len(split.test)), measured) | interval(
            self._draws(split, scores), kind
        )


Keep = Callable[[Path, Callable[[], Result]], Result]  # the file of a result, and how it is made
Done = Callable[[Source, str, Callable[[], np.ndarray], Task, Result], None]


def table(judge: Judge, sources: Iterable[Source], keep: Keep, done: Done) -> Rows:
    """Rows of ACCURACY: each source under each readout in its tasks, then what the pretrained one is above untrained.

    keep: gives a result that was kept, or makes it. done: is told each, and what it is of.
    """
    rows, results = Rows(), dict[tuple, dict[str, list[tuple[dict[str, Any], Result]]]]()
    for source in sources:
        for pooling, tasks in source.tasks.items():
            take = functools.cache(functools.partial(source.features, pooling))
            for task in tasks:
                about = source.about | {"pooling": pooling, "normalisation": task.normalisation}
                about |= {"protocol": task.protocol, "shot": task.shot}
                make = functools.partial(lambda take, task: judge.result(take(), task), take, task)
                named = [pooling, about.get("layer"), judge.digest(task)]
                name = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:24]
                found = keep(source.folder / f"head-{name}.npz", make)
                rows += _of(judge, task, about, found)
                key = (task, pooling, about.get("layer"))
                results.setdefault(key, {}).setdefault(source.kind, []).append((about, found))
                done(source, pooling, take, task, found)
    for (task, *_), kinds in results.items():
        if {PRETRAINED, UNTRAINED} <= set(kinds):
            ((about, own),) = kinds[PRETRAINED]
            rows.append(_gain(judge, task, about, own, [found for _, found in kinds[UNTRAINED]]))
    differences(rows, judge.metric.key)
    return rows


def _of(judge: Judge, task: Task, about: dict[str, Any], found: Result) -> Rows:
    """The row over all splits with its interval, and one a split without, where there are several."""
    splits = judge.of(task)
    sides = [(split.name, len(split.train), len(split.test)) for split in splits]
    whole = (_splits(splits), round(np.mean([s[1] for s in sides])), round(np.mean([s[2] for s in sides])))
    first = row(judge.metric, about, whole, found.values.mean(0)) | interval(found.draws, OF_IMAGES)
    each = [row(judge.metric, about, side, values) for side, values in zip(sides, found.values, strict=True)]
    return [first, *(each if len(each) > 1 else [])]


def row(metric: Metric, about: dict[str, Any], side: tuple[str, int, int], values: Iterable[float]) -> dict[str, Any]:
    """One without an interval; side: the split's name, and its images."""
    measured = dict(zip(metric.columns, (round(float(value), 3) for value in values), strict=True))
    own = dict(zip(("split", "n_train", "n_test"), side, strict=True)) | {"metric": metric.key}
    columns = {name: value for name, value in measured.items() if name in ACCURACY}
    return dict.fromkeys(ACCURACY, "") | about | own | columns | {"value": measured[metric.key]}


def interval(draws: np.ndarray, kind: str) -> dict[str, Any]:
    """Columns of a row: its 95 % interval by these draws, and what it covers."""
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return {"low": round(float(low), 3), "high": round(float(high), 3), "interval_kind": kind}


def _splits(splits: list[Split]) -> str:
    return splits[0].name if len(splits) == 1 else f"{len(splits)} splits"


def _gain(judge: Judge, task: Task, about: dict[str, Any], own: Result, others: list[Result]) -> dict[str, Any]:
    """What the encoder is above the mean of the untrained ones, of which as many are drawn as there are."""
    random, count = np.random.default_rng(1), len(others)
    untrained = np.stack([each.draws for each in others])  # [draws of weights, draws of images]
    picked = random.integers(0, count, (untrained.shape[1], count))
    differences = own.draws - untrained[picked.T, np.arange(untrained.shape[1])].mean(0)
    value = own.values[:, 0].mean() - np.mean([each.values[:, 0].mean() for each in others])
    row = _of(judge, task, about, own)[0]
    row |= {"metric": judge.metric.key + GAIN, "top1": "", "top5": "", "value": round(float(value), 3)}
    return row | interval(differences, OF_BOTH)


def differences(rows: Rows, key: str) -> None:
    """Fill difference_to_untrained: the row's value less the mean of the untrained ones' on the same split, in points.

    Of features without readouts, such as histograms, it is to the same readout as nothing else: it stays empty.
    """
    same = ("split", "protocol", "layer", "pooling", "normalisation", "shot")
    values: dict[tuple, list[float]] = {}
    for row in rows:
        if row["objective"] == UNTRAINED:
            values.setdefault(tuple(row[name] for name in same), []).append(row["value"])
    for row in rows:
        beside = values.get(tuple(row[name] for name in same))
        if beside and row["metric"].startswith(key):
            gain = row["value"] if row["metric"].endswith(GAIN) else row["value"] - float(np.mean(beside))
            row["difference_to_untrained"] = round(gain, 3)
