"""Mean average precision of boxes: matched by pycocotools once, then summed up for any number of drawn test sides.

What is right does not depend on which other images there are: pycocotools matches the detections of each image, class
and IoU with its boxes. A draw of images only weighs these matches, so that a thousand draws cost seconds.

Shapes: N images, M most detections and G most boxes of an image, T IoUs, D detections of a class, B draws.
"""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from geofm_lib.jobs.probe_metrics import Metric

DRAWS = 500
CHUNK = 2**24  # numbers of a draw of matches that are held at once
RECALLS = np.linspace(0, 1, 101)  # at which COCO asks for the precision


class Matches(NamedTuple):
    """One class. image: [D], of each detection, the best scored first. right, left_out: bool [T, D], it has a box; it
    does not count, since its box is a crowd. boxes: how many of each image count, [N]."""

    image: np.ndarray
    right: np.ndarray
    left_out: np.ndarray
    boxes: np.ndarray


def evaluated(said_NM6: np.ndarray, truth_NG6: np.ndarray) -> COCOeval:
    """pycocotools' evaluation of all images. said: box, score and class; truth: box, class, crowd; class -1: none."""
    images, truth, said = range(len(said_NM6)), [], []
    for i in images:
        for x1, y1, x2, y2, kind, crowd in truth_NG6[i][truth_NG6[i, :, 4] >= 0].tolist():
            truth.append({"image_id": i, "category_id": int(kind), "iscrowd": int(crowd), **_box(x1, y1, x2, y2)})
        for x1, y1, x2, y2, score, kind in said_NM6[i][said_NM6[i, :, 5] >= 0].tolist():
            said.append({"image_id": i, "category_id": int(kind), "score": score, "iscrowd": 0, **_box(x1, y1, x2, y2)})
    kinds = [{"id": k} for k in sorted({row["category_id"] for row in truth})]  # others have no precision
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how far it is
        both = (_coco([{"id": i} for i in images], rows, kinds) for rows in (truth, said))
        found = COCOeval(*both, iouType="bbox")
        found.params.areaRng, found.params.areaRngLbl = found.params.areaRng[:1], found.params.areaRngLbl[:1]
        found.params.maxDets = [said_NM6.shape[1]]
        found.evaluate()
    return found


def _box(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _coco(images: list[dict], rows: list[dict], kinds: list[dict]) -> COCO:
    found = COCO()
    numbered = [{"id": number, **row} for number, row in enumerate(rows, start=1)]
    found.dataset = {"images": images, "annotations": numbered, "categories": kinds}
    found.createIndex()
    return found


def matches(said_NM6: np.ndarray, truth_NG6: np.ndarray) -> dict[int, Matches]:
    """Of each class of which a box counts."""
    found, count = evaluated(said_NM6, truth_NG6), len(said_NM6)
    per_class = zip(found.params.catIds, np.array(found.evalImgs, object).reshape(-1, count), strict=True)
    out = {}
    for kind, images in per_class:
        there = [(i, each) for i, each in enumerate(images) if each is not None]
        scores = np.concatenate([each["dtScores"] for _, each in there])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.full(len(each["dtScores"]), i) for i, each in there])[order]
        right = np.concatenate([each["dtMatches"] > 0 for _, each in there], 1)[:, order]
        left_out = np.concatenate([each["dtIgnore"].astype(bool) for _, each in there], 1)[:, order]
        boxes = np.zeros(count)
        for i, each in there:
            boxes[i] = (each["gtIgnore"] == 0).sum()
        if boxes.any():
            out[kind] = Matches(image, right, left_out, boxes)
    return out


def precisions(found: Matches, weights_BN: np.ndarray, ious: slice = slice(None)) -> np.ndarray:
    """Average precision [B, T], as if image n were there weights[b, n] times; NaN where no box is."""
    boxes = weights_BN @ found.boxes
    right, left_out = found.right[ious], found.left_out[ious]
    out = np.full((len(weights_BN), len(right)), np.nan)
    size = max(1, CHUNK // max(1, len(found.image)))
    for start in range(0, len(weights_BN), size):
        part = slice(start, start + size)
        weights = weights_BN[part][:, found.image]
        for t in range(len(right)):
            true = (weights * (right[t] & ~left_out[t])).cumsum(1)
            false = (weights * (~right[t] & ~left_out[t])).cumsum(1)
            out[part, t] = _average(true, false, boxes[part])
    return out


def _average(true_BD: np.ndarray, false_BD: np.ndarray, boxes_B: np.ndarray) -> np.ndarray:
    """As COCO has it: the best precision at each of RECALLS or above it, and the mean of these."""
    precision = true_BD / np.maximum(true_BD + false_BD, np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], 1)
    out = np.full(len(best), np.nan)
    for b in np.flatnonzero(boxes_B):
        recall = true_BD[b] / boxes_B[b]
        out[b] = best[b, np.searchsorted(recall, RECALLS, side="left")].mean()
    return out


def by_class(said_NM6: np.ndarray, truth_NG6: np.ndarray) -> dict[int, np.ndarray]:
    """Average precision at each IoU [T], of each class that is there, in percent."""
    ones = np.ones((1, len(said_NM6)))
    return {kind: 100 * precisions(each, ones)[0] for kind, each in matches(said_NM6, truth_NG6).items()}


def measure(said_NM6: np.ndarray, truth_NG6: np.ndarray) -> tuple[float, float]:
    """(mAP at an IoU of 0.5, mean of those at 0.5 to 0.95) in percent, a mean over classes."""
    each = np.array(list(by_class(said_NM6, truth_NG6).values()))
    return (float(each[:, 0].mean()), float(each.mean())) if len(each) else (float("nan"), float("nan"))


def weighted(said_NM6: np.ndarray, truth_NG6: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """mAP at an IoU of 0.5 in percent [B], as if each image were there so many times."""
    weights = weights_BN.astype(float)
    each = [precisions(found, weights, slice(1))[:, 0] for found in matches(said_NM6, truth_NG6).values()]
    return 100 * np.nanmean(each, axis=0)


METRIC = Metric("map50", ("map50", "map50_95"), measure, weighted, DRAWS, lambda *_: float("nan"), "")
