"""The label, side and scene of each image: as its source gives them, else from its folders."""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from geofm_lib.data.sources import beside, file_names, folders, given, listing, masks, webdataset

LOOKED_AT = 10_000  # names of images that are and of such that are not taken
WORDS = ("", "folders", "none")  # what the setting `labels` may be instead of files


@dataclass
class Assigned:
    """labels, sides ("train", "val", "test"), scenes: of each image, "" where nothing says.

    labels_from, sides_from, scenes_from: where they are from, in words. warnings: sentences for the page.
    files: tables and lists of the data set that were used. grouped: are the scenes those that a table names?
    """

    labels: list[str]
    sides: list[str]
    scenes: list[str]
    labels_from: str = ""
    sides_from: str = ""
    scenes_from: str = "scene"
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    grouped: bool = False


def check(choice: str, source: listing.Source, names: Iterable[str] | None) -> None:
    """Raise ValueError, one sentence, for a setting `labels` that cannot be followed, before anything is packed.

    names: of the images, as far as they can be listed; None where they cannot.
    """
    if choice not in WORDS:
        listed = list(names or ())
        mixed = len({os.path.splitext(name)[1].lower() for name in listed}) > 1  # previews beside images, for instance
        given.read(choice, source, listed, partly=names is None or mixed, lenient=mixed)


def assign(
    names: Sequence[str],
    by_source: Sequence[tuple[str, str, str]],
    choice: str = "",
    given_by: str = "",
    source: listing.Source | None = None,
    tables: Sequence[str] = (),
) -> Assigned:
    """What is known of each image. by_source: its label, side and scene. choice: the setting `labels`.

    Tables win over the source, and that over folders. given_by: what of the source says all there is to know, such as
    its pattern; then folders say nothing. tables: names of those that lie beside the images of `source`. Of these a
    published split is taken, and labels or sides that nothing else gives; the others are told. A name that comes
    several times is a scene, given for its tiles.
    """
    own, sides, scenes = ([each[k] for each in by_source] for k in range(3))
    silent = given_by and choice != "folders"
    by_folders = (
        folders.Found([""] * len(names), [""] * len(names)) if silent else folders.read(names, choice == "folders")
    )
    said = given_by or "the source"
    found = Assigned([""] * len(names), sides, scenes, "", said if any(sides) else "")
    if not any(sides):
        found.sides, found.sides_from = by_folders.sides, by_folders.sides_from
    told: list[str] = []
    if choice not in WORDS and source:
        table: given.Given | None = _read(choice, source, names)
    else:
        known = {"label"} if choice or any(own) or any(by_folders.labels) else set[str]()
        known |= {"side"} if len(set(found.sides) - {""}) > 1 else set()
        near = beside.look(source, list(dict.fromkeys(names)), tables, known) if source else beside.Beside("", [])
        table = _read(near.setting, source, names) if near.setting and source else None
        told = near.warnings
    asked = choice not in WORDS or not any(own) and not any(by_folders.labels)
    if table and table.labels and asked and choice not in ("folders", "none"):
        found.labels, found.labels_from = _named(table.labels, by_folders.labels, table.words["label"])
    elif choice == "none":
        found.labels_from = ""
    elif given_by == "webdataset" and (words := webdataset.no_classes(own)):
        told = [words, *told]
    elif any(own) and choice != "folders":
        found.labels, found.labels_from = own, said
    else:
        found.labels, found.labels_from = by_folders.labels, "folders" if any(by_folders.labels) else ""
        told = by_folders.warnings + told
        if by_folders.scenes and not any(scenes):
            found.scenes, found.scenes_from = by_folders.scenes, by_folders.scenes_from
    if table:
        told = table.warnings + told
        found.files = table.files
        if table.sides:
            found.sides, found.sides_from = table.sides, table.words["side"]
        if table.groups:
            found.scenes, found.scenes_from, found.grouped = table.groups, table.words["group"], True
    if not given_by and not any(map(any, by_source)):
        told = told + file_names.told(names, any(found.labels))
    found.labels, same = _composed(found.labels)
    found.warnings = told + same
    return found


def _composed(labels: list[str]) -> tuple[list[str], list[str]]:
    """(labels, warnings): letters with their accents as one character each, as only some systems write them.

    >>> _composed(["for\u00eat", "fore\u0302t"])[1]
    ["2 spellings of class 'for\u00eat' look alike and differ in how accents are stored: taken as one class"]
    """
    forms = {label: unicodedata.normalize("NFC", label) for label in dict.fromkeys(labels)}
    several = [label for label, count in Counter(forms.values()).items() if count > 1]
    warnings = [
        f"{sum(form == label for form in forms.values())} spellings of class '{label}' look alike and differ in how "
        "accents are stored: taken as one class"
        for label in several
    ]
    return [forms[label] for label in labels], warnings


def one_class(found: Assigned, names: Sequence[str], others: Iterable[str], choice: str = "") -> list[str]:
    """What is told where no class can be told from another. others: images of the data set that are not taken.

    >>> one_class(Assigned(["", ""], [], []), ["set/a/1.jpg", "set/a/2.jpg"], ["set/b/1.jpg"])[0][:54]
    "only images of the class folder 'a' are left, so there"
    """
    classes = set(itertools.islice(filter(None, dict.fromkeys(found.labels)), 2))
    if len(classes) == 1 and not found.files and choice in WORDS:  # of a table it is told
        return [f"all labels, from {found.labels_from}, are '{classes.pop()}': one class cannot be told from another"]
    if classes or choice not in ("", "folders"):
        return []
    some = names[:LOOKED_AT]
    rest = list(itertools.islice(others, LOOKED_AT))
    if any(masks.is_folder(part) for name in rest for part in name.split("/")[:-1]):
        return []  # the images of a segmentation set, which has no classes of images
    left = set(folders.read([*some, *rest]).labels[: len(some)]) - {""}
    if len(left) != 1:
        return []
    what = f"only images of the class folder '{left.pop()}' are left"
    return [f"{what}, so there are no labels: one class cannot be told from another"]


def _read(choice: str, source: listing.Source, names: Sequence[str]) -> given.Given:
    """What tables say of each image, of each of its tiles where names come several times."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    found = given.read(choice, source, list(places))
    if len(places) < len(names):
        for values in (found.labels, found.sides, found.groups):
            values[:] = [values[places[name]] for name in names] if values else []
    return found


def _named(numbers: list[str], names: list[str], words: str) -> tuple[list[str], str]:
    """(labels, where they are from): the folders' names instead of a table's numbers where one stands for the other."""
    pairs = {(number, name) for number, name in zip(numbers, names, strict=True) if number}
    one_to_one = len(dict(pairs)) == len(pairs) == len({name for _, name in pairs}) and all(name for _, name in pairs)
    if not one_to_one or not all(number.isdigit() for number, _ in pairs):
        return numbers, words
    return [name if number else "" for number, name in zip(numbers, names, strict=True)], f"folders, as in {words}"


def of_folders(names: Sequence[str]) -> list[str]:
    """The class of each image by its folder, "" for none.

    >>> of_folders(["set/a/1.jpg", "set/b/2.jpg", "set/3.jpg"]), of_folders(["photos/1.jpg", "photos/2.jpg"])
    (['a', 'b', ''], ['', ''])
    >>> of_folders(["train/water/lake/1.jpg", "train/water/river/2.jpg", "test/3.jpg"])
    ['lake', 'river', '']
    """
    return folders.read(names).labels
