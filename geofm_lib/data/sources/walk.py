"""The names of files, listed once: a folder of a million is not walked again for each question about it."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

MOST = 10_000  # names that are kept as one text


class Listed:
    """The names of a source, kept as they are read: a million of 30 letters take 30 MB.

    repeated: (name, reason) of folders that are passed over, since they are read under another name.
    """

    def __init__(self, names: Callable[[list, list], Iterator[str]]):
        """names: a function that lists them; it fills a list of troubles and one of repeated folders."""
        self._blocks: list[str] = []
        self._troubles: list[tuple[str, str]] = []
        self.repeated: list[tuple[str, str]] = []
        self._rest = names(self._troubles, self.repeated)

    def names(self, troubles: list[tuple[str, str]]) -> Iterator[str]:
        """The names, in an order that never changes. troubles: gets what cannot be listed, as (name, reason)."""
        place = 0
        while place < len(self._blocks) or self._read():
            yield from self._blocks[place].split("\0")
            place += 1
        troubles += self._troubles

    def _read(self) -> bool:
        """Read on, first a name, then ten, then a hundred; False at the end."""
        block = list(islice(self._rest, min(MOST, 10 ** len(self._blocks))))
        if block:
            self._blocks.append("\0".join(block))
        return bool(block)


def folder(root: Path, troubles: list[tuple[str, str]], repeated: list[tuple[str, str]]) -> Iterator[str]:
    """Sorted names of all files, with "/" between parts. Links to folders are followed, each folder is read once.

    Class folders are often links. troubles, repeated: see `Listed`.
    """
    seen: dict[str, str] = {}

    def inside(folder: str) -> str:
        return os.path.relpath(folder, root).replace(os.sep, "/")

    def unreadable(error: OSError) -> None:
        troubles.append((inside(error.filename), f"the folder cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            known = "the data set's own folder" if seen[real] == "." else f"'{seen[real]}'"
            repeated.append((inside(folder), f"a folder that is read already, as {known}"))
            folders.clear()
            continue
        seen[real] = inside(folder)
        if not folders and not files:
            troubles.append((inside(folder), "the folder is empty"))
        folders.sort()
        files.sort()
        before = "" if folder == os.fspath(root) else inside(folder) + "/"
        yield from (before + name for name in files)
