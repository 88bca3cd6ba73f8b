"""Which side each image is on: as the data set gives it, by scene, or at random."""

from collections import Counter
from typing import NamedTuple

from geofm_lib.data import duplicates, several
from geofm_lib.data.sources.sides import SIDES

MISSED = 0.05  # of train_ratio, from which on it is told


class Split(NamedTuple):
    """sides: that of each image. by: how it was split, in words. warnings: sentences for the page."""

    sides: list[str]
    by: str
    warnings: list[str]


def decide(
    how: str,
    names: list[str],
    labels: list[str],
    given: list[str],
    scenes: list[str],
    same_as: dict[str, str],
    train_ratio: float,
    seed: int,
    given_by: str = "",
    scenes_by: str = "scene",
) -> Split:
    """Split images. how: auto, random, or scene (and block: then `scenes` are blocks).

    given, scenes: the side and the scene of each image as the source says, "" for none. `auto` takes the sides that are
    given where there are two or more, else goes by scene where there are scenes. same_as: see `duplicates.split`.
    """
    warnings: list[str] = []
    by = "random"
    if how == "auto" and any(given):
        sides = _as_given(given, labels, warnings)
        if sides:
            warnings += _leaks(names, sides, same_as) + _unseen(sides, labels)
            return Split(sides, f"given: {given_by}" if given_by else "given", warnings)
    if how in ("scene", "block") and not any(scenes):
        raise ValueError(
            f"split={how} needs to know which images belong together: name a column of a table (labels='table.csv:"
            "group=...'), put {scene} into the pattern, set tile, or use split=random"
        )
    if how != "random" and any(scenes):
        by = scenes_by
    strata = several.strata(labels)
    sides = duplicates.split(names, strata, same_as, train_ratio, seed, scenes if by != "random" else None)
    if how == "auto" and any(given):
        anew = "the images are split anew; train_ratio=1 keeps all in train"
        warnings[-1] += f": {anew if 'test' in sides else 'all images train'}"
    if by != "random" and train_ratio < 1:
        alone = [i for i, scene in enumerate(scenes) if not scene]
        if alone and len(alone) < len(names):
            for i in alone:
                sides[i] = "val"
            warnings.append(
                f"{len(alone)} images belong to no group, such as '{names[alone[0]]}': they are kept apart "
                "(val), since any of them may lie beside a test image"
            )
        apart = _train_twins(names, sides, same_as)
        for i in apart:
            sides[i] = "val"
        if apart:
            warnings.append(f"{len(apart)} training images have a twin on the test side: they are kept apart (val)")
        warnings += _unseen(sides, labels)
    return Split(sides, by, warnings + (_untested(sides, labels) if train_ratio < 1 else []))


def missed(split: Split, labels: list[str], asked: float) -> list[str]:
    """What is told where train_ratio was set to `asked`, and the split is given or comes out otherwise."""
    if not asked:
        return []
    if split.by.startswith("given"):
        return [f"train_ratio={asked:g} is not used, since the split is {split.by}; split=random splits anew"]
    any_label = any(labels)
    if split.by == "random" and not any_label:
        return [] if asked == 1 else [f"train_ratio={asked:g} is not used, since images without labels all train"]
    sized: Counter[str] = Counter()  # images of each class that train or are tested on
    trained = 0
    for side, label, kind in zip(split.sides, labels, several.strata(labels), strict=True):
        if side != "val" and (label or not any_label):
            sized[kind] += 1
            trained += side == "train"
    total = sized.total()
    reached = trained / total if total else 1.0
    if abs(reached - asked) <= MISSED:
        return []
    # What comes of it step by step, had every image a side of its own: the longest step is why.
    rounded = sum(round(count * asked) for count in sized.values()) / total
    both = sum(max(1, min(round(count * asked), count - 1)) for count in sized.values()) / total
    steps = {
        "classes have few images, and their shares are rounded to whole ones": abs(rounded - asked),
        "classes have few images, of which one at least trains and one is tested on": abs(both - rounded),
        f"a {'random split' if split.by == 'random' else f'split by {split.by}'} keeps images that belong together on "
        "one side, and there are few such groups": abs(reached - both),
    }
    why = max(steps, key=lambda step: steps[step])
    return [f"train_ratio={asked:g} was asked for, and {reached:.2f} of the train and test images train: {why}"]


