"""The images that become one data set: all of one kind, no name twice, and which known data set they are.

Images of a million are never held as objects: names, digests and looks are, as plain numbers.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from geofm_lib.catalog.datasets import DATASETS, Dataset
from geofm_lib.data.sample import Sample

OTHER_KIND = "it has "  # begins the reason for refusing an image whose bands are not those of the first


class Collection:
    """names of the good images, in order; refused: (name, reason); converted: how many of the good ones were.

    given: (label, side, scene) of each good image as its source says, "" where it does not.
    All are of one kind, and no name comes twice. channels: bands that an image must have, 0 for those of the first.
    """

    def __init__(self, channels: int = 0):
        self.names: list[str] = []
        self.given: list[tuple[str, str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.converted = 0
        self._channels = channels
        self._kind: tuple[int, str] | None = None  # channels and type of the first
        self._seen: set[str] = set()
        self._shared: dict[tuple[str, str, str], tuple[str, str, str]] = {}  # a million images give few of these
        self._digests, self._looks = array("Q"), array("Q")

    def add(self, sample: Sample) -> None:
        """Take in an image, good or refused."""
        if sample.reason:
            self.refused.append((sample.name, sample.reason))
            return
        self.names.append(sample.name)
        given = sample.label, sample.side, sample.scene
        self.given.append(self._shared.setdefault(given, given))
        self._seen.add(sample.name)
        self._kind = self._kind or (sample.channels, sample.dtype)
        self.converted += bool(sample.converted)
        self._digests.append(int(sample.digest, 16))
        self._looks.append(int(sample.look or "0", 16))

    def admit(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples, each taken in; those that do not fit the others are refused with the reason."""
        for sample in samples:
            sample.reason = sample.reason or self._misfit(sample)
            self.add(sample)
            yield sample

    def _misfit(self, sample: Sample) -> str:
        """Why an image cannot stand beside the others, "" if it can."""
        if sample.name in self._seen:
            return "another image has the same name"
        channels, dtype = self._kind or (self._channels or sample.channels, sample.dtype)
        if (sample.channels, sample.dtype) == (channels, dtype):
            return ""
        wanted = f"{channels} bands of {dtype}" if self._kind else f"{channels}"
        instead = "" if sample.channels == channels else f"; channels={sample.channels} takes those that have"
        return f"{OTHER_KIND}{sample.channels} bands of {sample.dtype}, not {wanted}{instead}"

    def check(self, dataset: str) -> None:
        """Raise ValueError, one sentence, when no image is good, or more are of other kinds than of the first's."""
        reasons = [reason for _, reason in self.refused]
        if not self.names:
            counted = "; ".join(f"{reason} ({count})" for reason, count in Counter(reasons).most_common(5))
            raise ValueError(f"dataset: none of the {len(reasons)} images of '{dataset}' can be used: {counted}")
        others = [reason for reason in reasons if reason.startswith(OTHER_KIND)]
        if len(others) > len(self.names):  # the first image is no measure of this set
            raise ValueError(
                f"dataset: '{dataset}' mixes {len(self.names)} images of one kind with {len(others)} of others "
                f"({others[0]}); give a folder that holds only one kind, or set channels"
            )

    def hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """Digests and looks of the good images, uint64 [n]; nothing can be added while they are in use."""
        return np.frombuffer(self._digests, np.uint64), np.frombuffer(self._looks, np.uint64)


def recognise(classes: Iterable[str]) -> Dataset | None:
    """The card of a data set, by its class folders: all of them are on the card, and half of the card is there.

    Spelling of capitals and separators plays no part. None if no card fits, as for anybody's own images.

    >>> recognise(["annual_crop", "Forest", "highway", "River", "sea-lake"]).name
    'eurosat'
    """
    found = set(map(_plain, classes))
    for card in DATASETS.values():
        known = set(map(_plain, card.class_names))
        if found and found <= known and 2 * len(found) >= len(known):
            return card
    return None


def compare(card: Dataset, counts: dict[str, int], unlabelled: int = 0) -> list[dict]:
    """What is there beside what the card says: rows of class, card (None: not known), found, missing.

    The last row is the sum. `counts`: images found of each class; `unlabelled`: found without a label.
    """
    found = {_plain(name): count for name, count in counts.items()}
    beside = [(name, card.counts.get(name), found.get(_plain(name), 0)) for name in card.class_names]
    if card.unlabelled:
        beside.append(("(no label)", card.unlabelled, unlabelled))
    beside.append(("all", card.images, sum(counts.values()) + unlabelled))
    return [
        {"class": name, "card": known, "found": n, "missing": int(not n) if known is None else max(0, known - n)}
        for name, known, n in beside
    ]


def _plain(name: str) -> str:
    """A class name without capitals and separators; Million-AID's own folder has a slip of the pen."""
    return "".join(filter(str.isalnum, name.lower())).replace("bapsketball", "basketball")
