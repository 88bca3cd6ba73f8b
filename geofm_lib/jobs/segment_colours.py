"""A control of the task `segment`: each pixel's class by its own colour alone, learnt on the train side.

scikit-learn's gradient boosting on pixels drawn from the masks' own size. Colours are told to 5 bits a band, so that
every colour of the test side is asked about once.
"""

from collections.abc import Callable

import numpy as np
import torch

from geofm_lib.data.masks import NONE
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import eight_bits

PIXELS, ROUNDS, BITS = 20_000, 50, 5
Truth = Callable[[Shards, int], torch.Tensor]  # of an image of a side: classes [H, W]


def confusions(train: Shards, test: Shards, truth_of: Truth, classes: int) -> np.ndarray:
    """int64 [n, K, K], of each test image."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    random, each = np.random.default_rng(0), max(1, PIXELS // len(train))
    colours, labels = [], []
    for i in range(len(train)):
        own, truth = _colours(train, train, i), truth_of(train, i).numpy().ravel()
        picked = random.permutation(np.flatnonzero(truth != NONE))[:each]
        colours.append(own[picked])
        labels.append(truth[picked])
    known = np.concatenate(labels)
    found = np.zeros((len(test), classes, classes), np.int64)
    model = None
    if len(np.unique(known)) > 1:
        model = HistGradientBoostingClassifier(max_iter=ROUNDS, early_stopping=False, random_state=0)
        model.fit(np.concatenate(colours), known)
    for i in range(len(test)):
        truth = truth_of(test, i).numpy().ravel()
        counted = truth != NONE
        if not counted.any():
            continue
        unique, place = np.unique(_colours(train, test, i)[counted], axis=0, return_inverse=True)
        said = model.predict(unique) if model else np.full(len(unique), known[0])
        np.add.at(found[i], (truth[counted], said[place.ravel()]), 1)
    return found


def _colours(train: Shards, side: Shards, i: int) -> np.ndarray:
    """[H W, C], each band in 5 bits."""
    shown = eight_bits(side.decode(i)[None], train.mean, train.std)[0]
    return (shown.flatten(1).T >> (8 - BITS)).numpy()
