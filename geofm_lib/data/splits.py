"""Which images train and which test."""

import hashlib
from collections import defaultdict
from pathlib import PurePosixPath


def split(names: list[str], labels: list[str], same_as: dict[str, str], train_ratio: float, seed: int) -> list[str]:
    """The side of each image, "train" or "test": `train_ratio` of each class trains; images without a label all train.

    `same_as` maps the name of an exact duplicate to the first image with its pixels: both go to the same side, also
    across classes, or the test would ask for what was seen in training. The order depends on a hash of (seed, class,
    file name), so it is the same for a folder and for a tar of it, and one more image moves no other.

    >>> sides = split(["a/1", "a/2", "b/3", "b/4"], ["a", "a", "b", "b"], {"a/2": "a/1"}, 0.5, seed=0)
    >>> sides[0] == sides[1], sides.count("train") in (1, 2, 3)
    (True, True)
    """
    groups = defaultdict(list)  # first image of a set of duplicates -> the places of all of them
    for place, name in enumerate(names):
        groups[same_as.get(name, name)].append(place)
    classes = defaultdict(list)  # class of the first image -> groups
    for first, places in groups.items():
        label = labels[places[0]]
        key = hashlib.sha256(f"{seed}/{label}/{PurePosixPath(first).name}".encode()).digest()
        classes[label].append((key, first, places))
    sides = ["test"] * len(names)
    for label, members in classes.items():
        members.sort()
        count = sum(len(places) for _, _, places in members)
        wanted, taken = _wanted(count, train_ratio if label else 1.0), 0
        for number, (_, _, places) in enumerate(members):
            last_for_test = label and number == len(members) - 1 and number > 0
            if number and (taken + len(places) > wanted or last_for_test):
                continue  # a large set of duplicates may not fit where a smaller one still does
            taken += len(places)
            for place in places:
                sides[place] = "train"
    return sides


def _wanted(count: int, train_ratio: float) -> int:
    """Images of a class that should train: the share, but at least one."""
    return max(1, round(count * train_ratio))
