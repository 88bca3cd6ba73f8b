"""Which images of one collection are in another too, by their fingerprints: the pixels' digest and the look.

So a test image that a pretraining has seen is found without opening an image.
"""

import itertools
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.data import duplicates
from geofm_lib.data.places import Places
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import rows

ARRAYS = ("digest", "look", "turned", "contrast")  # of fingerprints: uint64 [n] three times, then float32 [n]
Arrays = dict[str, np.ndarray]
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

    def add_all(self, found: Arrays) -> None:
        """Take in many."""
        for name, own in zip(ARRAYS, (self._digests, self._looks, self._turned), strict=False):
            own.frombytes(found[name].tobytes())
        self._contrasts.frombytes(found["contrast"].tobytes())

    def arrays(self) -> Arrays:
        """Those of all images so far."""
        found = [np.frombuffer(each, np.uint64) for each in (self._digests, self._looks, self._turned)]
        return dict(zip(ARRAYS, [*found, np.frombuffer(self._contrasts, np.float32)], strict=True))

    def shown(self, asked: np.ndarray, known: np.ndarray) -> Found:
        """Which of the images `asked` for are among those `known`, also turned or mirrored; bool [n] each."""
        digests, flat = np.frombuffer(self._digests, np.uint64), duplicates.flat(np.frombuffer(self._contrasts, "f"))
        exact, near = asked & np.isin(digests, digests[known]), np.zeros_like(asked)
        for looks in (self._looks, self._turned):
            image, twin, _ = duplicates.find(digests, np.where(flat, np.uint64(0), np.frombuffer(looks, np.uint64)))
            first = duplicates.firsts(len(digests), image, twin)
            near |= np.isin(first, first[known])
        return {"exact": exact, "near": asked & near & ~exact}


def of_samples(samples: Iterable[Sample]) -> Arrays:
    """The fingerprints of good images."""
    images = Fingerprints()
    for each in samples:
        images.add(each)
    return images.arrays()


def ground(folder: Path, samples: Iterable[Sample]) -> np.ndarray:
    """Where images of a prepared folder lie, float64 [n, 2, 2] in metres (`places.COMMON`); NaN of unknown places."""
    return placed(folder, samples).ground()


def placed(folder: Path, samples: Iterable[Sample]) -> Places:
    """The places of images of a prepared folder."""
    places = Places(asked(folder).get("pattern", ""))
    for each in samples:
        places.add(each)
    return places


def asked(folder: Path) -> dict[str, Any]:
    """The settings by which a folder was prepared, as far as they are there."""
    try:
        return dict(files.read_json(folder / "settings.json").get("asked", {}))
    except (OSError, ValueError):
        return {}


def samples_of(folder: Path, sides: tuple[str, ...], labelled: bool = False) -> list[Sample]:
    """The good images of these sides, in the order of the rows. OSError or ValueError where there are no rows."""
    return [each for each in rows.samples(folder) if each.side in sides and (each.label or not labelled)]


def between(tested: Path, trained: Path) -> dict[str, list[str]]:
    """Names of the test images of one prepared folder that are train images of another: {"exact": ..., "near": ...}."""
    images, names, asked = Fingerprints(), list[str](), list[bool]()
    for folder, side in ((tested, "test"), (trained, "train")):
        for sample in rows.samples(folder):
            if sample.side == side:
                images.add(sample)
                names.append(sample.name)
                asked.append(side == "test")
    found = images.shown(np.array(asked, bool), ~np.array(asked, bool))
    return {kind: [names[i] for i in np.flatnonzero(which)] for kind, which in found.items()}


def of_sides(folder: Path, sides: tuple[str, ...], labelled: bool = False) -> Arrays | None:
    """The fingerprints of a prepared folder's images of these sides; None where its rows are gone, or have none.

    labelled: only of images with a label.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    try:
        for block in rows.blocks(folder):
            columns = zip(block["side"], block["label"], block["reason"], strict=True)
            wanted = [side in sides and bool(label or not labelled) and not bad for side, label, bad in columns]
            for name in ARRAYS[:3]:
                texts = itertools.compress(block[name], wanted)
                empty = "" if name == "digest" else "0"  # a digest that is missing is an error, a look is none
                parts[name].append(np.array([int(text or empty, 16) for text in texts], np.uint64))
            contrasts = itertools.compress(block["contrast"], wanted)
            parts["contrast"].append(np.array([float(text or 0) for text in contrasts], np.float32))
    except (OSError, ValueError):
        return None
    return {name: np.concatenate(each) for name, each in parts.items()} if parts["digest"] else None


def among(asked: Arrays, known: Arrays) -> Found:
    """Which of some images, bool [n], are among others: exact or near."""
    images = Fingerprints()
    images.add_all(asked)
    images.add_all(known)
    first = np.arange(len(asked["digest"]) + len(known["digest"])) < len(asked["digest"])
    return {kind: which[first] for kind, which in images.shown(first, ~first).items()}
