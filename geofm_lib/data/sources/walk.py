"""The names of files, listed once: a folder of a million is not walked again for each question about it."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

BLOCK = 10_000  # names that are kept as one text


class Listed:
    """The names of a source, kept once they were read to the end. A million of 30 letters take 30 MB.

    repeated: (name, reason) of folders that are passed over, since they are read under another name.
    """

    def __init__(self, names: Callable[[list, list], Iterator[str]]):
        self._names = names
        self._blocks: list[str] | None = None
        self._troubles: list[tuple[str, str]] = []
        self.repeated: list[tuple[str, str]] = []

    def names(self, troubles: list[tuple[str, str]]) -> Iterator[str]:
        """The names, in an order that never changes. troubles: gets what cannot be listed, as (name, reason)."""
        if self._blocks is None:
            blocks, found, repeated = list[str](), list[tuple[str, str]](), list[tuple[str, str]]()
            names = self._names(found, repeated)
            while block := list(islice(names, BLOCK)):
                blocks.append("\0".join(block))
                yield from block
            self._blocks, self._troubles, self.repeated = blocks, found, repeated
        else:
            for text in self._blocks:
                yield from text.split("\0")
        troubles += self._troubles


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
