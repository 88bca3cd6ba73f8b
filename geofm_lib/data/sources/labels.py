"""The label, side and scene of each image: as its source gives them, else from its folders."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

SIDES = {"train", "test", "val", "valid", "validation"}  # folders that name a side of a split, not a class


@dataclass
class Assigned:
    """labels, sides ("train", "val", "test"), scenes: of each image, "" where nothing says.

    labels_from, sides_from, scenes_from: where they are from, in words. warnings: sentences for the page.
    """

    labels: list[str]
    sides: list[str]
    scenes: list[str]
    labels_from: str = ""
    sides_from: str = ""
    scenes_from: str = "scene"
    warnings: list[str] = field(default_factory=list)


def assign(names: list[str], given: Sequence[tuple[str, str, str]], choice: str = "") -> Assigned:
    """What is known of each image. given: its label, side and scene by the source. choice: the setting `labels`."""
    labels, sides, scenes = ([each[k] for each in given] for k in range(3))
    found = Assigned(labels, sides, scenes, "the source", "the source")
    if choice == "none":
        found.labels, found.labels_from = [""] * len(names), ""
    elif choice == "folders" or not any(labels):
        found.labels, found.labels_from = of_folders(names), "folders"
    return found


def of_folders(names: list[str]) -> list[str]:
    """The class of each image, given all names: its parent folder.

    "" (no label) for images lying beside or above class folders, and for all when they lie in one single folder. Also
    for those in folders named train, test or val with no other folder beside them, such as Million-AID's test half.
    The strings are shared, so a million labels are a million references.

    >>> of_folders(["set/a/1.jpg", "set/b/2.jpg", "set/3.jpg"]), of_folders(["photos/1.jpg", "photos/2.jpg"])
    (['a', 'b', ''], ['', ''])
    >>> of_folders(["train/water/lake/1.jpg", "train/water/river/2.jpg", "test/3.jpg"])
    ['lake', 'river', '']
    """
    folders = {os.path.dirname(name): "" for name in names}
    above = {folder[:end] for folder in folders for end, letter in enumerate(folder) if letter == "/"} | {""}
    beside: dict[str, set[str]] = {}  # folder -> the names of the folders directly in it
    for folder in above | set(folders):
        up, _, last = folder.rpartition("/")
        beside.setdefault(up, set()).add(last)
    for folder in folders:
        up, _, last = folder.rpartition("/")
        no_class = folder in above or last.lower() in SIDES and {each.lower() for each in beside[up] if each} <= SIDES
        folders[folder] = "" if no_class else last
    if len(set(folders.values()) - {""}) < 2:
        return [""] * len(names)
    return [folders[os.path.dirname(name)] for name in names]
