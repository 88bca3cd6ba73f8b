"""Before you queue: what each strategy would do with a model on some nodes of a machine.

>>> [row["strategy"] for row in plan("ViT-5B", "frontier", 8, 32, workload="classify")][:2]
['SHARD_GRAD_OP', 'FULL_SHARD']

Standard library only, and done in milliseconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, inf, nan
from typing import Any

from geofm_lib.catalog import machines, published, speeds, strategies
from geofm_lib.catalog.metrics import counted, number
from geofm_lib.catalog.models import Model
from geofm_lib.catalog.models import lookup as model_named
from geofm_lib.planning import steps
from geofm_lib.planning.conditions import ALIKE, BATCH, FRONTIER, Conditions, conditions, gib, nodes_of, whole_number
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.weights import describe, parameters

LEAST_TOKENS = 2  # patches of an image
SIZES = ("image_size", "tokens", "ranks_per_node")
LIKELY = 1.645  # standard deviations each way: nine of ten runs
CLOSE = 0.05  # a choice this close to the best published throughput counts as right


def plan(
    model: str | Model,
    machine: str,
    nodes: int,
    batch_per_gpu: int,
    images: int | None = None,
    epochs: float | None = None,
    **how: Any,
) -> list[dict[str, Any]]:
    """Every strategy that divides the ranks of ``nodes`` nodes, the fastest that fits first; arguments as ``predict``.

    ValueError, one sentence, for a value that is not possible, and when no strategy fits the memory.
    """
    job = _job(model, machine, nodes, batch_per_gpu, images, epochs, **how)
    dividing = [row.name for row in strategies.STRATEGIES.values() if job.world % (row.shard_group or job.world) == 0]
    found = ranked(_predicted(job, name) for name in dividing)
    if not found[0]["fits"]:
        least = min(found, key=lambda each: each["memory_gib"])
        raise ValueError(
            f"{job.name} with {counted(batch_per_gpu, 'image')} per device does not fit {machine} with nodes={nodes}: "
            f"{least['strategy']} needs the least, {number(least['memory_gib'])} of {number(job.row.memory_gib)} GiB; "
            f"{_what_fits(job)}."
        )
    return found


def _what_fits(job: "_Job") -> str:
    """Fewer images, more nodes, or what else would fit, each as far as it would and none that would not, in words."""
    fewer = next((batch for batch in _halves(job.batch) if _least(replace(job, batch=batch))), 0)
    all_nodes = [job.nodes * 2**i for i in range(1, 20) if job.nodes * 2**i < job.row.nodes] + [job.row.nodes]
    more = next((nodes for nodes in all_nodes if _least(replace(job, nodes=nodes))), 0)
    found = [f"{counted(fewer, 'image')} would"] * bool(fewer) + [f"{more} nodes would"] * bool(more)
    if found:
        return ", ".join(found)
    least = replace(job, batch=1, nodes=job.row.nodes, ranks_per_node=None)
    checkpointed = replace(job.how, activation_checkpointing=True)
    others = {
        "try activation checkpointing": replace(job, how=checkpointed),
        f"1 image on {counted(job.row.nodes, 'node')} with all devices would": least,
        "no number of nodes and no fewer images would: take fewer tokens or a smaller model": replace(
            least, image_size=None, tokens=LEAST_TOKENS, how=checkpointed
        ),
    }
    none = "its weights alone are too many: take a smaller model, or a machine with more devices or memory"
    return next((said for said, each in others.items() if _least(each)), none)


def _halves(batch: int) -> Iterable[int]:
    while batch > 1:
        batch //= 2
        yield batch


def _least(job: "_Job") -> bool:
    """Does it fit where weights are shared among all ranks?"""
    held = rank_memory(job.model, "FULL_SHARD", job.world, job.batch, job.how, **job.size).peak
    return gib(held) <= job.row.memory_gib


def told(model: str | Model, machine: str, nodes: int, batch_per_gpu: int, **how: Any) -> list[str]:
    """What a plan takes for granted, two sentences: the network with its parameters, and how a step is run."""
    job = _job(model, machine, nodes, batch_per_gpu, how.pop("images", None), how.pop("epochs", None), **how)
    shape = describe(job.model, job.how.workload, **job.size)
    size = job.size if shape.row.built is None else {}
    encoder = parameters(job.model, "encoder", **size)
    rest = parameters(job.model, job.how.workload, **size) - encoder
    other = {"mae": "MAE's decoder", "classify": "the head"}[job.how.workload]
    weights = f"{encoder:,} parameters and {rest:,} of {other}"
    weights = f"{encoder + rest:,} parameters" if shape.gated or not rest else weights
    seen = f" ({shape.visible} of them seen by the encoder)" if shape.visible < shape.patches else ""
    before = f", {counted(shape.prefix, 'token')} before them" if shape.prefix else ""
    kept = "computed again in the backward pass" if job.how.activation_checkpointing else "kept"
    return [
        f"{job.name}: {weights}; {shape.patches:,} patches an image{seen}{before}",
        f"{job.how.told(job.batch)}, {job.how.precision}, activations {kept}; "
        f"{counted(nodes, 'node')} of {machine}, {counted(job.row.devices_per_node, 'rank')} each",
    ]


def ranked(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of strategies in their order: the fastest that fits first (by ``fits`` and ``images_per_s``)."""
    return sorted(rows, key=lambda each: (not each["fits"], -each["images_per_s"]))


