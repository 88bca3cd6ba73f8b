"""Prepared folders without a preparation: samples into data shards, an index, a split and statistics."""

import json
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tifffile

from geofm_lib import files
from geofm_lib.data import pack, shards
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import pairs

CHANNELS = 3
MEAN, STD = (0.5,) * CHANNELS, (0.2,) * CHANNELS


def write(
    folder: Path,
    samples: Iterable[Sample],
    sides: Sequence[str] = (),
    shard_bytes: int = 2**28,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Path:
    """`folder` with shards of the samples; sides: "train" or "test" of each, () for a folder without a split."""
    packed = list(pack.pack(samples, folder, shard_bytes))
    files.write_table(folder / "index.csv", shards.COLUMNS, map(operator.attrgetter(*shards.COLUMNS), packed))
    if sides:
        names = (sample.name for sample in packed)
        files.write_table(folder / "split.csv", ("name", "split"), zip(names, sides, strict=True))
    statistics = {"mean": list(mean), "std": list(std), "channels": CHANNELS}
    (folder / "statistics.json").write_text(json.dumps(statistics))
    return folder


def textures(folder: Path, bands: int = 3, count: int = 24) -> Path:
    """The same with soft random images of 32 pixels a side, all of them for training."""
    folder.mkdir(exist_ok=True)
    random, samples = np.random.default_rng(0), []
    for number in range(count):
        soft = np.kron(random.integers(40, 215, (8, 8, bands)), np.ones((4, 4, 1))).astype(np.uint8)
        how = {"photometric": "rgb"} if bands == 3 else {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(folder / "one.tif", soft, **how)
        sample = Sample(f"{number:02d}.tif", "all", width=32, height=32, channels=bands)
        sample.data = (folder / "one.tif").read_bytes()
        samples.append(sample)
    write(folder, samples, ["train"] * count, mean=[0.5] * bands, std=[0.2] * bands)
    statistics = json.loads((folder / "statistics.json").read_text())
    (folder / "statistics.json").write_text(json.dumps(statistics | {"channels": bands}))
    return folder


def dated(folder: Path, places: int = 11) -> Path:
    """The same, where images 0 and 1 are of one place, 2 and 3 of another ...; the last ones have no pair."""
    folder.mkdir(parents=True)
    textures(folder)
    rows = [(f"place {n}", f"cell {n // 2}", "train", str(2 * n), str(2 * n + 1)) for n in range(places)]
    files.write_table(folder / pairs.FILE, pairs.COLUMNS, rows)
    return folder
