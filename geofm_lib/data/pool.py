"""The processes that decode, verify and measure images, and the shared memory in which their bytes come back.

They are forked where this process has touched no GPU: that costs milliseconds, and they inherit the shared memory. They
use one thread and never autograd, so that threads which this process had before the fork are not missed.
"""

import gc
import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import torch

from geofm_lib.data import measure, verify
from geofm_lib.data.sample import Data, Sample, checksum
from geofm_lib.data.sources.archives import READ_ERRORS
from geofm_lib.data.sources.item import FULL, Item

CHUNK, CHUNK_BYTES = 64, 2**23  # images handed to a process at once, and their bytes where those are known
MOST_BYTES = 2**26  # of a chunk of tiles that are read at once
MOST_WAITING = 2**25  # bytes of the chunks that are being checked, while no process stands still for it
SLOT = CHUNK_BYTES + 2**20  # bytes of the shared memory in which a chunk's data comes back
NO_SLOT = (0, 0)
_TYPES = {np.dtype(kind): kind for kind in FULL}  # numpy takes longer to say it than a row of pixels to read

Slot = tuple[int, int]  # where a chunk's part of the shared memory begins and ends
Checked = list[tuple[Sample, Data | slice | None]]  # the data: itself, its place in the shared memory, or as it came

_shared: mmap.mmap | None = None  # in a process of the pool


def samples(
    items: Iterable[Item], total: int | None, workers: int = 0, fit: verify.Fit = verify.AS_IT_IS
) -> Iterator[Sample]:
    """What there is of each image, or the reason why it is refused, in the order of `items`.

    total: how many there are, if that is known; workers: processes, 0 for one a core. fit: see
    `verify.Fit`. The data of a sample is valid until the next one is asked for.
    """
    workers = processes(workers)
    chunks = _chunks(items)
    if workers == 1 or (total is not None and total <= 2 * CHUNK):
        for chunk, _ in chunks:
            yield from _with_data(chunk, check(chunk, NO_SLOT, fit), memoryview(b""))
        return
    method = "fork" if can_fork() else "spawn"
    measure.measure([(np.zeros((8, 8, 3), np.uint8), None)])  # compiled once, for all processes
    ahead = 3 * workers  # chunks at a time: bounds the bytes in memory
    shared = mmap.mmap(-1, ahead * SLOT) if method == "fork" else None  # only a fork inherits it
    view = memoryview(shared or b"")
    waiting: deque[tuple[list[Item], int, Future[Checked]]] = deque()
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, initializer=start_process, initargs=(os.getpid(), shared))
    size = 0
    try:
        for number, (chunk, own) in enumerate(chunks):
            start = number % ahead * SLOT
            slot = (start, start + SLOT) if shared else NO_SLOT
            waiting.append((chunk, own, pool.submit(check, chunk, slot, fit)))
            size += own
            while len(waiting) == ahead or size > MOST_WAITING and len(waiting) > workers:
                chunk, own, future = waiting.popleft()
                size -= own
                yield from _with_data(chunk, future.result(), view)
        for chunk, _, future in waiting:
            yield from _with_data(chunk, future.result(), view)
    finally:
        pool.shutdown(cancel_futures=True)


def check(chunk: list[Item], slot: Slot, fit: verify.Fit) -> Checked:
    """Verify and measure some images, in whichever process.

    Bytes that this process read go back through its slot of the shared memory while there is room: through a pipe they
    would cost more than reading them again. What came as bytes and stays so is left out.
    """
    found: Checked = []
    good: list[Sample] = []
    at, end = slot

    def pixels() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        nonlocal at
        for name, load, label, side, scene in chunk:
            sample = Sample(name, label, side, scene)
            try:
                image = verify.check(load() if callable(load) else load, fit)
            except (verify.Refused, *READ_ERRORS) as error:
                lost = "" if isinstance(error, verify.Refused) else "cannot be read: "
                sample.reason = f"{lost}{getattr(error, 'strerror', None) or error}"
                found.append((sample, None))
                continue
            data, sample.converted, values, valid, geo = image
            sample.checksum = checksum(data)
            sample.height, sample.width, sample.channels = values.shape
            sample.dtype = _TYPES[values.dtype]
            sample.geo = " ".join([geo.crs, *map(repr, geo.transform)]) if geo else ""
            good.append(sample)
            if data is not load and _shared is not None and at + len(data) <= end:
                found.append((sample, slice(at, at + len(data))))
                _shared[at : at + len(data)] = data
                at += len(data)
            else:
                found.append((sample, None if data is load else data))
            yield values, valid

    for measures, sample in zip(measure.measure(pixels()), good, strict=True):
        sample.digest = measures.digest
        if sample.height > 1:  # a series has no look: the seasons of a crop resemble each other
            sample.look, sample.contrast, sample.turned = measures.look, measures.contrast, measures.turned
        sample.valid = measures.valid
        sample.sums, sample.squares = (" ".join(map(repr, each)) for each in (measures.sums, measures.squares))
    return found


def _chunks(items: Iterable[Item]) -> Iterator[tuple[list[Item], int]]:
    """Some images and their bytes: at most CHUNK, fewer if they are large; tiles that are read at once together."""
    chunk: list[Item] = []
    size, before = 0, None
    for item in items:
        together = getattr(item.load, "together", None)
        full = len(chunk) >= CHUNK or size >= CHUNK_BYTES
        if chunk and (full and (together is None or together != before) or size > MOST_BYTES):
            yield chunk, size
            chunk, size = [], 0
        chunk.append(item)
        size += _size(item)
        before = together
    if chunk:
        yield chunk, size


def _size(item: Item) -> int:
    """The bytes of an image, 0 where they are not known."""
    return getattr(item.load, "nbytes", 0) if callable(item.load) else len(item.load)


def _with_data(chunk: list[Item], checked: Checked, shared: memoryview) -> Iterator[Sample]:
    for (_, load, *_), (sample, data) in zip(chunk, checked, strict=True):
        if isinstance(data, slice):
            sample.data = shared[data]
        elif data is not None:
            sample.data = data
        elif not callable(load):
            sample.data = load
        yield sample


def start_process(parent: int, shared: mmap.mmap | None = None) -> None:
    """Start of another process: one thread, a signal ends it, and it never outlives its parent."""
    global _shared
    _shared = shared
    gc.freeze()  # what was inherited stays shared: collecting garbage would touch, and so copy, all of it
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the pool
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def can_fork() -> bool:
    """Can this process be forked? Not after it has touched a GPU."""
    return os.name == "posix" and not torch.cuda.is_initialized()


def processes(workers: int) -> int:
    """How many `workers` are, 0 for one a core."""
    return workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
