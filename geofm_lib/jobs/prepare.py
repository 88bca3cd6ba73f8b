"""Job: images of any source to data shards, an index, a split, and a list of what was refused.

Writes shards/*.tar, index.csv, split.csv, refused.csv, duplicates.csv, statistics.json (and .csv), and two small files
for the page: contact_sheet.npz and model_view.npz. index.csv comes after the other data files: where it is, they are
complete. A preparation that was killed starts again from the first image.
"""

import hashlib
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from geofm_lib.catalog import datasets
from geofm_lib.data import archives, images, scenes, shards, splits, verify
from geofm_lib.jobs.folder import Folder, Stopped

CHUNK = 16  # images handed to a process at once
LOG_S = 0.5  # seconds between two rows of metrics
SHEET, SHEET_SIDE = 32, 96  # images of the contact sheet, and pixels a side
VIEW, VIEW_SIDE, VIEW_PATCH, VIEW_VISIBLE = 8, 64, 8, 0.25  # what a model sees, at the default size and masking
SPLIT_COLUMNS, REFUSED_COLUMNS, DUPLICATE_COLUMNS = ("name", "split"), ("name", "reason"), ("name", "same_as")
STATISTICS_COLUMNS = ("band", "mean", "std")  # the page's copy of statistics.json


def run(settings, ranks, run: Folder) -> dict:
    """Prepare the images of `settings.dataset` in the run's folder; rank 0 only, with its own pool of processes.

    Returns the numbers of the summary. Raises ValueError when not one image can be used.
    """
    if not ranks.is_main:
        return {}
    started = time.monotonic()
    _clear(run.path)
    items, total = _source(settings)
    rows, checked, refused = _pack(items, total, settings.workers or _cores(), run, started)
    if not rows:
        reasons = Counter(row["reason"] for row in refused)
        counted = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        raise ValueError(f"dataset: none of the {len(refused)} images of '{settings.dataset}' can be used: {counted}")
    _check_alike(checked, settings.dataset)
    labels = archives.labels([row["name"] for row in rows])
    rows = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    same_as = _duplicates(rows, checked)
    sides = splits.split([row["name"] for row in rows], labels, same_as, settings.train_ratio, settings.seed)
    statistics = _statistics([c for c, side in zip(checked, sides, strict=True) if side == "train"])
    _write(run, rows, sides, refused, same_as, statistics)
    _pictures(run.path, settings.seed)
    return {
        "images": len(rows),
        "refused": len(refused),
        "converted": sum(bool(c.converted) for c in checked),
        "duplicates": len(same_as),
        "classes": dict(sorted(Counter(label for label in labels if label).items())),
        "train": sides.count("train"),
        "test": sides.count("test"),
        "bytes": sum(row["size"] for row in rows),
        "shards": len({row["shard"] for row in rows}),
        "fingerprint": _fingerprint(run.path),
        "images_per_s": round(len(rows) / (time.monotonic() - started), 1),
    }


def _source(settings) -> tuple[Iterator, int | None]:
    """(images as (name, bytes or a function, label), how many there are if that is known)."""
    source = datasets.find(settings.dataset)
    if source.kind == "scenes":
        total = settings.images_per_class * len(scenes.CLASSES)
        return scenes.items(settings.images_per_class, settings.scene_size, settings.seed), total
    return archives.items(source), archives.count(source)


