"""Rows and differences of 08: means over seeds, with intervals over test images and, from three on, over seeds.

For a difference the same test images are drawn for both, and each side has its own seeds. Drawing two or three seeds
with replacement would give too short an interval, so their spread comes in by Student's t.
"""

from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib.catalog import transfer
from geofm_lib.catalog.readouts import GAIN, UNTRAINED
from geofm_lib.jobs import probe_judge, probe_splits
from geofm_lib.jobs.probe_judge import OF_IMAGES, Rows
from geofm_lib.jobs.probe_metrics import Metric

PAIRED = "95 %, paired bootstrap over test images"
OVER_SEEDS, OF_TWO = ", Student's t over training seeds", ", of the mean of two seeds"
LEAST_SEEDS = 3  # fewer say too little of their spread
WITHIN = ", within the places of this test side"
LEAST_GROUPS = 10  # with fewer places or sets on the test side an interval over them says nothing: images are drawn


class Judge:
    """What one test side says of evidence; holds which images are drawn for intervals, the same for everybody."""

    def __init__(self, folder: str, train: list[str], test: list[str], metric: Metric, truth: np.ndarray) -> None:
        images, _ = probe_splits.read(Path(folder), [*train, *test], len(train))
        (self.split,) = probe_splits.splits(images, 1, False)
        self.metric, self.truth, self.sizes = metric, truth, (len(train), len(test))
        group = images.group[self.split.test]
        few = len(np.unique(group)) < min(LEAST_GROUPS, len(test))
        self.within = WITHIN if few else ""
        group = np.arange(len(test)) if few else group
        self.weights = probe_judge.drawn(group, np.arange(len(test)), metric.draws)

    def measure(self, evidence: np.ndarray) -> tuple[float, ...]:
        """Percent, one for each column of the metric."""
        return self.metric.measure(evidence, self.truth)

    def draws(self, each: list[np.ndarray], seed: int) -> np.ndarray:
        """[draws]: means over seeds of the metric over drawn images, and what other seeds would change, by `seed`."""
        values = np.mean([self.metric.weighted(evidence, self.truth, self.weights) for evidence in each], axis=0)
        count = len(each)
        if count < LEAST_SEEDS:
            return values
        spread = float(np.std([self.measure(evidence)[0] for evidence in each], ddof=1)) / count**0.5
        drawn = values + spread * np.random.default_rng(seed).standard_t(count - 1, len(values))
        return drawn.clip(0, 100)  # a share of images or pixels, whatever the spread of three seeds

    def kind(self, words: str, seeds: int) -> str:
        """What an interval covers that is over so many seeds. words: of one seed."""
        more = OVER_SEEDS if seeds >= LEAST_SEEDS else OF_TWO if seeds == 2 else ""
        return words + more + self.within


class Told:
    """Evidence by name, a list of seeds each, and columns of their rows; what they come to."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.evidence: dict[str, list[np.ndarray]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.drawn: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}

    def add(self, name: str, about: dict[str, Any], evidence: list[np.ndarray]) -> None:
        """Take in an arm or a control."""
        self.evidence[name], self.about[name] = evidence, about
        self.values[name] = np.array([self.judge.measure(each) for each in evidence])
        self.drawn[name] = self.judge.draws(evidence, 2 + len(self.drawn))

    def rows(self, seed: int) -> Rows:
        """Of accuracy.csv: of each name the mean with its interval, each seed without, then what pretraining adds."""
        found, means, sizes = Rows(), dict[str, dict[str, Any]](), (self.judge.split.name, *self.judge.sizes)
        for name, values in self.values.items():
            count = len(values)
            about = self.about[name] | {"probe_seed": f"{seed}-{seed + count - 1}" if count > 1 else seed}
            kind = self.judge.kind(OF_IMAGES, count)
            means[name] = probe_judge.row(self.judge.metric, about, sizes, values.mean(0))
            found.append(means[name] | probe_judge.interval(self.drawn[name], kind))
            for k, each in enumerate(values if count > 1 else ()):
                found.append(probe_judge.row(self.judge.metric, about | {"probe_seed": seed + k}, sizes, each))
        for name, other in transfer.WITHOUT.items():
            if {name, other} <= means.keys():
                told = self.difference(name, other)
                changed = {"metric": self.judge.metric.key + GAIN, "top1": "", "top5": ""}
                found.append(means[name] | changed | {n: told[n] for n in ("value", "low", "high", "interval_kind")})
        probe_judge.differences(found, self.judge.metric.key)
        return found

    def difference(self, name: str, other: str) -> dict[str, Any]:
        """By how much the first is above the second, in points, with its interval."""
        value = float(self.values[name][:, 0].mean() - self.values[other][:, 0].mean())
        kind = self.judge.kind(PAIRED, len(self.values[name]))
        row = {"first": name, "second": other, "value": round(value, 3)}
        return row | probe_judge.interval(self.drawn[name] - self.drawn[other], kind)

    def differences(self) -> Rows:
        """A row for each pair of `catalog.transfer` that is there."""
        return [self.difference(*pair) for pair in transfer.PAIRS if set(pair) <= self.values.keys()]


def clear(row: dict[str, Any]) -> bool:
    """Does the interval of a difference leave out 0?"""
    return bool(row["low"] > 0 or row["high"] < 0)


def answer(differences: Rows, told: Told, words: str) -> str:
    """The run in a sentence: what pretraining adds to the fine-tuned network, and what fine-tuning adds.

    A network from scratch that has not learnt is no measure of the others and is left out. words: of the metric.
    """
    if transfer.unlearnt({name: float(each[:, 0].mean()) for name, each in told.values.items()}):
        differences = [row for row in differences if transfer.SCRATCH not in (row["first"], row["second"])]
    if not differences:
        name, values = next(iter(told.values.items()))
        return f"{transfer.words(name).capitalize()}: {values[:, 0].mean():.1f} % {words}"
    groups: dict[str, list[str]] = {}
    for row in differences:
        beside, low, high = float(told.values[row["second"]][:, 0].mean()), row["low"], row["high"]
        other, value = transfer.words(row["second"]), row["value"]
        if clear(row):
            ends = sorted((abs(low), abs(high)))
            side = "above" if value > 0 else "below"
            said = f"{abs(value):.1f} points ({ends[0]:.1f} to {ends[1]:.1f}) {side} {other} ({beside:.1f} %)"
        else:
            said = f"no clear difference to {other} ({beside:.1f} %; {value:+.1f} points, {low:+.1f} to {high:+.1f})"
        groups.setdefault(row["first"], []).append(said)
    means = {name: float(told.values[name][:, 0].mean()) for name in groups}
    heads = {name: f"{transfer.words(name)} reaches {mean:.1f} % {words}" for name, mean in means.items()}
    sentences = [f"{heads[name]}: {'; '.join(each)}" for name, each in groups.items()]
    return ". ".join(each[0].upper() + each[1:] for each in sentences)


def columns(about: dict[str, Any], pretrained: bool) -> dict[str, Any]:
    """Columns of a row on an arm, whose encoder is pretrained or not."""
    return about if pretrained else about | {"objective": UNTRAINED, "pretraining_run": ""}
