"""Where the features come from that the `fast` protocol compares: encoders, each encoded once, and histograms.

Features lie in the user's own part of the runs folder, `features/<identity>`, of weights, images, pixels a side and
versions, and beside them what heads on them came to. So another head, readout or split encodes nothing again, and
another probe beside the same untrained encoders and histograms trains no head of theirs again.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geofm_lib import __version__
from geofm_lib.catalog.readouts import CONTROLS, READOUTS, UNTRAINED
from geofm_lib.data import baselines, random_patches
from geofm_lib.data.arrays import write_array
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import prepared
from geofm_lib.distributed import features
from geofm_lib.distributed.features import Extractor, View, cut
from geofm_lib.jobs.probe_judge import ALL, BLOCK, USUAL, Source, Task
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.model import vit
from geofm_lib.settings import own_folder

FORMAT = 1  # another number where the same weights would give other features
TRANSFORM = "none"  # the whole image, in a square
BESIDE = "beside"  # the kind of an encoder that stands beside the one that is probed


def folder(identity: Any, data: str, device: torch.device) -> Path:
    """Where the features of `identity` (plain values) are kept for the images of a prepared folder."""
    made_by = [FORMAT, features.BATCH, torch.__version__, device.type]
    known = json.dumps([identity, prepared.fingerprint(Path(data)), made_by], sort_keys=True)
    return own_folder("features") / hashlib.sha256(known.encode()).hexdigest()[:16]


class Encoded:
    """The features of one encoder for all labelled images: train first, then test. Every rank makes one.

    identity: plain values that tell its weights from any others. about: columns of a row of accuracy.csv. first: is it
    the first of its kind, which alone is asked for `details`?
    """

    def __init__(
        self, given: Given, kind: str, encoder: vit.Encoder, identity: Any, about: dict[str, Any], first: bool
    ) -> None:
        settings, context = given.settings, given.context
        self.kind, self.about, self.sides = kind, about, {"train": given.train, "test": given.test}
        self.turns, self.details = range(settings.orientations), settings.details and first
        self.blocks = len(getattr(encoder, "blocks", "1"))
        self.pools = [pool for pool in vit.POOLS if pool != "cls" or encoder.cls_token is not None]
        whole = [identity, given.mean, given.std, settings.image_size, self.pools]
        self.extract = Extractor(
            {kind: encoder},
            context,
            folder(context.broadcast(whole), settings.data, context.device),
            mean=given.mean,
            std=given.std,
            image_size=settings.image_size,
            pool="+".join(self.pools),
            seed=0,
            workers=settings.workers,
            done=given.progress.encoded,
            stop=given.run.stop_requested,
        )
        calls = [(shards, side, self._view(turn)) for turn in self.turns for side, shards in self.sides.items()]
        self.steps = sum(len(cut(len(shards))) for shards, *_ in calls)
        self.kept = self.steps - sum(self.extract.left(*each) for each in calls)
        self.calls = calls

    def _view(self, turn: int) -> View:
        return View(TRANSFORM, turn=turn, blocks=self.details and not turn)

    def encode(self) -> bool:
        """All that is missing, on all ranks; False when a stop was asked for."""
        return all(self.extract.encode(*each) for each in self.calls)

    def sources(self, readouts: list[str]) -> Iterator[Source]:
        """What rank 0 compares, then each block's; of an encoder without a class token the readouts are without it."""
        own: dict[str, tuple[str, ...]] = {}
        for name in readouts:
            pairs = zip(name.split("+"), READOUTS[name], strict=True)
            pools = {part: pool for part, pool in pairs if pool in self.pools}
            own |= {"+".join(pools): tuple(pools.values())} if pools else {}
        if not own:
            raise ValueError("readouts: this encoder has no class token; use mean.")
        poolings = {name: (pools, 1) for name, pools in own.items()}
        if len(self.turns) > 1:
            poolings |= {f"{name}, {len(self.turns)} orientations": (own[name], len(self.turns)) for name in own}
        tasks: dict[str, tuple[Task, ...]] = dict.fromkeys(poolings, USUAL)
        if self.details:
            tasks[next(iter(own))] = ALL
        yield Source(
            self.kind, self.extract.folder, self.about, tasks, lambda pooling: self._features(*poolings[pooling])
        )
        for block in range(self.blocks if self.details else 0):
            about = self.about | {"layer": f"block {block + 1}"}
            names = [name for name in ("mean", "class") if READOUTS[name][0] in self.pools]
            yield Source(
                self.kind,
                self.extract.folder,
                about,
                dict.fromkeys(names, BLOCK),
                functools.partial(self._of_block, block),
            )

    def _of_block(self, block: int, pooling: str) -> np.ndarray:
        return self._features(READOUTS[pooling], 1, block)

    def _features(self, pools: tuple[str, ...], turns: int, block: int = -1) -> np.ndarray:
        """[n, D]: means over the first so many orientations, after a block."""
        found = None
        for turn in range(turns):
            parts = [self.extract.gather(shards, side, self._view(turn)) for side, shards in self.sides.items()]
            both = torch.cat([part[self.kind] for part in parts])
            one = both.unflatten(1, (self.blocks if self._view(turn).blocks else 1, len(self.pools), -1))[:, block]
            found = one if found is None else found + one
        assert found is not None
        return (found / turns)[:, [self.pools.index(pool) for pool in pools]].flatten(1).cpu().numpy()


def handmade(given: Given) -> Iterator[Source]:
    """Features that nobody has trained, kept likewise: histograms, and random convolutions; for rank 0."""
    sides, size = {"train": given.train, "test": given.test}, given.settings.image_size

    @functools.cache
    def weights() -> torch.Tensor:  # one for both sides, and none where all is kept
        return random_patches.filters(given.train, size)

    def convolutions(shards: Shards) -> np.ndarray:
        return random_patches.features(shards, weights(), size)

    makers: tuple[tuple[Any, Callable[[Shards], np.ndarray]], ...] = (
        (baselines.SIZE, baselines.features),
        ([size, random_patches.FILTERS], convolutions),
    )
    for name, (identity, make) in zip(CONTROLS, makers, strict=True):
        place = folder([name, identity, __version__], given.settings.data, given.context.device)
        about = {"model": name, "objective": "none"}
        yield Source(name, place, about, {name: USUAL}, functools.partial(_kept, place, sides, make))


def _kept(place: Path, sides: dict[str, Shards], make: Callable[[Shards], np.ndarray], _: str) -> np.ndarray:
    """[n, D] of both sides, from files that are made when they are not there."""
    found = []
    for side, shards in sides.items():
        file = place / f"{side}.npy"
        if not file.is_file():
            place.mkdir(parents=True, exist_ok=True)
            write_array(file, make(shards))
        found.append(np.load(file))
    return np.concatenate(found)


def about(encoder: vit.Encoder, config: dict[str, Any], name: str, seed: int | str) -> dict[str, Any]:
    """Columns of a row on an encoder. name: of the pretraining; seed: of an untrained one."""
    objective = config.get("objective") or ("MAE" if "mask_ratio" in config else "not known")
    return {
        "model": config["model"],
        "parameters_m": round(sum(p.numel() for p in encoder.parameters()) / 1e6, 3),
        "objective": objective if name else UNTRAINED,
        "pretraining_run": name,
        "layer": "last",
        "probe_seed": seed,
    }
