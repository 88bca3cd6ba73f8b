"""Short claims that are counted, simulated or planned: networks, FLOPs, replicas' gradients, memory, the planner."""

import statistics

from geofm_lib.paper import blind, studies
from geofm_lib.paper.performance import smallest_groups
from geofm_lib.paper.verdicts import percent
from geofm_lib.paper.verify_place import Made, Place
from geofm_lib.planning.conditions import BATCH, TABLE_I
from geofm_lib.planning.flops import training_flops
from geofm_lib.runs.launch import launch
from geofm_lib.settings import SimulateSettings

PUBLISHED_15B = 4  # claim C11: on how many GPUs it fits; that of ViT-5B was fitted
C8 = ("NO_SHARD", "HYBRID_2GPUs", "FULL_SHARD")  # claim C8: strategies of ViT-3B whose memory it tells


def table_i(place: Place) -> Made:
    """How many of Table I's six counts are those of the networks, built and counted."""
    counts = {name: place.findings[f"benchmark_parameters_{name}"] / 1e6 for name in TABLE_I}
    same = [name for name, printed in TABLE_I.items() if printed in (int(counts[name]), round(counts[name]))]
    return len(same), f"{', '.join(f'{each:.2f}' for each in counts.values())} million"


def step_flops(place: Place) -> Made:
    """TFLOP of a rank's step of ViT-Base, by the arithmetic that the networks are tested against."""
    return training_flops("ViT-Base", "classify", True) * BATCH / 1e12, "32 images, with checkpointing"


def fsdp1_replicas(place: Place) -> Made:
    """By how much gradients of replicas differ under FSDP1 with a shard group of one."""
    found = place.findings["fsdp1_group_1_gradient_difference"]
    return found, f"largest gradient {place.findings['fsdp1_group_1_largest_gradient']:.3g}, {place.findings['fsdp1']}"


def our_replicas(place: Place) -> Made:
    """By how much they differ here, and under FSDP1 with groups of two."""
    names = ("ours_group_1", "ours_group_2", "fsdp1_group_2")
    found = {name: place.findings[f"{name}_gradient_difference"] for name in names}
    return max(found.values()), ", ".join(f"{name} {each:g}" for name, each in found.items())


def memory_of_3b(place: Place) -> Made:
    """Simulated over published peak memory of ViT-3B, the median of three strategies, without what libraries held."""
    ratios, said = [], []
    for row in (row for row in studies.simulated_points() if row["model"] == "ViT-3B" and row["strategy"] in C8):
        same = {name: row[name] for name in ("model", "strategy", "workload", "precision")}
        run = launch(SimulateSettings(**same, gpus=row["gpus"] or studies.ANY, batch_per_gpu=BATCH))
        held = run.summary["peak_memory_gib"]
        ratios.append(held / row["value"])
        of = f"{held:.2f} GiB (published {row['value']:.2f}, {ratios[-1]:.2f})"
        said.append(f"{row['strategy']} on {run.settings['gpus']} {of}")
    return statistics.median(ratios), ", ".join(said)


def fewest_gpus(place: Place) -> Made:
    """The fewest GPUs over which ViT-15B fits under the paper's FSDP1, and whether it does under FSDP2."""
    found = smallest_groups({}, f"ViT-15B={PUBLISHED_15B}")
    return PUBLISHED_15B * (found.ratio or 0.0), found.ours


def blind_coverage(place: Place) -> Made:
    """How many published images/s of ViT-1B and ViT-15B lie within what was predicted before anybody saw them."""
    found = blind.score()
    return found["inside"], f"of {found['points']} points, predicted on {blind.DATE} (commit {blind.COMMIT})"


def blind_error(place: Place) -> Made:
    """The median error, %, of those predictions."""
    found = blind.score()
    return 100 * found["median"], f"nine of ten within {percent(found['p90'])}, {found['points']} points"


def blind_choices(place: Place) -> Made:
    """In how many of their (model, nodes) the strategy that was predicted first is within 5 % of the best."""
    return _chosen(blind.pairs())


def unseen_error(place: Place) -> Made:
    """The median error, %, of published images/s predicted by a fit to the five other models."""
    off = blind.errors_of(place.unseen)
    ninth = statistics.quantiles(off, n=10)[-1]
    return 100 * statistics.median(off), f"{len(off)} points, nine of ten within {percent(ninth)}"


def unseen_choices(place: Place) -> Made:
    """In how many (model, nodes) the strategy that such a fit has first is within 5 % of the best published."""
    return _chosen(place.unseen)


def _chosen(points: blind.Pairs) -> Made:
    cells, missed = blind.choices(points), blind.missed(points)
    said = ", ".join("{model} on {nodes} nodes: {chosen} has {of_best:.2f} of {best}".format(**cell) for cell in missed)
    return len(cells) - len(missed), f"of {len(cells)}; not {said or 'none'}"
