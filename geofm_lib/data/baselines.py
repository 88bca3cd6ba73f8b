"""The baseline that learned features have to beat: colour and gradient histograms with ridge regression.

Nothing is learned but the last linear map, which needs seconds. A pretrained encoder that scores below it has learned
nothing of use about these images. It is no straw man: 65 % on UC Merced at a 50/50 split.
"""

import numpy as np

from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import colours, eight_bits, resize

SIZE = 96  # pixels a side at which the histograms are taken
SINGLE, JOINT = 16, 8  # bins: 3 x 16 of each channel, 8 x 8 x 8 of all three together
CELLS, DIRECTIONS = 4, 8  # 4 x 4 cells of gradient directions, weighted by their strength
RIDGE = (1.0, 10.0, 100.0, 1000.0)  # strengths tried on the training side


def colour_histogram(image_HWC: np.ndarray) -> np.ndarray:
    """Shares of pixels by colour, float32 [16 C + 512]: each band in 16 bins, and red, green and blue in 8 x 8 x 8."""
    channels = image_HWC.shape[2]
    single = image_HWC // (256 // SINGLE) + np.arange(channels, dtype=np.int64) * SINGLE
    joint = (image_HWC[..., colours(channels)] // (256 // JOINT)).astype(np.int64) @ [JOINT**2, JOINT, 1]
    counts = [np.bincount(single.ravel(), minlength=channels * SINGLE), np.bincount(joint.ravel(), minlength=JOINT**3)]
    return np.concatenate(counts).astype(np.float32) / joint.size


def gradient_histogram(image_HWC: np.ndarray) -> np.ndarray:
    """Directions of the brightness gradient in 4 x 4 cells, float32 [256] (after Dalal and Triggs 2005).

    Twice: summed strength per pixel, which tells smooth from busy ground, and the same divided by its length. The
    second is blind to contrast.
    """
    grey = image_HWC.astype(np.float32).mean(axis=2) / 255
    down, right = np.gradient(grey)
    strength, angle = np.hypot(down, right), np.mod(np.arctan2(down, right), np.pi)
    size = len(grey)
    cell = np.arange(size) * CELLS // size
    direction = np.minimum((angle / np.pi * DIRECTIONS).astype(int), DIRECTIONS - 1)
    index = (cell[:, None] * CELLS + cell) * DIRECTIONS + direction
    counts = np.bincount(index.ravel(), weights=strength.ravel(), minlength=CELLS**2 * DIRECTIONS)
    both = [counts / (size / CELLS) ** 2, counts / (np.linalg.norm(counts) + 1e-3)]
    return np.concatenate(both).astype(np.float32)


def features(images: Shards) -> np.ndarray:
    """Histograms of every image, float32 [len(images), 816 for three bands, 16 more for each more].

    As square roots, so that no large count drowns the rest. Sixteen bits become eight by the set's mean and std.
    """
    rows = []
    for i in range(len(images)):
        image = resize(images.decode(i), SIZE, SIZE)
        pixels = eight_bits(image[None], images.mean, images.std)[0].permute(1, 2, 0).numpy()
        rows.append(np.concatenate([colour_histogram(pixels), gradient_histogram(pixels)]))
    return np.sqrt(np.stack(rows))


def ridge(train: np.ndarray, labels: np.ndarray, test: np.ndarray, strength: float | None = None) -> np.ndarray:
    """Class scores of `test`, float64 [len(test), classes]: ridge regression on one-hot labels of `train`.

    labels: int64 [len(train)], or [len(train), classes] with 1 for each class that an image has. Features are
    standardised by the training side. Without a `strength`, the best of RIDGE on the training side is taken, by the
    closed form of leaving one out.
    """
    mean, spread = train.mean(0), train.std(0) + 1e-6
    x, z = ((part - mean) / spread for part in (train.astype(np.float64), test.astype(np.float64)))
    target = labels.astype(np.float64) if labels.ndim == 2 else np.eye(labels.max() + 1)[labels]
    centre = target.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    rotated, product = x @ vectors, vectors.T @ (x.T @ (target - centre))

    def left_out(s: float) -> float:
        """How good the fit without an image is for it: the share of right classes, of several the error's negative."""
        leverage = (rotated**2 / (values + s)).sum(1, keepdims=True) + 1 / len(x)
        fitted = rotated @ (product / (values + s)[:, None]) + centre
        without = (fitted - leverage * target) / (1 - leverage)
        right = -np.square(without - target) if labels.ndim == 2 else without.argmax(1) == labels
        return float(right.mean())

    strength = strength or max(RIDGE, key=left_out)
    return z @ (vectors @ (product / (values + strength)[:, None])) + centre
