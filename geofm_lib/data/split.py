"""Which images train and which test."""

import hashlib
from array import array
from collections import defaultdict

import numpy as np


def split(names: list[str], labels: list[str], same_as: dict[str, str], train_ratio: float, seed: int) -> list[str]:
    """The side of each image, "train" or "test": `train_ratio` of each class trains; images without a label all train.

    `same_as` maps the name of a duplicate to the first image of its set. All of a set go to the same side, also across
    classes, or the test would ask for what was seen in training. The order depends on a hash of (seed, class, file
    name). So it is the same for a folder and for a tar of it, and one more image moves no other.

    >>> sides = split(["a/1", "a/2", "b/3", "b/4"], ["a", "a", "b", "b"], {"a/2": "a/1"}, 0.5, seed=0)
    >>> sides[0] == sides[1], sides.count("train") in (1, 2, 3)
    (True, True)
    """
    sets: dict[str, list[int]] = defaultdict(list)  # first image of a set of duplicates -> the places of all of them
    grouped = set(same_as) | set(same_as.values())
    for place, name in enumerate(names):
        if name in grouped:
            sets[same_as.get(name, name)].append(place)
    # For each class (of the first image of a set) the keys and places of its sets: as plain numbers, to be small.
    classes: dict[str, tuple[array[int], array[int]]] = defaultdict(lambda: (array("Q"), array("q")))
    for place, name in enumerate(names):
        if name not in grouped or sets[same_as.get(name, name)][0] == place:
            keys, places = classes[labels[place]]
            first = same_as.get(name, name)
            keys.append(_key(seed, labels[place], first))
            places.append(place)
    sides = ["test"] * len(names)
    for label, (keys, places) in classes.items():
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable").tolist()
        members = [sets[same_as.get(names[p], names[p])] if names[p] in grouped else (p,) for p in places]
        wanted, taken = _wanted(sum(map(len, members)), train_ratio if label else 1.0), 0
        for number, which in enumerate(order):
            last_for_test = label and number == len(order) - 1 and number > 0
            if number and (taken + len(members[which]) > wanted or last_for_test):
                continue  # a large set of duplicates may not fit where a smaller one still does
            taken += len(members[which])
            for place in members[which]:
                sides[place] = "train"
    return sides


def _key(seed: int, label: str, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{label}/{name.rpartition('/')[2]}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _wanted(count: int, train_ratio: float) -> int:
    """Images of a class that should train: the share, but at least one."""
    return max(1, round(count * train_ratio))
