"""A step that was not finite: what is kept of it, whose fault it was, and the command that goes on without it."""

import contextlib
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from geofm_lib import files
from geofm_lib.distributed import training
from geofm_lib.distributed.checkpoint import STEPS
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.manifest import CheckpointError
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.settings import PretrainSettings
from geofm_lib.settings.branch import ranges, spelled

FOLDER = "not-finite"
SOUND = 2.0  # a loss above so many times the lowest one is that of weights that were spoilt
ABSURD = 1e15  # a mean or spread of stored numbers beyond it is that of fill that was taken as data
SLOWER = 10.0  # where the rate was at fault the next one is so many times lower, and never above the default


def failed_step(
    fault: training.NotFinite,
    run: Folder,
    settings: PretrainSettings,
    model: nn.Module,
    context: Context,
    done: int,
    where: dict[str, Any],
    images: dict[int, str],
    losses: dict[int, float],
    next_loss: float | None,
    save: Callable[[Path], None],
) -> str:
    """Write not-finite/step-<step>.json with every rank's part in it, and the weights; every rank calls this.

    Args:
        done: the step that the weights have done; those after it may have been left out.
        where: the `step` that failed, counted from 1, its `epoch` and `learning_rate`.
        images: this rank's images: position in the train side, name.
        losses: loss of each step of this launch, and of those logged before.
        next_loss: that of the images after these by the same weights (None: there are none).
        save: writes a checkpoint of the weights before the step into a folder.

    Returns:
        One sentence or more: what happened, where, and the command to go on.
    """
    folder = run.path / FOLDER
    own = {
        "rank": context.rank,
        "loss": str(fault.own_loss),  # JSON has no nan
        "images": list(images),
        "names": list(images.values()),
        "gradients_not_finite": training.not_finite(model),
    }
    rows = context.gather(own)
    if context.is_main:
        evidence = {**where, "loss": str(fault.loss), "grad_norm": str(fault.norm), "next_loss": str(next_loss)}
        with contextlib.suppress(OSError):  # saving the weights, next, says why
            folder.mkdir(exist_ok=True)
            files.write_json(folder / f"step-{where['step']:08d}.json", {**evidence, "ranks": rows})
    rows = context.broadcast(rows)
    guilty = [str(row["rank"]) for row in rows if not np.isfinite(float(row["loss"]))]
    loss = f"the loss of rank {', '.join(guilty)} is not finite" if guilty else f"the loss is {fault.loss:.4g}"
    weight = next((row["gradients_not_finite"][0] for row in rows if row["gradients_not_finite"]), "no single weight")
    try:
        save(folder)
        kept = f"The weights before it, its images and the gradients concerned are in {folder}."
    except CheckpointError as error:
        kept = f"What led to it could not be kept: {error}."
    advice = ""
    if context.is_main:
        advice = fill_in(Path(settings.data), done, next_loss)
        advice = advice or advised(run, settings, done, where["step"], losses, next_loss)
    advice = context.broadcast(advice)
    return (
        f"step {where['step']}: {loss} and the gradient norm is {fault.norm} (first in {weight}) at learning rate "
        f"{where['learning_rate']:.3g}; this step changed nothing. {kept} {advice}"
    )


def fill_in(data: Path, done: int, next_loss: float | None) -> str:
    """The advice where neither these images nor the next are finite since fill was packed as data; "" elsewhere.

    It shows in the statistics, or, while the weights are the first, in images that these leave out as impossible.
    """
    if next_loss is None or math.isfinite(next_loss):
        return ""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = files.read_json(data / "statistics.json")
    numbers = [(name, value) for name in ("mean", "std") for value in found.get(f"{name}_stored", found.get(name, []))]
    name, value = max(numbers, key=lambda each: abs(each[1]), default=("mean", 0.0))
    if abs(value) > ABSURD:
        why = f"the {name} of a band is {value:.3g}, which no measurement has"
    elif found.get("left_out") and not done:
        why = f"the numbers of {found['left_out']} images lie absurdly far from the others'"
    else:
        return ""
    return (
        f"The data are at fault, since the next images give a loss of {next_loss:.4g} as well: in {data} {why}. "
        "Prepare them again by 01 with nodata, the value that means not measured."
    )


def advised(
    run: Folder, settings: PretrainSettings, done: int, step: int, losses: dict[int, float], next_loss: float | None
) -> str:
    """What was at fault, the images of the step or the weights before it, and the command for a branch without that.

    It is asked of the next images: weights that are sound give them a usual loss. The first weights always are.
    """
    usual = SOUND * min(losses.values(), default=math.inf)
    images = not done or next_loss is None or math.isfinite(next_loss) and next_loss <= usual
    begun = run.resolved.parent or {"step": 0}
    saved = {int(place.name[5:]) for place in run.path.glob(f"*/{STEPS}")} | ({0} if not begun["step"] else set())
    sound = [n for n in saved if n < done + images and (not n or losses.get(n + 1, 0.0) <= usual)]
    changes: dict[str, Any] = {"branch": f"{run.path}@{max(sound or saved or {0})}"}
    if not sound and begun["step"] and Path(begun["checkpoint"]).is_dir():  # begin again where this branch began
        named = {name: here for name, (_, here) in begun["changed"].items()}
        changes = {"branch": f"{begun['run']}@{begun['step']}", **named}
    if images:
        told = "" if next_loss is None else f" (the next ones give a loss of {next_loss:.4g} by the same weights)"
        left_out = sorted([*ranges(settings.skip_steps), range(step, step + 1)], key=lambda each: each.start)
        changes |= {"skip_steps": spelled(left_out)}
        why = (
            f"Its images are at fault{told}. Go on without them, and with a lower base_learning_rate if it comes again:"
        )
    else:
        default = PretrainSettings.model_fields["base_learning_rate"].default
        rate = min(settings.base_learning_rate / SLOWER, default)
        changes |= {"base_learning_rate": float(f"{rate:.3g}")}
        changes |= {} if settings.clip_grad_norm else {"clip_grad_norm": 1.0}
        told = f"the next ones give a loss of {next_loss:.4g}"
        why = f"Its images are not at fault: {told}, so the weights were spoilt before. Lower base_learning_rate:"
    return f"{why} {command(changes)}"


def command(changes: dict[str, Any]) -> str:
    """A line for any shell and folder that runs 02 of this installation with these settings."""
    beside = Path(sys.executable).with_name("geofm")
    start = [str(beside)] if beside.is_file() else [sys.executable, "-m", "geofm_lib"]
    if shutil.which("geofm") == start[0]:
        start = ["geofm"]
    return shlex.join([*start, "run", "02_pretrain", *(w for n, v in changes.items() for w in ("-p", n, str(v)))])
