"""The masks of a segmentation set, checked against their images and packed beside them (`data/masks`).

They come after the images: a mask is of an image that is good. What is wrong with a mask refuses its image.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.data import masks, pack, several
from geofm_lib.data.sample import Sample, checksum
from geofm_lib.data.shards import COLUMNS
from geofm_lib.data.sources import listing, mask_pairs
from geofm_lib.data.sources.archives import READ_ERRORS
from geofm_lib.data.sources.item import Refused
from geofm_lib.data.sources.mask_pairs import NO_CLASS, UNLABELLED, Found
from geofm_lib.jobs.prepare_collection import Collection
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.scenes import ids
from geofm_lib.scenes.generate import GENERATOR_VERSION
from geofm_lib.settings import PrepareSettings
from geofm_lib.settings.masking import masked

Loads = Iterable[tuple[str, bytes | Callable[[], bytes]]]
MISSING = "it has no mask"
SEVERAL = "it has {count} masks, '{first}' and '{second}'; one is needed"
SIZES = ("tile", "short_side")
SCENES = "scenes"  # the built-in set, whose masks are drawn


def find(settings: PrepareSettings, source: listing.Source) -> Found | None:
    """The masks that are asked for; None where none are. ValueError, one sentence, for what they forbid."""
    if mask_pairs.asked(settings.labels) is None:
        return None
    if source.kind == SCENES:
        return Found("", {}, classes=dict(enumerate(ids.KINDS)))
    for name in SIZES:
        if getattr(settings, name):
            raise ValueError(f"{name}: it changes the size of images, and masks stay as they are; leave it at 0")
    return mask_pairs.find(source, settings.pattern, settings.labels)


def add(
    settings: PrepareSettings, source: listing.Source, found: Found, images: Collection, run: Folder
) -> dict[str, str]:
    """Pack the masks of the good images; returns {image: why its mask refuses it}.

    Finished shards of masks stay, as those of images do.
    """
    place, shard_bytes = run.path / masks.FOLDER, int(settings.shard_mib * 2**20)
    place.mkdir(exist_ok=True)
    made_of: dict[str, Any] = {"source": listing.signature(settings.dataset, source), "labels": settings.labels}
    drawn = settings.images_per_class, settings.scene_size, settings.seed
    made_of |= {"drawn": [*drawn, GENERATOR_VERSION]} if source.kind == SCENES else {"of": found.images}
    loads = ids.masks(*drawn) if source.kind == SCENES else mask_pairs.loads(source, found)
    first = pack.resume(place, masked(made_of))
    before = sum(1 for _ in pack.rows(place))
    sizes = {sample.name: (sample.width, sample.height) for sample in pack.rows(run.path) if not sample.reason}
    samples = itertools.islice(_checked(loads, found.classes, sizes), before, None)
    for number, _ in enumerate(pack.pack(samples, place, shard_bytes, first)):
        if number % 256 == 0 and run.stop_requested():
            raise Stopped(f"stopped after {before + number} masks; finished data shards stay, the next start goes on")
    known = {sample.name: sample.reason for sample in pack.rows(place)}
    reasons = {name: known[name] if name in known else _missing(found, name) for name in images.names}
    return {name: reason for name, reason in reasons.items() if reason}


def _missing(found: Found, name: str) -> str:
    own = found.masks.get(name, [])
    return SEVERAL.format(count=len(own), first=own[0], second=own[1]) if len(own) > 1 else MISSING


def _checked(loads: Loads, classes: dict[int, str], sizes: dict[str, tuple[int, int]]) -> Iterator[Sample]:
    """Each mask as a sample by its image's name; label: the ids in it. In an order that never changes.

    Of an image that is refused only the name comes: how many there are must not depend on what is refused later.
    """
    known, unlabelled = sorted(classes), _unlabelled(classes)
    for name, load in loads:
        sample = Sample(name)
        if name not in sizes:
            sample.reason = "its image is refused"
        else:
            try:
                data = load() if callable(load) else load
                sample.data, there = masks.check(data, *sizes[name], known)
                if set(there) <= unlabelled:
                    raise Refused("its mask has no labelled pixel")
                sample.label, sample.channels = several.BETWEEN.join(map(str, there)), 1
                sample.width, sample.height = sizes[name]
                sample.dtype, sample.checksum = "uint8", checksum(sample.data)
            except (Refused, *READ_ERRORS) as error:
                lost = "" if isinstance(error, Refused) else "its mask cannot be read: "
                sample.reason = f"{lost}{getattr(error, 'strerror', None) or error}"
        yield sample


def _unlabelled(classes: dict[int, str]) -> set[int]:
    if not classes:
        return {NO_CLASS}
    return {key for key, name in classes.items() if name.lower().replace(" ", "_") in UNLABELLED}


def lists(folder: Path, found: Found, names: list[str]) -> dict[str, Any]:
    """Write masks/index.csv and masks/classes.csv; numbers of the summary. ValueError for fewer than two classes."""
    good = set(names)
    rows = [sample for sample in pack.rows(folder / masks.FOLDER) if sample.name in good]
    there = sorted({int(each) for sample in rows for each in several.parts(sample.label)})
    unlabelled = _unlabelled(found.classes)
    classes = [(key, found.classes.get(key, str(key)), "no" if key in unlabelled else "yes")
               for key in (sorted(found.classes) or there)]  # fmt: skip
    counted = [name for _, name, counts in classes if counts == "yes"]
    if len(counted) < 2:
        raise ValueError(f"labels: the masks have {len(counted)} class ({', '.join(counted)}); at least 2 are needed")
    files.write_table(folder / masks.CLASSES, masks.CLASS_COLUMNS, classes)
    files.write_table(folder / masks.INDEX, COLUMNS, map(operator.attrgetter(*COLUMNS), rows))
    return {"masks": len(rows), "mask_classes": counted}


def labels(found: Found, names: list[str]) -> list[str]:
    """None: an image has no class for its pixels' sake."""
    return [""] * len(names)


def told(found: Found) -> list[str]:
    """Sentences for the page."""
    if not found.lone:
        return []
    count = len(found.lone)
    return [f"{count} mask{'s' * (count != 1)}, such as '{found.lone[0]}', {'are' if count != 1 else 'is'} of no image"]
