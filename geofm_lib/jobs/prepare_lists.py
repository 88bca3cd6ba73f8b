"""The lists of a preparation: duplicates, index, split, and what was refused or not used; statistics and previews."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.data import duplicates, pack, places
from geofm_lib.data.shards import COLUMNS
from geofm_lib.data.sources.unused import COLUMNS as UNUSED_COLUMNS
from geofm_lib.data.statistics import Statistics
from geofm_lib.jobs.prepare_collection import Collection, Gathered
from geofm_lib.jobs.prepare_preview import Preview
from geofm_lib.jobs.run_folder import Folder

DUPLICATE_COLUMNS = ("name", "same_as", "kind", "distance")  # distance in bits of 64; exact: the same pixels
STATISTICS_COLUMNS = ("band", "mean", "std", "mean_stored", "std_stored")  # the page's copy of statistics.json


def list_duplicates(folder: Path, images: Collection) -> tuple[dict[str, str], dict[str, int]]:
    """Write duplicates.csv; ({name: first image of its set} of all but those first ones, how many of each kind)."""
    image, twin, distance = duplicates.find(*images.hashes())
    names, found = images.names, zip(image.tolist(), twin.tolist(), distance.tolist(), strict=True)
    rows = ((names[i], names[j], "exact" if bits < 0 else "near", max(bits, 0)) for i, j, bits in found)
    files.write_table(folder / "duplicates.csv", DUPLICATE_COLUMNS, rows)
    first = duplicates.firsts(len(names), image, twin)
    exact = int((distance < 0).sum())
    return {names[i]: names[first[i]] for i in image.tolist()}, {"exact": exact, "near": len(distance) - exact}


def list_files(folder: Path, found: Gathered, sides: list[str]) -> None:
    """Write split.csv, refused.csv, unused.csv, and places.csv where it is known where images lie."""
    images = found.images
    if images.places.frames:
        rows = images.places.rows(images.names, found.known.scenes)
        files.write_table(folder / "places.csv", places.COLUMNS, rows)
    files.write_table(folder / "unused.csv", UNUSED_COLUMNS, found.unused.rows())
    files.write_table(folder / "refused.csv", ("name", "reason"), images.refused)
    files.write_table(folder / "split.csv", ("name", "split"), zip(images.names, sides, strict=True))


def list_images(
    run: Folder, names: list[str], labels: list[str], sides: list[str], seed: int, bands: list[str]
) -> dict[str, Any]:
    """Write index.csv, after statistics and previews of what it lists; what the summary says of what is packed.

    bands: names of stacked files, [] for none. A file may hold several bands: these have numbers.
    """
    size, tars, statistics, preview = 0, set[str](), Statistics(), Preview(labels, sides)
    found: dict[str, Any] = {}
    sizes = set[tuple[str, str]]()

    def index() -> Iterator[tuple[str, ...]]:
        nonlocal size
        start = 0
        for block in pack.columns(run.path):
            good = [not reason for reason in block["reason"]]
            if not all(good):
                block = {name: list(itertools.compress(column, good)) for name, column in block.items()}
            end = start + sum(good)
            block["label"] = labels[start:end]
            size += sum(map(int, block["size"]))
            tars.update(block["shard"])
            sizes.update(zip(block["height"], block["width"], strict=True))
            statistics.add(block, [side == "train" for side in sides[start:end]])
            preview.take(block, start)
            yield from zip(*(block[name] for name in COLUMNS), strict=True)
            start = end
        dates = max((int(width) for height, width in sizes if height == "1"), default=0)  # of series, which are alike
        found.update(statistics.result(), **{k: v for k, v in (("bands", bands), ("dates", dates)) if v})
        run.write_json("statistics.json", found)
        numbered = bands if len(bands) == found["channels"] else itertools.count(1)
        rows = zip(numbered, *(found[name] for name in STATISTICS_COLUMNS[1:]), strict=False)
        files.write_table(run.path / "statistics.csv", STATISTICS_COLUMNS, rows)
        preview.write(run.path, found["mean"], found["std"], seed)

    files.write_table(run.path / "index.csv", COLUMNS, index())
    train = list(itertools.compress(names, (side == "train" for side in sides)))
    kind: dict[str, Any] = {name: found[name] for name in ("channels", "dtype", "bands", "dates") if name in found}
    return {"bytes": size, "shards": len(tars), **kind, **statistics.summary(train)}
