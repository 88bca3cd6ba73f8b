"""Prepared folders without a preparation: samples into data shards, an index, a split and statistics."""

import json
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path

from geofm_lib import files
from geofm_lib.data import pack, shards
from geofm_lib.data.sample import Sample

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
