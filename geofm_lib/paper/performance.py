"""The paper's statements on throughput and memory, held against what is predicted and simulated here. No torch.

Predictions of published throughput come from reports/unseen.csv: each model's by a fit that has not seen it. A check
gets the evidence of a `findings` run, which only some need, and the arguments that claims.csv gives it.
"""

from statistics import median

from geofm_lib.catalog import published
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.paper.verdicts import IN_ORDER, Answer, judged, number, span
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.planner import as_published, plan
from geofm_lib.planning.reference import ALIKE, BATCH, BENCHMARK, FRONTIER, IMAGES
from geofm_lib.planning.sizes import gib
from geofm_lib.runs import results

UP_TO_3B = ("ViT-Base", "ViT-Huge", "ViT-3B")
PREDICTED = (*UP_TO_3B, "ViT-5B")
"""Models with published throughput."""


def unseen(*models: str) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(model, strategy, nodes) -> images/s as published, and as predicted by a fit without that model."""
    rows = [row for row in results.read("unseen") if row["model"] in models]
    keys = [(row["model"], row["strategy"], int(row["nodes"])) for row in rows]
    values = [(float(row["published_images_per_s"]), float(row["predicted_images_per_s"])) for row in rows]
    return dict(zip(keys, values, strict=True))


def weak_scaling(evidence: dict, model: str, nodes: str = "") -> Answer:
    """A weak-scaling figure, or one number of nodes of it; strategies have an order at each number of nodes."""
    points = [(key[2], *value) for key, value in unseen(model).items() if nodes in ("", str(key[2]))]
    return judged(points, "predicted", span(points, "images/s"))


def unpublished_scaling(evidence: dict, model: str) -> Answer:
    """A figure whose values are not in our record: what is predicted, to be compared when they are."""
    cells = _predicted_cells(model)
    if not cells:
        return Answer(how="predicted")
    speeds = [_speed(row) for rows in cells.values() for row in rows]
    best = max(cells[128], key=_speed)
    likely = f"{number(float(best['low']))} to {number(float(best['high']))}"
    said = (f"{number(min(speeds))} to {number(max(speeds))} images/s on 1 to 128 nodes; best on 128 "
            f"{best['strategy']}, nine of ten runs within {likely}")  # fmt: skip
    return Answer(said, None, "not measured", "predicted")


def scales_best(evidence: dict, model: str, strategy: str) -> Answer:
    """At how many numbers of nodes a strategy is predicted first among those that fit and synchronise."""
    cells = _predicted_cells(model)
    if not cells:
        return Answer(how="predicted")
    best = {nodes: max(rows, key=_speed) for nodes, rows in cells.items()}
    own = {nodes: next(_speed(row) for row in rows if row["strategy"] == strategy) for nodes, rows in cells.items()}
    of_best = {nodes: own[nodes] / _speed(row) for nodes, row in best.items()}
    lost = [nodes for nodes, row in best.items() if row["strategy"] != strategy]
    rest = [f"on {n}, {best[n]['strategy']} is, and {strategy} has {100 * of_best[n]:.0f} % of its speed" for n in lost]
    said = "; ".join([f"first on {len(cells) - len(lost)} of {len(cells)} numbers of nodes", *rest])
    won = len(lost) <= (1 - IN_ORDER) * len(cells)
    return Answer(said, None, "same ordering" if won else "differs", "predicted")


def hybrid_1gpu_best(evidence: dict) -> Answer:
    """HYBRID_1GPU beside each other bf16 strategy, ours with its gradients reduced.

    It then sends what NO_SHARD sends, and the planner gives both the same time.
    """
    found, points = unseen(*UP_TO_3B), []
    for (model, name, nodes), value in found.items():
        if name in ALIKE:
            printed, synchronised = found[model, "HYBRID_1GPU", nodes][0], found[model, "NO_SHARD", nodes][1]
            points += [((model, name, nodes), *value), ((model, name, nodes), printed, synchronised)]
    lead = [found[m, "HYBRID_1GPU", 128][0] / found[m, "NO_SHARD", 128][0] for m in UP_TO_3B if found]
    said = f"synchronised it is 1.00 times NO_SHARD, published {min(lead):.2f} to {max(lead):.2f} times" if lead else ""
    return judged(points, "predicted", f"{said} on 128 nodes; beside all others on 1 to 128")


def two_against_one(evidence: dict) -> Answer:
    """HYBRID_2GPUs beside NO_SHARD, up to 3B."""
    found = unseen(*UP_TO_3B)
    points = [(key[::2], *value) for key, value in found.items() if key[1] in ("NO_SHARD", "HYBRID_2GPUs")]
    last = [[found["ViT-3B", name, 128][k] for name in ("HYBRID_2GPUs", "NO_SHARD")] for k in (0, 1) if found]
    said = "HYBRID_2GPUs has {1:.2f} of NO_SHARD's images/s, published {0:.2f} (ViT-3B, 128 nodes); 1 to 128 nodes"
    return judged(points, "predicted", said.format(*(a / b for a, b in last)) if last else "")


def full_shard_kept(evidence: dict) -> Answer:
    """The percentage of ideal scaling that FULL_SHARD keeps on 128 nodes, up to 3B."""
    found = unseen(*UP_TO_3B)
    both = {m: [found[m, "FULL_SHARD", n] for n in (128, 1)] for m in UP_TO_3B if found}
    points = [
        ("128 nodes", *(100 * many / one / 128 for many, one in zip(*ends, strict=True))) for ends in both.values()
    ]
    return judged(points, "predicted", ", ".join(f"{own:.1f} %" for *_, own in points))


def prefetch(evidence: dict) -> Answer:
    """The prefetch figure: the bars whose settings FSDP2 has.

    One of the planner's numbers, what a gather that is not asked for ahead still hides, is fitted to this figure.
    """
    points = [(strategy, *pair) for strategy, bars in _prefetch_bars().items() for pair in bars]
    said = f"{span(points, 'images/s')} with limit_all_gathers, no prefetch or BACKWARD_PRE"
    return judged(points, "predicted", said)


def prefetch_gain(evidence: dict) -> Answer:
    """What BACKWARD_PRE gains over no prefetch, under the three strategies of the figure."""
    bars = _prefetch_bars()
    points = [("", *(ahead[k] / late[k] for k in (0, 1))) for late, ahead in bars.values()]
    said = ", ".join(f"{own:.2f} ({name})" for name, (*_, own) in zip(bars, points, strict=True))
    return judged(points, "predicted", f"BACKWARD_PRE is {said} times as fast as no prefetch")


def _prefetch_bars() -> dict[str, list[tuple[float, float]]]:
    """Strategy -> (published, predicted) images/s without prefetch and with BACKWARD_PRE."""
    bars: dict[str, list] = {}
    for strategy, found in published.prefetch().items():
        for depth, row in sorted(found.items()):
            ours = as_published(row["model"], strategy, row["nodes"], backward_prefetch=depth)
            bars.setdefault(strategy, []).append((row["value"], ours["images_per_s"]))
    return bars


def pretrained_on(evidence: dict, model: str, nodes: str) -> Answer:
    """MAE pretraining of a model as the planner would run it; nothing published to compare."""
    best = plan(model, FRONTIER.name, int(nodes), BATCH, IMAGES, epochs=100)[0]
    said = (f"{best['strategy']} on {best['gpus']} GPUs: {number(best['images_per_s'])} images/s, "
            f"{best['memory_gib']:.1f} GiB a GPU, {number(best['node_hours'])} node-hours for 100 epochs")  # fmt: skip
    return Answer(said, None, "not measured", "predicted")


def memory_bars(evidence: dict, *models: str) -> Answer:
    """The memory bars: strategies whose peak does not depend on the number of nodes."""
    return _memory(memory_points(False, *models))


def memory_by_nodes(evidence: dict, *models: str) -> Answer:
    """Memory against nodes, of strategies that shard over all GPUs: on 8 and on 128 of them."""
    return _memory(memory_points(True, *models))


def memory_of(evidence: dict, model: str, *strategies: str) -> Answer:
    """The peaks of one model under some strategies, each on its largest number of GPUs."""
    last = {row["strategy"]: row for row in results.read("simulated") if row["model"] == model}
    return _memory([_held(last[name]) for name in strategies if name in last])


def memory_points(by_nodes: bool, *models: str) -> list[tuple[str, float, float]]:
    """(cell, published, simulated) GiB: of strategies that shard over all GPUs, or of the others."""
    rows = [row for row in results.read("simulated") if not models or row["model"] in models]
    return [_held(row) for row in rows if (STRATEGIES[row["strategy"]].shard_group is None) is by_nodes]


def _held(row: dict) -> tuple[str, float, float]:
    """With what the libraries of 2023 held beside the tensors (planning/stacks)."""
    return "", float(row["published_gib"]), float(row["simulated_gib"]) + float(row["libraries_gib"])


def _memory(points: list[tuple]) -> Answer:
    return judged(points, "simulated", span(points, "GiB"))


def smallest_groups(evidence: dict, *wanted: str) -> Answer:
    """The fewest GPUs over which a model must be sharded to fit them; `wanted` is "ViT-5B=2 ViT-15B=4"."""
    groups = [row for name, row in STRATEGIES.items() if name.startswith("HYBRID")]
    found: dict[str, tuple[int, float]] = {}
    for model in (each.split("=")[0] for each in wanted):
        held = [rank_memory(model, row.name, 64, BATCH, BENCHMARK, stack="fsdp1") for row in groups]
        peaks = [(row.shard_group, gib(each.peak)) for row, each in zip(groups, held, strict=True)]
        found[model] = next(each for each in peaks if each[1] <= FRONTIER.memory_gib)
    printed = {each.split("=")[0]: int(each.split("=")[1]) for each in wanted}
    said = "; ".join(f"{model} on {group} GPUs, {peak:.1f} GiB each" for model, (group, peak) in found.items())
    ratio = median(found[model][0] / printed[model] for model in printed)
    exact = all(found[model][0] == printed[model] for model in printed)
    return Answer(said, ratio, "reproduced" if exact else "differs", "predicted")


def _predicted_cells(model: str) -> dict[int, list[dict]]:
    """Rows of reports/predictions.csv that fit, are synchronised and in bf16, by number of nodes."""
    cells: dict[int, list[dict]] = {}
    for row in results.read("predictions"):
        if row["model"] == model and row["fits"] == "true" and row["strategy"] in ALIKE:
            cells.setdefault(int(row["nodes"]), []).append(row)
    return cells


def _speed(row: dict) -> float:
    return float(row["images_per_s"])