def predict(
    model: str | Model,
    strategy: str,
    machine: str,
    nodes: int,
    batch_per_gpu: int,
    images: int | None = None,
    epochs: float | None = None,
    **how: Any,
) -> dict[str, Any]:
    """One strategy's step, whether it fits or not; ``how`` are the fields of ``Conditions``, and SIZES.

    ``model`` is a name, or a row (``runs.architecture`` reads one off any plain ViT). SIZES are image_size and tokens
    (as in ``weights.describe``), and ranks_per_node where that is not all of a node's devices.

    Columns:
        strategy, replicas, shard_group, nodes, gpus.
        step_s and its parts: compute_s, update_s, exposed_s (communication that lengthens the step, of
        communication_s in all), start_up_s (what the window adds).
        images_per_s of all GPUs; low and high should hold nine of ten runs.
        memory_gib: peak active of the fullest GPU; fits.
        node_hours for ``epochs`` passes over ``images``, None without them.
    """
    return _predicted(_job(model, machine, nodes, batch_per_gpu, images, epochs, **how), strategy)


def as_published(model: str, strategy: str, nodes: int, **other: Any) -> dict[str, Any]:
    """``predict`` under the conditions of the published rows of this strategy, but for the ``other`` ones given."""
    how = replace(conditions(strategy), **other)
    return _predicted(_Job(model, FRONTIER.name, nodes, BATCH, how), strategy)


def _job(model: str | Model, machine: str, nodes: int, batch: int, *images: Any, **how: Any) -> "_Job":
    sizes = {name: how.pop(name) for name in SIZES if name in how}
    return _Job(model, machine, nodes, batch, Conditions(**how), *images, **sizes)


@dataclass(frozen=True)
class _Job:
    """What is asked of every strategy; ValueError in one sentence for a value that is not possible."""

    model: str | Model
    machine: str
    nodes: int
    batch: int
    how: Conditions
    images: int | None = None
    epochs: float | None = None
    image_size: int | None = None
    tokens: int | None = None
    ranks_per_node: int | None = None

    def __post_init__(self) -> None:
        model_named(self.model)
        for name in SIZES:
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least=LEAST_TOKENS if name == "tokens" else 1)
        if self.tokens and self.image_size:
            raise ValueError(
                "tokens are the patches of an image whatever its size; give tokens or image_size, not both."
            )
        if self.ranks_per_node and self.ranks_per_node > (most := machines.lookup(self.machine).devices_per_node):
            raise ValueError(f"A node of {self.machine} takes {most} ranks; {self.ranks_per_node} were asked for.")
        for name, value in (("nodes", self.nodes), ("batch_per_gpu", self.batch)):
            whole_number(name, value)
        if (self.images is None) != (self.epochs is None):
            raise ValueError("Node-hours need both images and epochs; give both or neither.")
        if self.images is not None:
            whole_number("images", self.images)
            if isinstance(self.epochs, bool) or not isinstance(self.epochs, int | float) or not 0 < self.epochs < inf:
                raise ValueError(f"epochs must be a finite number above 0; {self.epochs!r} was given.")
        if self.nodes > self.row.nodes:
            raise ValueError(f"{self.machine} has {counted(self.row.nodes, 'node')}; {self.nodes:,} were asked for.")

    @property
    def row(self) -> machines.Machine:
        return machines.lookup(self.machine).with_ranks(self.ranks_per_node)

    @property
    def name(self) -> str:
        return model_named(self.model).name

    @property
    def size(self) -> dict[str, Any]:
        given = {"image_size": self.image_size, "tokens": self.tokens}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def world(self) -> int:
        return self.nodes * self.row.devices_per_node


