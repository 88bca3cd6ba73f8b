"""What is kept of a step whose loss or gradient is infinite or not a number, and the sentence about it."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from geofm_lib import files
from geofm_lib.distributed import training
from geofm_lib.distributed.context import Context
from geofm_lib.distributed.manifest import CheckpointError


def keep(
    fault: training.NotFinite,
    folder: Path,
    model: nn.Module,
    context: Context,
    *,
    step: int,
    epoch: int,
    learning_rate: float,
    images: list[int],
    save: Callable[[Path], None],
) -> str:
    """Write `folder`/step-<step>.json with every rank's part in it, and the weights; every rank calls this.

    Args:
        step: the step that failed, counted from 1.
        images: positions of this rank's images in the train side.
        save: writes a checkpoint of the weights before the step into a folder.

    Returns:
        One sentence or more: what happened, where, and what to change.
    """
    own = {
        "rank": context.rank,
        "loss": str(fault.own_loss),  # JSON has no nan
        "images": images,
        "gradients_not_finite": training.not_finite(model),
    }
    rows = context.gather(own)
    if context.is_main:
        head = {"step": step, "epoch": epoch, "learning_rate": learning_rate}
        evidence = {**head, "loss": str(fault.loss), "grad_norm": str(fault.norm), "ranks": rows}
        with contextlib.suppress(OSError):  # saving the weights, next, says why
            folder.mkdir(exist_ok=True)
            files.write_json(folder / f"step-{step:08d}.json", evidence)
    rows = context.broadcast(rows)
    guilty = [str(row["rank"]) for row in rows if not np.isfinite(float(row["loss"]))]
    loss = f"the loss of rank {', '.join(guilty)} is not finite" if guilty else f"the loss is {fault.loss:.4g}"
    weight = next((row["gradients_not_finite"][0] for row in rows if row["gradients_not_finite"]), "no single weight")
    try:
        save(folder)
        kept = f"The weights before it, its images and the gradients concerned are in {folder}."
    except CheckpointError as error:
        kept = f"What led to it could not be kept: {error}."
    return (
        f"step {step}: {loss} and the gradient norm is {fault.norm} (first in {weight}) at learning rate "
        f"{learning_rate:.3g}; this step changed nothing. {kept} Lower base_learning_rate or set clip_grad_norm"
    )
