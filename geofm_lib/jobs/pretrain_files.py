"""The files that a pretraining leaves beside its checkpoints: reconstructions and the encoder; what the run is."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geofm_lib import files
from geofm_lib.data import trained_on
from geofm_lib.data.arrays import write_arrays
from geofm_lib.data.decode import FULL
from geofm_lib.data.loader import batches
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import apart, colours, mask_noise, normalise, to_rgb, to_type
from geofm_lib.distributed import export
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model.interop import folders, formats, locate
from geofm_lib.model.mae import MaskedAutoencoder
from geofm_lib.model.targets import patch_means
from geofm_lib.model.vit import NORM_EPS
from geofm_lib.settings import PretrainSettings, Resolved, objectives

SHOWN = 8  # images
FINGERPRINTED = (
    "dataset",
    "images_per_class",
    "data",
    "init",
    "branch",
)  # settings that say no more than a fingerprint of what they name


def encoder(folder: Path, model: nn.Module, config: dict[str, Any], context: Context) -> None:
    """The encoder as timm and `model.interop.export` read it, and its decoder beside it; every rank calls this."""
    weights, decoder = folders.split(export.weights_of(model))
    export.write(folder / locate.WEIGHTS, weights, context)
    if decoder:
        export.write(folder / locate.DECODER, decoder, context)
    if context.is_main:
        more = folders.carry(folder.parent, folder, locate.TRAINED_ON)
        for name, text in (card := formats.card(config)).items():
            files.write_text(folder / name, text)
        files.write_json(folder / locate.SETTINGS, formats.settings(config))  # last: it makes the folder an encoder's
        own = (locate.WEIGHTS, *[locate.DECODER] * bool(decoder), locate.SETTINGS)
        files.seal(folder, (*own, *card, *more))


def config(settings: PretrainSettings, shards: Shards, norm_eps: float) -> dict[str, Any]:
    """What the network is (`folders.Saved`), beside its weights; checkpoints keep it too."""
    groups = settings.groups(shards.channels, shards.bands)
    decoder = {**settings.decoder(), "mask_ratio": settings.mask_ratio, "norm_pix_loss": settings.norm_pix_loss}
    return {
        "model": settings.model,
        "family": "pretrain",
        "image_size": folders.side(*shards.size(settings.image_size)),
        "patch_size": settings.patch(),
        "channels": shards.channels,
        "mean": [float(v) for v in shards.mean],
        "std": [float(v) for v in shards.std],
        **(decoder if objectives.rebuilds(settings.objective) else {}),
        **({"bands": shards.bands} if shards.bands else {}),
        **({"band_groups": [list(each) for each in groups], "group_masks": settings.group_masks} if groups else {}),
        **({} if settings.objective == "mae" else {"objective": settings.objective}),
        **({} if norm_eps == NORM_EPS else {"norm_eps": norm_eps}),
    }


def seen(settings: PretrainSettings, run: Folder, context: Context) -> dict[str, Any]:
    """For `config`: what says on which images the run trains (`trained_on`), written once; every rank calls this."""
    file = run.path / locate.TRAINED_ON
    if context.is_main and not file.is_file():
        parent = run.resolved.parent.get("run")
        before = [Path(parent)] if parent else [Path(settings.init)] if settings.init else []
        with contextlib.suppress(ValueError):  # the source of a run of an older version may be gone
            before = before if parent else [locate.find(each).folder for each in before]
        trained_on.write(file, Path(settings.data), [each / file.name for each in before])
    return dict(context.broadcast(trained_on.told(file) if context.is_main else {}))


def identity(settings: PretrainSettings, resolved: Resolved) -> dict[str, Any]:
    """What a checkpoint belongs to: all settings that can change a result, and the images by their fingerprint."""
    own = {name: value for name, value in settings.results_only().items() if name not in FINGERPRINTED}
    known = {"model": settings.model, "data": resolved.data_fingerprint, "seed": settings.seed, "settings": own}
    known |= {"init": resolved.init_digest} if settings.init else {}
    return known | ({"branch": resolved.parent["digest"]} if resolved.parent else {})


def stored(folder: Path) -> dict[str, Any]:
    """The run's settings.json, for checkpoints to keep: a lost one is rebuilt from them."""
    try:
        return files.read_json(folder / "settings.json")
    except FileNotFoundError:  # a job that a test runs without a launcher
        return {}


