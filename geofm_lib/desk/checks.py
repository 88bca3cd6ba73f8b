"""Ours beside each statement of the paper: a number, how it was obtained, and the verdict that follows. No torch.

`claims.csv` names a check and its arguments for each row ("weak_scaling ViT-Base"); `CHECKS` holds them. A check gets
the evidence (the summary of a `findings` run, {} without one), reads the CSV files of reports/ and returns an `Outcome`.
Verdicts follow from the numbers by the rules of `catalog.published`, never from text.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from geofm_lib.catalog import published
from geofm_lib.catalog.machines import MACHINES
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.planning import costs
from geofm_lib.planning.planner import plan, predict

REPORTS = Path(__file__).resolve().parents[2] / "reports"
UP_TO_3B = ("ViT-Base", "ViT-Huge", "ViT-3B")
DRIFTED = 1e-3  # replicas whose gradients differ by more were not synchronised
OF_PAPER = [row.name for row in MODELS.values() if row.published_params_M]


@dataclass(frozen=True)
class Outcome:
    """What a row of the paper came to: ours in words with its numbers, over the published (None: no such ratio)."""

    ours: str = "–"
    ratio: float | None = None
    verdict: str = "not measured"
    how: str = ""  # measured, simulated, predicted or counted


def outcome(claim: dict, evidence: dict) -> Outcome:
    """What a row of claims.csv comes to: of the check that it names, else the verdict that stands in it."""
    name, *arguments = claim["check"].split()
    return CHECKS[name](evidence, *arguments) if name else Outcome(verdict=claim["verdict"])


@cache
def report(name: str) -> list[dict]:
    """The rows of reports/`name`.csv, [] where it was never made."""
    file = REPORTS / f"{name}.csv"
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _judged(points: list[tuple], how: str, unit: str = "", ours: str = "") -> Outcome:
    """The outcome of points (cell, published, ours): their range, median error, pairs in order, and the verdict."""
    if not points:
        return Outcome(how=how)
    values = [own for *_, own in points]
    agreeing, pairs = published.order(points)
    ours = ours or f"{min(values):.3g} to {max(values):,.0f} {unit}".replace(",", " ")
    said = f"{ours}; median error {published.median_error(points):.1%} of {len(points)}"
    said += f", {agreeing} of {pairs} pairs in the published order" if pairs else ""
    ratio = median(own / theirs for _, theirs, own in points)
    return Outcome(said, ratio, published.verdict_of_points(points), how)


# ---------------------------------------------------------------- Table I


def parameter_counts(evidence: dict) -> Outcome:
    """Table I: by arithmetic, which `model.vit` is tested against."""
    ours = {name: costs.parameters(name, "classify") / 1e6 for name in OF_PAPER}
    return _counted(ours)


def other_network(evidence: dict) -> Outcome:
    """Finding 1: both networks built and counted; only the benchmark's is the printed one."""
    plain = {name: evidence.get(f"pretrain_parameters_{name}", 0) / 1e6 for name in OF_PAPER}
    ours = {name: evidence.get(f"benchmark_parameters_{name}", 0) / 1e6 for name in OF_PAPER}
    if not all(plain.values()):
        return Outcome(how="counted")
    found, other = _counted(ours), published.verdict_of_counts(_printed(), plain)
    verdict = "reproduced" if (found.verdict, other) == ("reproduced", "same ordering") else "differs"
    said = f"{found.ours} in the benchmark's networks; plain ViTs: {', '.join(f'{n:.0f}' for n in plain.values())}"
    return Outcome(said, found.ratio, verdict, "counted")


def _counted(ours: dict[str, float]) -> Outcome:
    printed = _printed()
    ratio = median(ours[name] / printed[name] for name in printed)
    said = f"{', '.join(f'{n:.2f}' for n in ours.values())} million"
    return Outcome(said, ratio, published.verdict_of_counts(printed, ours), "counted")


def _printed() -> dict[str, float]:
    return {name: MODELS[name].published_params_M for name in OF_PAPER}


# ---------------------------------------------------------------- throughput, predicted unseen


