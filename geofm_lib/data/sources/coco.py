"""Labels that are boxes (`labels=boxes`): a COCO file beside the images, and what it says of each. No torch.

`labels=boxes` takes the only JSON file that there is; `labels=boxes:annotations/instances.json` says which it is.
A file that is none is refused; what is wrong with an entry of it leaves that entry out, and is told.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from geofm_lib.data.sources import archives, listing

WORD = "boxes"
LISTS = ("images", "annotations", "categories")
# What is told of entries: of one, and of several with the first as example.
FAULTS = {
    "entry": ("1 entry of '{file}' cannot be read, {first}: it is left out",
              "{count} entries of '{file}' cannot be read, such as {first}: they are left out"),
    "missing": ("'{file}' names an image that is not there, '{first}'",
                "'{file}' names {count} images that are not there, such as '{first}'"),
    "nowhere": ("1 box is of an image that is not there, of id {first}",
                "{count} boxes are of images that are not there, such as of id {first}"),
    "unknown": ("1 box has a category id that '{file}' does not name, {first}: it is left out",
                "{count} boxes have category ids that '{file}' does not name, such as {first}: they are left out"),
    "twice": ("1 box of '{first}' stands there twice: it counts once",
              "{count} boxes, such as of '{first}', stand there twice: they count once"),
    "cut": ("1 box of '{first}' reaches beyond its image: it is cut at the edge",
            "{count} boxes, such as of '{first}', reach beyond their image: they are cut at the edge"),
    "outside": ("1 box of '{first}' lies outside of its image or has no area: it is left out",
                "{count} boxes, such as of '{first}', lie outside of their image or have no area: they are left out"),
}  # fmt: skip


class Box(NamedTuple):
    """Left, top, right and bottom in pixels, the number of its class, and whether it holds a crowd of such objects."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: int
    crowd: bool = False


@dataclass
class Found:
    """images: the setting `pattern`. file: that says all of this. classes: names, by their numbers.

    boxes: by image, [] for one without objects; of an image that is not among them nothing is said. sizes: (width,
    height) as the file has them. unclear: {image: why its boxes cannot be told}. faults: kind -> (how many, the first).
    """

    images: str
    file: str
    classes: list[str]
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    sizes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)

    def fault(self, kind: str, first: object) -> None:
        """Count one of a kind of FAULTS."""
        count, before = self.faults.get(kind, (0, str(first)))
        self.faults[kind] = count + 1, before

    def told(self) -> list[str]:
        """A sentence for each kind of fault."""
        of = FAULTS.items()
        return [words[self.faults[kind][0] > 1].format(file=self.file, count=self.faults[kind][0],
                first=self.faults[kind][1]) for kind, words in of if kind in self.faults]  # fmt: skip


def asked(choice: str) -> str | None:
    """The file that a setting `labels` names, "" for the one that is found; None where it is another.

    >>> asked("boxes"), asked("boxes:annotations.json"), asked("masks")
    ('', 'annotations.json', None)
    """
    word, colon, text = choice.partition(":")
    return text.strip() if word.strip() == WORD and (text.strip() or not colon) else None


def locate(source: listing.Source, choice: str) -> str:
    """The COCO file's name in the source. ValueError, one sentence, where there is none, or several could be meant."""
    wanted = asked(choice)
    if source.path is None:
        raise ValueError(f"labels: '{choice}' needs a folder, tar or zip with a COCO file; '{source.name}' has none")
    fits = [name for name in archives.every(source) if name.lower().endswith(".json")]
    if wanted:
        fits = [name for name in fits if f"/{name}".endswith(f"/{archives.clean(wanted)}")]
    if not fits:
        named = f"'{wanted}' is not in" if wanted else "there is no JSON file in"
        raise ValueError(f"labels: {named} '{source.name}'; name its COCO file, as in labels='{WORD}:annotations.json'")
    if len(fits) > 1 and wanted not in fits:
        raise ValueError(
            f"labels: {len(fits)} files of '{source.name}' could be meant, '{fits[0]}' and '{fits[1]}'; name one, as "
            f"in labels='{WORD}:{fits[0]}'"
        )
    return wanted if wanted and wanted in fits else fits[0]


def find(source: listing.Source, text: str, choice: str) -> Found:
    """What the file says of the images of a source. text: setting `pattern`. ValueError, one sentence, for none."""
    file = locate(source, choice)
    ((_, load),) = archives.entries(source, lambda name: archives.clean(name) == file, [])
    try:
        content = parsed(load() if callable(load) else load, file)
    except archives.READ_ERRORS as error:
        raise ValueError(f"labels: '{file}' cannot be read ({error}); fetch it again") from None
    found = Found(text, file, [])
    numbers = _classes(content["categories"], found)
    images = [name for name in archives.every(source) if listing.is_image_name(name)]
    _boxes(content["annotations"], _images(content["images"], images, found), numbers, found)
    if not found.boxes:
        raise ValueError(f"labels: '{file}' names none of the images of '{source.name}'; use the file of these images")
    return found


