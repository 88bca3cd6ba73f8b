"""What the folders of images say: the side of a split and the class, or why they are no classes."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from geofm_lib.data.sources import file_names, guards, masks, sides

UP = 3  # levels above an image's own folder that may be the class
LOOKED_AT = 4  # folders whose file names are compared
_REMEDY = {
    "images and masks": "pattern='{images}/**' takes the images alone",
    "two dates of the same places": "pattern='{images}/**' takes one of them alone",
    "single bands": "pattern='**/{band}/*' stacks them",
    "sensors or file formats": "pattern='{images}/**' takes one of them alone",
    "resolutions": "pattern='{images}/**' takes one of them alone",
    "the same images several times": "pattern='{images}/**' takes one of them alone",
}
_OTHER = "labels='table.csv' takes them from a table"
_ABOVE = ", pattern='**/{label}/{place}/*' from the folder above"


@dataclass
class Found:
    """labels, sides: of each image, "" for none. scenes: the place of each, [] where folders are no places.

    sides_from, scenes_from: in words. warnings: sentences for the page.
    """

    labels: list[str]
    sides: list[str]
    scenes: list[str] = field(default_factory=list)
    sides_from: str = ""
    scenes_from: str = ""
    warnings: list[str] = field(default_factory=list)


def read(names: Sequence[str], insist: bool = False) -> Found:
    """What the folders of all images say. insist: an image's own folder is its class, whatever it looks like.

    A class is the parent folder, or one above it where that one looks like a place. Images beside or above class
    folders have none, nor have those in one single folder. The strings are shared, so a million labels are a million
    references.
    """
    own = [os.path.dirname(name) for name in names]
    counts = Counter(own)
    placed, used = sides.of_folders(counts)
    reduced: Counter[str] = Counter()
    for folder, count in counts.items():
        reduced[placed[folder][1]] += count
    label, warnings, places = _classes(reduced, names, own, placed, insist, bool(used))
    label = {node: name.replace("|", "/") for node, name in label.items()}  # one class: "a|b" stands for two labels
    found = Found([label.get(placed[folder][1], "") for folder in own], [placed[folder][0] for folder in own])
    if len(set(found.sides) - {""}) > 1 and not insist:
        trained, tested = (
            {name for name, side in zip(found.labels, found.sides, strict=True) if name and (side == "train") == train}
            for train in (True, False)
        )
        if min(len(trained), len(tested)) > 1 and not trained & tested:
            warnings = [_told("places, since no side has those of another", sorted(trained | tested), "")]
            found.labels, places = [""] * len(names), set()
    if places:
        found.scenes = [
            folder if placed[folder][1] in places else name for folder, name in zip(own, names, strict=True)
        ]
        found.scenes_from = f"folder such as {guards.last_part(min(places))}"
    if used:
        shown = used if len(used) < 7 else [*used[:5], "..."]
        found.sides_from = f"folder{'s' * (len(used) > 1)} {', '.join(shown)}"
    found.warnings = warnings
    return found


def _classes(
    counts: Counter[str],
    names: Sequence[str],
    own: list[str],
    placed: dict[str, tuple[str, str]],
    insist: bool,
    sided: bool,
) -> tuple[dict[str, str], list[str], set[str]]:
    """({folder without sides: class}, warnings, the folders of places within class folders)."""
    above = {folder[:end] for folder in counts for end, letter in enumerate(folder) if letter == "/"} | {""}
    leaves = [folder for folder in counts if folder not in above]
    if not insist and (pair := _masks(own)):
        return {}, [_told("images and masks", *pair)], set()
    doubt, first, places = "", "", set[str]()
    for up in range(1 if insist else UP + 1):
        nodes: Counter[str] = Counter()
        for leaf in leaves:
            nodes[_ancestor(leaf, up)] += counts[leaf]
        nodes.pop("", None)
        if len({guards.last_part(node) for node in nodes}) < 2:
            continue
        if insist:
            why = ""
        elif up == 0 and file_names.bands(names).startswith("{place}"):
            why = "samples with a file a band"
        else:
            why = guards.why_not(nodes, _stems(nodes, names, own, placed))
        if not why:
            above_them = f"so those above, such as '{guards.last_part(next(iter(nodes)))}', are the classes"
            told = [f"{doubt}, {above_them}; labels=folders takes the inner ones"] if doubt else []
            return {folder: _inside(folder, nodes) for folder in counts}, told, places
        inner = sorted({guards.last_part(node) for node in nodes})
        doubt = doubt or _looks(why, inner)
        images = f"**/{guards.last_part(_images(nodes))}" if sided else _images(nodes)
        first = first or _told(
            why, inner, images, len({guards.last_part(_ancestor(node, 1)) for node in nodes} - {""}) > 1
        )
        places = places or set(leaves if why == guards.PLACES else ())
    return {}, [first] if first else [], set()


def _told(why: str, names: list[str], images: str, above: bool = False) -> str:
    """above: do they lie in several folders, which may be the classes?"""
    remedy = _REMEDY.get(why, _OTHER + _ABOVE * above).replace("{images}", images)
    return f"{_looks(why, names)}, not classes, and give no labels: {remedy}, and labels=folders insists"


def _looks(why: str, names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"the folders {shown} look like {why}"


def _images(nodes: Counter[str]) -> str:
    """The path of the folder that holds the images, among images and masks, or the first of other kinds."""
    some = sorted(nodes)[: sides.MOST]
    return _short(min(some, key=lambda node: (masks.is_folder(guards.last_part(node)), node)))


def _short(path: str) -> str:
    return path if path.count("/") < 2 else f"**/{guards.last_part(path)}"


def _masks(own: list[str]) -> tuple[list[str], str] | None:
    """(names of sibling folders of which some hold images and some their masks, the path of the images)."""
    found = [
        (sorted(hold | others), _short(f"{above}/{min(others)}".lstrip("/")))
        for above, hold, others in masks.beside(set(own))
    ]
    if len(found) > 1:  # on several sides of a split
        return found[0][0], f"**/{guards.last_part(found[0][1])}"
    return found[0] if found else None


def _stems(nodes: Counter[str], names: Sequence[str], own: list[str], placed: dict[str, tuple[str, str]]) -> list[set]:
    """The names of the files in each of a few folders, without suffix; [] where there are too many to compare."""
    if not 2 <= len(nodes) <= LOOKED_AT:
        return []
    stems: dict[str, set[str]] = {node: set() for node in nodes}
    for name, folder in zip(names, own, strict=True):
        for node, found in stems.items():
            if (placed[folder][1] + "/").startswith(node + "/"):
                found.add(re.sub(r"\.[^.]*$", "", name[len(folder) :]))
    return list(stems.values())


def _ancestor(folder: str, up: int) -> str:
    for _ in range(up):
        folder = os.path.dirname(folder)
    return folder


def _inside(folder: str, nodes: Counter[str]) -> str:
    """The name of the innermost class folder that holds `folder`, "" for none."""
    while folder and folder not in nodes:
        folder = os.path.dirname(folder)
    return guards.last_part(folder)
