"""The label, side and scene of each image: as its source gives them, else from its folders."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from geofm_lib.data.sources import folders


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


def assign(
    names: Sequence[str], given: Sequence[tuple[str, str, str]], choice: str = "", given_by: str = ""
) -> Assigned:
    """What is known of each image. given: its label, side and scene by the source. choice: the setting `labels`.

    What the source says wins over folders. Folders are asked for labels where the source has none, for sides likewise.
    given_by: what of the source says all there is to know, such as its pattern; then folders say nothing.
    """
    own, sides, scenes = ([each[k] for each in given] for k in range(3))
    if given_by and choice in ("", "none"):
        labels = [""] * len(names) if choice == "none" else own
        return Assigned(labels, sides, scenes, given_by if any(labels) else "", given_by if any(sides) else "")
    found = folders.read(names, insist=choice == "folders")
    by_source = any(own) and choice != "folders"
    labels, labels_from = (own, "the source") if by_source else (found.labels, "folders")
    warnings = [] if by_source or choice == "none" else found.warnings
    if choice == "none":
        labels, labels_from = [""] * len(names), ""
    sides, sides_from = (sides, "the source") if any(sides) else (found.sides, found.sides_from)
    return Assigned(labels, sides, scenes, labels_from if any(labels) else "", sides_from, warnings=warnings)


def of_folders(names: Sequence[str]) -> list[str]:
    """The class of each image by its folder, "" for none.

    >>> of_folders(["set/a/1.jpg", "set/b/2.jpg", "set/3.jpg"]), of_folders(["photos/1.jpg", "photos/2.jpg"])
    (['a', 'b', ''], ['', ''])
    >>> of_folders(["train/water/lake/1.jpg", "train/water/river/2.jpg", "test/3.jpg"])
    ['lake', 'river', '']
    """
    return folders.read(names).labels
