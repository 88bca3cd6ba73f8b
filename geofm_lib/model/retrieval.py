"""Is an image's partner, such as the same place on another date, among its nearest ones?

Shapes: n images, D features, P pairs, Q queries: each image that is in a pair asks all images of the other date.
"""

import numpy as np

AT_ONCE = 1024  # queries


def ranks(features: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(image [Q], how many other images lie at least as near to it as its nearest partner [Q]), int64.

    features: [n, D], compared by cosine. pairs: int64 [P, 2], images of the first and of the second date. A query is
    asked of all images of the other date that are in a pair. Of several partners the nearest counts, and none of them
    stands in another's way. Where all lie equally near, a partner is last: features that are all alike find nothing.
    """
    units = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=np.finfo(features.dtype).tiny)
    queries, found = [], []
    for own, other in ((0, 1), (1, 0)):
        asked, there = np.unique(pairs[:, own]), np.unique(pairs[:, other])
        row, column = np.searchsorted(asked, pairs[:, own]), np.searchsorted(there, pairs[:, other])
        order = np.argsort(row, kind="stable")
        row, column = row[order], column[order]
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            nearness = units[some] @ units[there].T
            mine = slice(*np.searchsorted(row, [start, start + len(some)]))
            partner = np.zeros(nearness.shape, bool)
            partner[row[mine] - start, column[mine]] = True
            best = np.where(partner, nearness, -np.inf).max(axis=1, keepdims=True)
            found.append(((nearness >= best) & ~partner).sum(axis=1))
        queries.append(asked)
    return np.concatenate(queries), np.concatenate(found)


def recall(rank: np.ndarray, k: int) -> float:
    """The share of queries with a partner among their k nearest."""
    return float((rank < k).mean())
