"""Can a prepared folder be probed? Asked before an encoder is pretrained for it, and by the job. No torch."""

import csv
from collections import Counter
from pathlib import Path

from geofm_lib.data import several
from geofm_lib.data.sources import prepared


def check(folder: Path) -> int:
    """Raise ValueError, one sentence, for a set without labels, with fewer than two classes, or without both sides.

    Returns how many images of both sides have no label: a probe leaves them out.
    """
    where, labels, sides = f"The prepared data set in {folder}", Counter[str](), Counter[str]()
    with (
        open(folder / "index.csv", encoding="utf-8", newline="") as index,
        open(folder / "split.csv", encoding="utf-8", newline="") as split,
    ):
        side_of = dict(csv.reader(split))
        for row in csv.DictReader(index):
            if (side := side_of.get(row["name"])) in ("train", "test"):
                sides[side] += bool(row["label"])
                labels[row["label"]] += 1
    bare = labels.pop("", 0)
    if not labels:
        raise ValueError(
            f"{where} has no labels, so it cannot be probed; give a folder or archive of class folders, or a set with "
            "a table of labels."
        )
    if len(classes := several.counts(labels)) < 2:
        raise ValueError(f"{where} has {len(classes)} class; a probe needs at least 2.")
    if sides["train"] < 2 or not sides["test"]:
        if max(classes.values()) == 1:
            how = (
                f"each of its {len(classes)} classes has one image, so prepare it with labels that several images share"
            )
        else:
            how = "prepare it with " + "a train_ratio below 1, or with " * prepared.all_train(folder)
            how += "labelled images on both sides"
        raise ValueError(
            f"{where} has {sides['train']} train and {sides['test']} test images with labels, and a probe needs both; "
            f"{how}."
        )
    return bare
