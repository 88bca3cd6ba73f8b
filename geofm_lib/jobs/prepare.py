"""Job: images of any source to data shards, an index, a split, and a list of what was refused.

Writes shards/*.tar (with the measured rows beside them), index.csv, split.csv, refused.csv, duplicates.csv, card.csv,
statistics.json (and .csv), and two small files for the page: contact_sheet.npz and model_view.npz. index.csv comes
after the other data files: where it is, they are complete. A preparation that was killed or stopped keeps its finished
shards and goes on behind them; what comes out is the same, byte for byte.

The rows of a million images are never held as objects: names and digests are, the rest lies beside the shards and is
read again, some thousand rows at a time, to write the lists.
"""

import array
import hashlib
import itertools
import json
import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from geofm_lib.catalog import datasets
from geofm_lib.data import (
    archives,
    cards,
    decode,
    downloads,
    duplicates,
    loader,
    measure,
    pack,
    rgb,
    shards,
    sources,
    split,
    transforms,
    verify,
)
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.scenes import generate

CHUNK, CHUNK_BYTES = 64, 2**24  # images handed to a process at once, and their bytes where those are at hand
SLOT = 2**23  # bytes of the shared memory in which a chunk's data comes back
LOG_S = 0.5  # seconds between two rows of metrics
SHEET, SHEET_SIDE = 32, 96  # images of the contact sheet, and pixels a side
VIEW, VIEW_SIDE, VIEW_PATCH, VIEW_VISIBLE = 8, 64, 8, 0.25  # what a model sees, at the default size and masking
SPLIT_COLUMNS, REFUSED_COLUMNS = ("name", "split"), ("name", "reason")
DUPLICATE_COLUMNS = ("name", "same_as", "kind", "distance")  # distance in bits of 64; exact: the same pixels
STATISTICS_COLUMNS = ("band", "mean", "std")  # the page's copy of statistics.json
CARD_COLUMNS = ("class", "card", "found", "missing")
OTHER_KIND = "it has "  # begins the reason for refusing an image whose bands are not those of the first
TRAIN_RATIO = 0.5  # where neither the settings nor a card says more


def run(settings, context, run: Folder) -> dict:
    """Prepare the images of `settings.dataset` in the run's folder; rank 0 only, with its own pool of processes.

    Returns the numbers of the summary. Raises ValueError when not one image can be used.
    """
    if not context.is_main:
        return {}
    for name in ("index.csv", "split.csv", "refused.csv", "duplicates.csv", "statistics.json"):
        (run.path / name).unlink(missing_ok=True)  # the index first, since it says that the rest is complete
    items, total, source = _source(settings, run.path)
    found = _Found()
    speed = _pack(settings, items, total, source, run, found)
    if not found.names:
        reasons = Counter(row["reason"] for row in found.refused)
        counted = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        total = len(found.refused)
        raise ValueError(f"dataset: none of the {total} images of '{settings.dataset}' can be used: {counted}")
    others = [row["reason"] for row in found.refused if row["reason"].startswith(OTHER_KIND)]
    if len(others) > len(found.names):  # the first image is no measure of this set
        raise ValueError(
            f"dataset: '{settings.dataset}' mixes {len(found.names)} images of one kind with {len(others)} of others "
            f"({others[0]}); give a folder that holds only one kind, or set channels"
        )
    labels = archives.labels(found.names)
    classes = dict(sorted(Counter(label for label in labels if label).items()))
    card = datasets.DATASETS["scenes"] if settings.dataset == "scenes" else cards.recognise(classes)
    ratio = settings.train_ratio or card and card.train or TRAIN_RATIO
    twins = _duplicates(run.path, found)
    sides = split.split(found.names, labels, twins, ratio, settings.seed)
    sheet, train = _examples(labels), np.flatnonzero(np.array(sides) == "train")
    views = train[np.unique(np.linspace(0, len(train) - 1, VIEW).astype(int))].tolist()
    written, shown = _write(run, found, labels, sides, {*sheet, *views})
    if card and settings.dataset != "scenes":
        shards.write_csv(run.path / "card.csv", CARD_COLUMNS, cards.compare(card, classes, labels.count("")))
    _pictures(run.path, shown, {i: labels[i] for i in sheet}, views, settings.seed)
    kinds = Counter(row["kind"] for row in shards.read_csv(run.path / "duplicates.csv"))
    return {
        "images": len(found.names),
        "refused": len(found.refused),
        "converted": found.converted,
        "duplicates": kinds["exact"],
        "near_duplicates": kinds["near"],
        "classes": classes,
        "card": card.name if card else "",
        "train_ratio": ratio,
        "train": sides.count("train"),
        "test": sides.count("test"),
        **written,
        "fingerprint": _fingerprint(run.path),
        "images_per_s": speed,
    }


