"""What a run needs per rank by arithmetic, and the first change of it that would fit. No torch."""

from collections.abc import Iterator
from typing import Any

from geofm_lib.catalog.strategies import STRATEGIES, lookup, resolve
from geofm_lib.planning.conditions import Conditions, gib
from geofm_lib.planning.memory import rank_memory
from geofm_lib.settings import PretrainSettings, ThroughputSettings

Known = PretrainSettings | ThroughputSettings
KNOWN = (PretrainSettings, ThroughputSettings)  # a probe holds no gradients; what it needs is not predicted
MOST_RANKS = 16384
SHARDED = {"strategy": "FULL_SHARD", "activation_checkpointing": True}


def peak_gib(settings: Known, ranks: int) -> float:
    """GiB at the fullest moment of the fullest of so many ranks."""
    size: dict[str, Any] = {"image_size": settings.image_size, "patch_size": settings.patch()}
    accumulate = False
    if isinstance(settings, PretrainSettings):
        accumulate = settings.accumulation(ranks) > 1
        size |= {"mask_ratio": settings.mask_ratio, "decoder": tuple(settings.decoder().values())}
    how = Conditions.of(vars(settings))
    held = rank_memory(settings.model, settings.strategy, ranks, batch(settings, ranks), how, accumulate, **size)
    return gib(held.peak)


def batch(settings: Known, ranks: int) -> int:
    """Images that a rank holds at once."""
    if isinstance(settings, ThroughputSettings):
        return settings.batch_per_gpu
    return settings.global_batch // ranks // settings.accumulation(ranks)


def strategies_that_fit(settings: Known, ranks: int, limit_gib: float) -> dict[str, float]:
    """{strategy: GiB} of those that fit so many ranks, all else as it is."""
    held = {name: _peak(settings, {"strategy": name}, ranks) for name in STRATEGIES}
    return {name: gib for name, gib in held.items() if gib is not None and gib <= limit_gib}


def first_change(settings: Known, ranks: int, limit_gib: float) -> tuple[dict[str, Any], int, float] | None:
    """The mildest change that fits: ({setting: value}, ranks, GiB); None when nothing does.

    Tried in this order: a larger shard group on the same ranks, activation checkpointing, fewer images at once, all
    of them, and at last more ranks.
    """
    for change, on in _changes(settings, ranks):
        held = _peak(settings, change, on)
        if held is not None and held <= limit_gib:
            return {name: value for name, value in change.items() if value != getattr(settings, name)}, on, held
    return None


def _peak(settings: Known, change: dict[str, Any], ranks: int) -> float | None:
    """GiB after a change; None where it cannot run on so many ranks."""
    other = settings.model_copy(update=change)
    try:
        other.check_ranks(ranks)
    except ValueError:
        return None
    return peak_gib(other, ranks)


def _changes(settings: Known, ranks: int) -> Iterator[tuple[dict[str, Any], int]]:
    own = resolve(lookup(settings.strategy), ranks)[1]
    groups = {k for k in range(own + 1, ranks) if ranks % k == 0}
    larger = [f"HYBRID_{k}GPUs" for k in sorted(groups)] + (["FULL_SHARD"] if own < ranks else [])
    if ranks > 1 and settings.strategy == "SHARD_GRAD_OP":
        larger = ["FULL_SHARD"]
    yield from (({"strategy": name}, ranks) for name in larger)
    if not settings.activation_checkpointing:
        yield {"activation_checkpointing": True}, ranks
    fewer = list(_fewer(settings, batch(settings, ranks)))
    yield from ((each, ranks) for each in fewer)
    sharded = SHARDED if ranks > 1 else {"activation_checkpointing": True}
    yield from ((sharded | each, ranks) for each in ({}, *fewer))
    more = ranks * 2
    while more <= MOST_RANKS:
        yield SHARDED, more
        yield from ((SHARDED | each, more) for each in fewer[-1:])
        more *= 2


def _fewer(settings: Known, now: int) -> Iterator[dict[str, Any]]:
    """Half as many images at once, and so on. A pretraining takes them in parts: its result stays the same."""
    name = "batch_per_gpu" if isinstance(settings, ThroughputSettings) else "max_batch_per_rank"
    while now > 1:
        now //= 2
        yield {name: now}
