"""Table I, the four findings and the probing claims, held against what was counted and measured here; all checks.

`evidence` is what a `findings` run was asked and what it found (`gathered`), {} without one: what needs it is then
"not measured".
"""

from collections.abc import Callable
from statistics import median

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.paper import accuracy, accuracy_study, performance, questions
from geofm_lib.paper.accuracy_fits import LEAST_SIZES
from geofm_lib.paper.performance import UP_TO_3B, Evidence, unseen
from geofm_lib.paper.verdicts import Answer, Point, judged, of_counts
from geofm_lib.planning.conditions import TABLE_I as PRINTED
from geofm_lib.planning.planner import as_published
from geofm_lib.planning.weights import parameters
from geofm_lib.runs.run import Run

DRIFTED = 1e-3  # gradients of synchronised replicas do not differ at all
LOG_WINDOWS = (781, 1008)  # images/s of the first and last of three in the authors' log (ViT-Base, DDP, one node)


def gathered(run: Run | None) -> Evidence:
    """What a `findings` run was asked, and what it found."""
    return {**run.settings, **run.summary} if run else {}


def parameter_counts(evidence: Evidence) -> Answer:
    """Table I, by the arithmetic that the networks are tested against."""
    return _counted({name: parameters(name, "classify") / 1e6 for name in PRINTED})


def other_network(evidence: Evidence) -> Answer:
    """Finding 1: both networks built and counted; the benchmark's is the printed one, the plain ViT is not."""
    if "benchmark_parameters_ViT-Base" not in evidence:
        return Answer(how="counted")
    kinds = [{n: evidence[f"{kind}_parameters_{n}"] / 1e6 for n in PRINTED} for kind in ("benchmark", "pretrain")]
    words = [of_counts(PRINTED, each) for each in kinds]
    shown = [", ".join(f"{count:.1f}" for count in each.values()) for each in kinds]
    said = f"benchmark networks {shown[0]}; plain ViTs {shown[1]} million"
    shown_so = words[0] == "reproduced" != words[1]
    return Answer(said, _counted(kinds[1]).ratio, "reproduced" if shown_so else "differs", "counted")


def _counted(ours: dict[str, float]) -> Answer:
    ratio = median(ours[name] / PRINTED[name] for name in PRINTED)
    said = f"{', '.join(f'{count:.2f}' for count in ours.values())} million"
    return Answer(said, ratio, of_counts(PRINTED, ours), "counted")


def no_shard_over_ddp(evidence: Evidence) -> Answer:
    """NO_SHARD over DDP: in the same precision here, published on one node in bf16 over fp32."""
    if "DDP_bf16_step_s" not in evidence or not (points := _one_node()):
        return Answer(how="measured")
    theirs = median(published for _, published, _ in points)
    ours = {kind: evidence[f"DDP_{kind}_step_s"] / evidence[f"NO_SHARD_{kind}_step_s"] for kind in ("fp32", "bf16")}
    said = "NO_SHARD is {fp32:.2f} times as fast as DDP with both in fp32, {bf16:.2f} with both in bf16".format(**ours)
    toy = "{larger_model} on {ranks} CPU ranks, {batch_per_gpu} images each".format(**evidence)
    said += f" ({toy}); published {theirs:.1f} times, on GPUs with 32 images each"
    return Answer(said, None, "not comparable", "measured")


def ddp_precision(evidence: Evidence) -> Answer:
    """Finding 2: NO_SHARD in bf16 over DDP in fp32 on one node; the planner has both equally fast in one precision."""
    points = _one_node()
    said = f"{', '.join(f'{own:.2f}' for *_, own in points)} times, predicted by fits without the model"
    if "DDP_bf16_step_s" in evidence:
        gain = evidence["DDP_fp32_step_s"] / evidence["DDP_bf16_step_s"]
        said += f" (measured on {evidence['device']}: DDP in bf16 has {gain:.2f} of its speed in fp32)"
    return judged(points, "predicted", said)


def _one_node() -> list[Point]:
    """NO_SHARD over DDP on one node, as published and as predicted unseen, of each model up to 3B."""
    found = unseen(*UP_TO_3B)
    pairs = [(found[model, "NO_SHARD", 1], found[model, "DDP", 1]) for model in UP_TO_3B if found]
    return [("one node", bf16[0] / fp32[0], bf16[1] / fp32[1]) for bf16, fp32 in pairs]


