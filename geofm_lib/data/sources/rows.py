"""The rows beside the shards of a prepared folder, with the labels and sides of its lists. No torch."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geofm_lib.data import pack
from geofm_lib.data.sample import ROW, Block, Sample, from_row


def kind(folder: Path) -> tuple[int, str]:
    """(bands, type of a value) of its images. ValueError for rows of an older version, which name no type."""
    for block in pack.columns(folder):
        for reason, channels, dtype in zip(block["reason"], block["channels"], block.get("dtype", ()), strict=False):
            if not reason:
                return int(channels), dtype
    raise ValueError(f"'{folder}' has no rows of this version in its shards/; copy them too, or prepare it again")


def blocks(folder: Path) -> Iterator[Block]:
    """The rows beside the shards of a prepared folder, with label and side as its index and split have them.

    Columns are those of ROW. Rows of refused images are in it too. Raises ValueError where the lists do not agree.
    """
    with (
        open(folder / "index.csv", encoding="utf-8", newline="") as index,
        open(folder / "split.csv", encoding="utf-8", newline="") as split,
    ):
        listed_rows, sides = csv.DictReader(index), csv.reader(split)
        next(sides)
        listed = zip(listed_rows, sides, strict=True)
        for block in pack.columns(folder):
            yield _with_lists(block, listed, folder)
        if next(listed, None):
            raise ValueError(_disagree(folder))


def samples(folder: Path) -> Iterator[Sample]:
    """The good images of a prepared folder, in the order of the rows, with label and side. Raises as `blocks`."""
    for block in blocks(folder):
        for row in zip(*block.values(), strict=True):
            sample = from_row(block, row)
            if not sample.reason:
                yield sample


def _with_lists(block: Block, listed: Iterator[tuple[dict[str, Any], list[str]]], folder: Path) -> Block:
    labels, sides = [], []
    try:
        for name, reason in zip(block["name"], block["reason"], strict=True):
            row, side = ({"name": name, "label": ""}, [name, ""]) if reason else next(listed)
            if not row["name"] == side[0] == name:
                raise ValueError(_disagree(folder))
            labels.append(row["label"])
            sides.append(side[1])
    except StopIteration:
        raise ValueError(_disagree(folder)) from None
    blank = [""] * len(labels)
    return {name: block.get(name, blank) for name in ROW} | {"label": labels, "side": sides}


def _disagree(folder: Path) -> str:
    return f"index.csv, split.csv and the rows in shards/ of '{folder}' are not of one preparation; prepare it again"
