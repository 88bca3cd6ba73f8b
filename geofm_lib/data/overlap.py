"""Which images of one collection are in another too, by their fingerprints: the pixels' digest and the look.

So a test image that a pretraining has seen is found without opening an image.
"""

from array import array
from pathlib import Path

import numpy as np

from geofm_lib.data import duplicates
from geofm_lib.data.sample import Sample, from_row
from geofm_lib.data.sources import rows

Found = dict[str, np.ndarray]  # "exact": the same pixels; "near": nearly the same look; bool [n] each, never both


class Fingerprints:
    """Those of images that are taken in one after the other."""

    def __init__(self) -> None:
        self._digests, self._looks, self._turned, self._contrasts = array("Q"), array("Q"), array("Q"), array("f")

    def add(self, sample: Sample) -> None:
        """Take in a good image."""
        self._digests.append(int(sample.digest, 16))
        self._looks.append(int(sample.look or "0", 16))
        self._turned.append(int(sample.turned or "0", 16))  # rows of an older version have none
        self._contrasts.append(sample.contrast)

    def shown(self, asked: np.ndarray, known: np.ndarray) -> Found:
        """Which of the images `asked` for are among those `known`, also turned or mirrored; bool [n] each."""
        digests, flat = np.frombuffer(self._digests, np.uint64), duplicates.flat(np.frombuffer(self._contrasts, "f"))
        exact, near = asked & np.isin(digests, digests[known]), np.zeros_like(asked)
        for looks in (self._looks, self._turned):
            image, twin, _ = duplicates.find(digests, np.where(flat, np.uint64(0), np.frombuffer(looks, np.uint64)))
            first = duplicates.firsts(len(digests), image, twin)
            near |= np.isin(first, first[known])
        return {"exact": exact, "near": asked & near & ~exact}


def between(tested: Path, trained: Path) -> dict[str, list[str]]:
    """Names of the test images of one prepared folder that are train images of another: {"exact": ..., "near": ...}."""
    images, names, asked = Fingerprints(), list[str](), list[bool]()
    for folder, side in ((tested, "test"), (trained, "train")):
        for block in rows.blocks(folder):
            for row in zip(*block.values(), strict=True):
                sample = from_row(block, row)
                if sample.side == side and not sample.reason:
                    images.add(sample)
                    names.append(sample.name)
                    asked.append(side == "test")
    found = images.shown(np.array(asked, bool), ~np.array(asked, bool))
    return {kind: [names[i] for i in np.flatnonzero(which)] for kind, which in found.items()}
