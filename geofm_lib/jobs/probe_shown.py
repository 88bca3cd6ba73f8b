"""What 05's page shows of the fast protocol beside its rows: predictions, a map, neighbours, and ranks of features.

All of the set's own split and of the first readout. predictions.csv: an image, and what each kind of encoder says.
map.csv: test images at the first two principal components. features.csv: how many dimensions features fill.
retrieval.npz and confused.npz: pictures, which the page shows where they may be.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.catalog.readouts import PRETRAINED, UNTRAINED
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import picture
from geofm_lib.jobs.probe_judge import PLAIN, Result, Source, Task
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.probe_splits import Split
from geofm_lib.model import logistic

ON_MAP = 2000  # images
QUERIES, NEAREST = 6, 5
PAIRS, EXAMPLES = 4, 4  # of classes that are confused, and images of each
PIXELS = 64  # of a picture's side


def effective_rank(features_ND: np.ndarray) -> float:
    """The exponential of the entropy of the singular values, of features about their mean (Roy and Vetterli 2007).

    >>> round(effective_rank(np.eye(4)), 3)
    3.0
    """
    values = np.linalg.svd(features_ND - features_ND.mean(0), compute_uv=False)
    share = values[values > 1e-7 * max(values.max(), 1e-30)] / values.sum() if values.any() else np.ones(1)
    return float(np.exp(-(share * np.log(share)).sum()))


class Shown:
    """Takes in each result as it comes; rank 0."""

    def __init__(self, given: Given, split: Split) -> None:
        self.given, self.split = given, split
        self.names = [*given.train.names, *given.test.names]
        self.said: dict[str, np.ndarray] = {}  # kind -> the class it says of each test image
        self.ranks: list[dict[str, Any]] = []
        self.features: dict[str, np.ndarray] = {}  # kind -> of its first readout

    def add(self, source: Source, pooling: str, take: Callable[[], np.ndarray], task: Task, result: Result) -> None:
        """See the module."""
        if task != PLAIN:
            return
        features = take()
        about = {"kind": source.kind, "layer": source.about.get("layer", ""), "pooling": pooling}
        rank = round(effective_rank(features.astype(np.float32)), 2)
        self.ranks.append(about | {"width": features.shape[1], "effective_rank": rank})
        if source.kind in (PRETRAINED, UNTRAINED) and source.kind not in self.said:
            self.said[source.kind] = result.scores.argmax(1)
            self.features[source.kind] = features

    def write(self) -> None:
        """Into the run folder; images with several labels have neither predictions nor pictures."""
        folder, train = self.given.run.path, self.given.train
        files.write_csv(folder / "features.csv", list(self.ranks[0]), self.ranks)
        if train.several or not self.said:
            return
        truth = np.concatenate([train.labels, self.given.test.labels])
        kind = next(iter(self.said))
        rows = [
            {"image": self.names[i], "class": train.classes[truth[i]]}
            | {name: train.classes[said[k]] for name, said in self.said.items()}
            for k, i in enumerate(self.split.test)
        ]
        files.write_csv(folder / "predictions.csv", list(rows[0]), rows)
        known, tested = logistic.standardise(
            self.features[kind][self.split.train], self.features[kind][self.split.test]
        )
        self._map(known, tested, [row["class"] for row in rows])
        self._retrieval(known, tested, truth)
        self._confused(self.said[kind], truth)

    def _map(self, known: np.ndarray, tested: np.ndarray, classes: list[str]) -> None:
        from sklearn.decomposition import PCA

        some = np.unique(np.linspace(0, len(tested) - 1, min(ON_MAP, len(tested))).astype(int))
        if min(known.shape) < 2:
            return
        found = PCA(2, random_state=0).fit(known)
        shares = [round(float(share), 4) for share in found.explained_variance_ratio_]
        rows = [
            {
                "class": classes[i],
                "x": round(float(x), 3),
                "y": round(float(y), 3),
                "x_share": shares[0],
                "y_share": shares[1],
            }
            for i, (x, y) in zip(some, found.transform(tested[some]), strict=True)
        ]
        files.write_csv(self.given.run.path / "map.csv", list(rows[0]), rows)

    def _retrieval(self, known: np.ndarray, tested: np.ndarray, truth: np.ndarray) -> None:
        """Test images spread over the side, and the train images that are nearest by the cosine."""
        queries = np.unique(np.linspace(0, len(tested) - 1, min(QUERIES, len(tested))).astype(int))
        unit = [
            part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (tested[queries], known)
        ]
        nearest = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :NEAREST]
        images = np.concatenate([self.split.test[queries][:, None], self.split.train[nearest]], axis=1)
        self._save("retrieval", images, truth)

    def _confused(self, said: np.ndarray, truth: np.ndarray) -> None:
        """Of each of the most confused pairs of classes, test images that are taken for the other one."""
        tested = truth[self.split.test]
        wrong = Counter((int(a), int(b)) for a, b in zip(tested, said, strict=True) if a != b)
        rows = [self.split.test[(tested == a) & (said == b)][:EXAMPLES] for (a, b), _ in wrong.most_common(PAIRS)]
        rows = [np.pad(row, (0, EXAMPLES - len(row)), constant_values=-1) for row in rows]
        if rows:
            taken = [self.given.train.classes[b] for (_, b), _ in wrong.most_common(PAIRS)]
            self._save("confused", np.stack(rows), truth, taken_for=np.array(taken))

    def _save(self, name: str, images: np.ndarray, truth: np.ndarray, **more: Any) -> None:
        """pictures: uint8 [rows, columns, PIXELS, PIXELS, 3], labels: str [rows, columns], "" where there is none."""
        classes = np.array([*self.given.train.classes, ""])
        pictures = np.full((*images.shape, PIXELS, PIXELS, 3), 255, np.uint8)
        for place, image in np.ndenumerate(images):
            if image >= 0:
                pictures[place] = self._picture(int(image))
        labels = np.where(images >= 0, classes[truth[images]], "")
        arrays = {"pictures": pictures, "labels": labels, **more}
        write_arrays(self.given.run.path / f"{name}.npz", arrays)

    def _picture(self, image: int) -> np.ndarray:
        train = self.given.train
        shards: Shards = train if image < len(train) else self.given.test
        pixels = shards.decode(image if image < len(train) else image - len(train))
        return picture(pixels, PIXELS, train.mean, train.std)
