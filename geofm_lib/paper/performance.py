"""What the paper says of throughput and memory, held against what is predicted and simulated here.

A check gets the evidence of a `findings` run, which only some need, and the arguments that stand in claims.csv.
"""

from statistics import median
from typing import Any

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.paper import blind
from geofm_lib.paper.verdicts import IN_ORDER, Answer, Point, judged, number, span
from geofm_lib.planning.conditions import ALIKE, BATCH, BENCHMARK, FRONTIER, IMAGES, NODES, gib
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.planner import as_published, plan
from geofm_lib.runs import results

UP_TO_3B = ("ViT-Base", "ViT-Huge", "ViT-1B", "ViT-3B")
PREDICTED = (*UP_TO_3B, "ViT-5B", "ViT-15B")  # models with published throughput
MOST = NODES[-1]
Evidence = dict[str, Any]


def unseen(*models: str) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(model, strategy, nodes) -> images/s as published, and as predicted by a fit without that model."""
    return {
        (row["model"], row["strategy"], int(row["nodes"])):
        (float(row["published_images_per_s"]), float(row["predicted_images_per_s"]))
        for row in results.read("unseen") if row["model"] in models
    }  # fmt: skip


def weak_scaling(evidence: Evidence, model: str, nodes: str = "") -> Answer:
    """A weak-scaling figure, or one number of nodes of it; strategies have an order at each number of nodes.

    Of models of the blind test, the prediction is that test's; of others, by a fit to the other models.
    """
    seen, said = unseen(model), ""
    if model in blind.MODELS:
        rows = blind.throughput(model)
        seen = {(model, row["strategy"], row["nodes"]): (row["published"], row["predicted"]) for row in rows}
        said = f"predicted unseen, {sum(map(blind.inside, rows))} of {len(rows)} points in their interval; "
    points = [(key[2], *pair) for key, pair in seen.items() if nodes in ("", str(key[2]))]
    return judged(points, "predicted", said + span(points, "images/s"))


def scales_best(evidence: Evidence, model: str, strategy: str) -> Answer:
    """At how many numbers of nodes a strategy is first in the blind test, and in the published figure."""
    cells: dict[int, dict[str, dict[str, Any]]] = {}
    for row in blind.throughput(model):
        cells.setdefault(row["nodes"], {})[row["strategy"]] = row
    if not cells:
        return Answer(how="predicted")
    first = {by: [n for n, cell in cells.items() if cell[strategy][by] == max(each[by] for each in cell.values())]
             for by in ("published", "predicted")}  # fmt: skip
    said = "first on {1} of {2} numbers of nodes, published on {0}".format(*map(len, first.values()), len(cells))
    for nodes in sorted(set(cells) - set(first["predicted"])):
        own, best = cells[nodes][strategy], max(cells[nodes].values(), key=lambda row: row["predicted"])
        said += f"; on {nodes} {_interval(best)} before {_interval(own)}, published {number(own['published'])}"
    won = len(first["predicted"]) >= IN_ORDER * len(cells)
    return Answer(said, None, "same ordering" if won else "differs", "predicted")


def _interval(row: dict[str, Any]) -> str:
    """HYBRID_8GPUs with 2 205 (1 901 to 2 557) images/s."""
    return f"{row['strategy']} with {number(row['predicted'])} ({number(row['low'])} to {number(row['high'])}) images/s"


def hybrid_1gpu_best(evidence: Evidence) -> Answer:
    """HYBRID_1GPU beside each other bf16 strategy; ours reduces its gradients, so it is planned as NO_SHARD is."""
    found = unseen(*UP_TO_3B)
    points: list[Point] = []
    for model, name, nodes in (key for key in found if key[1] in ALIKE):
        synchronised = found[model, "HYBRID_1GPU", nodes][0], found[model, "NO_SHARD", nodes][1]
        points += [((model, name, nodes), *pair) for pair in (found[model, name, nodes], synchronised)]
    lead = [found[m, "HYBRID_1GPU", MOST][0] / found[m, "NO_SHARD", MOST][0] for m in UP_TO_3B if found]
    said = f"synchronised it is 1.00 times NO_SHARD, published {min(lead):.2f} to {max(lead):.2f} times" if lead else ""
    return judged(points, "predicted", f"{said} on {MOST} nodes; beside all others on 1 to {MOST}")


def two_against_one(evidence: Evidence) -> Answer:
    """HYBRID_2GPUs beside NO_SHARD, up to 3B."""
    found, said = unseen(*UP_TO_3B), ""
    points = [((key[0], key[2]), *pair) for key, pair in found.items() if key[1] in ("NO_SHARD", "HYBRID_2GPUs")]
    if found:
        two, one = (found["ViT-3B", name, MOST] for name in ("HYBRID_2GPUs", "NO_SHARD"))
        said = (f"HYBRID_2GPUs has {two[1] / one[1]:.2f} of NO_SHARD's images/s, published {two[0] / one[0]:.2f} "
                f"(ViT-3B, {MOST} nodes); 1 to {MOST} nodes")  # fmt: skip
    return judged(points, "predicted", said)


def full_shard_kept(evidence: Evidence) -> Answer:
    """The percentage of ideal scaling that FULL_SHARD keeps on 128 nodes, up to 3B."""
    found = unseen(*UP_TO_3B)
    ends = [(found[model, "FULL_SHARD", MOST], found[model, "FULL_SHARD", 1]) for model in UP_TO_3B if found]
    points = [("", 100 * many[0] / one[0] / MOST, 100 * many[1] / one[1] / MOST) for many, one in ends]
    return judged(points, "predicted", ", ".join(f"{own:.1f} %" for *_, own in points))


def prefetch(evidence: Evidence) -> Answer:
    """The prefetch figure's bars whose settings FSDP2 has; what a late gather hides is fitted to them: no verdict."""
    points = [(strategy, *pair) for strategy, bars in _prefetch_bars().items() for pair in bars]
    said = f"{span(points, 'images/s')} with limit_all_gathers, no prefetch or BACKWARD_PRE"
    return judged(points, "fitted", said)


