"""Encoders and autoencoders from a run, or from a folder in any format of ``formats``. Nothing is ever unpickled."""

from pathlib import Path
from typing import TypeVar

from timm.layers import resample_abs_pos_embed
from torch import nn

from geofm_lib.catalog.models import grid
from geofm_lib.model import mae, vit
from geofm_lib.model.interop import folders, formats

M = TypeVar("M", bound=nn.Module)


def load_encoder(path: str | Path, image_size: vit.Size | None = None) -> tuple[vit.ViT, folders.Config]:
    """(encoder on the CPU, its config). ValueError, one sentence, for what cannot be an encoder.

    At another ``image_size`` than the encoder was trained at, the positions are interpolated to the new grid.
    """
    folder = folders.find(path)
    saved = formats.read(folder, decoder=False)
    encoder, state = shell(saved.config, image_size), saved.encoder
    old = grid(folders.pair(saved.config["image_size"]), saved.config["patch_size"])
    new = encoder.patch_embed.grid_size
    prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    expected = (1, prefix + old[0] * old[1], encoder.embed_dim)
    if old != new and "pos_embed" in state and state["pos_embed"].shape == expected:  # others: fill says what is wrong
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], list(new), list(old), num_prefix_tokens=prefix)
    return fill(encoder, state, f"{folder / folders.WEIGHTS} does not fit {saved.config['model']}").eval(), saved.config


def load_autoencoder(path: str | Path) -> tuple[mae.MaskedAutoencoder, folders.Config]:
    """(autoencoder on the CPU, its config) from a run folder, or one of ours or of ViTMAE with a decoder."""
    folder = folders.find(path)
    saved = formats.read(folder)
    if not saved.decoder:
        raise ValueError(f"{folder} holds an encoder and no decoder; give a newer pretrain run, or a ViTMAE folder.")
    return autoencoder(folder, saved), saved.config


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
    )
    state = {f"encoder.{name}": value for name, value in saved.encoder.items()} | saved.decoder
    return fill(model, state, f"{folder} does not fit {config['model']}")


def shell(config: folders.Config, image_size: vit.Size | None = None) -> vit.ViT:
    """The encoder that a config describes, without head, memory or weights (on the meta device)."""
    return vit.build(
        config["model"],
        config.get("family", "pretrain"),
        image_size or folders.pair(config["image_size"]),
        config["channels"],
        device="meta",
        patch_size=config["patch_size"],
        num_classes=0,
        norm_eps=config.get("norm_eps", vit.NORM_EPS),
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
