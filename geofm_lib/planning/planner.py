"""Before you queue: what each strategy would do with a model on some nodes of a machine.

>>> [row["strategy"] for row in plan("ViT-5B", "frontier", 8, 32, workload="classify")][:2]
['SHARD_GRAD_OP', 'FULL_SHARD']

The step time is ``planning/steps``, the memory ``planning/costs``, the machine's figures ``catalog/machines`` and
``catalog/speeds``. Standard library only, and done in milliseconds.
"""

from math import exp

from geofm_lib.catalog import machines, speeds, strategies
from geofm_lib.catalog.models import lookup as model_named
from geofm_lib.planning import costs, steps

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
) -> list[dict]:
    """Every strategy that divides the GPUs of ``nodes`` nodes, the fastest that fits first (columns: ``predict``).

    ValueError, one sentence, for what cannot be meant, and when no strategy fits the memory.
    """
    how = (workload, precision, activation_checkpointing, synchronised, window, images, epochs)
    row = _checked(model, machine, nodes, batch_per_gpu, *how)
    names = [name for name in strategies.STRATEGIES if _divides(name, nodes * row.devices_per_node)]
    found = [predict(model, name, machine, nodes, batch_per_gpu, *how) for name in names]
    found.sort(key=lambda each: (not each["fits"], -each["images_per_s"]))
    if not found[0]["fits"]:
        least = min(found, key=lambda each: each["memory_gib"])
        raise ValueError(
            f"{model} with {batch_per_gpu} images per device does not fit {machine} with nodes={nodes}: "
            f"{least['strategy']} needs the least, {least['memory_gib']:.1f} of {row.memory_gib:.1f} GiB; use more "
            "nodes or fewer images."
        )
    return found


def predict(
    model: str,
    strategy: str,
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
) -> dict:
    """One strategy's step, whether it fits or not.

    Columns: strategy, replicas, shard_group; seconds of a step (step_s) and its parts (compute_s, update_s,
    exposed_s: the communication that lengthens it, of communication_s in all; start_up_s: what the window adds);
    images_per_s of all GPUs, with the interval ``low`` to ``high`` that should hold nine of ten runs; memory_gib
    (peak active of the fullest GPU), fits; node_hours for ``epochs`` passes over ``images`` (None without them).

    Args:
        workload: ``mae`` (the encoder sees a quarter of the patches) or ``classify`` (the paper's benchmark).
        synchronised: False leaves out the reduction over replicas, as FSDP1 did under HYBRID_1GPU.
        window: ``steady``, or ``paper_30_steps`` with its start-up inside.
    """
    row = _checked(model, machine, nodes, batch_per_gpu, workload, precision, activation_checkpointing,
                   synchronised, window, images, epochs)  # fmt: skip
    values, spreads = speeds.lookup(machine)
    world = nodes * row.devices_per_node
    replicas, shard = strategies.resolve(strategies.lookup(strategy), world)
    asked = steps.demand(model, strategy, world, row.devices_per_node, batch_per_gpu, workload, precision,
                         activation_checkpointing, synchronised)  # fmt: skip
    step = steps.seconds(asked, row, values, window)
    held = costs.memory(model, strategy, world, batch_per_gpu, workload, precision, activation_checkpointing)
    speed = world * batch_per_gpu / step.total
    spread = step.spread(values.value["run"], spreads, steps.share_spread(asked, spreads))
    hours = images * epochs / speed / 3600 * nodes if images and epochs else None
    return {
        "model": model, "strategy": strategy, "nodes": nodes, "gpus": world,
        "replicas": replicas, "shard_group": shard,
        "step_s": step.total, "compute_s": step.compute, "update_s": step.update,
        "communication_s": step.communication, "exposed_s": step.exposed, "start_up_s": step.start_up,
        "images_per_s": speed, "low": speed * exp(-LIKELY * spread), "high": speed * exp(LIKELY * spread),
        "memory_gib": costs.gib(held.peak), "fits": costs.gib(held.peak) <= row.memory_gib,
        "node_hours": hours,
    }  # fmt: skip


def _divides(strategy: str, world: int) -> bool:
    group = strategies.STRATEGIES[strategy].shard_group
    return group is None or world % group == 0


def _checked(model, machine, nodes, batch_per_gpu, workload, precision, checkpointing, synchronised, window, images,
             epochs) -> machines.Machine:  # fmt: skip
    """The machine's row, when everything else can be meant; ValueError in one sentence otherwise."""
    model_named(model)
    row = machines.lookup(machine)
    for name, value in (("nodes", nodes), ("batch_per_gpu", batch_per_gpu), ("images", images)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1 on; {value!r} was given.")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int | float) or not epochs > 0):
        raise ValueError(f"epochs must be a number above 0; {epochs!r} was given.")
    if (images is None) != (epochs is None):
        raise ValueError("Node-hours need both images and epochs; give both or neither.")
    if nodes > row.nodes:
        raise ValueError(f"{machine} has {row.nodes} nodes; {nodes} were asked for.")
    choices = (("workload", workload, ("mae", "classify")), ("precision", precision, tuple(costs.BYTES)),
               ("window", window, steps.WINDOWS))  # fmt: skip
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"There is no {name} '{value}'; use one of {', '.join(known)}.")
    for name, value in (("activation_checkpointing", checkpointing), ("synchronised", synchronised)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False; {value!r} was given.")
    needed = (*NEEDED, "network_gb_s") if nodes > 1 else NEEDED
    unknown = [name for name in needed if getattr(row, name) is None]
    if unknown:
        raise ValueError(f"The machine '{machine}' cannot be planned for: its {unknown[0]} is not known.")
    return row
