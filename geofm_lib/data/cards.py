"""Which known data set some images are, and what is missing beside its card."""

from collections.abc import Iterable

from geofm_lib.catalog.datasets import DATASETS, Dataset


def recognise(classes: Iterable[str]) -> Dataset | None:
    """The card of a data set, by its class folders: all of them are on the card, and half of the card is there.

    Spelling of capitals and separators plays no part. None if no card fits, as for anybody's own images.

    >>> recognise(["annual_crop", "Forest", "highway", "River", "sea-lake"]).name
    'eurosat'
    """
    found = {_plain(name) for name in classes}
    for card in DATASETS.values():
        known = {_plain(name) for name in card.class_names}
        if found and found <= known and 2 * len(found) >= len(known):
            return card
    return None


def compare(card: Dataset, counts: dict[str, int], unlabelled: int = 0) -> list[dict]:
    """What is there beside what the card says: rows of class, card (None: not known), found, missing.

    The last row is the sum. `counts`: images found of each class; `unlabelled`: found without a label.
    """
    found = {_plain(name): count for name, count in counts.items()}
    expected: dict[str, int | None] = {name: card.counts.get(name) for name in card.class_names}
    if card.unlabelled:
        expected["(no label)"], found[_plain("(no label)")] = card.unlabelled, unlabelled
    rows = [_beside(name, number, found.get(_plain(name), 0)) for name, number in expected.items()]
    return [*rows, _beside("all", card.images, sum(counts.values()) + unlabelled)]


def _beside(name: str, card: int | None, found: int) -> dict:
    missing = int(found == 0) if card is None else max(0, card - found)
    return {"class": name, "card": card, "found": found, "missing": missing}


def _plain(name: str) -> str:
    """A class name without capitals and separators; Million-AID's own folder has a slip of the pen."""
    return "".join(filter(str.isalnum, name.lower())).replace("bapsketball", "basketball")
