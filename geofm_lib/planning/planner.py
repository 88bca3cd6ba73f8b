"""Before you queue: what each strategy would do with a model on some nodes of a machine.

>>> [row["strategy"] for row in plan("ViT-5B", "frontier", 8, 32, workload="classify")][:2]
['SHARD_GRAD_OP', 'FULL_SHARD']

The step time is ``planning/steps``, the memory ``planning/costs``, the machine's figures ``catalog/machines`` and
``catalog/speeds``. Standard library only, and done in milliseconds.
"""

from dataclasses import dataclass
from math import exp

from geofm_lib.catalog import machines, speeds, strategies
from geofm_lib.catalog.models import lookup as model_named
from geofm_lib.planning import costs, steps
from geofm_lib.planning.conditions import Conditions, whole_number

LIKELY = 1.645  # standard deviations each way: nine of ten runs
NEEDED = ("peak_bf16_tflops", "peak_fp32_tflops", "memory_gb_s", "memory_gib")  # and the network's, to cross it


def plan(
    model: str,
    machine: str,
    nodes: int,
    batch_per_gpu: int,
    workload: str = "mae",
    precision: str = "bf16",
    activation_checkpointing: bool = True,
    synchronised: bool = True,
    window: str = "steady",
    images: int | None = None,
    epochs: float | None = None,
    backward_prefetch: int = 1,
) -> list[dict]:
    """Every strategy that divides the GPUs of ``nodes`` nodes, the fastest that fits first (columns: ``predict``).

    ValueError, one sentence, for what cannot be meant, and when no strategy fits the memory.
    """
    how = Conditions(workload, precision, activation_checkpointing, synchronised, window, backward_prefetch)
    job = _Job(model, machine, nodes, batch_per_gpu, how, images, epochs)
    found = [_predicted(job, name) for name in strategies.STRATEGIES if _divides(name, job.world)]
    found.sort(key=lambda each: (not each["fits"], -each["images_per_s"]))
    if not found[0]["fits"]:
        least = min(found, key=lambda each: each["memory_gib"])
        raise ValueError(
            f"{model} with {batch_per_gpu} images per device does not fit {machine} with nodes={nodes}: "
            f"{least['strategy']} needs the least, {least['memory_gib']:.1f} of {job.row.memory_gib:.1f} GiB; use more "
            "nodes or fewer images."
        )
    return found


def predict(
    model: str,
    strategy: str,
    machine: str,
    nodes: int,
    batch_per_gpu: int,
    images: int | None = None,
    epochs: float | None = None,
    **how,
) -> dict:
    """One strategy's step, whether it fits or not; ``how`` are ``Conditions``.

    Columns: strategy, replicas, shard_group; seconds of a step (step_s) and its parts (compute_s, update_s,
    exposed_s: the communication that lengthens it, of communication_s in all; start_up_s: what the window adds);
    images_per_s of all GPUs, with the interval ``low`` to ``high`` that should hold nine of ten runs; memory_gib
    (peak active of the fullest GPU), fits; node_hours for ``epochs`` passes over ``images`` (None without them).
    """
    return _predicted(_Job(model, machine, nodes, batch_per_gpu, Conditions(**how), images, epochs), strategy)


@dataclass(frozen=True)
class _Job:
    """What is asked of every strategy; ValueError in one sentence for what cannot be meant."""

    model: str
    machine: str
    nodes: int
    batch: int
    how: Conditions
    images: int | None
    epochs: float | None

    def __post_init__(self):
        model_named(self.model)
        row = self.row
        for name, value in (("nodes", self.nodes), ("batch_per_gpu", self.batch)):
            whole_number(name, value)
        if (self.images is None) != (self.epochs is None):
            raise ValueError("Node-hours need both images and epochs; give both or neither.")
        if self.images is not None:
            whole_number("images", self.images)
            if isinstance(self.epochs, bool) or not isinstance(self.epochs, int | float) or not self.epochs > 0:
                raise ValueError(f"epochs must be a number above 0; {self.epochs!r} was given.")
        if self.nodes > row.nodes:
            raise ValueError(f"{row.name} has {row.nodes} nodes; {self.nodes} were asked for.")
        needed = (*NEEDED, "network_gb_s") if self.nodes > 1 else NEEDED
        unknown = [name for name in needed if getattr(row, name) is None]
        if unknown:
            raise ValueError(f"The machine '{row.name}' cannot be planned for: its {unknown[0]} is not known.")

    @property
    def row(self) -> machines.Machine:
        return machines.lookup(self.machine)

    @property
    def world(self) -> int:
        return self.nodes * self.row.devices_per_node


def _predicted(job: _Job, strategy: str) -> dict:
    values, spreads = speeds.lookup(job.machine)
    replicas, shard = strategies.resolve(strategies.lookup(strategy), job.world)
    asked = steps.demand(job.model, strategy, job.world, job.row.devices_per_node, job.batch, job.how)
    step = steps.seconds(asked, job.row, values)
    held = costs.gib(costs.memory(job.model, strategy, job.world, job.batch, **job.how.of_memory()).peak)
    speed = job.world * job.batch / step.total
    spread = step.spread(values.value["run"], spreads, steps.share_spread(asked, spreads))
    hours = job.images * job.epochs / speed / 3600 * job.nodes if job.images else None
    return {
        "model": job.model, "strategy": strategy, "nodes": job.nodes, "gpus": job.world,
        "replicas": replicas, "shard_group": shard,
        "step_s": step.total, "compute_s": step.compute, "update_s": step.update,
        "communication_s": step.communication, "exposed_s": step.exposed, "start_up_s": step.start_up,
        "images_per_s": speed, "low": speed * exp(-LIKELY * spread), "high": speed * exp(LIKELY * spread),
        "memory_gib": held, "fits": held <= job.row.memory_gib,
        "node_hours": hours,
    }  # fmt: skip


def _divides(strategy: str, world: int) -> bool:
    group = strategies.STRATEGIES[strategy].shard_group
    return group is None or world % group == 0
