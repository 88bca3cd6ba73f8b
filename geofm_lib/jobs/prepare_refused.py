"""What a preparation refused, a row a file: the tiles of a scene are counted, not listed."""

import re
from collections import Counter
from collections.abc import Iterator

from geofm_lib.data.sources import tiles

EMPTY = re.compile(r"only \S+ % of its pixels were measured")  # as `verify` says it
NUMBER = re.compile(r"\d[\d.]*")


class Refusals:
    """(name, reason) of each refused file, in order.

    Tiles of a scene that are refused for reasons that differ in numbers only are one row. Tiles where too little was
    measured are none: they are counted in `empty`, unless no tile of their scene is good.
    """

    def __init__(self) -> None:
        self.images = 0  # refused, each tile for itself
        self._rows: dict[object, tuple[str, str, int]] = {}  # name, first reason, how many tiles, 0 for a whole file
        self._empty: Counter[str] = Counter()  # scene -> tiles
        self._good: set[str] = set()  # scenes

    def add(self, name: str, reason: str) -> None:
        """Take in a refused image."""
        self.images += 1
        cut = tiles.origin(name)
        if cut is None:
            self._rows[self.images] = name, reason, 0
        elif EMPTY.match(reason):
            self._empty[cut[0]] += 1
        else:
            key = cut[0], NUMBER.sub("", reason)
            _, first, count = self._rows.get(key, ("", reason, 0))
            self._rows[key] = cut[0], first, count + 1

    def good(self, name: str) -> None:
        """Take note of an image that is not refused."""
        if cut := tiles.origin(name):
            self._good.add(cut[0])

    @property
    def empty(self) -> int:
        """Tiles where too little was measured."""
        return self._empty.total()

    def __len__(self) -> int:
        return len(self._rows) + len(self._empty.keys() - self._good)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, reason, count in self._rows.values():
            yield name, f"{count} of its tiles: {reason}" if count else reason
        for scene, count in self._empty.items():
            if scene not in self._good:
                yield scene, f"none of its {count} tiles was measured enough (valid_min)"
