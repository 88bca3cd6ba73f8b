"""Where the features come from that the `fast` protocol compares: encoders, each encoded once, and histograms.

Features lie in the user's own part of the runs folder, `features/<identity>`, of weights, images, pixels a side and
versions. So another head, readout or split, or another probe with the same untrained encoder, encodes nothing again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geofm_lib import __version__, files
from geofm_lib.catalog.readouts import READOUTS, UNTRAINED
from geofm_lib.data import baselines
from geofm_lib.data.sources import prepared
from geofm_lib.distributed.features import Extractor, cut
from geofm_lib.jobs.probe_judge import Source
from geofm_lib.jobs.probe_progress import Given
from geofm_lib.model import vit
from geofm_lib.settings import own_folder

FORMAT = 1  # another number where the same weights would give other features
TRANSFORM = "none"  # the whole image, in a square


def folder(identity: Any, data: str, device: torch.device) -> Path:
    """Where the features of `identity` (plain values) are kept for the images of a prepared folder."""
    made_by = [FORMAT, torch.__version__, device.type]
    known = json.dumps([identity, prepared.fingerprint(Path(data)), made_by], sort_keys=True)
    return own_folder("features") / hashlib.sha256(known.encode()).hexdigest()[:16]


class Encoded:
    """The features of one encoder for all labelled images: train first, then test. Every rank makes one.

    identity: plain values that tell its weights from any others. about: columns of a row of accuracy.csv.
    """

    def __init__(self, given: Given, kind: str, encoder: vit.Encoder, identity: Any, about: dict[str, Any]) -> None:
        settings, context = given.settings, given.context
        self.kind, self.about, self.sides = kind, about, {"train": given.train, "test": given.test}
        self.turns = range(settings.orientations)
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
        self.steps = len(self.turns) * sum(len(cut(len(shards))) for shards in self.sides.values())
        calls = [(shards, side, turn) for side, shards in self.sides.items() for turn in self.turns]
        self.kept = self.steps - sum(self.extract.left(shards, side, TRANSFORM, turn) for shards, side, turn in calls)

    def encode(self) -> bool:
        """All that is missing, on all ranks; False when a stop was asked for."""
        each = ((shards, side, turn) for turn in self.turns for side, shards in self.sides.items())
        return all(self.extract.encode(shards, side, TRANSFORM, turn=turn) for shards, side, turn in each)

    def source(self, readouts: list[str]) -> Source:
        """What rank 0 compares; of an encoder without a class token the readouts are without it."""
        own: dict[str, tuple[str, ...]] = {}
        for name in readouts:
            pools = {
                part: pool for part, pool in zip(name.split("+"), READOUTS[name], strict=True) if pool in self.pools
            }
            own |= {"+".join(pools): tuple(pools.values())} if pools else {}
        poolings = {name: (pools, 1) for name, pools in own.items()}
        if len(self.turns) > 1:
            poolings |= {f"{name}, {len(self.turns)} orientations": (own[name], len(self.turns)) for name in own}
        return Source(self.kind, self.about, tuple(poolings), lambda pooling: self._features(*poolings[pooling]))

    def _features(self, pools: tuple[str, ...], turns: int) -> np.ndarray:
        """[n, D]: means over the first so many orientations."""
        found = None
        for turn in range(turns):
            parts = [self.extract.gather(shards, side, TRANSFORM, turn=turn) for side, shards in self.sides.items()]
            one = torch.cat([part[self.kind] for part in parts])
            found = one if found is None else found + one
        assert found is not None
        pooled = (found / turns).unflatten(1, (len(self.pools), -1)).cpu()
        return pooled[:, [self.pools.index(pool) for pool in pools]].flatten(1).numpy()


def histograms(given: Given) -> Source:
    """Colour and gradient histograms, kept likewise; for rank 0."""
    place = folder(["histograms", baselines.SIZE, __version__], given.settings.data, given.context.device)

    def features(_: str) -> np.ndarray:
        parts = []
        for side, shards in (("train", given.train), ("test", given.test)):
            file = place / f"{side}.npy"
            if not file.is_file():
                place.mkdir(parents=True, exist_ok=True)
                with files.whole(file) as fresh, open(fresh, "wb") as stream:
                    np.save(stream, baselines.features(shards))
            parts.append(np.load(file))
        return np.concatenate(parts)

    about = {"model": "histograms", "objective": "none"}
    return Source("histograms", about, ("histograms",), features)


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
