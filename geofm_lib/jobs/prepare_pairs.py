"""The pairs of a preparation: they group images before the split, and no pair may stand on two sides after it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geofm_lib import files
from geofm_lib.data.sources import listing, pairs
from geofm_lib.data.sources.pairs import Pairs
from geofm_lib.data.split import Split
from geofm_lib.jobs.prepare_collection import Gathered
from geofm_lib.settings import PrepareSettings


def read(settings: PrepareSettings, source: listing.Source, found: Gathered) -> Pairs | None:
    """What the table of the setting `pairs` says; None without one. Its groups are those of images that have none."""
    if not settings.pairs:
        return None
    paired, known = pairs.read(settings.pairs, source, found.images.names), found.known
    if not any(known.scenes):
        known.scenes, known.grouped = paired.groups(found.images.names), True
        known.scenes_from = f"column {paired.by} of {paired.file}" if paired.by else f"pair of {paired.file}"
    return paired


def of_members(folders: dict[str, tuple[Path, int]], given: Sequence[str]) -> Pairs | None:
    """Those of the members of a union, None where none has any. folders: set -> (its folder, how many images it has).

    given: the side of each image in its member.
    """
    found, start = Pairs("the prepared folders"), 0
    for name, (folder, count) in folders.items():
        if (folder / pairs.FILE).is_file():
            sides = np.array(given[start : start + count])
            at = {side: start + np.flatnonzero(sides == side) for side in set(sides.tolist())}
            for place, group, side, first, second in pairs.listed(folder):
                ends = at[side][int(first)], at[side][int(second)]
                before = [each and f"{name}/{each}" for each in (place, group)]
                found.rows.append(pairs.Pair(int(ends[0]), int(ends[1]), *before))
        start += count
    return found if found.rows else None


def apart(paired: Pairs, split: Split) -> None:
    """Keep training images apart (val) whose partner is tested; a given split stays, and such pairs are left out."""
    if split.by.startswith("given"):
        return
    moved = 0
    for row in paired.rows:
        ends = (row.first, row.second), (row.second, row.first)
        for own, other in ends:
            if split.sides[own] == "train" and split.sides[other] == "test":
                split.sides[own] = "val"
                moved += 1
    if moved:
        split.warnings.append(f"{moved} training images have a partner on the test side: they are kept apart (val)")


def write(
    folder: Path, paired: Pairs, sides: list[str], names: Sequence[str], asked: bool
) -> tuple[dict[str, int], list[str]]:
    """Write pairs.csv; (pairs by side, what is to be told).

    asked: were pairs asked for? Then a ValueError says where none is left to train on.
    """
    kept = pairs.one_side(paired, sides, names)
    counts = Counter(sides[row.first] for row in kept)
    if asked and not counts["train"]:
        raise ValueError(f"pairs: no pair of '{paired.file}' has both images on the train side; use split=auto, or a "
                         f"group column: pairs='{paired.file}:group=COLUMN'")  # fmt: skip
    files.write_table(folder / pairs.FILE, pairs.COLUMNS, pairs.table(kept, sides))
    return dict(counts), paired.told()
