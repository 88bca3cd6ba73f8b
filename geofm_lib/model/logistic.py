"""The `fast` head: scikit-learn's logistic regression on standardised features, its strength chosen by validation.

Shapes: N images, D features, K classes. Truth is int64 [N], or float32 [N, K] where images have several labels: then
each class is a yes or no of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # C: the less of it, the stronger is L2
UNCHOSEN = 0.1  # where there is nothing to choose by
WORSE = 3  # strengths in a row that are no better end the search
STEPS = 1000  # of L-BFGS, at most
ROUGHLY, WELL = 3e-3, 1e-4  # gradients at which L-BFGS ends: while strengths are compared, and of the head itself
CONSTANT = 1e-6  # of its mean: a feature that varies less is told apart by rounding alone
Measure = Callable[[np.ndarray, np.ndarray], tuple[float, ...]]  # (scores [N, K], truth) -> percent first


class Scores(NamedTuple):
    """scores: float32 [n, K], -inf of a class that was not in training.

    setting: what was chosen on the validation part. chosen: was it, or was there nothing to choose by?
    """

    scores: np.ndarray
    setting: float | str
    chosen: bool


def standardise(train: np.ndarray, *others: np.ndarray, dimension: int = 0) -> list[np.ndarray]:
    """Features in units of the train side's spread about its mean, float32; cut to `dimension` by its PCA (0: not).

    Features that are constant there are left out.
    """
    mean, spread = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    varied = spread > CONSTANT * np.abs(mean)
    found = [((part[:, varied] - mean[varied]) / spread[varied]).astype(np.float32) for part in (train, *others)]
    if not dimension or dimension >= min(found[0].shape):
        return found
    from sklearn.decomposition import PCA

    cut = PCA(dimension, svd_solver="covariance_eigh" if found[0].shape[1] < len(train) else "full").fit(found[0])
    return [cut.transform(part) for part in found]


def scores(
    train: np.ndarray,
    truth: np.ndarray,
    test: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    measure: Measure,
    classes: int,
    dimension: int = 0,
) -> Scores:
    """Scores of `test` by a head on all of `train`, with the strength that is best on a validation part of `train`.

    validation: positions in `train` of what is fitted and of what is then asked; the test side decides nothing.
    ValueError, one sentence, where all of `train` are of one class.
    """
    fit, asked = validation
    strength = _choose(train, truth, fit, asked, measure, classes, dimension) if len(asked) else None
    known, tested = standardise(train, test, dimension=dimension)
    head = _Head(classes, WELL).fit(known, truth, strength or UNCHOSEN)
    return Scores(head.scores(tested), strength or UNCHOSEN, strength is not None)


def _choose(
    train: np.ndarray,
    truth: np.ndarray,
    fit: np.ndarray,
    asked: np.ndarray,
    measure: Measure,
    classes: int,
    dimension: int,
) -> float:
    """From the strongest on, each starting from the last one's weights; of equally good ones the stronger is taken."""
    known, unknown = standardise(train[fit], train[asked], dimension=dimension)
    head, best, worse = _Head(classes, ROUGHLY), (-1.0, UNCHOSEN), 0
    for strength in STRENGTHS:
        found = measure(head.fit(known, truth[fit], strength).scores(unknown), truth[asked])[0]
        best, worse = ((found, strength), 0) if found > best[0] else (best, worse + 1)
        if worse == WORSE:
            break
    return best[1]


class _Head:
    """One that is fitted at several strengths, beginning with the last one's weights."""

    def __init__(self, classes: int, tolerance: float) -> None:
        from sklearn.linear_model import LogisticRegression  # half a second that few ranks need

        self.classes = classes
        self.make = lambda: LogisticRegression(max_iter=STEPS, tol=tolerance, warm_start=True)
        self.parts: dict[int, LogisticRegression] = {}  # class -> its own, or one for all

    def fit(self, features: np.ndarray, truth: np.ndarray, strength: float) -> "_Head":
        """Fit all of it; returns itself."""
        self.several = truth.ndim == 2
        if not self.several and (truth == truth[0]).all():
            raise ValueError(
                "All images of a train side are of one class, which tells none apart; prepare the set with another "
                "split or a larger train_ratio."
            )
        for k in range(self.classes if self.several else 1):
            own = truth[:, k] if self.several else truth
            if own.min() != own.max():
                self.parts.setdefault(k, self.make()).set_params(C=strength).fit(features, own)
        return self

    def scores(self, features: np.ndarray) -> np.ndarray:
        """[N, K]; of several labels 0 for a class that all or none of the training images have."""
        found = np.full((len(features), self.classes), 0 if self.several else -np.inf, np.float32)
        for k, part in self.parts.items():
            values = part.decision_function(features)
            if self.several:
                found[:, k] = values
            else:
                found[:, part.classes_] = values if values.ndim == 2 else np.stack([-values, values], 1)
        return found
