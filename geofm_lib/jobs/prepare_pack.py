"""From a source to data shards: every image is checked, and the good ones are packed, all of one kind."""

import functools
import itertools
import time
from collections.abc import Iterable
from contextlib import closing

from geofm_lib.data import pack, pool
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import early, labels, listing, pairs, tiles
from geofm_lib.data.verify import Fit
from geofm_lib.jobs import pace, prepare_boxes, prepare_masks, prepare_source
from geofm_lib.jobs.prepare_collection import LARGE, Collection, Gathered
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.settings import PrepareSettings
from geofm_lib.settings.masking import masked

TRUTHS = (prepare_masks, prepare_boxes)  # what is known of an image's parts; each has find, add, lists, labels, told
LOG_S = 0.5  # seconds between two rows of metrics


def gather(settings: PrepareSettings, place: listing.Source, run: Folder) -> Gathered:
    """Pack the images of the source behind the shards that are finished, and what is known of them.

    Raises ValueError when not one image can be used, or no kind of them has a clear majority.
    """
    asked, drawn = settings, place.kind == "scenes"
    kind, truth = next(((each, found) for each in TRUTHS if (found := each.find(settings, place))), (None, None))
    if truth:  # it says which the images are (a pattern leaves masks out), and their classes
        settings = settings.model_copy(update={"pattern": truth.images, "labels": "" if drawn else "none"})
    source, made_of = prepare_source.read(settings, place, run.path)
    shard_bytes, warnings = int(settings.shard_mib * 2**20), list(source.warnings)
    first_shard = pack.resume(run.path, masked(made_of))
    images = _packed(settings, run)
    before = len(images.names) + images.refused.images
    run.drop_metrics_after(before)
    clock = Clock(run, before)
    fit = Fit(settings.short_side, settings.quality, settings.nodata, settings.alpha, settings.valid_min)
    rest = itertools.islice(source.items, before, None)
    checked = images.admit(pool.samples(rest, source.total, settings.workers, fit))
    with closing(pack.pack(checked, run.path, shard_bytes, first_shard)) as packed:
        done = _watched(packed, run, before, source.total, clock)
    speed = clock.rate(done)
    if not settings.tile and 2 * images.large > len(images.names):
        words = f"{images.large} images have {LARGE} pixels a side or more, of which a crop shows a small part"
        warnings.append(f"{words}: tile=512 cuts them into tiles")
    if misfits := images.misfits(settings.dataset):
        pack.leave_out(run.path, misfits, shard_bytes)
        images = _packed(settings, run)
    if kind and (reasons := kind.add(asked, place, truth, images, run)):
        pack.leave_out(run.path, reasons, shard_bytes)
        images = _packed(settings, run)
        images.misfits(settings.dataset)  # says so where none is left
    if not settings.pattern and source.source and source.total is None and not source.labels_from:
        early.parts(images.names)  # a compressed tar, whose names are known by now
    named = [tiles.scene_of(name) for name in images.names] if settings.tile else images.names
    source.unused.take_out([pairs.called(settings.pairs, place), truth.file if truth else ""])
    tables = source.unused.tables
    known = labels.assign(named, images.given, settings.labels, source.labels_from, source.source, tables)
    if not source.labels_from or any(known.labels):
        left_out = itertools.chain((name for name, _ in images.refused), source.others)
        warnings += labels.one_class(known, named, left_out, settings.labels)
    source.unused.take_out(known.files)
    if kind and truth and not any(known.labels):
        known.labels = kind.labels(truth, images.names)
        known.labels_from = truth.file if any(known.labels) else ""
    warnings += kind.told(truth) if kind else []
    lists = functools.partial(kind.lists, run.path, truth) if kind else None
    return Gathered(images, known, warnings, source.unused, speed, source.bands, lists)


def _packed(settings: PrepareSettings, run: Folder) -> Collection:
    """The images that lie in finished shards."""
    images = Collection(settings.channels, settings.pattern)
    for sample in pack.rows(run.path):
        images.add(sample)
    return images


class Clock:
    """How long packing has taken, over all starts: a start that goes on knows it by the last row before it."""

    def __init__(self, run: Folder, done: int):
        kept = next((row for row in reversed(run.metrics()) if row.get("packing_s")), None)
        self.earlier = kept["packing_s"] * done / kept["step"] if kept else 0.0
        self.unknown = 0 if kept else done  # images of a start that left no word of its time
        self.began = time.monotonic()

    def seconds(self) -> float:
        """Seconds of packing so far."""
        return self.earlier + time.monotonic() - self.began

    def rate(self, done: int) -> float:
        """Images/s over all starts, when so many are done."""
        return round((done - self.unknown) / max(self.seconds(), 1e-3), 1)


def _watched(packed: Iterable[Sample], run: Folder, before: int, total: int | None, clock: Clock) -> int:
    """Images done once `packed` is through; logs how far it is, and leaves by Stopped when that is asked for."""
    done, speed, marked, logged = before, pace.Pace(), before, clock.seconds()
    for done, _ in enumerate(packed, start=before + 1):
        now = clock.seconds()
        if now - logged > LOG_S or done == total:
            speed.took(done - marked, now - logged)
            marked, logged = done, now
            left = {"seconds_left": speed.left(total - done)} if total else {}
            rate = clock.rate(done)
            run.log_metrics(step=done, total=total, packed_images_per_s=rate, packing_s=round(now, 3), **left)
            if run.stop_requested():
                raise Stopped(f"stopped after {done} images; finished data shards stay, the next start goes on")
    return done
