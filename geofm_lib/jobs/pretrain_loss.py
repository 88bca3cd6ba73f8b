"""What a pretraining's loss came to: its mean over the last steps, and with masks that are always the same.

The loss of one step is that of one batch, its crops and its masks. So the summary has the mean of the last steps, and
the loss of centre crops of images that were not trained on. Beside it stand that of as many train images, and that of
a prediction that knows each masked patch's mean and no more. Masks depend neither on the seed nor on the ranks.
"""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import apart, mask_noise, normalise
from geofm_lib.distributed import manifest
from geofm_lib.distributed.context import Context
from geofm_lib.model.interop import locate
from geofm_lib.model.mae import MaskedAutoencoder, random_masking
from geofm_lib.model.patches import patchify, take_groups
from geofm_lib.settings import PretrainSettings

MOST_STEPS, SHARE = 100, 10  # the window: the last tenth of the steps, at most a hundred, at least one
IMAGES, BATCH = 256, 16  # of a side, and at once: few, since no batch of the training may be as large
LEAST = 32  # images of a side of its own, below which the test side is taken
SEED = 0  # of the masks, whatever the run's is
SIDES = ("val", "test")  # those that are not trained on


class Recent:
    """The losses of the last steps, on rank 0; a run that goes on, or a branch, has those of before it."""

    def __init__(self, total_steps: int) -> None:
        self.losses: deque[float] = deque(maxlen=max(1, min(MOST_STEPS, total_steps // SHARE)))

    def go_on(self, checkpoint: Path, step: int, rows: list[dict[str, Any]]) -> None:
        """Take those that a checkpoint keeps; of an older version's, the logged ones."""
        _, content = manifest.content(checkpoint)
        first = step - (self.losses.maxlen or 0)
        logged = [row["loss"] for row in rows if first < row["step"] <= step]
        self.losses.extend(content.get("state", {}).get("losses", logged))

    def kept(self) -> dict[str, Any]:
        """For a checkpoint to keep."""
        return {"losses": list(self.losses)}

    def told(self) -> dict[str, Any]:
        """For the summary: their mean, and of how many steps."""
        return {"loss": float(np.mean(self.losses)) if self.losses else None, "loss_steps": len(self.losses)}


def before(run: Path, parent: dict[str, Any], step: int) -> Path:
    """The checkpoint that a run goes on from: its own of this step, else that of the run that it branched."""
    own = locate.checkpoint(run, step)
    return own if own.is_dir() else Path(parent.get("checkpoint") or own)


def held_out(folder: str | Path) -> tuple[str, Shards | None]:
    """(side, its images) of those that are not trained on: val, or test where that has fewer than LEAST; ("", None)."""
    found = [(side, Shards(folder, side)) for side in SIDES]
    largest = max(found, key=lambda each: len(each[1]))
    side, images = next((each for each in found if len(each[1]) >= LEAST), largest)
    return (side, images) if len(images) else ("", None)


def fixed_masks(
    settings: PretrainSettings,
    model: nn.Module,
    autoencoder: MaskedAutoencoder,
    train: Shards,
    side: str,
    images: Shards | None,
    context: Context,
) -> dict[str, Any]:
    """For the summary; every rank calls this, after the last step, with what `held_out` found.

    held_out_side, held_out_images, held_out_loss: of what was not trained on; side and loss are "" and None where all
    train. trained_on_loss: of as many train images, taken alike. Each has an interval (95 %, half, over images).
    patch_mean_loss: of the mean of each masked patch, over the held-out images, else the train images. Of series, whose
    patches are single dates, it is that of straight lines between the visible ones; dates: how many there are.
    """
    found: dict[str, Any] = {"dates": train.dates} if train.dates else {}
    found |= {"held_out_side": side, "held_out_images": 0, "held_out_loss": None}
    for name, shards in (("trained_on", train), ("held_out", images)):
        if shards is not None:
            losses, guessed, count = _losses(settings, model, autoencoder, shards, train, context)
            found |= {f"{name}_loss": _mean(losses), f"{name}_interval": _interval(losses)}
            found |= {f"{name}_images": count, "patch_mean_loss": _mean(guessed)}
    return found


@torch.no_grad()
def _losses(
    settings: PretrainSettings,
    model: nn.Module,
    autoencoder: MaskedAutoencoder,
    images: Shards,
    train: Shards,
    context: Context,
) -> tuple[np.ndarray, np.ndarray, int]:
    """([batches, 2] loss and images of each batch, the same of the patch means, images in all), on every rank.

    Batches do not depend on the ranks, and each is spread over the side, which is sorted by class. FSDP gathers
    together, so each rank takes as many.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(np.int64))
    count = -(-len(chosen) // min(BATCH, settings.max_batch_per_rank or BATCH))
    places, world = [chosen[first::count] for first in range(count)], context.world_size
    numbers = [turn * world + context.rank for turn in range(-(-count // world))]
    own = [places[min(number, count - 1)] for number in numbers]
    stream = batches(images, own, image_size=settings.image_size, transform="probe_test", validity=images.masked)
    rows = []
    for number, (batch, indices) in zip(numbers, stream, strict=True):
        pixels, valid = apart(batch.to(context.device), images.masked)
        pixels = normalise(pixels, train.mean, train.std)
        noise = mask_noise(SEED, 0, indices.tolist(), autoencoder.drawn).to(context.device)
        found = model(pixels, noise, valid)
        loss = float(found if torch.is_tensor(found) else found[0])  # beside it are projections, of another objective
        guess = _between if images.dates else _patch_means
        rows.append((number, loss, float(guess(autoencoder, pixels, noise, valid)), len(batch)))
    gathered = context.broadcast(sorted(row for part in context.gather(rows) for row in part if row[0] < count))
    table = np.array(gathered, dtype=np.float64)
    return table[:, [1, 3]], table[:, [2, 3]], len(chosen)


def _patch_means(
    model: MaskedAutoencoder, pixels: torch.Tensor, noise: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor:
    """The loss of a prediction that knows the mean of each masked patch, as the autoencoder counts it."""
    patches = patchify(pixels, model.patch)
    seen = torch.ones_like(patches) if valid is None else patchify(valid.expand_as(pixels), model.patch).float()
    _, masked = model.masks(noise, seen.sum(2) == 0)
    losses = []
    for part, there in zip(*(take_groups(each, masked, model.groups) for each in (patches, seen)), strict=True):
        target = model.target(part, None if valid is None else there.bool())
        mean = (target * there).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp_min(1)
        squares = (there * (target - mean)).square().sum((1, 2)) / there.sum((1, 2)).clamp_min(1)
        losses.append(squares.mean())
    return torch.stack(losses).mean()


def _between(model: MaskedAutoencoder, pixels: torch.Tensor, noise: torch.Tensor, valid: torch.Tensor | None) -> float:
    """The loss of straight lines between the visible dates of series, level before the first and behind the last."""
    known = torch.ones_like(noise, dtype=torch.bool) if valid is None else valid[:, 0, 0]
    visible, masked = random_masking(noise + (~known).to(noise.dtype), model.visible)
    errors = []
    for own, there, seen, hidden in zip(
        *(x.cpu().numpy() for x in (pixels[:, :, 0], known, visible, masked)), strict=True
    ):
        seen, hidden = np.sort(seen[there[seen]]), hidden[there[hidden]]
        guesses = [np.interp(hidden, seen, band[seen]) - band[hidden] for band in own] if len(seen) else []
        errors.append(float(np.square(guesses).mean()) if len(seen) and len(hidden) else 0.0)
    return float(np.mean(errors))


def _mean(losses: np.ndarray) -> float:
    """Over images."""
    return float(np.average(losses[:, 0], weights=losses[:, 1]))


def _interval(losses: np.ndarray) -> float | None:
    """Half the 95 % interval of the mean over images, by the spread of the batches; None for a single one."""
    if len(losses) < 2:
        return None
    return float(1.96 * losses[:, 0].std(ddof=1) / np.sqrt(len(losses)))
