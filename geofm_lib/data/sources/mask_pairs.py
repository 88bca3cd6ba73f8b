"""Labels that are masks (`labels=masks`): which files they are, whose each is, and names of their classes. No torch.

`labels=masks` finds them as `masks` does, by folder or name; `labels=masks:**/gt/*.png` says which they are.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from geofm_lib.data.sources import archives, chosen, guards, listing, masks, pattern, sides

WORD = "masks"
LISTS = ("classes.txt", "class_names.txt", "labels.txt", "label_names.txt", "codes.txt")
UNLABELLED = set("unlabeled unlabelled ignore ignored void nodata no_data unknown".split())
NO_CLASS = 255  # an id that means no class, where nothing names the classes
MOST_IDS = 255


@dataclass
class Found:
    """images: the pattern that takes the images. masks: files by the image whose they are; several of one are a fault.

    lone: masks without an image. classes: names by id, {} where no file says. file: the one that says.
    """

    images: str
    masks: dict[str, list[str]]
    lone: list[str] = field(default_factory=list)
    classes: dict[int, str] = field(default_factory=dict)
    file: str = ""


def asked(choice: str) -> str | None:
    """The pattern of the masks that a setting `labels` names, "" for those that are found; None where it is another.

    >>> asked("masks"), asked("masks:**/gt/*.png"), asked("folders")
    ('', '**/gt/*.png', None)
    """
    word, colon, text = choice.partition(":")
    return text.strip() if word.strip() == WORD and (text.strip() or not colon) else None


def find(source: listing.Source, text: str, choice: str, classes: bool = True) -> Found:
    """What is there. text: setting `pattern`. ValueError, one sentence, where masks or images cannot be told.

    classes: read their names too.
    """
    wanted = asked(choice)
    if source.path is None:
        raise ValueError(f"labels: '{choice}' needs a folder, tar or zip that holds masks; '{source.name}' has none")
    if archives.is_stream(source):
        raise ValueError(f"labels: the masks in '{source.path}', a compressed tar, cannot be found; unpack it")
    every = list(archives.every(source))
    names = list(filter(listing.is_image_name, every))
    found = _taken(source, names, wanted) if wanted else masks.find(names)[0]
    if not found:
        raise ValueError(
            f"labels: no masks are found in '{source.name}'; name them, as in labels='{WORD}:**/masks/*.png'"
        )
    others = sorted(set(names).difference(found))
    if text:
        images = [name for name in _taken(source, names, text) if name not in set(found)]
    else:
        text, share = masks.images_alone(found, others)
        if share < 1:
            raise ValueError(f"labels: no pattern takes all images and no mask of '{source.name}'; set pattern as well")
        images = others
    if not images:
        raise ValueError(f"pattern: '{text}' takes masks alone, and no image")
    paired, lone = pairs(images, found)
    if not any(paired.values()):
        raise ValueError(
            f"labels: no mask has the name of an image: '{found[0]}' is of none, and '{images[0]}' has none; name them "
            f"alike, in folders of their own"
        )
    lists = [name for name in every if name.rpartition("/")[2].lower() in LISTS]
    if not (classes and lists):
        return Found(text, paired, lone)
    return Found(text, paired, lone, names_of(source, lists[0]), lists[0])


def pairs(images: Sequence[str], found: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({image: its masks}, masks of no image): by what is left of a path without the words that say image or mask.

    >>> pairs(["images/a.jpg", "images/b_sat.jpg"], ["masks/a.png", "masks/c.png", "masks/b_mask.png"])
    ({'images/a.jpg': ['masks/a.png'], 'images/b_sat.jpg': ['masks/b_mask.png']}, ['masks/c.png'])
    """
    of: dict[tuple[str, ...], list[str]] = {}
    for name in found:
        of.setdefault(_key(name, masks.key(name)), []).append(name)
    taken: dict[str, list[str]] = {}
    for name in images:
        keys = dict.fromkeys(_key(name, part) for part in masks.partners(name))
        taken[name] = next((of[key] for key in keys if key in of), [])
    used = {name for each in taken.values() for name in each}
    return taken, [name for name in found if name not in used]


def loads(source: listing.Source, found: Found) -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    """(image, its mask's bytes or a function that gives them) where it has one mask, in an order that never changes."""
    image_of = {each[0]: image for image, each in found.masks.items() if len(each) == 1}
    for name, load in archives.entries(source, lambda name: archives.clean(name) in image_of, []):
        yield image_of[archives.clean(name)], load


def names_of(source: listing.Source, file: str) -> dict[int, str]:
    """Names by id of a list, "0 water" or "water" a line; ValueError, one sentence, for another content."""
    loads = [load for _, load in archives.entries(source, lambda name: archives.clean(name) == file, [])]
    data = loads[0]() if callable(loads[0]) else loads[0]
    return parsed(data.decode("utf-8", "replace").splitlines(), file)


def parsed(lines: Iterable[str], file: str) -> dict[int, str]:
    """The same of its lines.

    >>> parsed(["0 water", "5: unlabeled"], "classes.txt"), parsed(["water", "land"], "classes.txt")
    ({0: 'water', 5: 'unlabeled'}, {0: 'water', 1: 'land'})
    """
    found: dict[int, str] = {}
    for number, line in enumerate(filter(str.strip, lines)):
        match = re.fullmatch(r"\s*(\d+)\s*[\s,;:=]\s*(\S.*?)\s*", line)
        key, name = (int(match[1]), match[2]) if match else (number, line.strip())
        if key > MOST_IDS or key in found:
            why = f"the id {key} stands there twice" if key in found else f"ids go up to {MOST_IDS}"
            raise ValueError(f"labels: '{file}' names no classes ({why}); write a line 'id name' for each")
        found[key] = name
    return found


def _taken(source: listing.Source, names: list[str], text: str) -> list[str]:
    template, found = pattern.parse(text), chosen.survey(source, text)
    return [name for name in names if chosen.is_chosen(template, name, found.top)]


def _key(name: str, stem: str) -> tuple[str, ...]:
    folders = [part.lower() for part in name.split("/")[:-1]]
    return (*(part for part in folders if not masks.is_folder(part) and not _says_image(part)), stem)


def _says_image(folder: str) -> bool:
    return guards.is_role(folder) and not sides.side_of(folder)
