"""Encoder folders that timm reads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

The weights have timm's names already, so such a folder differs from ours in its config.json alone.
"""

import importlib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, Mlp, VisionTransformer
from torch import nn

from geofm_lib.catalog.models import lookup
from geofm_lib.model.interop.folders import (
    GROUPED,
    Config,
    Saved,
    Weights,
    model_of,
    pair,
    read_json,
    read_weights,
    side,
    statistics,
)
from geofm_lib.model.interop.locate import SETTINGS, Place
from geofm_lib.model.vit import NORM_EPS

KEYS = ("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg")

CARD = """# {model}, {channels} channels, {size} pixels in patches of {patch_size}

Pretrained as a masked autoencoder by geofm. Images are in 0..1, less `mean`, divided by `std` (config.json).

`timm.create_model("local-dir:FOLDER", pretrained=True)` returns the **class token** after the last norm. geofm's probe
(05) takes the **mean of the patch tokens** (`pool=mean`), which mostly tells more. It is either of:

```python
model = timm.create_model("local-dir:FOLDER", pretrained=True, global_pool="avg", fc_norm=False)
features = model(images)

model = timm.create_model("local-dir:FOLDER", pretrained=True)
features = model.forward_features(images)[:, model.num_prefix_tokens :].mean(dim=1)
```

Without `fc_norm=False`, timm puts the last norm behind the mean, where these weights have none.
"""

GROUPED_CARD = """# {model}, {channels} channels in groups {groups} (numbers from 0), patches of {patch_size}

Pretrained by geofm. Each group of bands makes tokens of its own, so neither timm nor transformers can load this folder:

```python
from geofm_lib.model.interop.load import load_encoder
from geofm_lib.model.vit import features

encoder, config = load_encoder("FOLDER")
tokens = encoder.forward_features(images)  # [B, 1 + groups x places, width]; features(encoder, images) is their mean
```

Images are in 0..1, less `mean`, divided by `std` (config.json); `bands` there has the bands' names in their order,
where they have any.
"""


def obstacle(config: Config) -> str:
    """Why timm's config.json cannot hold this model; '' when it can."""
    if config.get("family", "pretrain") != "pretrain":
        return f"timm has no name for the gated MLP of family '{config['family']}'; only 'pretrain' travels"
    if config.get("band_groups"):
        return f"timm has no ViT that {GROUPED}"
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


def card(config: Config) -> str:
    """README.md of such a folder: what it holds, and both features that timm makes of it."""
    height, width = pair(config["image_size"])
    return CARD.format(**config | {"size": f"{height} x {width}", "mean": config.get("mean", "not known")})


def read(place: Place, given: dict[str, Any]) -> Saved:
    """The folder in our words. timm itself says what its config.json means: the model is built without memory."""
    where, name = place.folder / SETTINGS, given["architecture"]
    model = build(place.folder, "meta")
    patches, shown = model.patch_embed, given.get("pretrained_cfg", given)
    channels, across = patches.proj.in_channels, patches.patch_size
    config = {
        "model": name,
        "family": "pretrain",
        "image_size": side(*(patches.img_size or pair(shown.get("input_size", [0, 224, 224])[1:]))),
        "patch_size": across[0],
        "channels": channels,
        **statistics(shown.get("mean"), shown.get("std"), channels),
    }
    weights = read_weights(*place.weights)
    left_out = tuple(n for n in weights if n.startswith(("head.", "head_dist.")))
    weights = {n: tensor for n, tensor in weights.items() if n not in left_out}
    foreign = ""
    if _plain(model):
        block, eps = model.blocks[0], model.norm.eps
        hidden, heads = block.mlp.fc1.out_features, block.attn.num_heads
        try:
            config["model"] = model_of(where, across[0], model.embed_dim, len(model.blocks), heads, hidden)
        except ValueError as error:
            foreign = str(error)
        lacking = [each for each in model.state_dict() if each not in weights]
        if lacking and not foreign:
            raise ValueError(
                f"{place.weights[0]} lacks {lacking[0]}, which its config.json asks for; copy the folder again."
            )
        config |= {} if eps == NORM_EPS else {"norm_eps": eps}
    else:
        foreign = (
            f"The '{name}' of {where} is no plain ViT (square patches, class token, GELU, one norm, no pooling); a "
            "probe takes it as timm defines it, but geofm cannot train or export it, so give another one."
        )
    return Saved(config | ({"timm": str(place.folder)} if foreign else {}), weights, {}, left_out, foreign)


def build(folder: str | Path, device: str = "cpu", **changed: Any) -> Any:
    """timm's own model of a folder's config.json, without head and weights; ValueError, one sentence, unless a ViT.

    ``changed`` are arguments in place of the folder's, as ``img_size``.
    """
    where = Path(folder) / SETTINGS
    name = read_json(where).get("architecture")
    try:
        with torch.device(device):
            model: Any = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0, **changed)
    except Exception as error:  # whatever timm makes of a name or an argument that it does not know
        raise ValueError(f"timm cannot build the '{name}' of {where} ({error}); give another one.") from None
    parts = ("blocks", "patch_embed", "fc_norm", "num_prefix_tokens", "cls_token")
    if not all(hasattr(model, part) for part in parts) or not isinstance(model.patch_embed, PatchEmbed):
        raise ValueError(f"The '{name}' of {where} is no plain ViT, nor one of timm's others; give another one.")
    return model


def renamed(model: Any, weights: Weights) -> Weights:
    """Weights as timm's own loader gives them to ``model``: by its names, with positions interpolated to its grid."""
    module = importlib.import_module(timm.models.model_entrypoint(model.pretrained_cfg["architecture"]).__module__)
    change = getattr(module, "checkpoint_filter_fn", lambda state, _: state)
    try:
        return {name: value.float() for name, value in change(dict(weights), model).items()}
    except Exception as error:  # it reshapes what it takes for positions
        named = model.pretrained_cfg["architecture"]
        raise ValueError(f"The weights do not fit timm's '{named}' ({error}); copy the folder again.") from None


def _plain(model: Any) -> bool:
    """What our own ViT can be: what timm would build from other definitions has other weights, or another order."""
    if type(model) is not VisionTransformer or type(model.blocks[0]) is not Block or not model.patch_embed.img_size:
        return False
    block: Any = model.blocks[0]
    rows, columns = model.patch_embed.patch_size
    gelu = type(block.mlp) is Mlp and isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"
    norms = (block.norm1, block.norm2, model.norm)
    same = all(isinstance(norm, nn.LayerNorm) and norm.eps == block.norm1.eps for norm in norms)
    return gelu and same and rows == columns and model.global_pool == "token" and _names(model) == _plain_names(model)


def _names(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _plain_names(model: Any) -> dict[str, torch.Size]:
    """The weights of the plain ViT of a model's sizes: registers, scales and other norms would add to them."""
    block: Any = model.blocks[0]
    with torch.device("meta"):
        plain = VisionTransformer(
            img_size=model.patch_embed.img_size,
            patch_size=model.patch_embed.patch_size,
            in_chans=model.patch_embed.proj.in_channels,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
            num_classes=0,
        )
    return _names(plain)
