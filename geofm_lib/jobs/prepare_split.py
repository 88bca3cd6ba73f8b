"""The split of prepared images where it is known where they lie: by scenes, by blocks, and what still overlaps."""

from geofm_lib.data import places
from geofm_lib.data.places import Places
from geofm_lib.data.sources.labels import Assigned
from geofm_lib.data.split import Split, decide
from geofm_lib.jobs.prepare_collection import Collection
from geofm_lib.settings import PrepareSettings


def sides(
    settings: PrepareSettings, images: Collection, known: Assigned, same_as: dict[str, str], ratio: float
) -> Split:
    """The side of each image, how it was split, and what is to be told.

    auto takes blocks where all tiles are of one scene, and where scenes or chips overlap on the ground, unless a table
    says what belongs together. Training images that cover ground of test images are kept apart (val) by blocks, and
    told of elsewhere. Raises ValueError for a split that cannot be.
    """
    names, where = images.names, images.places

    def by(how: str, groups: list[str], words: str) -> Split:
        return decide(
            how, names, known.labels, known.sides, groups, same_as, ratio, settings.seed, known.sides_from, words
        )

    how, single = settings.split, len(set(known.scenes)) == 1 and bool(known.scenes[0])
    if how == "scene" and single and ratio < 1:
        raise ValueError(f"split=scene: there is only one scene, '{known.scenes[0]}'; use split=block")
    free = how == "auto" and ratio < 1 and not any(known.sides)
    if free and single:
        try:
            return _by_blocks(by, settings, known, where, ratio)
        except ValueError as error:
            found = by("random", known.scenes, "")
            words = f"there is one scene, too small to split by blocks of ground ({error})"
            return found._replace(warnings=[*found.warnings, f"{words}: its tiles are split at random"])
    if how == "block":
        return _by_blocks(by, settings, known, where, ratio)
    found = by(how, known.scenes, known.scenes_from)
    shared = places.overlapping(where, found.sides) if ratio < 1 else []
    if shared:
        words = f"{len(shared)} training images, such as '{names[shared[0]]}',"
        remedy = "split=block keeps ground apart"
        if free and not known.grouped:
            try:
                blocks = _by_blocks(by, settings, known, where, ratio)
                told = f"split by {found.by}, {words} would cover ground that test images cover too: blocks of ground"
                return blocks._replace(warnings=[f"{told} keep it apart", *blocks.warnings])
            except ValueError:
                remedy = "all lie too close together to be split by blocks of ground"
        found.warnings.append(f"{words} cover ground that test images cover too: {remedy}")
    elif found.by == "random" and any(known.scenes):
        found.warnings.append("split=random puts neighbouring tiles of a scene on both sides, which look alike")
    return found


def _by_blocks(by, settings: PrepareSettings, known: Assigned, where: Places, ratio: float) -> Split:
    """By blocks of ground; training images that still overlap a test image, across a border, are kept apart."""
    groups, words = places.blocks(where, known.scenes, settings.block_size)
    found = by("block", groups, words)
    shared = places.overlapping(where, found.sides) if ratio < 1 else []
    for i in shared:
        found.sides[i] = "val"
    if ratio < 1 and not {"train", "test"} <= set(found.sides):
        raise ValueError(
            f"split=block: no image is left to train on, or none to test on, by a {words}; use smaller tiles"
        )
    if shared:
        words = f"{len(shared)} training images overlap a test image across the border of a block"
        found.warnings.append(f"{words}: they are kept apart (val)")
    return found
