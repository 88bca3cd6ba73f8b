"""Which images are there twice, or nearly, and which train and which test: a set of duplicates stays together.

Exact duplicates have the same digest, near ones nearly the same look (data/measure).
"""

import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

FLAT = 0.05  # of the usual contrast of a set: a picture that varies less looks like any other flat one (reports/LOG.md)
NEAR = 4  # bits of 64 in which two looks may differ (reports/LOG.md: what was tried)
BITS = 64
WINDOW = 64  # neighbours that an image is compared with in one bucket; only a set full of copies has larger ones
AT_ONCE = 2**21  # pairs compared in one go
_SCENE = "\0"  # begins the key of a scene, which is no name of an image


def flat(contrasts: np.ndarray) -> np.ndarray:
    """Which pictures vary too little to be told from others, bool [n]: less than FLAT of the median of those that vary.

    By the set's own measure, since reflectances use a hundredth of the range of sixteen bits, and float has none.
    """
    varied = contrasts[contrasts > 0]
    return ~(contrasts > (FLAT * np.median(varied) if len(varied) else 0))


def find(digests: np.ndarray, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, twin, distance), int64 each: every image of a set of duplicates but its first, in order of images.

    digests, looks: uint64 [n]; a look of 0 stands for a flat picture, which is near to none. The twin of a copy is
    the first image with the same pixels, at distance -1. That of any other is the first image of its set, and distance
    is the bits between their looks. Sets are closed: if a is near b and b near c, all three belong together, so that
    the distance may be more than NEAR.
    """
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    leader = first[which]  # the first image with these pixels
    own = np.arange(len(digests))
    single, root = np.flatnonzero((leader == own) & (looks != 0)), own
    for left, right in _candidates(looks[single]):
        i, j = single[left], single[right]
        close = np.bitwise_count(looks[i] ^ looks[j]) <= NEAR
        root = _join(root, i[close], j[close])
    copy = leader != own
    image = np.flatnonzero(copy | (root != own))
    twin = np.where(copy, leader, root)[image]
    bits = np.bitwise_count(looks[image] ^ looks[twin]).astype(np.int64)
    return image, twin, np.where(copy[image], -1, bits)


def firsts(count: int, image: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """The first image of each one's set, int64 [count], given what `find` found."""
    return _join(np.arange(count), image, twin)


def _candidates(looks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs that may differ in at most NEAR bits, some of them more than once.

    Cut into NEAR + 2 blocks, two such looks agree in at least two blocks. So only those are paired that share two: a
    million looks take seconds, where all pairs would take hours.
    """
    edges = np.arange(NEAR + 3) * BITS // (NEAR + 2)
    blocks = [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges.tolist())]
    for one, other in itertools.combinations(blocks, 2):
        key = looks & (one | other)
        order = np.lexsort((looks, key))
        for left, right in _equal(key[order]):
            yield order[left], order[right]


def _equal(key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places of a sorted array that hold the same value and are at most WINDOW apart."""
    ends = np.searchsorted(key, key, side="right")
    left, size = np.arange(len(key)), 0
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(1, WINDOW + 1):
        left = left[left + step < ends[left]]
        waiting.append((left, left + step))
        size += len(left)
        if size > AT_ONCE or step == WINDOW or not len(left):
            lefts, rights = map(np.concatenate, zip(*waiting, strict=True))
            yield lefts, rights
            waiting, size = [], 0
        if not len(left):
            break


def _join(root: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """`root` (the smallest member of each one's set) after the sets of i[k] and j[k] have become one, for every k."""
    while len(i):
        a, b = root[i], root[j]
        i, j, low = i[a != b], j[a != b], np.minimum(a, b)[a != b]
        if not len(i):
            break
        root = root.copy()
        np.minimum.at(root, np.maximum(a, b)[a != b], low)
        while not np.array_equal(root, root[root]):
            root = root[root]
    return root


def split(
    names: list[str],
    labels: list[str],
    same_as: dict[str, str],
    train_ratio: float,
    seed: int,
    scenes: list[str] | None = None,
) -> list[str]:
    """The side of each image, "train" or "test": `train_ratio` of each class trains; images without a label all train.

    `same_as` maps the name of a duplicate to the first image of its set. All of a set go to the same side, also across
    classes, or the test would ask for what was seen in training. The order depends on a hash of (seed, class, file
    name). So it is the same for a folder and for a tar of it, and one more image moves no other.

    scenes: what each image was cut from, "" for none. All images of a scene go to one side, then also without labels;
    a duplicate in another scene stays with its scene.

    >>> sides = split(["a/1", "a/2", "b/3", "b/4"], ["a", "a", "b", "b"], {"a/2": "a/1"}, 0.5, seed=0)
    >>> sides[0] == sides[1], sides.count("train") in (1, 2, 3)
    (True, True)
    """
    keys = [same_as.get(name, name) for name in names]
    if scenes:
        of = {name: _SCENE + scene for name, scene in zip(names, scenes, strict=True) if scene}
        keys = [of.get(name) or of.get(key, key) for name, key in zip(names, keys, strict=True)]
    sets: dict[str, list[int]] = defaultdict(list)  # key of a set of several images -> the places of all of them
    several = set(same_as.values()) | {key for key in keys if key.startswith(_SCENE)}
    for place, key in enumerate(keys):
        if key in several:
            sets[key].append(place)
    # For each class (of the first image of a set) the keys and places of its sets: as plain numbers, to be small.
    classes: dict[str, tuple[array[int], array[int]]] = defaultdict(lambda: (array("Q"), array("q")))
    for place, (key, label) in enumerate(zip(keys, labels, strict=True)):
        if key not in several or sets[key][0] == place:
            if key.startswith(_SCENE):  # of several classes, or of none: all such scenes together
                label = label if label and all(labels[p] == label for p in sets[key]) else _SCENE
            digest = hashlib.sha256(f"{seed}/{label}/{key.rpartition('/')[2]}".encode()).digest()
            classes[label][0].append(int.from_bytes(digest[:8], "big"))
            classes[label][1].append(place)
    sides = ["test"] * len(names)
    for label, (hashes, places) in classes.items():
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable").tolist()
        members = [sets[keys[p]] if keys[p] in several else (p,) for p in places]
        count, taken = sum(map(len, members)), 0
        wanted = max(1, round(count * train_ratio)) if label else count
        for number, which in enumerate(order):
            last_for_test = label and number == len(order) - 1 and number > 0 and train_ratio < 1
            if number and (taken + len(members[which]) > wanted or last_for_test):
                continue  # a large set of duplicates may not fit where a smaller one still does
            taken += len(members[which])
            for place in members[which]:
                sides[place] = "train"
    return sides
