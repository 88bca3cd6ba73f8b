"""Into train and test in several ways, each closed over duplicates and places, and the train side's validation part.

The first split is the prepared folder's own. The others are drawn from the same images by the same rule (at random, by
scene or by block) and share with other seeds; of a given split there are no others. An image that the encoder was
pretrained on is tested in none of them.
"""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geofm_lib.data import duplicates, overlap, places, several
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import prepared, rows

OWN = "own"
OVERLAP = 0.01  # metres of common ground, from which on a training image is left out
VALIDATION = 0.2  # of the train side, by which the head's settings are chosen
SEEDS = 1000  # seeds of further splits count from here, apart from the preparation's


class Split(NamedTuple):
    """train, test: numbers of images. validation: positions in `train` of what is fitted, and what is then asked."""

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]


class Images(NamedTuple):
    """Labelled images of both sides, in the order of their features: all of train, then all of test.

    labels: as written in the index. group: int64 [n], the same for images that stay together. fingerprints: as
    `data.overlap` has them, None where the rows beside the shards are gone. ground: float64 [n, 2, 2], likewise.
    """

    names: list[str]
    labels: list[str]
    trains: np.ndarray
    group: np.ndarray
    fingerprints: overlap.Arrays | None
    ground: np.ndarray | None = None


def read(folder: Path, names: list[str], trains: int) -> tuple[Images, bool]:
    """(images of these names, the first `trains` of which are the train side; can they be split otherwise?).

    Not where the split was given, or the rows beside the shards are gone, so that nobody knows what belongs together.
    """
    own = np.arange(len(names)) < trains
    found, by = _samples(folder), prepared.told(folder).get("data_split", "")
    if not set(names) <= set(found) or not all(found[name].digest for name in names):
        return Images(names, [""] * len(names), own, np.arange(len(names)), None), False
    samples = [found[name] for name in names]
    labels = [each.label for each in samples]
    arrays, lying = overlap.of_samples(samples), overlap.placed(folder, samples)
    ground = lying.ground()
    looks = np.where(duplicates.flat(arrays["contrast"]), np.uint64(0), arrays["look"])
    image, twin, _ = duplicates.find(arrays["digest"], looks)
    group = duplicates.firsts(len(names), image, twin)
    try:
        lies = _scenes(folder, samples, lying, by)
    except (OSError, ValueError):
        return Images(names, labels, own, group, arrays, ground), False
    joined = {place: i for i, place in reversed(list(enumerate(lies))) if place}
    of = [joined.get(place) for place in lies]  # a twin without a place goes where the first of its set is
    group = np.array([next(k for k in (of[i], of[first], first) if k is not None) for i, first in enumerate(group)])
    return Images(names, labels, own, group, arrays, ground), bool(by) and not by.startswith("given")


def splits(images: Images, count: int, seen: np.ndarray | bool) -> list[Split]:
    """The own one, then `count` - 1 others; seen: bool [n], what the encoder was pretrained on (False: nothing)."""
    seen = np.broadcast_to(seen, len(images.names))
    found = [(OWN, images.trains)]
    share = float(images.trains.mean())
    for seed in range(SEEDS + 1, SEEDS + count):
        found.append((f"seed {seed - SEEDS}", _drawn(images, np.arange(len(images.names)), share, seed)))
    made = [_split(images, name, trains, seen) for name, trains in found]
    return [split for split in made if split.name == OWN or len(split.test)]


def fewer(images: Images, splits: list[Split], few: float) -> list[Split]:
    """The same splits with less to learn from: `few` images of each class, or below 1 that share of the train side."""
    return [_fewer(images, each, few, SEEDS + k) for k, each in enumerate(splits)]


def _fewer(images: Images, split: Split, few: float, seed: int) -> Split:
    if few < 1:
        train = split.train[_drawn(images, split.train, few, seed)]
    else:
        random, kept, of = np.random.default_rng(seed), list[int](), defaultdict[str, int](int)
        strata = several.strata([images.labels[i] for i in split.train])
        for place in random.permutation(len(split.train)).tolist():
            if of[strata[place]] < few:
                of[strata[place]] += 1
                kept.append(place)
        train = split.train[np.sort(kept)]
    return split._replace(train=train, validation=_validation(images, train))


def _split(images: Images, name: str, trains: np.ndarray, seen: np.ndarray) -> Split:
    tested = ~trains if name == OWN else ~trains & ~seen
    if name != OWN and images.ground is not None:  # across the border of a block
        trains = trains & ~places.beside(images.ground, images.ground[tested], -OVERLAP)
    train = np.flatnonzero(trains)
    return Split(name, train, np.flatnonzero(tested), _validation(images, train))


def _validation(images: Images, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fit = _drawn(images, train, 1 - VALIDATION, SEEDS)
    return np.flatnonzero(fit), np.flatnonzero(~fit)


def _drawn(images: Images, some: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which of `some` images are on the first side, bool: what belongs together stays together."""
    names = [images.names[i] for i in some]
    group = images.group[some]
    _, first = np.unique(group, return_index=True)
    leader = dict(zip(group[first].tolist(), (names[i] for i in first), strict=True))
    same_as = {name: leader[g] for name, g in zip(names, group.tolist(), strict=True) if leader[g] != name}
    labels = several.strata([images.labels[i] for i in some])
    sides = duplicates.split(names, labels, same_as, share, seed)
    return np.array(sides) == "train"


def _samples(folder: Path) -> dict[str, Sample]:
    """The rows of a prepared folder by name; {} where they are gone, or of another preparation."""
    try:
        return {sample.name: sample for sample in rows.samples(folder)}
    except (OSError, ValueError):
        return {}


def _scenes(folder: Path, samples: list[Sample], lying: places.Places, by: str) -> list[str]:
    """What place each image belongs to, as the preparation saw it; "" for none. ValueError where nobody knows."""
    scenes = [each.scene for each in samples]
    if not by.startswith("block"):
        return scenes if by != "random" else [""] * len(samples)
    return places.blocks(lying, scenes, overlap.asked(folder).get("block_size", 0.0))[0]
