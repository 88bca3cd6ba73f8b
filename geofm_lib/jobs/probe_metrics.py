"""How good scores are: top-1 and top-5 where an image has one class, mean average precision where it has several.

Average precision is scikit-learn's; its mean is over classes (macro). A class without a test image has none and is
left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from geofm_lib.data.shards import Shards

BINOMIAL = "95 %, binomial, over test images (the method draws nothing from a seed)"
BOOTSTRAP = "95 %, bootstrap, over test images (the method draws nothing from a seed)"
DRAWS = 100  # of the bootstrap


class Metric(NamedTuple):
    """key: begins its numbers in the summary (catalog/metrics). columns: of probe.csv.

    measure: (scores [N, K], truth) -> percent, one for each column. weighted: (scores, truth, weights [B, N]) -> the
    first of them [B], as if image n were there weights[b, n] times. spread: as measure -> half the 95 % interval over
    test images of the first. interval: what kind that is. truth: labels int64 [N], or targets [N, K].
    """

    key: str
    columns: tuple[str, ...]
    measure: Callable[[np.ndarray, np.ndarray], tuple[float, ...]]
    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    draws: int
    spread: Callable[[np.ndarray, np.ndarray], float]
    interval: str


def top(scores_NK: np.ndarray, labels_N: np.ndarray) -> tuple[float, float]:
    """(top-1, top-5) in percent; with fewer than five classes top-5 is 100. Of equal scores the first class counts."""
    best = np.argsort(-scores_NK, axis=1, kind="stable")[:, :5] == labels_N[:, None]
    return 100 * float(best[:, 0].mean()), 100 * float(best.any(1).mean())


def mean_average_precision(scores_NK: np.ndarray, targets_NK: np.ndarray) -> tuple[float]:
    """In percent, over the classes that some image has."""
    from sklearn.metrics import average_precision_score  # a second and 140 MiB, which few ranks need

    there = targets_NK.any(0)
    return (100 * float(average_precision_score(targets_NK[:, there], scores_NK[:, there], average="macro")),)


def top_weighted(scores_NK: np.ndarray, labels_N: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """Top-1 in percent [B], as if each image were there so many times."""
    right = (scores_NK.argmax(1) == labels_N).astype(np.float32)
    return 100 * (weights_BN @ right) / weights_BN.sum(1)


def precision_weighted(scores_NK: np.ndarray, targets_NK: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """The same of mean average precision, over the classes that some image has; of equal scores the first counts."""
    found = []
    for k in np.flatnonzero(targets_NK.any(0)):
        order = np.argsort(-scores_NK[:, k], kind="stable")
        weights, right = weights_BN[:, order], weights_BN[:, order] * targets_NK[order, k]
        precision = right.cumsum(1) / np.maximum(weights.cumsum(1), 1e-9)
        found.append((right * precision).sum(1) / np.where(right.any(1), right.sum(1), np.nan))
    return 100 * np.nanmean(found, axis=0)


def binomial(scores_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Half the 95 % binomial interval of top-1, in percent."""
    share = top(scores_NK, labels_N)[0] / 100
    return 196 * float(np.sqrt(share * (1 - share) / len(labels_N)))


def bootstrap(scores_NK: np.ndarray, targets_NK: np.ndarray) -> float:
    """Half the 95 % interval of mean average precision, in percent: 1.96 standard deviations over drawn test sides."""
    random = np.random.default_rng(0)
    draws = (random.integers(0, len(targets_NK), len(targets_NK)) for _ in range(DRAWS))
    return 1.96 * float(np.std([mean_average_precision(scores_NK[i], targets_NK[i])[0] for i in draws if len(i)]))


TOP = Metric("top1", ("top1", "top5"), top, top_weighted, 2000, binomial, BINOMIAL)
PRECISION = Metric("map", ("map",), mean_average_precision, precision_weighted, 1000, bootstrap, BOOTSTRAP)


def of(images: Shards) -> Metric:
    """The one that fits a data set."""
    return PRECISION if images.several else TOP


def truth(images: Shards, places: np.ndarray | slice = slice(None)) -> np.ndarray:
    """What scores are held against: targets float32 [N, K] where images have several labels, else labels int64 [N]."""
    return images.targets_of(places) if images.several else images.labels[places]


def guessing(train: Shards, test: Shards) -> dict[str, float]:
    """chance: the metric of scores that say nothing. guess_loss: the loss of a head that knows only the counts."""
    if not train.several:
        return {"chance": 100 / len(train.classes), "guess_loss": float(np.log(len(train.classes)))}
    tested, share = test.targets.mean(0), train.targets.mean(0).clip(1e-7, 1 - 1e-7)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    return {"chance": 100 * float(tested[tested > 0].mean()), "guess_loss": float(entropy)}
