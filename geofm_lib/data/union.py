"""Several prepared folders as one, for pretraining: their rows are gathered, their images stay where they are.

A train image with the same pixels or nearly the same look as a test or val image of any member, also when one of
them is turned or mirrored, gets the side LEAK: it is not trained on. So no image that one of the sets is later probed
with has been seen.
"""

import contextlib
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.data import overlap, pack, several
from geofm_lib.data.sample import ROW, Block
from geofm_lib.data.sources import prepared, rows
from geofm_lib.data.sources.prepared import Member
from geofm_lib.data.statistics import Statistics

LEAK = "leak"  # a side beside train, val and test


def gather(members: list[Member], folder: Path) -> list[int]:
    """Write the rows of the members' images where those of shards lie in `folder`, and union.json.

    Returns how many images each member has. Names and labels begin with the member's name where there are several, as
    classes of one name may differ. Raises ValueError when two members hold the same shards.
    """
    target = folder / "shards"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    here, number, owner, counts = os.path.realpath(target), 0, dict[str, str](), [0] * len(members)
    for place, member in enumerate(members):
        before = f"{member.name}/" if len(members) > 1 else ""
        for block in rows.blocks(member.folder):
            block |= _renamed(block, before, member.folder / "shards", here)
            for shard in set(block["shard"]) - {""}:
                if owner.setdefault(shard, member.name) != member.name:
                    both = f"'{owner[shard]}' and '{member.name}' hold the same images ('{member.folder}')"
                    raise ValueError(f"dataset: {both}; name them once")
            files.write_table(target / f"{number:06d}.csv", ROW, zip(*(block[name] for name in ROW), strict=True))
            number += 1
            counts[place] += block["reason"].count("")
    prepared.write_union(folder, members)
    return counts


def _renamed(block: Block, before: str, shards: Path, here: str) -> Block:
    """The columns of a member's rows that differ in the union."""
    return {
        "name": [before + name for name in block["name"]],
        "label": [
            several.BETWEEN.join(before + part for part in several.parts(label)) or label for label in block["label"]
        ],
        "scene": [scene and before + scene for scene in block["scene"]],
        "shard": [shard and os.path.relpath(os.path.normpath(shards / shard), here) for shard in block["shard"]],
    }


def sides(given: list[str], images: overlap.Fingerprints) -> tuple[list[str], overlap.Found]:
    """(the side of each image, which of them leak), given the sides that they have in their members."""
    side = np.array(given)
    found = images.shown(asked=side == "train", known=np.isin(side, ("test", "val")))
    side[found["exact"] | found["near"]] = LEAK
    return side.tolist(), found


def sets(
    folder: Path, members: list[Member], counts: list[int], sides: list[str], leaks: overlap.Found
) -> list[dict[str, Any]]:
    """A row for each member: set, folder, images, train, test, val, leaks_exact, leaks_near, mean, std.

    The last two are lists over the bands, of its train images; None where it has none.
    """
    blocks, start, found = pack.columns(folder), 0, []
    for member, count in zip(members, counts, strict=True):
        statistics, end, at = Statistics(), start + count, start
        while at < end:
            block = next(blocks)
            good = [not reason for reason in block["reason"]]
            block = {name: list(itertools.compress(column, good)) for name, column in block.items()}
            statistics.add(block, [side == "train" for side in sides[at : at + sum(good)]])
            at += sum(good)
        own = Counter(sides[start:end])
        row: dict[str, Any] = {"set": member.name, "folder": str(member.folder), "images": count}
        row |= {side: own[side] for side in ("train", "test", "val")}
        row |= {f"leaks_{kind}": int(leak[start:end].sum()) for kind, leak in leaks.items()}
        of_train: dict[str, Any] = {}
        with contextlib.suppress(ValueError):  # no train image, or none with a measured pixel
            of_train = statistics.result()
        found.append(row | {name: of_train.get(name) for name in ("mean", "std")})
        start = end
    return found
