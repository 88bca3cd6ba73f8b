"""Which images of one collection are in another too, by their fingerprints: the pixels' digest and the look.

So a test image that a pretraining has seen is found without opening an image.
"""

from array import array
from pathlib import Path

import numpy as np

from geofm_lib.data import duplicates
from geofm_lib.data.sources import prepared

Found = dict[str, np.ndarray]  # "exact": the same pixels; "near": nearly the same look; bool [n] each, never both


def shown(digests: np.ndarray, looks: np.ndarray, asked: np.ndarray, known: np.ndarray) -> Found:
    """Which of the images `asked` for are among those `known` (bool [n] each), given the fingerprints of all."""
    image, twin, _ = duplicates.find(digests, looks)
    first = duplicates.firsts(len(digests), image, twin)
    exact = asked & np.isin(digests, digests[known])
    return {"exact": exact, "near": asked & ~exact & np.isin(first, first[known])}


def between(tested: Path, trained: Path) -> dict[str, list[str]]:
    """Names of the test images of one prepared folder that are train images of another: {"exact": ..., "near": ...}."""
    names, digests, looks = [], array("Q"), array("Q")
    asked, known = bytearray(), bytearray()
    for folder, side, mark, other in ((tested, "test", asked, known), (trained, "train", known, asked)):
        for block in prepared.blocks(folder):
            rows = zip(*(block[name] for name in ("name", "side", "reason", "digest", "look")), strict=True)
            for name, own, reason, digest, look in rows:
                if own == side and not reason:
                    names.append(name)
                    digests.append(int(digest, 16))
                    looks.append(int(look or "0", 16))
                    mark.append(1)
                    other.append(0)
    marks = (np.frombuffer(mark, np.bool_) for mark in (asked, known))
    found = shown(np.frombuffer(digests, np.uint64), np.frombuffer(looks, np.uint64), *marks)
    return {kind: [names[i] for i in np.flatnonzero(which)] for kind, which in found.items()}
