"""Short claims that train or measure: strategies, resume after kill -9, bytes sent, what pretraining adds, export."""

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from geofm_lib import files
from geofm_lib.paper.verify_place import Made, Place
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.steps import step_traffic
from geofm_lib.runs.run import Run

CPU = {"device": "cpu"}  # also where there is a GPU, so that the numbers are those of any machine
TINY = {"model": "ViT-Atto", "image_size": 32, "images_per_class": 8, "epochs": 4, "warmup_epochs": 1,
        "global_batch": 16, "log_every": 1, "attention": "fused", "linear": "matmul", **CPU}  # fmt: skip
STRATEGIES = {"FULL_SHARD": 2, "SHARD_GRAD_OP": 2, "NO_SHARD": 2, "DDP": 2, "HYBRID_2GPUs": 4}  # -> ranks
SENT = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD")
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce")
KILL_AT, CHECKPOINT_EVERY = 60, 20  # steps


def strategies_agree(place: Place) -> Made:
    """The largest relative difference of a step's loss under any strategy from that of one process."""
    alone, apart = _alone(place).metrics["loss"].to_numpy(), {}
    for name, ranks in STRATEGIES.items():
        run = place.run("02", f"equal-{name}", **TINY, strategy=name, ranks=ranks)
        apart[name] = float(abs(run.metrics["loss"].to_numpy() / alone - 1).max())
    return max(apart.values()), f"{len(alone)} steps; " + ", ".join(f"{n} {each:.1e}" for n, each in apart.items())


def _alone(place: Place) -> Run:
    return place.run("02", "alone", **TINY, ranks=1)


def resume_bitwise(place: Place) -> Made:
    """How many files of weights differ after kill -9 of all processes and a rerun, from those of a run in peace."""
    recipe = {**TINY, "epochs": 40, "ranks": 2, "checkpoint_every": CHECKPOINT_EVERY}
    peace = place.run("02", "peace", **recipe)
    process = place.begin(*place.words("02", "killed", **recipe))
    killed = Run(place.folder / "killed")
    while process.poll() is None and killed.last_row.get("step", 0) < KILL_AT:
        time.sleep(0.1)
    at = killed.last_row.get("step", 0)
    _kill(process)
    if killed.finished:
        raise RuntimeError("the run had finished before it could be killed")
    again = place.run("02", "killed", **recipe)
    names = [each.name for each in (peace.folder / "encoder").glob("*.safetensors")]
    apart = [n for n in names if len({files.digest(run.folder / "encoder" / n) for run in (peace, again)}) > 1]
    same_losses = peace.metrics["loss"].tolist() == again.metrics["loss"].tolist()
    said = f"killed at step {at} of {again.summary['steps']}, went on from {again.environment['from_step']}"
    return len(apart) + (not same_losses), f"{said}; {', '.join(names)}, losses {'equal' if same_losses else 'differ'}"


def _kill(process: subprocess.Popen) -> None:
    """kill -9 of a command, its kernel and its ranks."""
    victims = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    for each in victims:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(victims, timeout=30)
    process.wait(30)


def bytes_sent(place: Place) -> Made:
    """The largest relative difference of the bytes of a measured step's collectives from the arithmetic."""
    apart, said = 0.0, []
    for name in SENT:
        run = place.run("03", f"sent-{name}", ranks=2, strategy=name, steps=2, warmup_steps=1, profile_steps=0, **CPU)
        size = {"image_size": run.settings["image_size"]}
        ours = step_traffic(run.settings["model"], name, 2, Conditions.of(run.settings), **size)
        counted = sum(ours[each].payload for each in COLLECTIVES)
        measured = sum(run.summary[f"{each}_bytes"] for each in COLLECTIVES)
        apart = max(apart, abs(measured / counted - 1))
        said.append(f"{name} {measured:,} of {counted:,}")
    return apart, "bytes a step " + ", ".join(said)


def probe_gain(place: Place) -> Made:
    """Points of top-1 that pretraining on the built-in scenes adds to the same encoder untrained."""
    place.run("02", "pretrained", ranks=2, epochs=20, warmup_epochs=2, base_learning_rate=2e-3, **CPU)
    asked = {
        "encoder": place.folder / "pretrained",
        "protocol": "fast",
        "splits": 2,
        "details": False,
        "ranks": 2,
        **CPU,
    }
    summary = place.run("05", "probed", **asked).summary
    low, high = summary["gain_low"], summary["gain_high"]
    if low <= 0:
        raise RuntimeError(f"the interval of the gain, {low:.1f} to {high:.1f} points, does not lie above 0")
    said = (
        f"{summary['fast_value']:.1f} % of {summary['classes']} classes, interval of the gain {low:.1f} to {high:.1f}"
    )
    return summary["gain"], said


def export_and_back(place: Place) -> Made:
    """How many tensors differ after an encoder and its decoder went to transformers' ViTMAE and back."""
    here, there, back = _alone(place).folder / "encoder", place.folder / "vitmae", place.folder / "back"
    place.command("export", here.parent, there, "--format", "vitmae")
    place.command("export", there, back, "--format", "geofm")
    apart, count, names = 0, 0, [each.name for each in here.glob("*.safetensors")]
    for name in names:
        before, after = _tensors(here / name), _tensors(back / name)
        count += len(before)
        apart += sum(before.get(each) != after.get(each) for each in {*before, *after})
    return apart, f"{count} tensors of {', '.join(sorted(names))}"


def _tensors(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """{name: (type, shape, bytes)} of a safetensors file: the length of a JSON header, the header, the bytes."""
    raw = file.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8:begin])
    head.pop("__metadata__", None)
    spans = {name: [begin + each for each in facts["data_offsets"]] for name, facts in head.items()}
    return {name: (facts["dtype"], facts["shape"], raw[slice(*spans[name])]) for name, facts in head.items()}


def transformers_agree(place: Place) -> Made:
    """The relative difference of our loss from that of transformers' ViTMAE, with its weights and masks."""
    run = place.run("11", "peers", configs="tiny", precisions="fp32", stages="", steps=2, warmup_steps=1, **CPU)
    losses = run.read_csv("peers.csv").set_index("implementation")["loss"]
    if "transformers" not in losses:
        raise RuntimeError("transformers is not installed here: pip install -e '.[test]' -c constraints.txt")
    return abs(losses["geofm"] / losses["transformers"] - 1), ", ".join(f"{n} {v:.6f}" for n, v in losses.items())