def _as_given(given: list[str], labels: list[str], warnings: list[str]) -> list[str]:
    """The given sides, completed; [] where they are no split. What was decided is told in `warnings`."""
    counts = Counter(given)
    labelled = Counter(side for side, label in zip(given, labels, strict=True) if label)
    turn = {side: side for side in SIDES} | {"": "val"}
    if labelled and counts["test"] and not labelled["test"]:
        turn["test"] = "train"
        warnings.append(
            f"the given test side has no labels, so its {counts['test']} images cannot be tested on: they are "
            "pretrained on, like all images without a label"
        )
    tested = counts["test"] and turn["test"] == "test"
    if not tested and labelled["val"] + (counts["val"] if not labelled else 0) and counts["train"]:
        turn["val"] = "test"
        which = "no test side with labels" if labelled else "no test side"
        warnings.append(f"the given split has {which}: its {counts['val']} val images are tested on")
        tested = True
    if not tested or not counts["train"]:
        there = " and ".join(side for side in SIDES if counts[side] and turn[side] == side)
        warnings.append(f"of a given split there is only {there}")
        return []
    if counts[""]:
        warnings.append(f"the given split names no side for {counts['']} images: they are kept apart (val)")
    sides = [turn[side] for side in given]
    return sides


def _untested(sides: list[str], labels: list[str]) -> list[str]:
    """What is told where images have labels, and none of them is on the test side."""
    classes = several.counts(labels)
    if not classes or any(side == "test" and label for side, label in zip(sides, labels, strict=True)):
        return []
    if max(classes.values()) == 1:
        why = f"each of the {len(classes)} classes has one image, which trains: another column may say the classes"
    else:
        why = "the images of each class belong together, as duplicates or by their scene"
    return [f"no image is tested on, so 05 cannot probe this set: {why}"]


def _train_twins(names: list[str], sides: list[str], same_as: dict[str, str]) -> list[int]:
    """Places of training images that have a duplicate on the test side."""
    tested = {same_as.get(name, name) for name, side in zip(names, sides, strict=True) if side == "test"}
    tested &= set(same_as.values())
    return [i for i, name in enumerate(names) if tested and sides[i] == "train" and same_as.get(name, name) in tested]


def _unseen(sides: list[str], labels: list[str]) -> list[str]:
    """Classes of the test side that no training image has."""
    of: dict[str, set[str]] = {"train": set(), "test": set()}
    for side, label in set(zip(sides, labels, strict=True)):
        of.setdefault(side, set()).update(several.parts(label))
    lone = sorted(of["test"] - of["train"])
    if not lone:
        return []
    what = f"the class '{lone[0]}' has" if len(lone) == 1 else f"{len(lone)} classes, such as '{lone[0]}', have"
    return [f"{what} test images and no training image: that cannot be learned"]


def _leaks(names: list[str], sides: list[str], same_as: dict[str, str]) -> list[str]:
    """What of a given split's test side is in its train side as well: told, since a published split stays as it is."""
    trained = {same_as.get(name, name) for name, side in zip(names, sides, strict=True) if side == "train"}
    trained &= set(same_as.values())
    twins = [n for n, side in zip(names, sides, strict=True) if side == "test" and same_as.get(n, n) in trained]
    if not twins:
        return []
    return [
        f"{len(twins)} test images of the given split, such as '{twins[0]}', have an exact or near duplicate in its "
        "train side (duplicates.csv): they stay, so that results compare; split=random keeps duplicates together"
    ]
