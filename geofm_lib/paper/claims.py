"""The computations that claims.csv names, and what each row of the paper came to by them."""

from collections.abc import Callable

from geofm_lib.catalog import published
from geofm_lib.paper import findings, performance
from geofm_lib.paper.performance import Evidence
from geofm_lib.paper.verdicts import Answer

_OF_FINDINGS = (
    findings.parameter_counts, findings.other_network, findings.no_shard_over_ddp, findings.ddp_precision,
    findings.unsynchronised_replicas, findings.start_up_inside, findings.larger_probe_better, findings.gain_of_largest,
)  # fmt: skip
_OF_PERFORMANCE = (
    performance.weak_scaling, performance.unpublished_scaling, performance.scales_best, performance.hybrid_1gpu_best,
    performance.two_against_one, performance.full_shard_kept, performance.prefetch, performance.prefetch_gain,
    performance.pretrained_on, performance.memory_bars, performance.memory_by_nodes, performance.memory_of,
    performance.smallest_groups,
)  # fmt: skip
CHECKS: dict[str, Callable[..., Answer]] = {check.__name__: check for check in (*_OF_FINDINGS, *_OF_PERFORMANCE)}
"""Name in the `check` column, with arguments behind it ("weak_scaling ViT-Base") -> check(evidence, *arguments)."""


def answer(claim: dict[str, str], evidence: Evidence) -> Answer:
    """What a row of claims.csv came to: by the check that it names, else the verdict that stands in it."""
    name, *arguments = claim["check"].split() or [""]
    return CHECKS[name](evidence, *arguments) if name else Answer(verdict=claim["verdict"])


def answers(evidence: Evidence, *kinds: str) -> list[tuple[dict[str, str], Answer]]:
    """(row, answer) of every row of these kinds (table, figure, claim, finding)."""
    rows = [row for kind in kinds for row in published.claims(kind)]
    return [(row, answer(row, evidence)) for row in rows]