def _source(settings, folder: Path) -> tuple[Iterator, int | None, dict]:
    """(images as (name, bytes or a function), how many there are if that is known, what shards are made of)."""
    source = sources.find(settings.dataset)
    options = ("channels", "short_side", "quality", "shard_mib")
    if source.kind == "scenes":
        options += ("images_per_class", "scene_size", "seed")
    made_of = {"source": sources.signature(settings.dataset)} | {name: getattr(settings, name) for name in options}
    if source.kind == "scenes":
        total = settings.images_per_class * len(generate.CLASSES)
        made_of["source"] += f" {generate.GENERATOR_VERSION}"
        return generate.items(settings.images_per_class, settings.scene_size, settings.seed), total, made_of
    if source.kind == "download":
        source = sources.find(downloads.fetch(source.name, folder / "download"))
    return archives.items(source), archives.count(source), made_of


# checking and packing -------------------------------------------------------------------------------------------


def _pack(settings, items: Iterable, total: int | None, source: dict, run: Folder, found: "_Found") -> float:
    """Check every image, and pack the good ones behind the shards that are finished; images/s of this start."""
    first = pack.resume(run.path, source)
    before = 0
    for row in pack.rows(run.path):
        found.add(row)
        before += 1
    run.drop_metrics_after(before)
    started, logged, done = time.monotonic(), 0.0, before

    def samples() -> Iterator[dict]:
        nonlocal logged, done
        checked = _checked(islice(items, before, None), total, settings)
        for done, sample in enumerate(checked, start=before + 1):
            fault = sample.get("reason") or found.misfit(sample, settings.channels)
            if fault:
                sample = pack.BLANK | {"name": sample["name"], "reason": fault}
            else:
                sample["reason"] = ""
            found.add(sample)
            yield sample
            seconds = time.monotonic() - started
            if seconds - logged > LOG_S or done == total:
                logged, speed = seconds, (done - before) / seconds
                left = {"seconds_left": round((total - done) / speed, 1)} if total else {}
                run.log_metrics(step=done, total=total, images_per_s=round(speed, 1), **left)
                if run.stop_requested():
                    raise Stopped(f"stopped after {done} images; finished data shards stay, the next start goes on")

    for _ in pack.pack(samples(), run.path, int(settings.shard_mib * 2**20), first):
        pass
    return round((done - before) / max(time.monotonic() - started, 1e-3), 1)


