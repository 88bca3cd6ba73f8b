"""The `dates` protocol: is a place found on its other date, among all places of the test side? No label is needed.

Features are standardised by the train side and compared by cosine; nothing is trained. Intervals are over groups of
pairs, such as cells: what lies together is drawn together.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.catalog import metrics
from geofm_lib.catalog.readouts import ACCURACY, DATES, GAIN, PRETRAINED, SCALED, UNTRAINED
from geofm_lib.data.sources import pairs, prepared
from geofm_lib.jobs import probe_fast, probe_sources
from geofm_lib.jobs.probe_paper import KEEPS
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.model import retrieval, vit
from geofm_lib.model.interop import folders

KS = {"recall1": 1, "recall10": 10}
DRAWS = 1000
OVER = "95 %, bootstrap over groups of test pairs"
OVER_BOTH = "95 %, paired bootstrap over groups of test pairs and untrained draws"
ROWS = "accuracy.csv"


class Judge:
    """Which places are asked for, and which groups of them are drawn for intervals, the same for everybody."""

    def __init__(self, folder: Path, train: int, test: int) -> None:
        self.train, (self.pairs, groups) = train, pairs.grouped(folder, "test")
        number = np.unique(groups, return_inverse=True)[1]
        of = np.full(test, -1)
        of[self.pairs] = number[:, None]
        self.group, self.groups = of, int(number.max()) + 1
        share = np.full(self.groups, 1 / self.groups)
        self.weights = np.random.default_rng(0).multinomial(self.groups, share, size=DRAWS).astype(np.float64)

    def result(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(recalls [metrics], the same of each draw [draws, metrics]), percent. features: [train + test, D]."""
        known = features[: self.train].astype(np.float64)
        spread = known.std(0)
        scaled = (features[self.train :] - known.mean(0)) / np.where(spread > 0, spread, 1)
        image, rank = retrieval.ranks(scaled, self.pairs)
        hits = np.stack([rank < k for k in KS.values()], 1).astype(np.float64)
        group = self.group[image]
        summed = np.stack([np.bincount(group, each, self.groups) for each in hits.T], 1)
        counts = np.bincount(group, minlength=self.groups)
        return 100 * hits.mean(0), 100 * (self.weights @ summed) / (self.weights @ counts)[:, None]


def run(given: Given, encoders: dict[str, vit.Encoder], config: folders.Config) -> dict[str, Any]:
    """Encode on all ranks, write accuracy.csv; the numbers of the summary, {} on other ranks than 0."""
    settings = given.settings.model_copy(update={"details": False})  # which are of labels
    encoded = probe_fast.encoded(given._replace(settings=settings), encoders, config)
    readouts = settings.readouts.split(",")
    tasks = sum(len(source.tasks) for each in encoded for source in each.sources(readouts))
    steps = tasks + 2 * settings.compare_histograms + sum(each.steps for each in encoded)
    given.progress.begin(steps, sum(each.kept for each in encoded))
    for each in encoded:
        if not each.encode():
            raise Stopped(KEEPS)
    return _measured(given, encoded, readouts) if given.context.is_main else {}


def _measured(given: Given, encoded: list[probe_sources.Encoded], readouts: list[str]) -> dict[str, Any]:
    """Rank everything that is encoded, and what nobody trained."""
    settings, rows = given.settings, list[dict[str, Any]]()
    judge = Judge(Path(settings.data), len(given.train), len(given.test))
    common: dict[str, Any] = dict.fromkeys(ACCURACY, "") | {
        "dataset": prepared.name(settings.data),
        "task": "cross-date retrieval",
    }
    common |= {"protocol": DATES, "normalisation": SCALED, "split": "own", "source": "own"}
    common |= {"n_train": len(given.train), "n_test": len(np.unique(judge.pairs))}
    found: dict[str, dict[str, list[tuple[dict[str, Any], np.ndarray, np.ndarray]]]] = {}
    by_hand = probe_sources.handmade(given) if settings.compare_histograms else ()
    for source in itertools.chain(*(each.sources(readouts) for each in encoded), by_hand):
        for pooling in source.tasks:
            about = common | source.about | {"pooling": pooling}
            result = judge.result(source.features(pooling))
            found.setdefault(pooling, {}).setdefault(source.kind, []).append((about, *result))
            given.progress.advance(phase="places")
    for kinds in found.values():
        untrained = kinds.get(UNTRAINED, [])
        for about, values, draws in itertools.chain.from_iterable(kinds.values()):
            rows += [_row(about, name, values[k], draws[:, k], OVER) for k, name in enumerate(KS)]
        for about, values, draws in kinds.get(PRETRAINED, []) if untrained else ():
            beside, chance = np.mean([each[1] for each in untrained], 0), np.random.default_rng(1)
            picked = chance.integers(0, len(untrained), (DRAWS, len(untrained)))
            others = np.stack([each[2] for each in untrained])[picked.T, np.arange(DRAWS)].mean(0)
            for k, name in enumerate(KS):
                rows.append(_row(about, name + GAIN, values[k] - beside[k], (draws - others)[:, k], OVER_BOTH))
                rows[-1]["difference_to_untrained"] = rows[-1]["value"]
    files.write_csv(given.run.path / ROWS, ACCURACY, rows)
    return _told(rows, judge)


def _row(about: dict[str, Any], metric: str, value: float, draws: np.ndarray, kind: str) -> dict[str, Any]:
    low, high = np.percentile(draws, (2.5, 97.5))
    ends = {"value": value, "low": low, "high": high}
    return about | {"metric": metric, "interval_kind": kind} | {name: round(float(v), 3) for name, v in ends.items()}


def _told(rows: list[dict[str, Any]], judge: Judge) -> dict[str, Any]:
    """The summary, under the first readout: recalls, what pretraining adds, controls, and the answer in words."""
    first, places = rows[0]["pooling"], len(np.unique(judge.pairs[:, 1]))
    found: dict[str, Any] = {"metric": "recall1", "test_pairs": len(judge.pairs), "places": places, "readout": first}
    found |= {"groups": judge.groups, "chance": 100 / places, "fast_intervals": OVER}
    own = [row for row in rows if row["pooling"] == first]
    head = own[0]
    found |= {f"fast_{name}": head[name] for name in ("value", "low", "high")}
    found |= {"fast_recall10": next(row["value"] for row in own if row["metric"] == "recall10")}
    told = [f"{head['value']:.1f} % {metrics.WORDS['recall1']} ({head['low']:.1f} to {head['high']:.1f})"]
    told += [f"{found['fast_recall10']:.1f} % at 10"]
    if gain := next((row for row in rows if row["metric"] == "recall1" + GAIN), None):
        found |= {"gain": gain["value"], "gain_low": gain["low"], "gain_high": gain["high"]}
        found |= {"gain_interval": gain["interval_kind"]}
        told += [f"untrained {head['value'] - gain['value']:.1f} %"]
    for row in rows:
        if row["objective"] == "none" and row["metric"] == "recall1":
            told.append(f"{row['model']} {row['value']:.1f} %")
            found[f"fast_{row['model'].replace(' ', '_')}"] = row["value"]
    what = "untrained features find" if head["objective"] == UNTRAINED else "features find"
    answer = (
        f"Frozen {what} a place on its other date among {places:,} places ({judge.groups} groups): {'; '.join(told)}"
    )
    return found | {"answer": f"{answer} (chance {found['chance']:.2g} %, 95 % over groups)"}
