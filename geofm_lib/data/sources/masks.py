"""Masks among images, as segmentation sets have them: which files they are, and the pattern that takes the images."""

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from geofm_lib.data.sources import guards, pattern, sides

# The first stand in the names of folders and files; WORDS in those of files, since classes are called so too.
_CLEAR = set(
    "mask masks msk label labels lbl annotation annotations annot ann anno gt gts groundtruth truth seg segs "
    "segmentation segmentations".split()
)
WORDS = _CLEAR | set("target targets colormask semantic instance".split())
_HINT = re.compile("|".join(sorted(WORDS)))  # in small letters: ignoring case takes fifteen times as long
LEAST = 0.02  # of the files
PAIRED = 0.5  # of what looks like masks must have an image of the same name


def beside(folders: Iterable[str]) -> list[tuple[str, set[str], set[str]]]:
    """(folder, those in it that hold masks, the others), where the others are images, sides or dates by their names.

    >>> beside(["set/images", "set/masks"]), beside(["forest", "masks"])
    ([('set', {'masks'}, {'images'})], [])
    """
    inside: dict[str, set[str]] = {}
    for folder in folders:
        parts = folder.split("/") if folder else []
        for k, part in enumerate(parts):
            inside.setdefault("/".join(parts[:k]), set()).add(part)
    found = []
    for above, children in sorted(inside.items()):
        masks = {child for child in children if is_folder(child)} if len(children) <= sides.MOST else set()
        others = children - masks
        if masks and others and all(sides.side_of(each) or guards.is_role(each) for each in others):
            found.append((above, masks, others))
    return found


def is_folder(name: str) -> bool:
    """Does the name of a folder say that it holds masks?"""
    return bool(_CLEAR.intersection(sides.words(name))) or guards.is_mask(name)


def find(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what looks like masks of the others, the others), ([], []) for nothing: by folders, or by names with partners.

    >>> find(["1_sat.jpg", "1_mask.png", "2_sat.jpg", "2_mask.png"])[0], find(["mask_1.png", "mask_2.png"])[0]
    (['1_mask.png', '2_mask.png'], [])
    """
    pairs = beside({os.path.dirname(name) for name in names})
    if tops := {f"{above}/{mask}".lstrip("/") for above, found, _ in pairs for mask in found}:
        masks = [name for name in names if not tops.isdisjoint(_above(name))]
    else:
        keys = {name: key for name in names if (key := _mask(name))}
        wanted = set().union(*(partners(name) for name in names if keys and name not in keys))
        masks = list(keys) if sum(key in wanted for key in keys.values()) >= PAIRED * len(keys) else []
    if not LEAST * len(names) <= len(masks) < len(names):
        return [], []
    known = set(masks)
    return masks, [name for name in names if name not in known]


def images_alone(masks: Sequence[str], images: Sequence[str]) -> tuple[str, float]:
    """(the pattern that takes no mask and the most of the images, their share), ("", 0) where there is none."""
    best, most = "", 0
    for text in _candidates(images):
        try:
            match = pattern.parse(text).match
        except ValueError:  # a name with a brace or a star
            continue
        top = _top([*masks, *images])
        if any(match(name) or match(name.removeprefix(top)) for name in masks):
            continue
        taken = sum(bool(match(name) or match(name.removeprefix(top))) for name in images)
        if taken > most:
            best, most = text, taken
    return best, most / len(images)


def way_out(masks: Sequence[str], images: Sequence[str]) -> str:
    """What takes the images alone, in words."""
    text, share = images_alone(masks, images)
    if not text:
        return "move the masks out of the data set"
    if share < 1:
        most = f"of the patterns that take none, '{text}' takes {share:.0%} of the images"
        return f"move the masks out of the data set ({most})"
    return f"pattern='{text}' takes the images alone"


def _above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: k + 1]) for k in range(len(parts))]


def _top(names: Sequence[str]) -> str:
    """The folder, with "/", that holds everything: a pattern may leave it out."""
    common = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    return f"{common.split('/')[0]}/" if common else ""


@functools.lru_cache(maxsize=65_536)
def _says_mask(token: str) -> bool:
    return bool(WORDS.intersection(sides.words(token)))


def _tokens(name: str) -> list[str]:
    return re.split(r"[_.\-\s]+", os.path.splitext(os.path.basename(name))[0])


def _key(name: str, tokens: list[str]) -> str:
    """What an image and its mask have in common; where that is no text, the folder."""
    return "_".join(tokens).lower() or f"{os.path.dirname(name)}/"


def _mask(name: str) -> str:
    """The key of what looks like a mask by its name, or by its folder's; "" for others."""
    if not _HINT.search(name.lower()):
        return ""
    tokens = _tokens(name)
    end = len(tokens)
    while end > 1 and tokens[end - 1].isdigit():  # 1_mask_0
        end -= 1
    tokens = tokens[:end] if end > 1 and _says_mask(tokens[end - 1]) else tokens
    end = len(tokens)
    while end and _says_mask(tokens[end - 1]):
        end -= 1
    start = 0
    while start < end and _says_mask(tokens[start]):
        start += 1
    said = (start, end) != (0, len(_tokens(name))) or _in_masks(os.path.dirname(name))
    return _key(name, tokens[start:end]) if said else ""


@functools.lru_cache(maxsize=65_536)
def _in_masks(folder: str) -> bool:
    return any(_CLEAR.intersection(sides.words(part)) for part in folder.split("/"))


def partners(name: str) -> list[str]:
    """The keys that a mask of this image may have, the likeliest first."""
    tokens = _tokens(name)
    return [_key(name, part) for part in (tokens, tokens[:-1], tokens[1:])]


def key(name: str) -> str:
    """What a mask has in common with its image, by their file names."""
    return _mask(name) or _key(name, _tokens(name))


def _candidates(images: Sequence[str]) -> list[str]:
    """Patterns that may take the images alone, the plainest first: folders, suffixes, words of names, their length."""
    folders: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    lengths: Counter[tuple[int, str]] = Counter()
    for name in images:
        folders.update(set(name.split("/")[:-1]))
        stem, suffix = os.path.splitext(os.path.basename(name))
        suffixes[suffix] += 1
        lengths[len(stem), suffix] += 1
        found = re.split(r"(?<=[_.\-\s])|(?=[_.\-\s])", stem)
        starts["".join(found[:2])] += len(found) > 2
        ends["".join(found[-2:]) + suffix] += len(found) > 2
    alike = [_alike([each for each in folders if len(each) == size]) for size in sorted(set(map(len, folders)))]
    top = _top(images)
    first = Counter(name.removeprefix(top).split("/")[0] for name in images if "/" in name.removeprefix(top))
    return [
        *(f"{folder}/**" for folder, _ in first.most_common(8)),
        *(f"**/{folder}/**" for folder, _ in folders.most_common(8)),
        *(f"**/{text}/**" for text in alike if text),
        *(f"*{suffix}" for suffix, _ in suffixes.most_common(3)),
        *(f"*{end}" for end, _ in ends.most_common(3)),
        *(f"{start}*" for start, _ in starts.most_common(3)),
        *(f"{'?' * length}{suffix}" for (length, suffix), _ in lengths.most_common(3)),
    ]


def _alike(names: list[str]) -> str:
    """Some names of one length as one with a ? where they differ, "" for a single one or too many."""
    letters = ["?" if len(set(column)) > 1 else column[0] for column in zip(*names, strict=True)]
    return "".join(letters) if 1 < len(names) <= 4 else ""