def _clear(folder: Path) -> None:
    """Take away what an unfinished preparation left; the index first, since it says that the rest is complete."""
    for name in ("index.csv", "split.csv", "refused.csv", "duplicates.csv", "statistics.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "shards", ignore_errors=True)


# checking and packing -------------------------------------------------------------------------------------------


def _pack(items, total, workers: int, run: Folder, started: float) -> tuple[list[dict], list, list[dict]]:
    """Check every image and pack the good ones: (rows of the index, what was found of each, refused files)."""
    checked, refused, names, logged = [], [], set(), 0.0

    def good() -> Iterator[dict]:
        nonlocal logged
        for done, (name, result) in enumerate(_checked(items, total, workers), start=1):
            if isinstance(result, verify.Checked) and name in names:
                result = "another image has the same name"
            if isinstance(result, verify.Checked):
                names.add(name)
                keys = ("data", "width", "height", "channels")
                yield {"name": name, "label": "", **{key: getattr(result, key) for key in keys}}
                result.data = b""  # it is in the shard now
                checked.append(result)
            else:
                refused.append({"name": name, "reason": result})
            seconds = time.monotonic() - started
            if seconds - logged > LOG_S or done == total:
                logged = seconds
                left = {"seconds_left": round((total - done) * seconds / done, 1)} if total else {}
                run.log_metrics(step=done, total=total, images_per_s=round(done / seconds, 1), **left)
                if run.stop_requested():
                    raise Stopped(f"stopped after {done} images; the next start begins again")

    rows = list(shards.pack(good(), run.path))
    return rows, checked, refused


def _checked(items: Iterable, total: int | None, workers: int) -> Iterator[tuple[str, verify.Checked | str]]:
    """(name, what was found or the reason for refusing it), in the order of `items`, by `workers` processes."""
    chunks = iter(lambda: list(islice(items, CHUNK)), [])
    if workers == 1 or (total is not None and total <= 2 * CHUNK):
        for chunk in chunks:
            yield from _check_chunk(chunk)
        return
    # Forking costs milliseconds, but must not happen once this process has touched a GPU.
    method = "spawn" if torch.cuda.is_initialized() or os.name != "posix" else "fork"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(os.getpid(),))
    waiting = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_check_chunk, chunk))
            if len(waiting) >= 3 * workers:  # bounds the bytes in memory
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_chunk(chunk: list) -> list[tuple[str, verify.Checked | str]]:
    return [(name, _check_one(load)) for name, load, _ in chunk]


def _check_one(load) -> verify.Checked | str:
    """What was found in one image, or the reason why it is refused."""
    try:
        data = load() if callable(load) else load
    except archives.READ_ERRORS as error:
        return f"cannot be read: {error}"
    try:
        return verify.check(data)
    except verify.Refused as error:
        return str(error)


def _start_process(parent: int) -> None:
    """Start of a pool process: one thread, a signal ends it, and it never outlives its parent."""
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


def _check_alike(checked: list, dataset: str) -> None:
    """Raise ValueError for images that no single model and no single mean fit."""
    kinds = Counter((found.channels, "8" if found.full == 255 else "16") for found in checked)
    if len(kinds) > 1:
        mixed = " and ".join(
            f"{count} images of {c} bands with {bits} bits" for (c, bits), count in kinds.most_common()
        )
        raise ValueError(f"dataset: '{dataset}' mixes {mixed}; give a folder that holds only one kind")


def _duplicates(rows: list[dict], checked: list) -> dict[str, str]:
    """{name: first image with exactly the same pixels}."""
    first, same_as = {}, {}
    for row, found in zip(rows, checked, strict=True):
        if found.pixels in first:
            same_as[row["name"]] = first[found.pixels]
        else:
            first[found.pixels] = row["name"]
    return same_as


def _statistics(train: list) -> dict:
    """Mean and standard deviation of each band over all pixels of the train side, in 0..1 units of their range."""
    full = train[0].full
    digits = 6 if full == 255 else 9
    count = sum(c.width * c.height for c in train)
    mean = [sum(band) / count for band in zip(*(c.sums for c in train), strict=True)]
    square = [sum(band) / count for band in zip(*(c.squares for c in train), strict=True)]
    # One level at least: images of one colour must not be divided by zero.
    std = [max(math.sqrt(max(s - m * m, 0)), 1) for s, m in zip(square, mean, strict=True)]
    return {
        "channels": len(mean),
        "images": len(train),
        "mean": [round(m / full, digits) for m in mean],
        "std": [round(s / full, digits) for s in std],
    }


