"""Encoder folders that timm reads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

The weights have timm's names already, so such a folder differs from ours in its config.json alone.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block, Mlp, VisionTransformer
from torch import nn

from geofm_lib.catalog.models import lookup
from geofm_lib.model.interop.folders import (
    SETTINGS,
    WEIGHTS,
    Config,
    Saved,
    model_of,
    pair,
    read_weights,
    side,
    statistics,
)
from geofm_lib.model.vit import NORM_EPS

KEYS = ("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg")


def obstacle(config: Config) -> str:
    """Why timm's config.json cannot hold this model; '' when it can."""
    if config.get("family", "pretrain") != "pretrain":
        return f"timm has no name for the gated MLP of family '{config['family']}'; only 'pretrain' travels"
    eps = config.get("norm_eps", NORM_EPS)
    if eps != NORM_EPS:
        return (
            f"timm builds its norms with an eps of {NORM_EPS} and this one has {eps}; if the difference is nothing to "
            f"you, write {NORM_EPS} as norm_eps (Hugging Face: layer_norm_eps) into its config.json"
        )
    return ""


def settings(config: Config) -> dict[str, Any]:
    """timm's config.json. The sizes stand in full, so any will do; the name is timm's own where it has one."""
    row, (height, width), patch = lookup(config["model"]), pair(config["image_size"]), config["patch_size"]
    name = f"vit_{row.name.removeprefix('ViT-').lower()}_patch{patch}_{height}"
    return {
        "architecture": name if height == width and timm.is_model(name) else "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": row.width,
        "global_pool": "token",
        "model_args": {
            "img_size": [height, width],
            "patch_size": patch,
            "in_chans": config["channels"],
            "embed_dim": row.width,
            "depth": row.depth,
            "num_heads": row.heads,
            "mlp_ratio": row.mlp_dim / row.width,
        },
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [config["channels"], height, width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.875,  # 224/256, as a probe is tested
            "classifier": "head",  # no first_conv: an older timm would redraw one that has not 3 channels
        }
        | {key: config[key] for key in ("mean", "std") if key in config},
    }


def read(folder: Path, given: dict[str, Any]) -> Saved:
    """The folder in our words. timm itself says what its config.json means: the model is built without memory."""
    where, name = folder / SETTINGS, given["architecture"]
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
    except Exception as error:  # whatever timm makes of a name or an argument that it does not know
        raise ValueError(f"timm cannot build the '{name}' of {where} ({error}); give another one.") from None
    if not _plain(model):
        raise ValueError(
            f"The '{name}' of {where} is no plain ViT (square patches, class token, GELU, one norm, no pooling), "
            "and geofm has no other; give another one."
        )
    patch, channels, block = model.patch_embed.patch_size[0], model.patch_embed.proj.in_channels, model.blocks[0]
    hidden, heads = block.mlp.fc1.out_features, block.attn.num_heads
    shown = given.get("pretrained_cfg", given)
    config = {
        "model": model_of(where, patch, model.embed_dim, len(model.blocks), heads, hidden),
        "family": "pretrain",
        "image_size": side(*model.patch_embed.img_size),
        "patch_size": patch,
        "channels": channels,
        **statistics(shown.get("mean"), shown.get("std"), channels),
        **({} if model.norm.eps == NORM_EPS else {"norm_eps": model.norm.eps}),
    }
    weights = read_weights(folder / WEIGHTS)
    lacking = [each for each in model.state_dict() if each not in weights]
    if lacking:
        raise ValueError(
            f"{folder / WEIGHTS} lacks {lacking[0]}, which its config.json asks for; copy the folder again."
        )
    left_out = tuple(name for name in weights if name.startswith("head."))
    return Saved(config, {n: tensor for n, tensor in weights.items() if n not in left_out}, {}, left_out)


def _plain(model: Any) -> bool:
    """What the names and shapes of the weights do not tell; they tell the rest when they are loaded."""
    if type(model) is not VisionTransformer or type(model.blocks[0]) is not Block or not model.patch_embed.img_size:
        return False
    block, (rows, columns) = model.blocks[0], model.patch_embed.patch_size
    gelu = type(block.mlp) is Mlp and isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"
    norms = (block.norm1, block.norm2, model.norm)
    same = all(isinstance(norm, nn.LayerNorm) and norm.eps == block.norm1.eps for norm in norms)
    return gelu and same and rows == columns and model.global_pool == "token"
