"""The pairs of a preparation: they group images before the split, and no pair may stand on two sides after it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geofm_lib import files
from geofm_lib.data import places
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


def apart(paired: Pairs, split: Split, where: places.Places) -> None:
    """Keep pairs apart (val) of which an image trains while the other is tested, or while it lies beside a tested one.

    Beside is within `places.REACH`, which only images of known place can be: groups such as cells of a grid have
    borders, and what lies on both sides of one looks alike. A given split stays; pairs on two sides are left out.
    """
    if split.by.startswith("given"):
        return
    sides, ground = np.array(split.sides), where.ground()
    trains = sides == "train"
    near = trains & places.beside(ground, ground[sides == "test"], places.REACH)
    partner = np.zeros_like(trains)
    for row in paired.rows:
        for own, other in ((row.first, row.second), (row.second, row.first)):
            partner[own] |= trains[own] and not near[own] and (split.sides[other] == "test" or near[other])
    for i in np.flatnonzero(near | partner).tolist():
        split.sides[i] = "val"
    if partner.any():
        words = "training images have a partner that is tested or lies beside a tested image"
        split.warnings.append(f"{partner.sum()} {words}: they are kept apart (val)")
    if near.any():
        words = f"training images lie within {places.REACH:.0f} m of a test image, across the border of a group"
        split.warnings.append(f"{near.sum()} {words}: they are kept apart (val)")


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