class _Found:
    """What came of the images so far: names, digests and looks (uint64) of the good ones, and what was refused."""

    def __init__(self):
        self.names, self.refused, self.converted = [], [], 0
        self._seen, self._kind = set(), None
        self._digests, self._looks = array.array("Q"), array.array("Q")

    def add(self, row: dict) -> None:
        """Take in a row, as it lies beside a shard or is about to."""
        if row["reason"]:
            self.refused.append({"name": row["name"], "reason": row["reason"]})
            return
        self.names.append(row["name"])
        self._seen.add(row["name"])
        self._kind = self._kind or (int(row["channels"]), int(row["bits"]))
        self.converted += bool(row["converted"])
        self._digests.append(int(row["digest"], 16))
        self._looks.append(int(row["look"] or "0", 16))

    def misfit(self, sample: dict, channels: int) -> str:
        """Why an image cannot stand beside the others, "" if it can. channels: asked for, 0: those of the first."""
        if sample["name"] in self._seen:
            return "another image has the same name"
        mine = sample["channels"], sample["bits"]
        if mine == (self._kind or (channels or mine[0], mine[1])):
            return ""
        wanted = f"{self._kind[0]} bands of {self._kind[1]}" if self._kind else f"{channels}"
        fits = mine[0] == (self._kind or (channels,))[0]
        instead = "" if fits else f"; channels={mine[0]} takes those that have"
        return f"{OTHER_KIND}{mine[0]} bands of {mine[1]} bits, not {wanted}{instead}"

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Digests and looks, uint64 [n]; nothing can be added while they are in use."""
        return np.frombuffer(self._digests, np.uint64), np.frombuffer(self._looks, np.uint64)


def _checked(items: Iterator, total: int | None, settings) -> Iterator[dict]:
    """What `packing.pack` takes of each image, in the order of `items`, by `workers` processes.

    The data of a sample is valid until the next one is asked for.
    """
    workers, options = settings.workers or _cores(), (settings.short_side, settings.quality)
    chunks = _chunks(items)
    if workers == 1 or (total is not None and total <= 2 * CHUNK):
        for chunk in chunks:
            yield from _together(chunk, _check_chunk(chunk, None, *options))
        return
    # Forking costs milliseconds, but must not happen once this process has touched a GPU.
    method = "spawn" if torch.cuda.is_initialized() or os.name != "posix" else "fork"
    context = multiprocessing.get_context(method)
    measure.measure([np.zeros((8, 8, 3), np.uint8)])  # compiled once, for all processes
    waiting, ahead = deque(), 3 * workers  # chunks at a time: bounds the bytes in memory
    shared = mmap.mmap(-1, ahead * SLOT) if method == "fork" else None  # only a fork inherits it
    view = memoryview(shared) if shared else None
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(os.getpid(), shared))
    try:
        for number, chunk in enumerate(chunks):
            start = number % ahead * SLOT if shared else None
            waiting.append((chunk, pool.submit(_check_chunk, chunk, start, *options)))
            if len(waiting) == ahead:
                chunk, future = waiting.popleft()
                yield from _together(chunk, future.result(), view)
        for chunk, future in waiting:
            yield from _together(chunk, future.result(), view)
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(items: Iterator) -> Iterator[list]:
    """Some images at a time: at most CHUNK, fewer if their bytes are many."""
    chunk, size = [], 0
    for name, load in items:
        chunk.append((name, load))
        size += 0 if callable(load) else len(load)
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _together(chunk: list, samples: list[dict], shared: memoryview | None = None) -> Iterator[dict]:
    """The sample of each image with its name, and its data as bytes or a view of the shared memory."""
    for (name, load), sample in zip(chunk, samples, strict=True):
        data = sample.get("data")
        sample["name"], sample["data"] = name, shared[data] if isinstance(data, slice) else data or load
        yield sample


def _check_chunk(chunk: list, start: int | None, short_side: int, quality: int) -> list[dict]:
    """What was found in each image, or the reason why it is refused.

    Data that this process read goes back through the SLOT bytes of shared memory from `start` on, as a slice of it,
    while there is room: through a pipe it would cost more than reading it again. What came as bytes and stays so is
    left out.
    """
    samples, good = [], []

    def pixels() -> Iterator[np.ndarray]:
        at = start
        for _, load in chunk:
            try:
                found = verify.check(_loaded(load), short_side, quality)
            except verify.Refused as error:
                samples.append({"reason": str(error)})
                continue
            data = None if found.data is load else found.data
            if data and start is not None and at + len(data) <= start + SLOT:
                data = slice(at, at + len(data))
                _shared[data], at = found.data, data.stop
            sample = {"width": found.width, "height": found.height, "channels": found.channels, "bits": found.bits}
            sample |= {"converted": found.converted, "checksum": pack.checksum(found.data), "data": data}
            good.append(sample)
            samples.append(sample)
            yield found.pixels

    for own, sample in zip(measure.measure(pixels()), good, strict=True):
        sample["digest"], sample["look"] = own.digest, own.look
        sample["sums"], sample["squares"] = (" ".join(map(repr, each)) for each in (own.sums, own.squares))
    return samples


def _loaded(load) -> bytes:
    """The bytes of an image. Raises Refused if they cannot be read."""
    try:
        return load() if callable(load) else load
    except archives.READ_ERRORS as error:
        raise verify.Refused(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _start_process(parent: int, shared: mmap.mmap | None) -> None:
    """Start of a pool process: one thread, a signal ends it, and it never outlives its parent."""
    global _shared
    _shared = shared
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the pool
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# what is written --------------------------------------------------------------------------------------------------


def _duplicates(folder: Path, found: _Found) -> dict[str, str]:
    """Write duplicates.csv; {name: first image of its set}, for all but those first ones."""
    image, twin, distance = duplicates.find(*found.arrays())
    names = found.names
    rows = (
        {"name": names[i], "same_as": names[j], "kind": "exact" if bits < 0 else "near", "distance": max(bits, 0)}
        for i, j, bits in zip(image.tolist(), twin.tolist(), distance.tolist(), strict=True)
    )
    shards.write_csv(folder / "duplicates.csv", DUPLICATE_COLUMNS, rows)
    first = duplicates.firsts(len(names), image, twin)
    return {names[i]: names[first[i]] for i in image.tolist()}


def _write(run: Folder, found: _Found, labels: list[str], sides: list[str], chosen: set[int]) -> tuple[dict, dict]:
    """All lists, the index last; ({bytes, shards} of what is packed, {place in the index: row} of the chosen ones)."""
    shards.write_csv(run.path / "refused.csv", REFUSED_COLUMNS, found.refused)
    shards.write_table(run.path / "split.csv", SPLIT_COLUMNS, zip(found.names, sides, strict=True))
    size, tars, train, rows = 0, set(), _Statistics(), {}

    def index() -> Iterator[tuple]:
        nonlocal size
        at = 0
        for block in pack.columns(run.path):
            good = [not reason for reason in block["reason"]]
            if not all(good):
                block = {name: list(itertools.compress(column, good)) for name, column in block.items()}
            end = at + sum(good)
            block["label"] = labels[at:end]
            size += sum(map(int, block["size"]))
            tars.update(block["shard"])
            train.add(block, [side == "train" for side in sides[at:end]])
            for i in chosen.intersection(range(at, end)):
                rows[i] = {name: column[i - at] for name, column in block.items()}
            yield from zip(*map(block.get, shards.COLUMNS), strict=True)
            at = end
        train.write(run)  # before the index gets its name

    shards.write_table(run.path / "index.csv", shards.COLUMNS, index())
    return {"bytes": size, "shards": len(tars)}, rows


class _Statistics:
    """Mean and standard deviation of each band over all pixels of the images added, in 0..1 units of their range."""

    TAKEN = ("bits", "width", "height", "sums", "squares")

    def __init__(self):
        self.images, self.pixels, self.sums, self.squares, self.bits = 0, 0, 0.0, 0.0, 8

    def add(self, block: dict[str, list[str]], chosen: list[bool]) -> None:
        """Take in the chosen rows of some that lie beside a shard."""
        if not any(chosen):
            return
        bits, *some = (list(itertools.compress(block[name], chosen)) for name in self.TAKEN)
        width, height, sums, squares = map(_numbers, some)
        self.images, self.bits = self.images + len(bits), int(bits[0])
        self.pixels += int((width * height).sum())
        self.sums += sums.sum(0)
        self.squares += squares.sum(0)

    def write(self, run: Folder) -> None:
        """statistics.json and .csv."""
        mean, squares = self.sums / self.pixels, self.squares / self.pixels
        # One level at least: images of one colour must not be divided by zero.
        std = np.sqrt(np.maximum(squares - mean**2, 0)).clip(min=1 / (2**self.bits - 1))
        digits = 6 if self.bits == 8 else 9
        mean, std = ([round(float(value), digits) for value in each] for each in (mean, std))
        statistics = {"channels": len(mean), "images": self.images, "mean": mean, "std": std}
        run.write_json("statistics.json", statistics)
        bands = zip(range(1, len(mean) + 1), mean, std, strict=True)
        bands = [dict(zip(STATISTICS_COLUMNS, band, strict=True)) for band in bands]
        shards.write_csv(run.path / "statistics.csv", STATISTICS_COLUMNS, bands)


def _numbers(rows: list[str]) -> np.ndarray:
    """Rows of numbers with spaces between them: [rows, numbers]."""
    return np.array(list(map(float, " ".join(rows).split()))).reshape(len(rows), -1)


def _fingerprint(folder: Path) -> str:
    """A short hash of which images there are, their bytes and their split."""
    both = b"".join((folder / name).read_bytes() for name in ("index.csv", "split.csv"))
    return hashlib.sha256(both).hexdigest()[:16]


def _pictures(folder: Path, rows: dict[int, dict], sheet: dict[int, str], views: list[int], seed: int) -> None:
    """contact_sheet.npz (images [K, S, S, 3], labels [K]) and model_view.npz (original, cropped, masked).

    rows: {place in the index: row} of all that is shown; sheet: {place: label}; views: places.
    """
    statistics = json.loads((folder / "statistics.json").read_text())
    level = statistics["mean"], statistics["std"]
    pixels = {i: decode.decode(_read(folder, row)) for i, row in rows.items()}
    stack = np.stack([_fit(pixels[i], SHEET_SIDE, *level) for i in sheet])
    np.savez_compressed(folder / "contact_sheet.npz", images=stack, labels=np.array(list(sheet.values())))
    chosen = np.array(views)
    few = SimpleNamespace(decode=pixels.__getitem__)
    cropped, _ = next(loader.batches(few, [chosen], image_size=VIEW_SIDE, transform="pretrain", seed=seed))
    cropped = rgb.to_rgb(cropped, *level)
    noise = transforms.mask_noise(seed, 0, chosen, (VIEW_SIDE // VIEW_PATCH) ** 2)
    hidden = noise.argsort(dim=1, stable=True).argsort(dim=1) >= int(noise.shape[1] * VIEW_VISIBLE)
    side = VIEW_SIDE // VIEW_PATCH
    hidden = hidden.view(-1, 1, side, side).repeat_interleave(VIEW_PATCH, 2).repeat_interleave(VIEW_PATCH, 3)
    seen = {"cropped": cropped, "masked": torch.where(hidden, 128, cropped).to(torch.uint8)}
    arrays = {name: view.permute(0, 2, 3, 1).numpy() for name, view in seen.items()}
    original = np.stack([_fit(pixels[i], VIEW_SIDE, *level) for i in views])
    np.savez_compressed(folder / "model_view.npz", original=original, **arrays)


def _examples(labels: list[str]) -> list[int]:
    """A few images of each class, or of all if there are no classes."""
    kinds = sorted(set(labels))
    kinds = [kinds[k] for k in np.unique(np.linspace(0, len(kinds) - 1, SHEET).astype(int))]
    places = {kind: [] for kind in kinds}
    for i, label in enumerate(labels):
        if label in places and len(places[label]) < SHEET // len(kinds):
            places[label].append(i)
    return [i for kind in kinds for i in places[kind]]


def _read(folder: Path, row: dict) -> bytes:
    with open(folder / "shards" / row["shard"], "rb") as file:
        file.seek(int(row["offset"]))
        return file.read(int(row["size"]))


def _fit(image: torch.Tensor, side: int, mean: list[float], std: list[float]) -> np.ndarray:
    """An image for the eye, uint8 [side, side, 3]: the long side fills the square, the rest is white."""
    image = rgb.to_rgb(image[None], mean, std)[0]
    height, width = (max(1, round(n * side / max(image.shape[-2:]))) for n in image.shape[-2:])
    square = np.full((side, side, image.shape[0]), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = transforms.resize(image, height, width).permute(1, 2, 0).numpy()
    return square