def parsed(data: bytes, file: str) -> dict[str, list]:
    """The file's lists. ValueError, one sentence, for what is no COCO file."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"labels: '{file}' is no JSON that can be read ({error}); fetch or write it again") from None
    missing = [name for name in LISTS if not (isinstance(content, dict) and isinstance(content.get(name), list))]
    if missing:
        raise ValueError(f"labels: '{file}' is no COCO file with boxes: it has no list '{missing[0]}'")
    return content


def _entries(rows: Iterable[Any], names: Sequence[str], found: Found) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """(entry, its values of these names) of those that have them all; what ends in "id" is a number or a text."""
    for row in rows:
        values = [row.get(name) for name in names] if isinstance(row, dict) else [None]
        good = [isinstance(v, int | str) if n.endswith("id") else v is not None
                for n, v in zip(names, values, strict=False)]  # fmt: skip
        if all(good):
            yield row, values
        else:
            found.fault("entry", f"{json.dumps(row)[:60]} without a good {names[good.index(False)]}")


def _classes(rows: Sequence[Any], found: Found) -> dict[Any, int]:
    """{id: number of its class}; fills `classes`, in the order of ids. ValueError for an id of two names, or none."""
    names: dict[Any, str] = {}
    for _, (key, name) in _entries(rows, ("id", "name"), found):
        if names.setdefault(key, str(name)) != str(name):
            raise ValueError(f"labels: '{found.file}' calls category {key} both '{names[key]}' and '{name}'")
    if not names:
        raise ValueError(f"labels: '{found.file}' names no category, so no box has a class")
    found.classes += dict.fromkeys(names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key)))
    return {key: found.classes.index(name) for key, name in names.items()}


def _images(rows: Sequence[Any], images: Sequence[str], found: Found) -> dict[Any, str]:
    """{id: image}; fills `boxes`, still without any, `sizes` and `unclear`. A path fits by its end."""
    called: dict[str, list[str]] = {}
    for name in images:
        called.setdefault(name.rpartition("/")[2], []).append(name)
    of_id: dict[Any, list[str]] = {}
    for row, (key, path) in _entries(rows, ("id", "file_name"), found):
        path = archives.clean(str(path))
        fits = [name for name in called.get(path.rpartition("/")[2], ()) if f"/{name}".endswith(f"/{path}")]
        if not fits:
            found.fault("missing", path)
        elif len(fits) > 1:
            why = f"'{found.file}' does not say which of {len(fits)} files '{path}' is"
            found.unclear.update(dict.fromkeys(fits, why))
        else:
            of_id[key] = [*dict.fromkeys([*of_id.get(key, ()), *fits])]
            found.boxes.setdefault(fits[0], [])
            found.sizes[fits[0]] = row.get("width"), row.get("height")
    for key, names in of_id.items():
        if len(names) > 1:
            why = f"'{found.file}' has {len(names)} images of the id {key}"
            found.unclear.update(dict.fromkeys(names, why))
    for name in found.unclear:
        found.boxes.pop(name, None)
    return {key: names[0] for key, names in of_id.items()}


def _boxes(rows: Sequence[Any], of_id: dict[Any, str], numbers: dict[Any, int], found: Found) -> None:
    """Fills `boxes`."""
    seen: set[tuple[str, Box]] = set()
    for row, (image, category, corner) in _entries(rows, ("image_id", "category_id", "bbox"), found):
        name = of_id.get(image, "")
        if not name or name not in found.boxes:
            if not name:
                found.fault("nowhere", image)  # else its image is unclear, which is told of that
        elif category not in numbers:
            found.fault("unknown", category)
        elif not _is_box(corner):
            found.fault("entry", f"{json.dumps(row)[:60]} without a good bbox")
        else:
            x, y, width, height = map(float, corner)
            box = Box(x, y, x + width, y + height, numbers[category], bool(row.get("iscrowd")))
            if (name, box) in seen:
                found.fault("twice", name)
            else:
                seen.add((name, box))
                found.boxes[name].append(box)


def _is_box(corner: object) -> bool:
    """Left, top, width and height?"""
    if not isinstance(corner, list) or len(corner) != 4:
        return False
    return all(isinstance(each, int | float) and math.isfinite(each) for each in corner)


def clip(found: Found, name: str, width: int, height: int) -> None:
    """Leave of an image's boxes the parts that lie in it, and nothing of those that lie outside."""
    kept = []
    for box in found.boxes[name]:
        cut = box._replace(x1=max(box.x1, 0.0), y1=max(box.y1, 0.0), x2=min(box.x2, width), y2=min(box.y2, height))
        if cut.x1 >= cut.x2 or cut.y1 >= cut.y2:
            found.fault("outside", name)
            continue
        if cut != box:
            found.fault("cut", name)
        kept.append(cut)
    found.boxes[name] = kept
