"""The sharding strategies, one row each.

Every strategy of the paper is two numbers: how many consecutive ranks share one copy of the model (the shard group),
and whether a block's weights are dropped after its forward pass. Precision is set once for all strategies.

``resolve`` turns a row and a number of ranks into the mesh (replicas x shard size):

>>> resolve(STRATEGIES["HYBRID_2GPUs"], 8)
(4, 2)
"""

import re
from dataclasses import dataclass

from geofm_lib.catalog.suggest import did_you_mean


@dataclass(frozen=True)
class Strategy:
    """``shard_group`` is a number of ranks, None for all of them; colours are Okabe and Ito's (colour-blind safe)."""

    name: str
    shard_group: int | None
    reshard_after_forward: bool
    ddp: bool
    colour: str
    marker: str


def _hybrid(k: int, colour: str = "#7f7f7f", marker: str = "d") -> Strategy:
    return Strategy(f"HYBRID_{k}GPU" if k == 1 else f"HYBRID_{k}GPUs", k, True, False, colour, marker)


_ROWS = [
    Strategy("FULL_SHARD", None, True, False, "#0072B2", "o"),
    Strategy("SHARD_GRAD_OP", None, False, False, "#56B4E9", "s"),
    Strategy("NO_SHARD", 1, False, False, "#D55E00", "^"),
    Strategy("DDP", 1, False, True, "#000000", "v"),
    _hybrid(1, "#E69F00", "P"),
    _hybrid(2, "#009E73", "X"),
    _hybrid(4, "#CC79A7", "D"),
    _hybrid(8, "#B8A800", "p"),
    _hybrid(16, "#882255", "h"),
]

STRATEGIES: dict[str, Strategy] = {row.name: row for row in _ROWS}


def lookup(name: str) -> Strategy:
    """The strategy called ``name``, any HYBRID_kGPUs included; ValueError in one sentence otherwise."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    hybrid = re.fullmatch(r"HYBRID_([1-9]\d*)GPUs?", str(name))
    if hybrid:
        other = _hybrid(int(hybrid.group(1)))
        return STRATEGIES.get(other.name, other)
    raise ValueError(
        f"There is no strategy '{name}'{did_you_mean(name, STRATEGIES) or '.'} Known are FULL_SHARD, SHARD_GRAD_OP, "
        "NO_SHARD, DDP and HYBRID_kGPUs with a number of ranks for k."
    )


def resolve(strategy: Strategy, world: int) -> tuple[int, int]:
    """(replicas, shard size) for ``world`` ranks; ValueError when the shard group does not divide them."""
    if world < 1:
        raise ValueError(f"{strategy.name} needs at least one rank; {world} were asked for.")
    size = world if strategy.shard_group is None else strategy.shard_group
    if world % size == 0:
        return world // size, size
    fitting = [k for k in range(2, world + 1) if world % k == 0]
    below = [k for k in fitting if k < size][-1:]
    above = [k for k in fitting if k > size][:1]
    names = [f"HYBRID_{k}GPUs" for k in below + above] or ["NO_SHARD"]
    ranks = "1 rank was" if world == 1 else f"{world} ranks were"
    raise ValueError(
        f"{strategy.name} needs a number of ranks that {size} divides; {ranks} asked for. "
        f"Use {', '.join(names)} or FULL_SHARD."
    )
