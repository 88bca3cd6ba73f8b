"""Job: images of any source to data shards, an index, a split, and a list of what was refused.

Writes shards/*.tar (with the measured rows beside them), index.csv, split.csv, refused.csv, duplicates.csv, card.csv,
pairs.csv (where a table of pairs is given), statistics.json (and .csv), and two small files for the page:
contact_sheet.npz and model_view.npz. index.csv comes
after the other data files: where it is, they are complete. A preparation that was killed or stopped keeps its finished
shards and goes on behind them; what comes out is the same, byte for byte.

The rows of a million images are never held as objects. They lie beside the shards and are read again, some thousand at
a time, to write the lists.
"""

from typing import Any

from geofm_lib import files
from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.data import several
from geofm_lib.data.sources import listing
from geofm_lib.data.sources.prepared import BOXES, MASKS, fingerprint
from geofm_lib.data.split import missed as missed_ratio
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import (
    prepare_doubts,
    prepare_lists,
    prepare_pack,
    prepare_pairs,
    prepare_split,
    prepare_union,
)
from geofm_lib.jobs.prepare_collection import compare, recognise
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.settings import PrepareSettings

LISTS = (
    "index.csv",
    "split.csv",
    "refused.csv",
    "duplicates.csv",
    "places.csv",
    "pairs.csv",
    "statistics.json",
    *MASKS,
    *BOXES,
)
CARD_COLUMNS = ("class", "card", "found", "missing")
UNLABELLED = "{count} of {images} images have no label: 02 trains on those of the train side, 05 leaves all of them out"
TRAIN_RATIO = 0.5  # where neither the settings nor a card says more


def run(settings: PrepareSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Prepare the images of `settings.dataset` in the run's folder; rank 0 only, with its own pool of processes.

    Returns the numbers of the summary. Raises ValueError when not one image can be used.
    """
    if not context.is_main:
        return {}
    source = listing.find(settings.dataset)
    members = prepare_union.members(settings, source, run.path)
    for name in LISTS:
        (run.path / name).unlink(missing_ok=True)  # the index first, since it says that the rest is complete
    united = prepare_union.United(members) if members else None
    found = united.gather(settings, run.path) if united else prepare_pack.gather(settings, source, run)
    images, known = found.images, found.known
    classes = several.counts(known.labels)
    card = DATASETS["scenes"] if settings.dataset == "scenes" else recognise(classes)
    ratio = settings.train_ratio or (card and card.train) or TRAIN_RATIO
    same_as, kinds = prepare_lists.list_duplicates(run.path, images)
    paired = united.pairs(images) if united else prepare_pairs.read(settings, source, found)
    split = united.split(images) if united else prepare_split.sides(settings, images, known, same_as, ratio)
    if paired:
        prepare_pairs.apart(paired, split, images.places)
    missed = missed_ratio(split, known.labels, settings.train_ratio)
    sides, bare = split.sides, known.labels.count("") if classes else 0
    if "train" not in sides:
        words = f"{sides.count('val')} kept apart as val, {sides.count('test')} to test on"
        raise ValueError(f"split: no image is left to train on ({words}); use split=random, or train_ratio=1")
    by_side, unpaired = dict[str, int](), list[str]()
    if paired:
        by_side, unpaired = prepare_pairs.write(run.path, paired, sides, images.names, bool(settings.pairs))
    prepare_lists.list_files(run.path, found, sides)
    if card and settings.dataset != "scenes":
        files.write_csv(run.path / "card.csv", CARD_COLUMNS, compare(card, classes, known.labels.count("")))
    beside = found.lists(images.names) if found.lists else {}
    packed = prepare_lists.list_images(run, images.names, known.labels, sides, settings.seed, found.bands)
    return {
        "images": len(images.names),
        "refused": len(images.refused),
        "unused": found.unused.summary(),
        "converted": images.converted,
        "conversions": dict(images.conversions.most_common()),
        "duplicates": kinds["exact"],
        "near_duplicates": kinds["near"],
        "classes": classes,
        "unlabelled": bare,
        "several_labels": several.are_several(known.labels),
        "card": card.name if card else "",
        "train_ratio": ratio,
        "train": sides.count("train"),
        "val": sides.count("val"),
        "test": sides.count("test"),
        "labels_from": known.labels_from if any(known.labels) else "",
        "split_by": split.by,
        "empty_tiles": images.refused.empty,
        **packed,
        **beside,
        "warnings": [
            *found.warnings,
            *known.warnings,
            *([UNLABELLED.format(count=bare, images=len(images.names))] if bare else []),
            *split.warnings,
            *unpaired,
            *missed,
            *prepare_doubts.of(images),
            *packed["warnings"],
        ],
        **(united.summary(run.path, sides) if united else {}),
        **({"pairs": by_side} if paired else {}),
        "fingerprint": fingerprint(run.path),
        **({} if united else {"packed_images_per_s": found.speed}),
    }
