"""Two views of an image for a contrastive objective: whose second view it is, and the colours of both.

Everything random is a function of (seed, epoch, image), as everywhere. Crops and flips are the loader's, masks
`transforms.mask_noise`'s.

Shapes: B images, so 2 B views (the first ones, then the second ones), C bands.
"""

from collections.abc import Sequence

import numpy as np
import torch

from geofm_lib.data import sampler

FIRST, SECOND = "", "second_"  # before the purpose of a random number: for which view it is drawn


class Partners:
    """Of which image the second view is: another date of the same place where there is one, else the image itself.

    pairs: int64 [P, 2] of indices; `images` of them in all. place: int64 [images], the same for all dates of a place.
    """

    def __init__(self, pairs: np.ndarray, images: int, seed: int) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        both = np.concatenate([pairs, pairs[:, ::-1]]).reshape(-1, 2)
        both = np.unique(both, axis=0)
        self.seed, self._others = seed, np.ascontiguousarray(both[:, 1])
        self._first = np.searchsorted(both[:, 0], np.arange(images + 1))
        ones = np.ones(len(both), np.int8)
        self.place = connected_components(coo_array((ones, (both[:, 0], both[:, 1])), shape=(images, images)))[1]
        self.place = self.place.astype(np.int64)

    def __call__(self, epoch: int, image: int) -> int:
        others = self._others[self._first[image] : self._first[image + 1]]
        if len(others) < 2:
            return int(others[0]) if len(others) else image
        return int(others[sampler.generator(self.seed, epoch, image, "partner").integers(len(others))])

    @property
    def paired(self) -> int:
        """Images that have a partner."""
        return int((np.diff(self._first) > 0).sum())


def itself(epoch: int, image: int) -> int:
    """The partner of an image whose second view is of itself."""
    return image


def recolour(
    views: torch.Tensor,
    seed: int,
    epoch: int,
    indices: Sequence[int],
    strength: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """Normalised views [2 B, C, H, W] with other brightness, contrast, saturation and balance of bands.

    torchvision's ColorJitter for any number of bands. Contrast is around each band's mean in the image, saturation
    around the mean of the bands, and in place of the hue each band has a gain of its own, half as strong. Brightness
    and gains are of the stored values, whose zero lies at -mean / std. Every factor is 1 plus or minus up to
    `strength`.
    """
    if not strength:
        return views
    bands, device = views.shape[1], views.device
    uses = [(int(i), f"{view}colour") for view in (FIRST, SECOND) for i in indices]
    drawn = np.stack([sampler.generator(seed, epoch, i, use).uniform(-1, 1, 3 + bands) for i, use in uses])
    factors = torch.from_numpy(1 + strength * drawn).float().to(device)[:, :, None, None]
    bright, contrast, saturation = (factors[:, k : k + 1] for k in range(3))
    gain = bright * (1 + factors[:, 3:]) / 2
    zero = torch.tensor(mean, device=device) / torch.tensor(std, device=device)
    own = views.mean((2, 3), keepdim=True)
    found = own + contrast * (views - own)
    grey = found.mean(1, keepdim=True)
    found = grey + saturation * (found - grey)
    return found * gain + (gain - 1) * zero[:, None, None]
