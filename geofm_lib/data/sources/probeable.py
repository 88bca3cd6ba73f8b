"""Can a prepared folder be probed? Asked before an encoder is pretrained for it, and by the job. No torch."""

import csv
from collections import Counter
from pathlib import Path

from geofm_lib.data import several


def check(folder: Path) -> None:
    """Raise ValueError, one sentence, for a set without labels, with fewer than two classes, or without both sides."""
    where, labels, sides = f"The prepared data set in {folder}", Counter[str](), Counter[str]()
    with (
        open(folder / "index.csv", encoding="utf-8", newline="") as index,
        open(folder / "split.csv", encoding="utf-8", newline="") as split,
    ):
        side_of = dict(csv.reader(split))
        for row in csv.DictReader(index):
            if (side := side_of.get(row["name"])) in ("train", "test"):
                sides[side] += 1
                labels[row["label"]] += 1
    images, bare = labels.total(), labels[""]
    if bare:
        how = "no labels" if bare == images else f"no label for {bare} of its {images} train and test images"
        raise ValueError(
            f"{where} has {how}, so it cannot be probed; give a folder or archive of class folders, or a set with a "
            "table of labels."
        )
    if len(classes := several.counts(labels)) < 2:
        raise ValueError(f"{where} has {len(classes)} class; a probe needs at least 2.")
    if sides["train"] < 2 or not sides["test"]:
        raise ValueError(
            f"{where} has {sides['train']} train and {sides['test']} test images, and a probe needs both; prepare "
            "it with a train_ratio below 1, or with images on both sides."
        )