def _predicted(job: _Job, strategy: str) -> dict[str, Any]:
    known = speeds.lookup(job.machine)
    replicas, shard = strategies.resolve(strategies.lookup(strategy), job.world)
    asked = steps.demand(job.model, strategy, job.world, job.row.devices_per_node, job.batch, job.how, **job.size)
    step = steps.seconds(asked, job.row, known.values)
    held = gib(rank_memory(job.model, strategy, job.world, job.batch, job.how, **job.size).peak)
    speed = job.world * job.batch / step.total
    spread = steps.spread(asked, job.row, step, known)
    hours = job.images * job.epochs / speed / 3600 * job.nodes if job.images and job.epochs else None
    return {
        "model": job.name, "strategy": strategy, "nodes": job.nodes, "gpus": job.world,
        "replicas": replicas, "shard_group": shard,
        "step_s": step.total, "compute_s": step.compute, "update_s": step.update,
        "communication_s": step.communication, "exposed_s": step.exposed, "start_up_s": step.start_up,
        "images_per_s": speed, "low": speed * exp(-LIKELY * spread), "high": speed * exp(LIKELY * spread),
        "memory_gib": held, "fits": held <= job.row.memory_gib,
        "node_hours": hours,
    }  # fmt: skip


def choice(predicted: list[dict[str, Any]], seen: dict[str, float]) -> dict[str, Any]:
    """What the first of the predicted rows that fits is worth among the published images/s of strategies, ``seen``.

    Keys: chosen, best (None where nothing fits, or nothing is published), of_best (then NaN), ties (the other
    strategies whose predicted images/s are within CLOSE of the chosen one's, so that neither is the winner).
    """
    first = next((row for row in ranked(predicted) if row["fits"]), {"strategy": None})
    chosen, best = first["strategy"], max(seen, key=lambda name: seen[name], default=None)
    ties = tied(predicted)
    worth = seen[chosen] / seen[best] if chosen and best else nan
    return {"chosen": chosen, "best": best, "of_best": worth, "ties": ties}


def tied(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """The strategies that fit and are within CLOSE of the first in images/s, so that neither is the winner."""
    first, *others = [row for row in ranked(rows) if row["fits"]] or [{}]
    return tuple(row["strategy"] for row in others if row["images_per_s"] >= (1 - CLOSE) * first["images_per_s"])


def no_winner(rows: list[dict[str, Any]]) -> str:
    """Why the order of a plan's first rows says nothing, in a sentence; '' where the first is the winner."""
    if len(rows) > 1 and rows[0]["gpus"] == 1:
        return "One rank: nothing is sharded or sent on one device, so all strategies are the same."
    others = tied(rows)
    same = f"{rows[0]['strategy']}, {', '.join(others)} are within {CLOSE:.0%} of each other: no strategy wins."
    return same if others else ""


def first_choice(model: str, nodes: int) -> dict[str, Any]:
    """``choice`` by the planner among the strategies published for this model and nodes, else among all that fit."""
    seen = {name: line[nodes] for name, line in published.scaling(model).items() if nodes in line and name in ALIKE}
    rows = [as_published(model, name, nodes) for name in seen or ALIKE if nodes in nodes_of(name)]
    if seen:
        rows = [row | {"fits": True} for row in rows]  # what was published did fit
    return {"model": model, "nodes": nodes, **choice(rows, seen)}
