"""Why a throughput run is slow, in words: which part of the step stands out, and what to change. No torch."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from geofm_lib.catalog import strategies

SLOW_RANK = 1.3  # times the others' own work, from which on a rank is named
PARTS = ("data", "forward", "backward", "communication", "optimiser", "other")


def found(ranks: pd.DataFrame, asked: dict[str, Any], where: dict[str, Any]) -> list[tuple[str, str]]:
    """(what stands out in a step, what to change), the largest part first, of a run's ranks, settings, environment."""
    rows, parts = _slow_rank(ranks), shares(ranks)
    for part, least, words, advice in sorted(RULES, key=lambda rule: -parts.get(rule[0], 0.0)):
        if parts.get(part, 0.0) >= least:
            rows.append((f"{100 * parts[part]:.0f} % of the step is {words}.", advice(asked, where)))
    return rows


def shares(ranks: pd.DataFrame) -> dict[str, float]:
    """Share of each of PARTS in the step, from ranks.csv; {} of a run that measured none.

    Waiting for images is that of the steady window, since between profiled steps a loader has time to read ahead.
    Communication is that of the rank that waits least: what the others wait beyond it is for that rank's work.
    """
    if "data_s" not in ranks:
        return {}
    found = {"data": (ranks["data_s"] / ranks["step_s"]).mean()}
    for name in PARTS[1:]:
        if f"profiled_{name}_s" in ranks:
            each = ranks[f"profiled_{name}_s"] / ranks["profiled_step_s"]
            found[name] = each.min() if name == "communication" else each.mean()
    return {name: float(share) for name, share in found.items()}


def _slow_rank(ranks: pd.DataFrame) -> list[tuple[str, str]]:
    """The rank that the others wait for, if there is one."""
    if len(ranks) < 2 or "profiled_step_s" not in ranks:
        return []
    own = ranks["profiled_step_s"] - ranks["profiled_communication_s"]
    worst = own.idxmax()
    ratio = own[worst] / own.drop(worst).median()
    if ratio < SLOW_RANK:
        return []
    rank, host = ranks.loc[worst, "rank"], ranks.loc[worst, "host"]
    found = f"Rank {rank} on {host} works {ratio:.1f} times as long as the others, and they wait for it."
    advice = f"Look for what else runs on {host}, and for its clock; or leave it out (sbatch --exclude={host})."
    return [(found, advice)]


def _images(asked: dict[str, Any], where: dict[str, Any]) -> str:
    if asked.get("input") != "real":
        return "Synthetic images are drawn once; what takes time here is the masking noise or the labels."
    workers = asked["workers"]
    most = max(1, where.get("cores", 1) * max(1, len(where.get("nodes", []))) // max(1, where.get("ranks", 1)))
    more = min(max(2, 2 * workers), most)
    if more > workers:
        return f"Raise workers from {workers} to {more}; or store smaller images (01's short_side)."
    return "Every core has its worker already: store smaller images (01's short_side), or use fewer ranks a node."


def _communication(asked: dict[str, Any], where: dict[str, Any]) -> str:
    row = strategies.lookup(asked["strategy"])
    ways = [f"more images per GPU than {asked['batch_per_gpu']}"]
    if row.reshard_after_forward:
        fewer = "SHARD_GRAD_OP (gathers once a step) or HYBRID_kGPUs with the k GPUs of a node, if memory allows"
        ways.insert(0, fewer)
    if not row.ddp and asked["forward_prefetch"] == 0:
        ways.insert(0, "forward_prefetch=1")
    if asked["precision"] == "fp32":
        ways.append("precision=bf16, which sends half the bytes")
    return f"Try {'; '.join(ways)}."


Advice = Callable[[dict[str, Any], dict[str, Any]], str]  # of settings, and environment with `ranks` and `nodes`
RULES: tuple[tuple[str, float, str, Advice], ...] = (
    ("data", 0.2, "spent waiting for images", _images),
    ("communication", 0.25, "exposed communication", _communication),
    ("optimiser", 0.25, "the optimiser", lambda asked, where: "More images per GPU, or a larger shard group: each rank "
     "updates its own part of the weights only."),
    ("other", 0.1, "in none of its phases", lambda asked, where: "The host is busy between the phases: trace=True "
     "keeps the profiler's trace, which says with what."),
)  # fmt: skip
"""(part of the step, the share from which on it is named, in which words, what to change)"""
