"""The `fast` protocol: encoders, untrained ones and histograms under every readout, on the same splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.catalog.readouts import UNTRAINED
from geofm_lib.data.sources import prepared
from geofm_lib.jobs import probe_judge, probe_metrics, probe_seen, probe_sources, probe_splits, probe_summary
from geofm_lib.jobs.probe_paper import KEEPS
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.model import vit
from geofm_lib.model.interop import folders, locate

RANDOM_SEEDS = 1000  # the random encoders' seeds start here, apart from those of heads and crops
ROWS = "accuracy.csv"


class Fast:
    """The fast protocol of one probe; every rank makes one. steps, kept: of progress."""

    def __init__(self, given: Given, encoders: dict[str, vit.Encoder], config: folders.Config) -> None:
        self.given, self.config = given, config
        settings = given.settings
        self.readouts = settings.readouts.split(",")
        self.encoded = []
        for name, encoder in encoders.items():
            kind, _, seed = name.partition(" ")
            identity: Any
            if kind == "pretrained":
                identity = locate.digest(locate.find(settings.encoder)) if given.context.is_main else ""
                about = probe_sources.about(encoder, config, name_of(settings.encoder, config), "")
            else:
                kind, identity = UNTRAINED, [_architecture(config), RANDOM_SEEDS + settings.seed + int(seed)]
                about = probe_sources.about(encoder, config, "", seed)
            self.encoded.append(probe_sources.Encoded(given, kind, encoder, identity, about))
        self.heads = sum(len(each.source(self.readouts).poolings) for each in self.encoded)
        self.heads += settings.compare_histograms
        self.steps = self.heads + sum(each.steps for each in self.encoded)
        self.kept = sum(each.kept for each in self.encoded)

    def encode(self) -> None:
        """All that is not kept; Stopped where a stop is asked for."""
        for each in self.encoded:
            if not each.encode():
                raise Stopped(KEEPS)

    def run(self) -> dict[str, Any]:
        """Train the heads, write accuracy.csv; the numbers of the summary. For rank 0."""
        settings, train, test = self.given.settings, self.given.train, self.given.test
        data = Path(settings.data)
        images, again = probe_splits.read(data, [*train.names, *test.names], len(train))
        splits = probe_splits.splits(
            images, settings.splits if again else 1, probe_seen.which(settings, self.config, images.fingerprints)
        )
        truth = np.concatenate([probe_metrics.truth(shards) for shards in (train, test)])
        judge = probe_judge.Judge(images, splits, truth, len(train.classes), probe_metrics.of(train))
        common = {"dataset": prepared.name(data), "task": "classification", "source": "own"}
        rows = probe_judge.table(judge, self._sources(common), self._done)
        files.write_csv(self.given.run.path / ROWS, list(rows[0]), rows)
        return probe_summary.fast(rows, judge.metric.key, len(splits), settings.splits)

    def _sources(self, common: dict[str, Any]) -> Iterator[probe_judge.Source]:
        for each in self.encoded:
            found = each.source(self.readouts)
            yield found._replace(about=common | found.about)
        if self.given.settings.compare_histograms:
            found = probe_sources.histograms(self.given)
            yield found._replace(about=common | found.about)

    def _done(self) -> None:
        if self.given.run.stop_requested():
            raise Stopped(KEEPS)
        self.given.progress.advance(phase="heads")


def _architecture(config: folders.Config) -> dict[str, Any]:
    """What an untrained encoder's weights depend on, beside its seed and the pixels a side."""
    return {
        name: config[name]
        for name in ("model", "family", "patch_size", "channels", "timm", "norm_eps")
        if name in config
    }


def name_of(encoder: str, config: dict[str, Any]) -> str:
    """What a table calls it: the run's folder, its checkpoint RUN@STEP, or the folder of an encoder from elsewhere."""
    if found := config.get("checkpoint"):
        return f"{found['run']}@{found['step']}"
    folder = Path(encoder)
    return folder.parent.name if folder.name == "encoder" else folder.name
