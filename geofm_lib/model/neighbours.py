"""Nearest neighbours whose number and scaling are chosen on a validation part of the train side."""

import itertools

import numpy as np
import torch

from geofm_lib.model.logistic import Measure, Scores
from geofm_lib.model.probe_heads import SCALINGS, knn_scores

NUMBERS = (5, 1, 10, 20)  # k; where there is nothing to choose by, the first
TEMPERATURE = 0.07


def scores(
    train: np.ndarray,
    truth: np.ndarray,
    test: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    measure: Measure,
    classes: int,
    dimension: int = 0,
) -> Scores:
    """As `logistic.scores`: the share [n, K] of votes. `dimension` is not used."""
    fit, asked = validation
    known, labels, unknown = torch.from_numpy(train), torch.from_numpy(truth), torch.from_numpy(test)

    def right(how: tuple[str, int]) -> float:
        votes = knn_scores(known[fit], labels[fit], known[asked], classes, how[1], TEMPERATURE, scaling=how[0])
        return measure(votes.numpy(), truth[asked])[0]

    ways = list(itertools.product(SCALINGS, NUMBERS))
    scaling, k = max(ways, key=right) if len(asked) else ways[0]
    votes = knn_scores(known, labels, unknown, classes, k, TEMPERATURE, scaling=scaling)
    return Scores(votes.numpy(), f"k={k}, {scaling}", bool(len(asked)))
