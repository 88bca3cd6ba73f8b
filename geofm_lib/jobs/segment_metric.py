"""Mean intersection over union from confusions of single images: of the test side, of drawn ones, and by class.

Shapes: N images, K classes; a confusion [K, K] counts pixels by their class (rows) and by what is said (columns).
"""

import numpy as np
import torch

from geofm_lib.data.masks import NONE
from geofm_lib.jobs.probe_metrics import Metric

DRAWS = 1000


def confusion(said_HW: torch.Tensor, truth_HW: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 [K, K]; pixels whose class is NONE are left out."""
    counted = truth_HW != NONE
    pairs = truth_HW[counted] * classes + said_HW[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def ious(whole: np.ndarray) -> np.ndarray:
    """Of each class, [..., K] from sums of confusions [..., K, K]; NaN of one that is neither there nor said."""
    right = np.diagonal(whole, axis1=-2, axis2=-1).astype(float)
    either = whole.sum(-1) + whole.sum(-2) - right
    return np.divide(right, either, out=np.full(either.shape, np.nan), where=either > 0)


def measure(confusions_NKK: np.ndarray, _: np.ndarray) -> tuple[float, float]:
    """(mIoU, share of right pixels), percent: of all pixels together, not a mean over images."""
    whole = confusions_NKK.sum(0)
    return 100 * float(np.nanmean(ious(whole))), 100 * float(np.trace(whole) / max(whole.sum(), 1))


def weighted(confusions_NKK: np.ndarray, _: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """mIoU in percent [B], as if each image were there so many times."""
    count, classes = confusions_NKK.shape[:2]
    sums = weights_BN.astype(float) @ confusions_NKK.reshape(count, -1)
    return 100 * np.nanmean(ious(sums.reshape(-1, classes, classes)), axis=1)


METRIC = Metric("miou", ("miou", "pixel_accuracy"), measure, weighted, DRAWS, lambda *_: float("nan"), "")
