"""Images with several labels: how they are written, counted and split. In the index "a|b" stands for both."""

from collections import Counter
from collections.abc import Iterable

BETWEEN = "|"
NONE = "|"  # stands for an image that is known to have none of the labels


def parts(label: str) -> list[str]:
    """The labels of an image, each once, in the order in which they are written; [] for none.

    >>> parts("water|forest| water|"), parts("")
    (['water', 'forest'], [])
    """
    return list(dict.fromkeys(filter(None, map(str.strip, label.split(BETWEEN)))))


def counts(labels: Iterable[str]) -> dict[str, int]:
    """Images of each class, sorted by name: an image counts once for each of its labels.

    >>> counts(["a", "b|a", ""])
    {'a': 2, 'b': 1}
    """
    found: Counter[str] = Counter()
    for label, images in Counter(labels).items():
        for part in parts(label):
            found[part] += images
    return dict(sorted(found.items()))


def are_several(labels: Iterable[str]) -> bool:
    """Has any image more than one?"""
    return any(BETWEEN in label and len(parts(label)) > 1 for label in set(labels))


def strata(labels: list[str]) -> list[str]:
    """For each image the label by which it is split: its rarest in the whole set, so that both sides get rare classes.

    Images that have none of them are like a class of their own.

    >>> strata(["sea", "sea|ship", "", "sea", "|"])
    ['sea', 'ship', '', 'sea', '|']
    """
    images = counts(labels)
    rarest = {label: min(parts(label), key=lambda part: (images[part], part), default=label) for label in set(labels)}
    return [rarest[label] for label in labels]
