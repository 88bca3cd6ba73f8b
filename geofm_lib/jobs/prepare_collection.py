"""The images that become one data set: all of one kind, no name twice, and which known data set they are.

Images of a million are never held as objects: names, digests and looks are, as plain numbers.
"""

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geofm_lib.catalog.datasets import DATASETS, Dataset
from geofm_lib.data import duplicates
from geofm_lib.data.places import Places
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import pattern, tiles
from geofm_lib.data.sources.labels import Assigned
from geofm_lib.data.sources.unused import Unused
from geofm_lib.jobs.prepare_refused import Refusals

_ALPHA = "if its last band is transparency, {} takes all images alike"
OTHER_KIND = "it has "  # begins the reason for refusing an image whose bands are not those of the others
TAKES, APART = "takes those that have", "put each kind into a folder of its own"
MAJORITY = 2 / 3  # of the images must be of one kind; with less it is not for us to say which are meant
MANY_BANDS = 32  # more than most sensors have
LARGE = 1024  # pixels of the short side
Kind = tuple[int, str]  # bands and the type of a value


class Collection:
    """names of the good images, in order, and their places; refused: (name, reason); converted: how many of the good.

    given: (label, side, scene) of each good image as its source says, "" where it does not.
    conversions: what had to be done -> images. kinds: (bands, type) -> names of those images. No name comes twice.
    channels: bands that an image must have, 0 for any; then `misfits` says which are not of the kind of most.
    """

    def __init__(self, channels: int = 0, pattern: str = ""):
        self.names: list[str] = []
        self.given: list[tuple[str, str, str]] = []
        self.refused = Refusals()
        self.places = Places(pattern)
        self.large = 0  # images of which a crop sees little
        self.swapped = 0  # images that look as if their columns lay where bands belong
        self.converted = 0
        self.conversions: Counter[str] = Counter()
        self.kinds: dict[Kind, list[str]] = {}
        self.alphas: Counter[Kind] = Counter()  # of images of which an alpha band was taken as a mask, or dropped
        self._channels = channels
        self._seen: set[str] = set()
        self._shared: dict[tuple[str, str, str], tuple[str, str, str]] = {}  # a million images give few of these
        self._digests, self._looks, self._contrasts = array("Q"), array("Q"), array("f")

    def add(self, sample: Sample) -> None:
        """Take in an image, good or refused."""
        if sample.reason:
            self.refused.add(sample.name, sample.reason)
            return
        self.refused.good(sample.name)
        self.places.add(sample)
        self.large += min(sample.width, sample.height) >= LARGE
        self.swapped += looks_swapped(sample.height, sample.width, sample.channels)
        self.names.append(sample.name)
        given = sample.label, sample.side, sample.scene
        self.given.append(self._shared.setdefault(given, given))
        self._seen.add(sample.name)
        self.kinds.setdefault((sample.channels, sample.dtype), []).append(sample.name)
        if sample.converted:
            self.alphas[sample.channels, sample.dtype] += "alpha" in sample.converted
            self.converted += 1
            self.conversions.update(filter(None, sample.converted.split(", ")))
        self._digests.append(int(sample.digest, 16))
        self._looks.append(int(sample.look or "0", 16))
        self._contrasts.append(sample.contrast)

    def admit(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples, each taken in; a second one of a name, or one with other `channels`, is refused."""
        for sample in samples:
            sample.reason = sample.reason or self._misfit(sample)
            self.add(sample)
            yield sample

    def _misfit(self, sample: Sample) -> str:
        """Why an image cannot be taken, "" if it can."""
        if sample.name in self._seen:
            return "another image has the same name"
        if self._channels in (0, sample.channels):
            return ""
        kind = _words((sample.channels, sample.dtype))
        return f"{OTHER_KIND}{kind}, not {self._channels}; channels={sample.channels} {TAKES}"

    def misfits(self, dataset: str) -> dict[str, str]:
        """{name: reason} of the images that are not of the kind of most.

        Raises ValueError, one sentence, when no image is good, or no kind has MAJORITY of them: which comes first, or
        has one more, says nothing about which are meant.
        """
        if not self.names:
            counts = Counter(reason for _, reason in self.refused).most_common(5)
            counted = "; ".join(f"{reason} ({count})" for reason, count in counts)
            raise ValueError(f"dataset: none of the {len(self.refused)} images of '{dataset}' can be used: {counted}")
        most, *others = sorted(self.kinds, key=lambda kind: len(self.kinds[kind]), reverse=True)
        if len(self.kinds[most]) < MAJORITY * len(self.names):
            raise ValueError(f"dataset: '{dataset}' mixes {_mix(self.kinds, [most, *others], self.alphas)}")
        reasons = {kind: self._reason(kind, most) for kind in others}
        return {name: reasons[kind] for kind in others for name in self.kinds[kind]}

    def _reason(self, kind: Kind, most: Kind) -> str:
        """Why an image of a kind cannot be among those of most."""
        if alpha := _alpha_ways(self.kinds, self.alphas, kind, most):
            how = _ALPHA.format(" or ".join(alpha))
        else:
            how = next((f"{way} {TAKES}" for way in _ways(self.kinds, kind)), "to take those that have, " + APART)
        return f"{OTHER_KIND}{_words(kind)}, not {_words(most)} as most; {how}"

    def hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """Digests and looks (0: flat) of the good images, uint64 [n]; nothing can be added while they are in use."""
        looks, flat = np.frombuffer(self._looks, np.uint64), duplicates.flat(np.frombuffer(self._contrasts, np.float32))
        return np.frombuffer(self._digests, np.uint64), np.where(flat, np.uint64(0), looks)


@dataclass
class Gathered:
    """What a source gave. warnings: sentences for the page. unused: other files. speed: packed images/s.

    bands: names of those that were stacked, in their order. lists: writes of the images with these names what masks or
    boxes are kept beside them, and gives numbers of the summary; None without.
    """

    images: Collection
    known: Assigned
    warnings: list[str] = field(default_factory=list)
    unused: Unused = field(default_factory=Unused)
    speed: float = 0.0
    bands: list[str] = field(default_factory=list)
    lists: Callable[[list[str]], dict[str, Any]] | None = None


def _words(kind: Kind) -> str:
    return f"{kind[0]} band{'s' * (kind[0] != 1)} of {kind[1]}"


def _alpha_ways(kinds: dict[Kind, list[str]], alphas: Counter[Kind], one: Kind, other: Kind) -> list[str]:
    """The settings, as text, that make two kinds one if only the alpha band sets them apart; none where it does not.

    Whether alpha is a mask is seen image by image, so that those of one sensor may differ.
    """
    low, high = sorted((one, other))
    if low[1] != high[1] or high[0] != low[0] + 1 or low != (3, "uint8") and not alphas[low]:
        return []
    return ["alpha=mask"] + ["alpha=keep"] * (alphas[low] == len(kinds[low]))


def _mix(kinds: dict[Kind, list[str]], order: list[Kind], alphas: Counter[Kind]) -> str:
    """What is mixed, most first, with an example of each, and the settings that choose one of the first two."""
    parts = [f"{len(kinds[kind])} images of {_words(kind)} ('{kinds[kind][0]}')" for kind in order[:2]]
    more = sum(len(kinds[kind]) for kind in order[2:])
    parts += [f"{more} of {len(order) - 2} other kinds"] * (len(order) > 2)
    ways = _alpha_ways(kinds, alphas, *order[:2]) + [way for kind in order[:2] for way in _ways(kinds, kind)]
    choose = f"say which are meant, by {' or '.join(ways)}" if ways else APART
    return f"{' with '.join(parts[:2])}{' and '.join(['', *parts[2:]])}; {choose}"


def _ways(kinds: dict[Kind, list[str]], kind: Kind) -> list[str]:
    """The settings, as text, that choose the images of a kind and no other: those that work, at most two."""
    names = [tiles.scene_of(name) for name in kinds[kind]]
    others = [tiles.scene_of(name) for other in kinds if other != kind for name in kinds[other]]
    ways = [f"channels={kind[0]}"] * all(other[0] != kind[0] for other in kinds if other != kind)
    return ways + [f"pattern='{text}'" for text in _shared_by(names) if _separates(text, names, others)][:1]


def _shared_by(names: list[str]) -> list[str]:
    """Patterns of what names have in common: their end and begin, to a separator, their first folder, any folder."""
    files = [name.rpartition("/")[2] for name in names]
    end = os.path.commonprefix([name[::-1] for name in files])[::-1]
    end = end[min((at for at in map(end.find, "_-.") if at >= 0), default=len(end)) :]
    begin = os.path.commonprefix(files)
    begin = begin[: max(map(begin.rfind, "_-.")) + 1]
    start = os.path.commonprefix(names).rpartition("/")[0]
    folders = [name.split("/")[:-1] for name in names]
    anywhere = [folder for folder in folders[0] if all(folder in each for each in folders)]
    tried = [f"*{end}"] * bool(end) + [f"{start}/**"] * bool(start) + [f"{begin}*"] * bool(begin)
    return tried + [f"**/{folder}/**" for folder in anywhere]


def _separates(text: str, names: list[str], others: list[str]) -> bool:
    try:
        template = pattern.parse(text)
    except ValueError:  # a name with a brace or a star
        return False
    return all(map(template.match, names)) and not any(map(template.match, others))


def looks_swapped(height: int, width: int, bands: int) -> bool:
    """Do bands look like rows, as where an array [H, W, C] was written page by page: C wide, W high, H bands?

    Chips are mostly square, also those of many bands, so an array's first two sides are alike.
    """
    return width != height and (bands == height >= MANY_BANDS // 2 or bands >= MANY_BANDS and width < bands)


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
