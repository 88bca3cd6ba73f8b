"""Which image a table means: by its path, the end of its path, its name, with or without suffix, or its folder."""

import fnmatch
import functools
import re
from collections.abc import Callable, Sequence

from geofm_lib.data.sources import listing

NONE, SEVERAL = -1, -2  # instead of the place of an image
MOST_WORK = 200_000_000  # names held against patterns of one table


class Finder:
    """The images by what others call them. names: relative paths. inside: the folder of the table, "" for the top.

    >>> found = Finder(["set/a/1.png", "set/b/1.png", "set/b/2.png"])
    >>> [found(text) for text in ("set/a/1.png", "b/1.png", "/home/me/set/b/2", "2.tif", "1.png", "../c.png")]
    [0, 1, 2, 2, -2, -1]
    """

    def __init__(self, names: Sequence[str], inside: str = ""):
        self.names, self.inside = names, inside
        self._work = 0
        self._ends: dict[tuple[bool, int], dict[str, int]] = {}
        self._folders: dict[str, int] | None = None

    def __call__(self, text: str) -> int:
        """The place of the image in `names`, NONE, or SEVERAL where more than one could be meant."""
        place = self._end(False, 0).get(text, NONE)
        if place >= 0:
            return place
        if "://" in text:  # an address
            text = text.partition("://")[2].partition("?")[0]
        parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            return NONE
        for bare in (False, True):
            wanted = _bare("/".join(parts)).lower() if bare else "/".join(parts)
            whole = self._end(bare, 0)
            place = whole.get(wanted, NONE)
            if place == NONE and self.inside:
                place = whole.get(f"{self.inside.lower() if bare else self.inside}/{wanted}", NONE)
            if place == NONE:
                place = self._end(bare, len(parts)).get(wanted, NONE)
            rest = wanted.split("/")[1:]
            while place == NONE and rest:  # the path on another machine, longer than here
                place = whole.get("/".join(rest), NONE)
                rest = rest[1:]
            if place != NONE:
                return place
        return self._folder("/".join(parts))

    def all(self, pattern: str) -> list[int]:
        """The places of the images that a pattern with * or ? means, by the end of their paths."""
        self._work += len(self.names)
        if self._work > MOST_WORK:
            raise ValueError("labels: there are too many patterns for so many images; write the paths themselves")
        match = _matcher(pattern.strip().replace("\\", "/").lstrip("./"))
        return [place for place, name in enumerate(self.names) if match(name)]

    def _folder(self, text: str) -> int:
        """The one image in a folder, as a sample of stacked bands is; NONE for a folder of several."""
        if self._folders is None:
            whole: dict[str, int] = {}
            for place, name in enumerate(self.names):
                folder = name.rpartition("/")[0]
                whole[folder] = place if folder not in whole else NONE
            last: dict[str, int] = {}
            for folder, place in whole.items():
                key = folder.rpartition("/")[2]
                last[key] = place if key not in last else NONE
            self._folders = last | whole
        return self._folders.get(text, NONE)

    def _end(self, bare: bool, parts: int) -> dict[str, int]:
        """{the last so many parts of a name (0: all), if `bare` in small letters without suffix: its place}."""
        if (bare, parts) not in self._ends:
            found: dict[str, int] = {}
            for place, name in enumerate(self.names):
                if parts:
                    pieces = name.rsplit("/", parts)
                    if len(pieces) < parts:
                        continue
                    name = name if len(pieces) == parts else "/".join(pieces[1:])
                if bare:
                    name = _bare(name).lower()
                found[name] = place if name not in found else SEVERAL
            self._ends[bare, parts] = found
        return self._ends[bare, parts]


def is_pattern(text: str) -> bool:
    """Does it stand for several images?"""
    return ("*" in text or "?" in text) and "://" not in text


def _bare(name: str) -> str:
    """A name without the suffix of an image, and without what stands for the bands of a stack."""
    dot = name.rfind(".")
    if name[dot:].lower() in listing.IMAGE_SUFFIXES:
        name = name[:dot]
    return name[:-6] if name.endswith(("_bands", "-bands", ".bands")) else name


@functools.lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Callable[[str], object]:
    return re.compile("(?:.*/)?" + fnmatch.translate(pattern)).match
