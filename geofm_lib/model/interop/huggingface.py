"""Folders of Hugging Face's ViT and, with the decoder, of its ViTMAE: settings and weights in our words, and back.

A weight is only renamed, cut, joined or reordered, so a round trip is bitwise. Names are written as the hub has them
(transformers 4); transformers 5 reads those, and the names that it writes are read here too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from geofm_lib.catalog.models import grid, lookup, visible_patches
from geofm_lib.model.interop.folders import (
    GROUPED,
    Config,
    Saved,
    Weights,
    check,
    model_of,
    pair,
    read_json,
    read_weights,
    side,
    split,
    statistics,
)
from geofm_lib.model.interop.locate import SETTINGS, WEIGHTS
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


LEFT_OUT = re.compile(
    r"(pooler|classifier|decoder\.\d+)\..*|embeddings\.mask_token"
)  # what frozen features do not need

# Ours -> theirs, in one block and around the blocks. We keep query, key and value in one matrix.
BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
ENCODER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
DECODER = ["mask_token", "decoder_pos_embed"]
DECODER += [f"decoder_{part}.{kind}" for part in ("embed", "norm", "pred") for kind in ("weight", "bias")]
# transformers 5 -> the hub. When it saves under the hub's names, it calls the decoder's blocks decoder_encoder.layer.
RENAMED = [
    (r"^vit\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]


def obstacle(saved: Saved, kind: str) -> str:
    """Why ``kind`` (vit or vitmae) cannot hold this model; '' when it can."""
    height, width = pair(saved.config["image_size"])
    if saved.config.get("family", "pretrain") != "pretrain":
        return f"Hugging Face's ViT lacks the gated MLP of family '{saved.config['family']}'; only 'pretrain' travels"
    if saved.config.get("band_groups"):
        return f"Hugging Face has no ViT that {GROUPED}"
    if kind == "vitmae" and not saved.decoder:
        return "its folder holds no decoder.safetensors; export it as vit, or pretrain again"
    if kind == "vitmae" and height != width:
        return f"ViTMAE takes square images, and this one takes {height}x{width} pixels; export it as vit"
    return ""


def files(saved: Saved, kind: str) -> dict[str, Any]:
    """{file name: weights or settings} of the folder; a preprocessor where mean and std are known."""
    found = {WEIGHTS: to_theirs(saved, kind), SETTINGS: _settings(saved.config, kind)}
    return found | ({PREPROCESSOR: _preprocessor(saved.config)} if "mean" in saved.config else {})


def read(folder: Path, given: dict[str, Any], files: Sequence[Path]) -> Saved:
    """The folder in our words; ``given`` is its config.json, ``files`` have its weights."""
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
    weights = read_weights(*files)
    if given["model_type"] == "vit_mae" and any(name.startswith("decoder.") for name in weights):
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


def _names(depth: int, decoder_depth: int = 0) -> dict[str, tuple[str, ...]]:
    """Our name of every weight -> the hub's, of an encoder and, from one block on, its decoder."""
    found: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in ENCODER.items()}
    if decoder_depth:
        found |= {ours: (f"decoder.{ours}",) for ours in DECODER}
    stacks = (("blocks", "encoder.layer", depth), ("decoder_blocks", "decoder.decoder_layers", decoder_depth))
    for ours, theirs, count in stacks:
        for i in range(count):
            for part, others in BLOCK.items():
                for kind in ("weight", "bias"):
                    found[f"{ours}.{i}.{part}.{kind}"] = tuple(f"{theirs}.{i}.{other}.{kind}" for other in others)
    return found


def to_theirs(saved: Saved, kind: str) -> Weights:
    """All weights by the hub's names: ViTModel's for ``vit``, ViTMAEForPreTraining's for ``vitmae``."""
    mae = kind == "vitmae"
    state = saved.encoder | saved.decoder
    found = {}
    for ours, theirs in _names(
        lookup(saved.config["model"]).depth, saved.config["decoder_depth"] if mae else 0
    ).items():
        value = state[ours]
        if ours.startswith("decoder_pred."):
            value = channels_last(value, saved.config["patch_size"])
        for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            found[f"vit.{name}" if mae and not name.startswith("decoder.") else name] = part
    return found


def hub_name(name: str) -> str:
    """A weight's name on the hub, without the model's before it, from that or from a name of transformers 5."""
    for old, new in RENAMED:
        name = re.sub(old, new, name)
    return name


def to_ours(weights: Weights, config: Config) -> Saved:
    """Weights by the names of the hub, or of transformers 5, in our words.

    A weight that has no place with us keeps its name, and one that is missing stays missing: who loads them says so.
    """
    waiting = {hub_name(name): value for name, value in weights.items()}
    left_out = tuple(name for name in waiting if LEFT_OUT.fullmatch(name))
    found = {}
    for ours, theirs in _names(lookup(config["model"]).depth, config.get("decoder_depth", 0)).items():
        if all(name in waiting for name in theirs):
            parts = [waiting.pop(name) for name in theirs]
            found[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
            if ours.startswith("decoder_pred."):
                found[ours] = channels_first(found[ours], config["patch_size"])
    unknown = {name: value for name, value in waiting.items() if name not in left_out}
    return Saved(config, *split(found | unknown), left_out)


def channels_last(rows: torch.Tensor, patch: int) -> torch.Tensor:
    """Rows of ``decoder_pred`` in their order of a patch's numbers, (row, column, channel). Ours is a convolution's,
    (channel, row, column)."""
    return rows.reshape(-1, patch * patch, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def channels_first(rows: torch.Tensor, patch: int) -> torch.Tensor:
    """The inverse of ``channels_last``."""
    return rows.reshape(patch * patch, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