def prefetch_gain(evidence: Evidence) -> Answer:
    """What BACKWARD_PRE gains over no prefetch, under the three strategies of the figure."""
    bars = _prefetch_bars()
    points = [("", ahead[0] / late[0], ahead[1] / late[1]) for late, ahead in bars.values()]
    said = ", ".join(f"{own:.2f} ({name})" for name, (*_, own) in zip(bars, points, strict=True))
    return judged(points, "fitted", f"BACKWARD_PRE is {said} times as fast as no prefetch")


def _prefetch_bars() -> dict[str, list[tuple[float, float]]]:
    """Strategy -> (published, predicted) images/s without prefetch and with BACKWARD_PRE."""
    bars: dict[str, list[tuple[float, float]]] = {}
    for strategy, found in published.prefetch().items():
        for depth, row in sorted(found.items()):
            ours = as_published(row["model"], strategy, row["nodes"], backward_prefetch=depth)
            bars.setdefault(strategy, []).append((row["value"], ours["images_per_s"]))
    return bars


def pretrained_on(evidence: Evidence, model: str, nodes: str) -> Answer:
    """MAE pretraining of a model as the planner would run it; nothing published to compare."""
    best = plan(model, FRONTIER.name, int(nodes), BATCH, IMAGES, epochs=100)[0]
    said = (f"{best['strategy']} on {best['gpus']} GPUs: {number(best['images_per_s'])} images/s, "
            f"{best['memory_gib']:.1f} GiB a GPU, {number(best['node_hours'])} node-hours for 100 epochs")  # fmt: skip
    return Answer(said, None, "not measured", "predicted")


def memory_bars(evidence: Evidence, *models: str) -> Answer:
    """The memory bars: strategies whose peak does not depend on the number of nodes."""
    return _memory(memory_points(False, *models))


def memory_by_nodes(evidence: Evidence, *models: str) -> Answer:
    """Memory against nodes, of strategies that shard over all GPUs: on 8 and on 128 of them."""
    return _memory(memory_points(True, *models))


def memory_of(evidence: Evidence, model: str, *strategies: str) -> Answer:
    """The peaks of one model under some strategies, each on its largest number of GPUs."""
    last = {row["strategy"]: row for row in results.read("simulated") if row["model"] == model}
    return _memory([_held(last[name]) for name in strategies if name in last])


def memory_points(by_nodes: bool, *models: str) -> list[Point]:
    """(cell, published, simulated) GiB: of strategies that shard over all GPUs, or of the others."""
    rows = [row for row in results.read("simulated") if not models or row["model"] in models]
    return [_held(row) for row in rows if (STRATEGIES[row["strategy"]].shard_group is None) is by_nodes]


def _held(row: dict[str, str]) -> Point:
    """As traced. What the libraries of 2023 held beside tensors was fitted to these very figures, so it is left out."""
    return "", float(row["published_gib"]), float(row["simulated_gib"])


def _memory(points: list[Point]) -> Answer:
    return judged(points, "simulated", span(points, "GiB"))


def smallest_groups(evidence: Evidence, *wanted: str) -> Answer:
    """The fewest GPUs over which FSDP1 must shard a model to fit them; `wanted` is "ViT-5B=2 ViT-15B=4".

    FSDP1's arithmetic was fitted to the memory of all but the models of the blind test: these alone are judged.
    Where FSDP2, which geofm shards by, does not fit so few, that is told.
    """
    said, ratios = [], []
    for model, printed in (each.split("=") for each in wanted):
        for group in (1, 2, 4, 8, 16):
            held, ours = (
                gib(rank_memory(model, f"HYBRID_{group}GPUs", 64, BATCH, BENCHMARK, stack=stack).peak)
                for stack in ("fsdp1", "fsdp2")
            )
            if held <= FRONTIER.memory_gib:
                break
        judged_too = model in blind.MODELS
        fitted = "" if judged_too else " (fitted)"
        not_ours = f"; under FSDP2, as here, it does not, {ours:.1f} GiB" if ours > FRONTIER.memory_gib else ""
        said.append(f"{model} fits {group} GPUs under FSDP1, {held:.1f} GiB each{fitted}{not_ours}")
        ratios += [group / int(printed)] if judged_too else []
    if not ratios:
        return Answer("; ".join(said), None, "fitted", "fitted")
    exact = all(ratio == 1 for ratio in ratios)
    return Answer("; ".join(said), median(ratios), "reproduced" if exact else "differs", "predicted")
