"""Which images are there twice, or nearly: exact by their digest, near by their look (data/measure)."""

import itertools
from collections.abc import Iterator

import numpy as np

NEAR = 4  # bits of 64 in which two looks may differ (reports/LOG.md: what was tried)
BITS = 64
WINDOW = 64  # neighbours that an image is compared with in one bucket; only a set full of copies has larger ones
AT_ONCE = 2**21  # pairs compared in one go


def find(digests: np.ndarray, looks: np.ndarray, near: int = NEAR) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, twin, distance), int64 each: every image of a set of duplicates but its first, in order of images.

    digests, looks: uint64 [n]; a look of 0 stands for a flat picture, which is near to none. The twin of a copy is
    the first image with the same pixels, at distance -1. That of any other is the first image of its set, and distance
    is the bits between their looks. Sets are closed: if a is near b and b near c, all three belong together, so that
    the distance may be more than `near`.
    """
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    leader = first[which]  # the first image with these pixels
    own = np.arange(len(digests))
    single, root = np.flatnonzero((leader == own) & (looks != 0)), own
    for left, right in _candidates(looks[single], near):
        i, j = single[left], single[right]
        close = np.bitwise_count(looks[i] ^ looks[j]) <= near
        root = _join(root, i[close], j[close])
    copy = leader != own
    image = np.flatnonzero(copy | (root != own))
    twin = np.where(copy, leader, root)[image]
    bits = np.bitwise_count(looks[image] ^ looks[twin]).astype(np.int64)
    return image, twin, np.where(copy[image], -1, bits)


def firsts(count: int, image: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """The first image of each one's set, int64 [count], given what `find` found."""
    return _join(np.arange(count), image, twin)


def _candidates(looks: np.ndarray, near: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs that may differ in at most `near` bits, some of them more than once.

    Cut into near + 2 blocks, two such looks agree in at least two blocks. So only those are paired that share two: a
    million looks take seconds, where all pairs would take hours.
    """
    edges = np.arange(near + 3) * BITS // (near + 2)
    blocks = [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges.tolist())]
    for one, other in itertools.combinations(blocks, 2):
        key = looks & (one | other)
        order = np.lexsort((looks, key))
        for left, right in _equal(key[order]):
            yield order[left], order[right]


def _equal(key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places of a sorted array that hold the same value and are at most WINDOW apart."""
    ends = np.searchsorted(key, key, side="right")
    left, size = np.arange(len(key)), 0
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(1, WINDOW + 1):
        left = left[left + step < ends[left]]
        if not len(left):
            break
        waiting.append((left, left + step))
        size += len(left)
        if size > AT_ONCE:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([left for left, _ in pairs]), np.concatenate([right for _, right in pairs])


def _join(root: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """`root` (the smallest member of each one's set) after the sets of i[k] and j[k] have become one, for every k."""
    while len(i):
        a, b = root[i], root[j]
        i, j, low = i[a != b], j[a != b], np.minimum(a, b)[a != b]
        if not len(i):
            break
        root = root.copy()
        np.minimum.at(root, np.maximum(a, b)[a != b], low)
        while not np.array_equal(root, root[root]):
            root = root[root]
    return root
