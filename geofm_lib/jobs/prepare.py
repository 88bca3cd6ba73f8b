"""Job: images of any source to data shards, an index, a split, and a list of what was refused.

Writes shards/*.tar (with the measured rows beside them), index.csv, split.csv, refused.csv, duplicates.csv, card.csv,
statistics.json (and .csv), and two small files for the page: contact_sheet.npz and model_view.npz. index.csv comes
after the other data files: where it is, they are complete. A preparation that was killed or stopped keeps its finished
shards and goes on behind them; what comes out is the same, byte for byte.

The rows of a million images are never held as objects. They lie beside the shards and are read again, some thousand at
a time, to write the lists.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.data import duplicates, pack, places, pool, several
from geofm_lib.data.shards import COLUMNS
from geofm_lib.data.sources import labels, tiles
from geofm_lib.data.sources.prepared import fingerprint
from geofm_lib.data.sources.reading import Reading
from geofm_lib.data.sources.unused import COLUMNS as UNUSED_COLUMNS
from geofm_lib.data.statistics import Statistics
from geofm_lib.data.verify import Fit
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import prepare_source, prepare_split, prepare_union
from geofm_lib.jobs.prepare_collection import LARGE, Collection, compare, recognise
from geofm_lib.jobs.prepare_preview import Preview
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.settings import PrepareSettings

LOG_S = 0.5  # seconds between two rows of metrics
LISTS = ("index.csv", "split.csv", "refused.csv", "duplicates.csv", "places.csv", "statistics.json")
CARD_COLUMNS = ("class", "card", "found", "missing")
DUPLICATE_COLUMNS = ("name", "same_as", "kind", "distance")  # distance in bits of 64; exact: the same pixels
STATISTICS_COLUMNS = ("band", "mean", "std", "mean_stored", "std_stored")  # the page's copy of statistics.json
TRAIN_RATIO = 0.5  # where neither the settings nor a card says more


def run(settings: PrepareSettings, context: Context, run: Folder) -> dict[str, Any]:
    """Prepare the images of `settings.dataset` in the run's folder; rank 0 only, with its own pool of processes.

    Returns the numbers of the summary. Raises ValueError when not one image can be used.
    """
    if not context.is_main:
        return {}
    members = prepare_union.members(settings, run.path)
    for name in LISTS:
        (run.path / name).unlink(missing_ok=True)  # the index first, since it says that the rest is complete
    images, told = Collection(settings.channels, settings.pattern), list[str]()
    united = prepare_union.gather(members, run.path, images) if members else None
    source, speed = (Reading(iter(()), 0), None) if united else _pack(settings, run, images, told)
    if misfits := images.misfits(settings.dataset):
        pack.leave_out(run.path, misfits, _shard_bytes(settings))
        images = Collection(settings.channels, settings.pattern)
        for sample in pack.rows(run.path):
            images.add(sample)
    named = [tiles.scene_of(name) for name in images.names] if settings.tile else images.names
    known = united.known(images) if united else labels.assign(
        named, images.given, settings.labels, source.labels_from, source.source, source.unused.tables
    )  # fmt: skip
    classes = several.counts(known.labels)
    card = DATASETS["scenes"] if settings.dataset == "scenes" else recognise(classes)
    ratio = settings.train_ratio or (card and card.train) or TRAIN_RATIO
    first, kinds = _list_duplicates(run.path, images)
    sides, split_by, warnings = (
        united.split(images)
        if united
        else prepare_split.sides(settings, images.names, known, images.places, first, ratio)
    )
    if "train" not in sides:
        words = f"{sides.count('val')} kept apart as val, {sides.count('test')} to test on"
        raise ValueError(f"split: no image is left to train on ({words}); use split=random, or train_ratio=1")
    if images.places.frames:
        files.write_table(run.path / "places.csv", places.COLUMNS, images.places.rows(images.names, known.scenes))
    source.unused.take_out(known.files)
    files.write_table(run.path / "unused.csv", UNUSED_COLUMNS, source.unused.rows())
    files.write_table(run.path / "refused.csv", ("name", "reason"), images.refused)
    files.write_table(run.path / "split.csv", ("name", "split"), zip(images.names, sides, strict=True))
    if card and settings.dataset != "scenes":
        files.write_csv(run.path / "card.csv", CARD_COLUMNS, compare(card, classes, known.labels.count("")))
    packed = _list_images(run, images.names, known.labels, sides, settings.seed)
    return {
        "images": len(images.names),
        "refused": len(images.refused),
        "unused": source.unused.summary(),
        "converted": images.converted,
        "conversions": dict(images.conversions.most_common()),
        "duplicates": kinds["exact"],
        "near_duplicates": kinds["near"],
        "classes": classes,
        "several_labels": several.are_several(known.labels),
        "card": card.name if card else "",
        "train_ratio": ratio,
        "train": sides.count("train"),
        "val": sides.count("val"),
        "test": sides.count("test"),
        "labels_from": known.labels_from if any(known.labels) else "",
        "split_by": split_by,
        "empty_tiles": images.refused.empty,
        **packed,
        "warnings": [*told, *known.warnings, *warnings, *packed["warnings"]],
        **(united.summary(run.path, sides) if united else {}),
        "fingerprint": fingerprint(run.path),
        **({} if united else {"packed_images_per_s": speed}),
    }


def _shard_bytes(settings: PrepareSettings) -> int:
    return int(settings.shard_mib * 2**20)


def _fit(settings: PrepareSettings) -> Fit:
    return Fit(settings.short_side, settings.quality, settings.nodata, settings.alpha, settings.valid_min)


def _pack(settings: PrepareSettings, run: Folder, images: Collection, told: list[str]) -> tuple[Reading, float]:
    """Check every image, and pack the good ones behind the shards that are finished; (source, images/s of this start).

    What the page must say of the source is appended to `told`.
    """
    source, made_of = prepare_source.read(settings, run.path)
    told += source.warnings
    total = source.total
    first_shard = pack.resume(run.path, made_of)
    for sample in pack.rows(run.path):
        images.add(sample)
    done = before = len(images.names) + images.refused.images
    run.drop_metrics_after(before)
    started, logged = time.monotonic(), 0.0
    rest = itertools.islice(source.items, before, None)
    checked = images.admit(pool.samples(rest, total, settings.workers, _fit(settings)))
    with closing(pack.pack(checked, run.path, _shard_bytes(settings), first_shard)) as packed:
        for done, _ in enumerate(packed, start=before + 1):
            seconds = time.monotonic() - started
            if seconds - logged > LOG_S or done == total:
                logged, speed = seconds, (done - before) / seconds
                left = {"seconds_left": round((total - done) / speed, 1)} if total else {}
                run.log_metrics(step=done, total=total, packed_images_per_s=round(speed, 1), **left)
                if run.stop_requested():
                    raise Stopped(f"stopped after {done} images; finished data shards stay, the next start goes on")
    if not settings.tile and 2 * images.large > len(images.names):
        words = f"{images.large} images have {LARGE} pixels a side or more, of which a crop shows a small part"
        told.append(f"{words}: tile=512 cuts them into tiles")
    return source, round((done - before) / max(time.monotonic() - started, 1e-3), 1)


def _list_duplicates(folder: Path, images: Collection) -> tuple[dict[str, str], dict[str, int]]:
    """Write duplicates.csv; ({name: first image of its set} of all but those first ones, how many of each kind)."""
    image, twin, distance = duplicates.find(*images.hashes())
    names, found = images.names, zip(image.tolist(), twin.tolist(), distance.tolist(), strict=True)
    rows = ((names[i], names[j], "exact" if bits < 0 else "near", max(bits, 0)) for i, j, bits in found)
    files.write_table(folder / "duplicates.csv", DUPLICATE_COLUMNS, rows)
    first = duplicates.firsts(len(names), image, twin)
    exact = int((distance < 0).sum())
    return {names[i]: names[first[i]] for i in image.tolist()}, {"exact": exact, "near": len(distance) - exact}


def _list_images(run: Folder, names: list[str], labels: list[str], sides: list[str], seed: int) -> dict[str, Any]:
    """Write index.csv, after statistics and previews of what it lists; what the summary says of what is packed."""
    size, tars, statistics, preview = 0, set[str](), Statistics(), Preview(labels, sides)

    def index() -> Iterator[tuple[str, ...]]:
        nonlocal size
        start = 0
        for block in pack.columns(run.path):
            good = [not reason for reason in block["reason"]]
            if not all(good):
                block = {name: list(itertools.compress(column, good)) for name, column in block.items()}
            end = start + sum(good)
            block["label"] = labels[start:end]
            size += sum(map(int, block["size"]))
            tars.update(block["shard"])
            statistics.add(block, [side == "train" for side in sides[start:end]])
            preview.take(block, start)
            yield from zip(*(block[name] for name in COLUMNS), strict=True)
            start = end
        found = statistics.result()
        run.write_json("statistics.json", found)
        bands = zip(itertools.count(1), *(found[name] for name in STATISTICS_COLUMNS[1:]), strict=False)
        files.write_table(run.path / "statistics.csv", STATISTICS_COLUMNS, bands)
        preview.write(run.path, found["mean"], found["std"], seed)

    files.write_table(run.path / "index.csv", COLUMNS, index())
    train = list(itertools.compress(names, (side == "train" for side in sides)))
    return {"bytes": size, "shards": len(tars), **statistics.summary(train)}
