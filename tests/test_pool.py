"""The pool of processes: what it gives in this process and in others, whatever threads there were before."""

import subprocess
import sys

import pytest

from geofm_lib.data import pool
from geofm_lib.data.sources.item import Item
from tests.support.pictures import encode, noise
from tests.support.timing import scaled

IMAGES = 200  # more than two chunks: fewer are done in this process

AFTER_TRAINING = """
import numpy, torch
from geofm_lib.data import pool
from geofm_lib.data.decode import encode
from geofm_lib.data.sources.item import Item
from geofm_lib.data.verify import Fit

torch.set_num_threads(4)
weights = torch.ones(512, 512, requires_grad=True)
(weights @ weights).sum().backward()  # OpenMP's threads and autograd's
level = numpy.random.default_rng(0).integers(0, 65536, (40, 40, 5), dtype=numpy.uint16)
items = [Item(f"{k}.tif", encode(level + k)) for k in range(200)]
shared = [(each.digest, each.sums) for each in pool.samples(items, None, 2, Fit(short_side=16))]
torch.set_num_threads(1)
alone = [(each.digest, each.sums) for each in pool.samples(items, None, 1, Fit(short_side=16))]
print(len(set(alone)), alone == shared)
"""


class Reader:
    """Reads an image where it is called, as the members of a folder do."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self) -> bytes:
        if self.k % 10 == 3:
            raise OSError("lost")
        return encode(noise(self.k))


def taken(workers: int, total: int | None = None) -> list:
    """Samples with their data copied, since it is valid only until the next one."""
    found = []
    for sample in pool.samples((Item(f"{k}.png", Reader(k)) for k in range(IMAGES)), total, workers):
        sample.data = bytes(sample.data)
        found.append(sample)
    return found


def test_any_number_of_processes_gives_the_same_samples_in_order():
    alone = taken(1)
    assert [sample.name for sample in alone] == [f"{k}.png" for k in range(IMAGES)]
    assert taken(2) == alone
    assert taken(3, total=IMAGES) == alone
    assert alone[0].data == encode(noise(0))
    assert alone[3].reason == "cannot be read: lost"
    assert alone[3].data == b""


def test_data_without_room_in_the_shared_memory_comes_all_the_same(monkeypatch):
    expected = taken(1)
    monkeypatch.setattr(pool, "SLOT", 5000)
    assert taken(2) == expected


def test_an_error_that_is_no_refusal_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(pool.samples((Item(f"{k}.png", _faulty) for k in range(IMAGES)), None, 2))


def _faulty() -> bytes:
    return bytes(1 // 0)


def test_processes_are_forked_safely_from_one_that_has_trained():
    """Threads of OpenMP and autograd are lost in a fork; nothing that the pool does may wait for them."""
    command = [sys.executable, "-c", AFTER_TRAINING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(120))
    assert done.stdout.split() == ["200", "True"], done.stderr
