"""Folders of Hugging Face's ViT and, with the decoder, of its ViTMAE: their settings in our words, and back."""

from pathlib import Path
from typing import Any

from geofm_lib.catalog.models import grid, lookup, visible_patches
from geofm_lib.model.interop.folders import (
    SETTINGS,
    WEIGHTS,
    Config,
    Saved,
    check,
    model_of,
    pair,
    read_json,
    read_weights,
    side,
    statistics,
)
from geofm_lib.model.interop.huggingface_weights import to_ours, to_theirs
from geofm_lib.model.vit import NORM_EPS

MODEL_TYPES = {"vit": "vit", "vit_mae": "vitmae"}  # in a config.json -> our name of the format
PREPROCESSOR = "preprocessor_config.json"
BICUBIC = 3  # Pillow's number
# What the absence of a key means: the defaults of ViTConfig and ViTMAEConfig.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}


def obstacle(saved: Saved, kind: str) -> str:
    """Why ``kind`` (vit or vitmae) cannot hold this model; '' when it can."""
    height, width = pair(saved.config["image_size"])
    if saved.config.get("family", "pretrain") != "pretrain":
        return f"Hugging Face's ViT lacks the gated MLP of family '{saved.config['family']}'; only 'pretrain' travels"
    if kind == "vitmae" and not saved.decoder:
        return "its folder holds no decoder.safetensors; export it as vit, or pretrain again"
    if kind == "vitmae" and height != width:
        return f"ViTMAE takes square images, and this one takes {height}x{width} pixels; export it as vit"
    return ""


def files(saved: Saved, kind: str) -> dict[str, Any]:
    """{file name: weights or settings} of the folder; a preprocessor where mean and std are known."""
    found = {WEIGHTS: to_theirs(saved, kind), SETTINGS: _settings(saved.config, kind)}
    return found | ({PREPROCESSOR: _preprocessor(saved.config)} if "mean" in saved.config else {})


def read(folder: Path, given: dict[str, Any]) -> Saved:
    """The folder in our words; ``given`` is its config.json."""
    where = folder / SETTINGS
    asked: dict[str, Any] = DEFAULTS | given
    check(asked, where, {key: type(value) for key, value in DEFAULTS.items()})
    (height, width), (patch, across) = pair(asked["image_size"]), pair(asked["patch_size"])
    if asked["hidden_act"] != "gelu" or patch != across:
        raise ValueError(
            f"{where} asks for the activation '{asked['hidden_act']}' and patches of {patch}x{across} pixels; geofm's "
            "ViT has 'gelu' and square patches, so give another one."
        )
    sizes = (asked[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
    config = {
        "model": model_of(where, patch, *sizes),
        "family": "pretrain",
        "image_size": side(height, width),
        "patch_size": patch,
        "channels": asked["num_channels"],
        **_statistics(folder / PREPROCESSOR, asked["num_channels"]),
        **({} if asked["layer_norm_eps"] == NORM_EPS else {"norm_eps": asked["layer_norm_eps"]}),
    }
    weights = read_weights(folder / WEIGHTS)
    if any(name.startswith("decoder.") for name in weights):
        rows, columns = grid((height, width), patch)
        patches, ratio = rows * columns, asked["mask_ratio"]
        kept = int(patches * (1 - ratio))
        same = not 0 < ratio < 1 or visible_patches(patches, ratio) == kept
        config |= {
            "decoder_width": asked["decoder_hidden_size"],
            "decoder_depth": asked["decoder_num_hidden_layers"],
            "decoder_heads": asked["decoder_num_attention_heads"],
            "mask_ratio": ratio if same else 1 - kept / patches,
            "norm_pix_loss": asked["norm_pix_loss"],
        }
    return to_ours(weights, config)


def _settings(config: Config, kind: str) -> dict[str, Any]:
    row, (height, width), patch = lookup(config["model"]), pair(config["image_size"]), config["patch_size"]
    found = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": row.width,
        "num_hidden_layers": row.depth,
        "num_attention_heads": row.heads,
        "intermediate_size": row.mlp_dim,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": config.get("norm_eps", NORM_EPS),
        "image_size": side(height, width),
        "patch_size": patch,
        "num_channels": config["channels"],
        "qkv_bias": True,
    }
    if kind == "vit":
        return found
    rows, columns = grid((height, width), patch)
    patches, ratio = rows * columns, config["mask_ratio"]
    kept = visible_patches(patches, ratio)
    return found | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": config["decoder_width"],
        "decoder_num_hidden_layers": config["decoder_depth"],
        "decoder_num_attention_heads": config["decoder_heads"],
        "decoder_intermediate_size": 4 * config["decoder_width"],
        # They round the patches that stay down, we round to the nearest: where that differs, a ratio that keeps ours.
        "mask_ratio": ratio if int(patches * (1 - ratio)) == kept else 1 - (kept + 0.5) / patches,
        "norm_pix_loss": config["norm_pix_loss"],
    }


def _preprocessor(config: Config) -> dict[str, Any]:
    height, width = pair(config["image_size"])
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config["mean"],
        "image_std": config["std"],
    }


def _statistics(path: Path, channels: int) -> dict[str, Any]:
    """mean and std of a preprocessor that scales pixels to 0..1 first, as ours does; nothing where there is none."""
    given = read_json(path) if path.is_file() else {"do_rescale": False}
    if not given.get("do_rescale", True) or abs(255 * given.get("rescale_factor", 1 / 255) - 1) > 1e-6:
        return {}
    if not given.get("do_normalize", True):
        return statistics([0.0] * channels, [1.0] * channels, channels)
    return statistics(given.get("image_mean"), given.get("image_std"), channels)
