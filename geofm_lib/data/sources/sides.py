"""Words for the sides of a split, as folders, lists and tables have them."""

import re
from collections.abc import Iterable

SIDES = TRAIN, VAL, TEST = "train", "val", "test"  # val is kept apart: neither pretrained on nor tested on
MOST = 64  # folders beside each other of which some may be sides; a set of a million places has more
WORDS = {
    TRAIN: "train training trn trainval trainvalid trainset",
    VAL: "val valid validation validate validating dev develop development",
    TEST: "test testing tst eval evaluation evaluate holdout",
}
_SIDE = {word: side for side, words in WORDS.items() for word in words.split()}
# What may stand beside such a word without changing its meaning: train_images, TestSet, val_labels.txt.
_FILLERS = set(
    (
        "a and the of for image images img imgs picture pictures photo photos jpg jpeg png tif tiff rgb set sets "
        "data dataset split splits subset folder dir file files filename filenames sample samples patch patches "
        "chip chips tile tiles list lists index names name labels label num info ids id part"
    ).split()
)
_GLUED = re.compile(
    r"(train|training|val|valid|validation|test|testing)(?:set|sets|data|images?|imgs?|split|list|labels?)"
)


def words(text: str) -> list[str]:
    """The words of a name in small letters, without numbers.

    >>> words("TrainImages_2017"), words("val-set")
    (['train', 'images'], ['val', 'set'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [_GLUED.sub(r"\1", word) for word in re.findall(r"[^\W\d_]+", spaced.lower())]


def side_of(text: str) -> str:
    """The side that a name means, "" for none. Numbers, and words like images or set, play no part.

    >>> [side_of(name) for name in ("Training", "val2017", "test_images", "trainset", "train station", "forest")]
    ['train', 'val', 'test', 'train', '', '']
    """
    left = [word for word in words(text) if word not in _FILLERS]
    if left == [TRAIN, VAL]:
        return TRAIN
    return _SIDE.get(left[0], "") if len(left) == 1 else ""


def mentioned(text: str) -> str:
    """The one side that a name speaks of among other words, "" for none or two.

    >>> mentioned("eurosat-train.txt"), mentioned("train_val.txt"), mentioned("classes.txt")
    ('train', 'train', '')
    """
    found = {_SIDE[word] for word in words(text) if word in _SIDE}
    if found == {TRAIN, VAL}:
        return TRAIN
    return found.pop() if len(found) == 1 else ""


def of_folders(folders: Iterable[str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """({folder: (its side, its path without the folder that says so)}, the names of those folders).

    Sides are folders that have only sides beside them, or among which train and another side are; such as train, test
    and extra, which then is of no side.

    >>> of_folders(["set/train/a", "set/test/b"])
    ({'set/train/a': ('train', 'set/a'), 'set/test/b': ('test', 'set/b')}, ['train', 'test'])
    >>> of_folders(["car", "train"])[1]
    []
    """
    folders = list(folders)
    beside: dict[str, set[str]] = {}  # folder -> the names of the folders directly in it
    for folder in folders:
        parts = folder.split("/") if folder else []
        for k, part in enumerate(parts):
            beside.setdefault("/".join(parts[:k]), set()).add(part)
    levels: dict[str, dict[str, str]] = {}
    for above, names in beside.items():
        if len(names) > MOST:
            continue
        found = {name: side_of(name) for name in names}
        different = set(found.values()) - {""}
        if all(found.values()) or TRAIN in different and len(different) > 1:
            levels[above] = {name: side or _begins(name) for name, side in found.items()}
    placed, used = {}, set()
    for folder in folders:
        side, rest = "", []
        parts = folder.split("/") if folder else []
        for k, part in enumerate(parts):
            level = levels.get("/".join(parts[:k]))
            if level is None:
                rest.append(part)
            elif not side and level[part]:
                side = level[part]
                used.add((list(WORDS).index(side), part))
        placed[folder] = side, "/".join(rest)
    return placed, [name for _, name in sorted(used)]


def _begins(name: str) -> str:
    """The side of a folder such as val_unseen, known only by its first word."""
    return _SIDE.get(next(iter(words(name)), ""), "")