def unseen(*models: str) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(model, strategy, nodes) -> images/s as published, and as predicted by a fit without that model."""
    rows = [row for row in report("unseen") if row["model"] in models]
    return {
        (row["model"], row["strategy"], int(row["nodes"])): (
            float(row["published_images_per_s"]), float(row["predicted_images_per_s"]))
        for row in rows
    }  # fmt: skip


def weak_scaling(evidence: dict, model: str) -> Outcome:
    """A weak-scaling figure: strategies are ordered within a node count."""
    return _judged([(key[2], *value) for key, value in unseen(model).items()], "predicted", "images/s")


def weak_scaling_at(evidence: dict, model: str, nodes: str) -> Outcome:
    """The strategies of a weak-scaling figure on one number of nodes."""
    points = [(key[2], *value) for key, value in unseen(model).items() if key[2] == int(nodes)]
    return _judged(points, "predicted", "images/s")


def unpublished_scaling(evidence: dict, model: str) -> Outcome:
    """A figure whose values are not in our record: what we predict for it."""
    rows = [row for row in report("predictions") if row["model"] == model and row["fits"] == "true"]
    if not rows:
        return Outcome(how="predicted")
    best = max((row for row in rows if row["nodes"] == "128" and _trains(row)), key=_speed)
    slowest = min(rows, key=_speed)
    said = (f"{_speed(slowest):.3g} to {max(map(_speed, rows)):,.0f} images/s; best on 128 nodes {best['strategy']}, "
            f"{_speed(best):,.0f} ({float(best['low']):,.0f} to {float(best['high']):,.0f})")  # fmt: skip
    return Outcome(said.replace(",0", " 0") if False else said, None, "not measured", "predicted")


def best_is(evidence: dict, model: str, strategy: str) -> Outcome:
    """A strategy that is said to scale best: is it predicted first among those that fit, DDP and HYBRID_1GPU aside?"""
    cells: dict[int, list[dict]] = {}
    for row in report("predictions"):
        if row["model"] == model and row["fits"] == "true" and _trains(row):
            cells.setdefault(int(row["nodes"]), []).append(row)
    if not cells:
        return Outcome(how="predicted")
    first = {nodes: max(rows, key=_speed)["strategy"] for nodes, rows in cells.items()}
    own = {nodes: next(_speed(row) for row in rows if row["strategy"] == strategy) for nodes, rows in cells.items()}
    behind = {n: own[n] / max(map(_speed, rows)) for n, rows in cells.items()}
    wins = sum(name == strategy for name in first.values())
    rest = "; ".join(f"{first[n]} on {n} nodes, where {strategy} has {behind[n]:.0%} of it"
                     for n in cells if first[n] != strategy)  # fmt: skip
    said = f"first on {wins} of {len(cells)} node counts" + (f"; {rest}" if rest else "")
    verdict = "same ordering" if wins >= published.IN_ORDER * len(cells) else "differs"
    return Outcome(said, median(behind.values()), verdict, "predicted")


def hybrid_1gpu_best(evidence: dict) -> Outcome:
    """HYBRID_1GPU against each other bf16 strategy, ours with its gradients reduced.

    Then it sends what NO_SHARD sends, and the planner gives both the same time.
    """
    found, points = unseen(*UP_TO_3B), []
    for (model, name, nodes), value in found.items():
        if name not in ("DDP", "HYBRID_1GPU"):
            whole = found[model, "HYBRID_1GPU", nodes][0], found[model, "NO_SHARD", nodes][1]
            points += [((model, name, nodes), *value), ((model, name, nodes), *whole)]
    if not points:
        return Outcome(how="predicted")
    last = [found[model, "HYBRID_1GPU", 128][0] / found[model, "NO_SHARD", 128][0] for model in UP_TO_3B]
    said = (f"synchronised, 1.00 times NO_SHARD (published on 128 nodes: {min(last):.2f} to {max(last):.2f}); against "
            "all others")  # fmt: skip
    return _judged(points, "predicted", ours=said)


def two_against_one(evidence: dict) -> Outcome:
    """HYBRID_2GPUs beside NO_SHARD, up to 3B."""
    found = unseen(*UP_TO_3B)
    points = [(key[::2], *value) for key, value in found.items() if key[1] in ("NO_SHARD", "HYBRID_2GPUs")]
    if not points:
        return Outcome(how="predicted")
    ours, theirs = (found["ViT-3B", "HYBRID_2GPUs", 128][k] / found["ViT-3B", "NO_SHARD", 128][k] for k in (1, 0))
    said = f"HYBRID_2GPUs {ours:.2f} times NO_SHARD (ViT-3B, 128 nodes; published {theirs:.2f}); 1 to 128 nodes"
    return _judged(points, "predicted", ours=said)


def full_shard_kept(evidence: dict) -> Outcome:
    """The share of ideal scaling that FULL_SHARD keeps on 128 nodes, up to 3B."""
    found = unseen(*UP_TO_3B)
    points = [("128 nodes", *(100 * found[m, "FULL_SHARD", 128][k] / found[m, "FULL_SHARD", 1][k] / 128 for k in (0, 1)))
              for m in UP_TO_3B if found]  # fmt: skip
    return _judged(points, "predicted", ours=", ".join(f"{own:.1f} %" for *_, own in points))


def _trains(row: dict) -> bool:
    return row["strategy"] not in ("DDP", "HYBRID_1GPU")  # in another precision, and not synchronised


def _speed(row: dict) -> float:
    return float(row["images_per_s"])


# ---------------------------------------------------------------- memory, simulated


def memory_bars(evidence: dict, *models: str) -> Outcome:
    """The memory bars: strategies whose peak does not depend on the number of nodes."""
    return _judged(_memory(models, by_nodes=False), "simulated", "GiB")


def memory_by_nodes(evidence: dict, *models: str) -> Outcome:
    """Memory against nodes: strategies that shard over all GPUs, on 8 nodes or fewer GPUs and on 128."""
    return _judged(_memory(models, by_nodes=True), "simulated", "GiB")


def memory_of(evidence: dict, model: str, *strategies: str) -> Outcome:
    """The peaks of one model under some strategies, each at its largest number of GPUs."""
    rows = {row["strategy"]: row for row in report("simulated") if row["model"] == model}
    points = [_held(rows[name], model) for name in strategies if name in rows]
    return _judged(points, "simulated", ours=", ".join(f"{own:.2f}" for *_, own in points) + " GiB")


def _memory(models: tuple[str, ...], by_nodes: bool) -> list[tuple]:
    rows = [row for row in report("simulated") if row["model"] in models]
    return [_held(row, "") for row in rows if (STRATEGIES[row["strategy"]].shard_group is None) is by_nodes]


def _held(row: dict, cell: str) -> tuple[str, float, float]:
    """Published and simulated peak; with what the libraries of 2023 held beside the tensors (planning.costs)."""
    return cell, float(row["published_gib"]), float(row["simulated_gib"]) + float(row["libraries_gib"])


def smallest_groups(evidence: dict, **kwargs) -> Outcome:
    """The smallest shard group with which ViT-5B and ViT-15B fit one GPU, beside the published two and four."""
    room, found = MACHINES["frontier"].memory_gib, {}
    for model in ("ViT-5B", "ViT-15B"):
        for name, row in STRATEGIES.items():
            held = costs.gib(costs.memory(model, name, 64, 32, "classify", stack="fsdp1").peak)
            if name.startswith("HYBRID") and held <= room and model not in found:
                found[model] = row.shard_group, held
    points = [("", said, found[model][0]) for model, said in (("ViT-5B", 2), ("ViT-15B", 4)) if model in found]
    said = ", ".join(f"{model}: {group} GPUs, {held:.1f} GiB each" for model, (group, held) in found.items())
    exact = [theirs for _, theirs, _ in points] == [own for *_, own in points]
    return Outcome(said, median(own / theirs for _, theirs, own in points), "reproduced" if exact else "differs",
                   "predicted")  # fmt: skip