def reconstruct(
    file: Path, model: MaskedAutoencoder, train: Shards, shown: Shards, seed: int, context: Context
) -> None:
    """Write what 02 shows of images of `shown`; every rank calls this. Uint8 [B, H, W, 3] each:

    `original`, `masked` (grey where masked), `rebuilt`, and `means`: the mean of each masked patch in its place, as if
    the model had learned nothing else. `hidden` [B, H, W]: what was masked and had been measured, so that errors can be
    told; [B, H, W, 3] where the shown bands are of several groups, which are masked apart. Mean and std of the bands
    are those of the train side, which the model was trained with. Of series see `_series`.
    """
    (rows, columns), patch = model.encoder.patch_embed.grid_size, model.patch
    # Spread over the set, which is sorted by class; every rank rebuilds the same ones, since FSDP gathers together.
    chosen = np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(np.int64)
    images, _ = next(
        batches(shown, [chosen], image_size=columns * patch, transform="probe_test", validity=shown.masked)
    )
    images, valid = apart(images, shown.masked)
    noise = mask_noise(seed, 0, chosen.tolist(), model.drawn).to(context.device)
    device = context.device
    pixels = normalise(images.to(device), train.mean, train.std)
    on_device = None if valid is None else valid.to(device)
    rebuilt, mask_BT = model.reconstruct(pixels, noise, on_device)
    if not context.is_main:
        return
    if shown.dates:
        write_arrays(file, _series(pixels, rebuilt, mask_BT, valid))
        return
    groups = getattr(model.encoder.patch_embed, "groups", [range(train.channels)])
    of_shown = [next(n for n, bands in enumerate(groups) if band in bands) for band in colours(train.channels)]
    of_shown = of_shown[:1] if len(set(of_shown)) == 1 else of_shown
    mask = mask_BT.cpu().reshape(len(images), -1, rows, columns)[:, of_shown]
    masked = F.interpolate(mask, scale_factor=patch, mode="nearest").bool()
    mean, std = (torch.as_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (train.mean, train.std))

    def seen(values: torch.Tensor) -> torch.Tensor:
        shown = to_rgb(values, train.mean, train.std)
        return shown if valid is None else torch.where(valid, shown, 0)  # black, as it mostly is in the files

    def instead(normalised: torch.Tensor) -> torch.Tensor:
        values = (normalised.cpu() * std + mean) * FULL[images.dtype]
        return torch.where(masked, seen(to_type(values, images.dtype)), original)

    original = seen(images)
    sheets = {
        "original": original,
        "masked": torch.where(masked, torch.full_like(original, 128), original),
        "rebuilt": instead(rebuilt),
        "means": instead(patch_means(pixels, patch, on_device, model.groups)),
    }
    hidden = (masked if valid is None else masked & valid).movedim(1, -1).squeeze(-1).numpy()
    write_arrays(file, {"hidden": hidden} | {name: sheet.permute(0, 2, 3, 1).numpy() for name, sheet in sheets.items()})


def _series(
    pixels: torch.Tensor, rebuilt: torch.Tensor, mask_BN: torch.Tensor, valid: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """Of series, normalised: `series` and `rebuilt` [B, T, C], NaN where not measured; `hidden` [B, T] as above."""
    series, found = (each[:, :, 0].transpose(1, 2).cpu().numpy() for each in (pixels, rebuilt))
    hidden = mask_BN.cpu().numpy().astype(bool)
    if valid is not None:
        measured = valid[:, 0, 0].numpy()
        series, hidden = np.where(measured[..., None], series, np.nan), hidden & measured
    return {"series": series, "rebuilt": found, "hidden": hidden}
