"""Groups of an image's bands, as `B2,B3,B4|B5-...` or by number `0-3|4,6`: what they mean, and what cannot be meant."""

import re
from collections.abc import Iterable, Sequence

from geofm_lib.catalog.suggest import did_you_mean

NUMBERS = re.compile(r"(\d{1,4})(?:\s*-\s*(\d{1,4}))?")


def parse(text: str) -> list[list[str]]:
    """The words of each group, [] for no text. ValueError, one sentence, for an empty group or a word that comes twice.

    >>> parse("B2, B3|B8")
    [['B2', 'B3'], ['B8']]
    """
    if not text.strip():
        return []
    groups = [[word.strip() for word in group.split(",")] for group in text.split("|")]
    seen = set[str]()
    for number, group in enumerate(groups, 1):
        if not any(group):
            raise ValueError(f"group {number} is empty; name its bands, or take a | away")
        for word in group:
            if not word:
                raise ValueError(f"group {number} has a comma without a band; take it away")
            if word in seen:
                raise ValueError(f"'{word}' is there twice; a band is in one group")
            seen.add(word)
    return groups


def resolve(text: str, bands: int, names: Sequence[str] = ()) -> tuple[tuple[int, ...], ...]:
    """The bands of each group by number from 0, in the images' order; () where all bands are one group, or no text.

    Args:
        bands: how many an image has.
        names: theirs, where they have any. Words are names then, or numbers and ranges where no name is a number.

    ValueError, one sentence, for a band that is unknown, in two groups, or in none.

    >>> resolve("B8|B2,B3", 3, ("B2", "B3", "B8")), resolve("0-1|2", 3), resolve("0-2", 3)
    (((2,), (0, 1)), ((0, 1), (2,)), ())
    """
    if not (words := parse(text)):
        return ()
    called = list(names) or [f"{number}" for number in range(bands)]
    groups = [sorted(each for word in group for each in _numbers(word, bands, names)) for group in words]
    found = [each for group in groups for each in group]
    twice = [called[each] for each in sorted(set(found)) if found.count(each) > 1]
    left = [name for number, name in enumerate(called) if number not in found]
    if twice:
        raise ValueError(f"{_listed(twice)} in two groups; leave {'it' if len(twice) == 1 else 'them'} in one")
    if left:
        raise ValueError(f"{_listed(left)} in no group; add {'it' if len(left) == 1 else 'them'} to one")
    return tuple(map(tuple, groups)) if len(groups) > 1 else ()


def spelled(groups: Iterable[Iterable[int]]) -> str:
    """The text of groups of numbers: ``spelled([[0, 1], [2]])`` is "0,1|2"."""
    return "|".join(",".join(map(str, group)) for group in groups)


def _numbers(word: str, bands: int, names: Sequence[str]) -> range:
    if word in names:
        return range(names.index(word), names.index(word) + 1)
    match = NUMBERS.fullmatch(word) if not any(map(NUMBERS.fullmatch, names)) else None
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < bands:
        known = f"are {', '.join(names)}" if names else f"have no names but their numbers, 0 to {bands - 1}"
        raise ValueError(f"there is no band '{word}', the images' bands {known}{did_you_mean(word, names)}")
    return range(first, last + 1)


def _listed(names: Sequence[str]) -> str:
    return f"band{'s' * (len(names) > 1)} {', '.join(names)} {'is' if len(names) == 1 else 'are'}"
