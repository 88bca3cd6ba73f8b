"""The `fast` protocol: encoders, untrained ones and histograms under every readout, on the same splits."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.catalog.readouts import PRETRAINED, SUPERVISED, UNTRAINED
from geofm_lib.data.sources import prepared
from geofm_lib.jobs import (
    encoder_bands,
    probe_judge,
    probe_kept,
    probe_metrics,
    probe_seen,
    probe_shown,
    probe_sources,
    probe_splits,
    probe_summary,
    probe_supervised,
)
from geofm_lib.jobs.probe_paper import KEEPS
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.jobs.run_folder import Stopped
from geofm_lib.model import vit
from geofm_lib.model.interop import folders, load, locate
from geofm_lib.settings import expanded
from geofm_lib.settings.base import naming

RANDOM_SEEDS = 1000  # the random encoders' seeds start here, apart from those of heads and crops
ROWS = "accuracy.csv"


def encoded(given: Given, encoders: dict[str, vit.Encoder], config: folders.Config) -> list[probe_sources.Encoded]:
    """The encoder that is probed, untrained ones, and those of the setting `beside`; every rank calls this."""
    settings, found = given.settings, list[probe_sources.Encoded]()
    for name, encoder in encoders.items():
        kind, _, seed = name.partition(" ")
        identity: Any
        if kind == PRETRAINED:
            identity = _digest(given, settings.encoder)
            about = probe_sources.about(encoder, config, name_of(settings.encoder, config), "")
        else:
            kind, identity = UNTRAINED, [_architecture(config), RANDOM_SEEDS + settings.seed + int(seed)]
            about = probe_sources.about(encoder, config, "", seed)
        found.append(probe_sources.Encoded(given, kind, encoder, identity, about, seed in ("", "0")))
    return found + [_beside(given, path.strip()) for path in settings.beside.split(",") if path.strip()]


def _digest(given: Given, encoder: str) -> str:
    return locate.digest(locate.find(encoder)) if given.context.is_main else ""


def _beside(given: Given, path: str) -> probe_sources.Encoded:
    """Another encoder, with its own mean and std."""
    place = expanded(path)
    encoder, config = load.load_encoder(place, given.settings.image_size)
    with naming("beside"):
        encoder_bands.refuse_other(config, given.train, path, "leave it out")
    own = {name: config.get(name) or getattr(given, name) for name in ("mean", "std")}
    encoder = encoder.to(given.context.device).eval().requires_grad_(False)
    about = probe_sources.about(encoder, config, name_of(str(place), config), "")
    return probe_sources.Encoded(
        given._replace(**own), probe_sources.BESIDE, encoder, _digest(given, path), about, False
    )


class Fast:
    """The fast protocol of one probe; every rank makes one. steps, kept: of progress."""

    def __init__(self, given: Given, encoders: dict[str, vit.Encoder], config: folders.Config) -> None:
        self.given, self.config = given, config
        settings = given.settings
        self.readouts = settings.readouts.split(",")
        self.encoded = encoded(given, encoders, config)
        self.tasks = sum(len(t) for each in self.encoded for s in each.sources(self.readouts) for t in s.tasks.values())
        self.tasks += 2 * len(probe_judge.USUAL) * settings.compare_histograms
        self.steps = self.tasks + settings.supervised_epochs + sum(each.steps for each in self.encoded)
        self.folder = probe_kept.folder(settings, given.run, given.context)
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
        seen = probe_seen.which(settings, self.config, images.fingerprints, images.ground)
        splits = probe_splits.splits(images, settings.splits if again else 1, seen)
        truth = np.concatenate([probe_metrics.truth(shards) for shards in (train, test)])
        judge = probe_judge.Judge(images, splits, truth, len(train.classes), probe_metrics.of(train))
        common = {"dataset": prepared.name(data), "task": "classification", "source": "own"}
        shown = probe_shown.Shown(self.given, splits[0])

        def done(*result: Any) -> None:
            shown.add(*result)
            self.given.progress.advance(phase="heads")

        rows = probe_judge.table(judge, self._sources(common), self._kept, done)
        if settings.supervised_epochs:
            fresh = load.fresh(self.config, settings.image_size, RANDOM_SEEDS + settings.seed)
            about = common | probe_sources.about(fresh, self.config, "", settings.seed)
            about |= {"objective": SUPERVISED, "protocol": probe_supervised.PROTOCOL, "pooling": "mean"}
            about |= {"normalisation": f"{settings.supervised_epochs} epochs"}
            rows.append(judge.own(probe_supervised.scores(self.given, fresh, self.folder), about))
        files.write_csv(self.given.run.path / ROWS, list(rows[0]), rows)
        shown.write()
        return probe_summary.fast(rows, judge.metric.key, len(splits), settings.splits)

    def _kept(self, file: Path, make: Callable[[], probe_judge.Result]) -> probe_judge.Result:
        """What is kept in the file, or is made; Stopped where a stop is asked for before that."""

        def unless_stopped() -> probe_judge.Result:
            if self.given.run.stop_requested():
                raise Stopped(KEEPS)
            return make()

        return probe_kept.result(file, unless_stopped)

    def _sources(self, common: dict[str, Any]) -> Iterator[probe_judge.Source]:
        found = itertools.chain.from_iterable(each.sources(self.readouts) for each in self.encoded)
        by_hand = probe_sources.handmade(self.given) if self.given.settings.compare_histograms else ()
        for each in itertools.chain(found, by_hand):
            yield each._replace(about=common | each.about)


def _architecture(config: folders.Config) -> dict[str, Any]:
    """What an untrained encoder's weights depend on, beside its seed and the pixels a side."""
    return {
        name: config[name]
        for name in ("model", "family", "patch_size", "channels", "band_groups", "timm", "norm_eps")
        if name in config
    }


def name_of(encoder: str, config: dict[str, Any]) -> str:
    """What a table calls it: the run's folder, its checkpoint RUN@STEP, or the folder of an encoder from elsewhere."""
    if found := config.get("checkpoint"):
        return f"{found['run']}@{found['step']}"
    folder = Path(encoder)
    return folder.parent.name if folder.name == "encoder" else folder.name