def unsynchronised_replicas(evidence: Evidence) -> Answer:
    """Finding 3: do replicas hold the same gradients, under FSDP1 and under ours?"""
    names = [f"{kind}_group_{group}_gradient_difference" for kind in ("fsdp1", "ours") for group in (1, 2)]
    if not set(names) <= set(evidence):
        return Answer(evidence.get("fsdp1", "–"), how="measured")
    alone, paired, *ours = (evidence[name] for name in names)
    said = (f"gradients of replicas differ by {alone:.3g} under FSDP1 with a shard group of 1, by {paired:.3g} with 2; "
            f"by {ours[0]:.3g} and {ours[1]:.3g} here")  # fmt: skip
    shown = alone > DRIFTED and not paired and not any(ours)
    return Answer(said, None, "reproduced" if shown else "differs", "measured")


def start_up_inside(evidence: Evidence) -> Answer:
    """Finding 4: what start-up leaves of the speed in a window of 30 steps, for a small and a larger model."""
    if "small_window_over_steady" not in evidence:
        return Answer(how="measured")
    small, larger = (evidence[f"{size}_window_over_steady"] for size in ("small", "larger"))
    fitted = ", ".join(f"{window_over_steady(model):.2f} for {model}" for model in ("ViT-Base", "ViT-3B"))
    said = (f"the window shows {small:.2f} of the settled speed of a small model and {larger:.2f} of a larger one, on "
            f"{evidence['ranks']} CPU ranks; by the fit on one Frontier node {fitted}")  # fmt: skip
    return Answer(said, None, "same ordering" if small < larger < 1 else "differs", "measured")


def window_over_steady(model: str) -> float:
    """The paper's window over the settled speed, predicted for one node under NO_SHARD."""
    window, steady = (as_published(model, "NO_SHARD", 1, window=each) for each in ("paper_30_steps", "steady"))
    return window["images_per_s"] / steady["images_per_s"]


def larger_probe_better(evidence: Evidence) -> Answer:
    """What pretraining adds to top-1 must rise with size, on every data set probed: untrained encoders rise too."""
    found = _gains()
    if not found:
        return Answer(how="measured")
    said = "; ".join(f"{_listed(rows)} points on {name}" for name, rows in found.items())
    rise = all(accuracy_study.rises(rows) for rows in found.values())
    return Answer(f"over untrained encoders {said}", None, "same ordering" if rise else "differs", "measured")


def gain_of_largest(evidence: Evidence) -> Answer:
    """Points between what pretraining adds to the largest and to the smallest; their sizes are far from the paper's."""
    found = _gains()
    if not found:
        return Answer(how="measured")
    added = {name: rows["value"].iloc[-1] - rows["value"].iloc[0] for name, rows in found.items()}
    said = ", ".join(f"{points:.1f} points on {name}" for name, points in added.items())
    ends = next(iter(found.values()))
    first, last = ends["model"].iloc[0], ends["model"].iloc[-1]
    said = f"from {first} to {last} pretraining adds {said} more"
    verdict = "same ordering" if min(added.values()) > 0 else "differs"
    return Answer(said, median(added.values()) / 30, verdict, "measured")


def _gains() -> dict[str, pd.DataFrame]:
    """By data set, what pretraining adds to each size at equal images, where LEAST_SIZES have been probed."""
    table = accuracy.read()
    found = {
        str(name): accuracy_study.at_equal_images(accuracy_study.probes(table, str(name), gain=True))
        for name in table["dataset"].dropna().unique()
    }
    return {name: rows for name, rows in found.items() if len(rows) >= LEAST_SIZES}


def _listed(rows: pd.DataFrame) -> str:
    half = (rows["high"] - rows["low"]) / 2
    return ", ".join(f"{m} {v:+.1f} ± {h:.1f}" for m, v, h in zip(rows["model"], rows["value"], half, strict=True))


_HERE = (parameter_counts, other_network, no_shard_over_ddp, ddp_precision, unsynchronised_replicas, start_up_inside,
         larger_probe_better, gain_of_largest)  # fmt: skip
_OF_PERFORMANCE = (
    performance.weak_scaling, performance.scales_best, performance.hybrid_1gpu_best,
    performance.two_against_one, performance.full_shard_kept, performance.prefetch, performance.prefetch_gain,
    performance.pretrained_on, performance.memory_bars, performance.memory_by_nodes, performance.memory_of,
    performance.smallest_groups,
)  # fmt: skip
CHECKS: dict[str, Callable[..., Answer]] = {
    check.__name__: check for check in (*_HERE, *_OF_PERFORMANCE, *questions.CHECKS)
}
"""Name in the `check` column, with arguments behind it ("weak_scaling ViT-Base") -> check(evidence, *arguments)."""


def answers(evidence: Evidence, *kinds: str) -> list[tuple[dict[str, str], Answer]]:
    """(row of claims.csv, answer) of these kinds (table, figure, claim, finding, question), by its check or verdict."""
    found = []
    for row in (row for kind in kinds for row in published.claims(kind)):
        name, *arguments = row["check"].split() or [""]
        found.append((row, CHECKS[name](evidence, *arguments) if name else Answer(verdict=row["verdict"])))
    return found
