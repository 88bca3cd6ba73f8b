"""The data sets, a card each: what the official set contains, its terms, and how to tell that nothing is missing.

The cards stand in ``datasets.toml``.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Dataset:
    """A card. `size` is pixels a side, as text where it varies; `train` is the share the paper's lineage trains on.

    counts: images of each class, {} where no source gives them; unlabelled: images without a public label; layout: how
    the files come; complete: how to check, beside counting, that nothing is missing.
    """

    name: str
    title: str
    classes: int
    images: int
    size: str
    terms: str
    citation: str
    where: str
    layout: str
    complete: str
    train: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()  # all of them, as the folders of the official set spell them
    unlabelled: int = 0
    channels: tuple[int, ...] = (3,)


def _card(name: str, names: str = "", each: int = 0, channels: tuple[int, ...] = (3,), **facts) -> Dataset:
    counts = dict.fromkeys(names.split(), each) if each else facts.pop("counts", {})
    return Dataset(name, counts=counts, class_names=tuple(names.split() or counts), channels=tuple(channels), **facts)


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
DATASETS: dict[str, Dataset] = {name: _card(name, **facts) for name, facts in _TABLES.items()}
DRAWN = ("scenes", "seasons")  # by our own code: images, and series of values over a year
DOWNLOADS = ("eurosat",)  # those that torchvision can fetch (data/sources/listing.fetch)
