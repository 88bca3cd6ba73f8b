"""Encoders and autoencoders from a run, or from a folder in any format of ``formats``."""

from pathlib import Path
from typing import TypeVar

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from geofm_lib.catalog.models import grid
from geofm_lib.model import mae, vit
from geofm_lib.model.init import materialise
from geofm_lib.model.interop import folders, formats, locate, timm_folder
from geofm_lib.model.patches import groups_of

M = TypeVar("M", bound=nn.Module)


def load_encoder(path: str | Path, image_size: vit.Size | None = None) -> tuple[vit.Encoder, folders.Config]:
    """(encoder on the CPU, its config): our ViT, or timm's own model of a ViT that ours cannot be.

    At another ``image_size`` than the encoder was trained at, the positions are interpolated to the new grid.
    ValueError, one sentence, for what cannot be an encoder.
    """
    place = locate.find(path)
    locate.described(place)
    saved = formats.read(place, decoder=False)
    encoder = shell(saved.config, image_size)
    state = timm_folder.renamed(encoder, saved.encoder) if saved.foreign else resampled(saved, encoder)
    return fill(encoder, state, f"{place.weights[0]} does not fit {saved.config['model']}").eval(), saved.config


def resampled(saved: folders.Saved, encoder: vit.ViT) -> folders.Weights:
    """The encoder's weights, positions interpolated to another encoder's grid; `fill` tells what else is wrong."""
    state = dict(saved.encoder)
    old = grid(folders.pair(saved.config["image_size"]), saved.config["patch_size"])
    prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    groups = len(groups_of(encoder.patch_embed))
    return state | positions(state, "pos_embed", old, encoder.patch_embed.grid_size, prefix, groups)


def positions(
    state: folders.Weights, name: str, old: tuple[int, int], new: tuple[int, int], prefix: int, groups: int = 1
) -> folders.Weights:
    """{name: positions on the new grid}; {} where there is nothing to interpolate, or it is of another shape."""
    if old == new or name not in state or state[name].shape[:-1] != (1, prefix + groups * old[0] * old[1]):
        return {}
    first, rest = state[name].split([prefix, groups * old[0] * old[1]], dim=1)
    each = [resample_abs_pos_embed(part, list(new), list(old), num_prefix_tokens=0) for part in rest.chunk(groups, 1)]
    return {name: torch.cat([first, *each], dim=1)}


def load_autoencoder(path: str | Path) -> tuple[mae.MaskedAutoencoder, folders.Config]:
    """(autoencoder on the CPU, its config) from a run folder, or one of ours or of ViTMAE with a decoder."""
    place = locate.find(path)
    saved = formats.read(place)
    if not saved.decoder or "mask_ratio" not in saved.config:
        raise ValueError(
            f"{place.folder} holds an encoder and no decoder; give a newer pretrain run, or a ViTMAE folder."
        )
    return autoencoder(place.folder, saved), saved.config


def autoencoder(folder: Path, saved: folders.Saved) -> mae.MaskedAutoencoder:
    """The autoencoder that a folder's content is, on the CPU; ValueError, one sentence, unless its weights fit."""
    config = saved.config
    model = mae.build(
        config["model"],
        folders.pair(config["image_size"]),
        config["channels"],
        "meta",
        config["patch_size"],
        **{key: config[key] for key in formats.NEEDED_BY_DECODER},
        norm_eps=config.get("norm_eps", vit.NORM_EPS),
        groups=config.get("band_groups", ()),
        group_masks=config.get("group_masks", "independent"),
    )
    state = {f"encoder.{name}": value for name, value in saved.encoder.items()} | saved.decoder
    return fill(model, state, f"{folder} does not fit {config['model']}")


def fresh(config: folders.Config, image_size: vit.Size, seed: int) -> vit.Encoder:
    """The same encoder with random weights, on the CPU; those of timm's own models are drawn as timm draws them."""
    if "timm" not in config:
        return materialise(shell(config, image_size), "cpu", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return shell(config, image_size)


def shell(config: folders.Config, image_size: vit.Size | None = None) -> vit.Encoder:
    """The encoder that a config describes, without head or weights: ours without memory, on the meta device.

    timm's own are on the CPU: some compute values (of RoPE) that are no weights when they are made.
    """
    own = config.get("image_size", 0)
    size = image_size or folders.pair(own)
    if isinstance(size, int) and folders.pair(own)[0] == 1:  # dates: an encoder of series
        size = 1, size
    if "timm" in config:
        rows, columns = grid(size, config["patch_size"])
        pixels = (rows * config["patch_size"], columns * config["patch_size"])
        return timm_folder.build(config["timm"], img_size=pixels)
    return vit.build(
        config["model"],
        config.get("family", "pretrain"),
        size,
        config["channels"],
        device="meta",
        patch_size=config["patch_size"],
        num_classes=0,
        norm_eps=config.get("norm_eps", vit.NORM_EPS),
        groups=config.get("band_groups", ()),
    )


def fill(module: M, state: folders.Weights, complaint: str) -> M:
    """Gives a module on the meta device these very weights; ValueError, one sentence, unless all of them fit."""
    expected = {name: list(value.shape) for name, value in module.state_dict().items()}
    faults = {
        "it lacks": [name for name in expected if name not in state],
        "it holds the unknown": [name for name in state if name not in expected],
        "of another shape:": [
            f"{name} ({list(value.shape)}, not {expected[name]})"
            for name, value in state.items()
            if name in expected and list(value.shape) != expected[name]
        ],
    }
    words = [f"{fault} {', '.join(found[:3])}{' ...' * (len(found) > 3)}" for fault, found in faults.items() if found]
    if words:
        raise ValueError(f"{complaint}: {'; '.join(words)}.")
    module.load_state_dict(state, assign=True)
    return module