def _write(run: Folder, rows, sides, refused, same_as, statistics) -> None:
    run.write_json("statistics.json", statistics)
    bands = zip(range(1, statistics["channels"] + 1), statistics["mean"], statistics["std"], strict=True)
    bands = [dict(zip(STATISTICS_COLUMNS, band, strict=True)) for band in bands]
    shards.write_csv(run.path / "statistics.csv", STATISTICS_COLUMNS, bands)
    shards.write_csv(run.path / "refused.csv", REFUSED_COLUMNS, refused)
    duplicates = ({"name": name, "same_as": first} for name, first in same_as.items())
    shards.write_csv(run.path / "duplicates.csv", DUPLICATE_COLUMNS, duplicates)
    split = ({"name": row["name"], "split": side} for row, side in zip(rows, sides, strict=True))
    shards.write_csv(run.path / "split.csv", SPLIT_COLUMNS, split)
    shards.write_csv(run.path / "index.csv", shards.COLUMNS, rows)


def _fingerprint(folder: Path) -> str:
    """A short hash of which images there are, their bytes and their split."""
    both = b"".join((folder / name).read_bytes() for name in ("index.csv", "split.csv"))
    return hashlib.sha256(both).hexdigest()[:16]


def _pictures(folder: Path, seed: int) -> None:
    """contact_sheet.npz (images [K, S, S, 3], labels [K]) and model_view.npz (original, cropped, masked)."""
    data = shards.Shards(folder)
    np.savez_compressed(folder / "contact_sheet.npz", **_contact_sheet(data))
    train = shards.Shards(folder, "train")
    chosen = np.unique(np.linspace(0, len(train) - 1, VIEW).astype(int))
    cropped, _ = next(images.batches(train, [chosen], image_size=VIEW_SIDE, transform="pretrain", seed=seed))
    cropped = images.picture(cropped, data.mean, data.std)
    noise = images.mask_noise(seed, 0, chosen, (VIEW_SIDE // VIEW_PATCH) ** 2)
    hidden = noise.argsort(dim=1, stable=True).argsort(dim=1) >= int(noise.shape[1] * VIEW_VISIBLE)
    side = VIEW_SIDE // VIEW_PATCH
    hidden = hidden.view(-1, 1, side, side).repeat_interleave(VIEW_PATCH, 2).repeat_interleave(VIEW_PATCH, 3)
    views = {"cropped": cropped, "masked": torch.where(hidden, 128, cropped).to(torch.uint8)}
    arrays = {name: view.permute(0, 2, 3, 1).numpy() for name, view in views.items()}
    original = np.stack([_fit(train, i, VIEW_SIDE) for i in chosen.tolist()])
    np.savez_compressed(folder / "model_view.npz", original=original, **arrays)


def _contact_sheet(data: shards.Shards) -> dict[str, np.ndarray]:
    """A few images of each class, or of all if there are no classes."""
    kinds = np.unique(data.labels)
    kinds = kinds[np.unique(np.linspace(0, len(kinds) - 1, SHEET).astype(int))]
    each = SHEET // len(kinds)
    chosen = np.concatenate([np.flatnonzero(data.labels == kind)[:each] for kind in kinds]).tolist()
    labels = [data.classes[data.labels[i]] if data.labels[i] >= 0 else "" for i in chosen]
    return {"images": np.stack([_fit(data, i, SHEET_SIDE) for i in chosen]), "labels": np.array(labels)}


def _fit(data: shards.Shards, i: int, side: int) -> np.ndarray:
    """Image i for the eye, uint8 [side, side, 3]: the long side fills the square, the rest is white."""
    image = images.picture(data.decode(i)[None], data.mean, data.std)[0]
    height, width = (max(1, round(n * side / max(image.shape[-2:]))) for n in image.shape[-2:])
    square = np.full((side, side, image.shape[0]), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = images.resize(image, height, width).permute(1, 2, 0).numpy()
    return square
