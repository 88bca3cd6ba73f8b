"""A file of weights without a config.json, as MAE publishes its own: the shapes say what model it is.

Names are timm's for the encoder and MAE's for the decoder, which are ours too; only the rows of MAE's ``decoder_pred``
are ordered otherwise.
"""

import math
from pathlib import Path

import torch

from geofm_lib.catalog.models import MODELS
from geofm_lib.model.interop.folders import Config, Saved, Weights, model_of, split
from geofm_lib.model.interop.huggingface import channels_first

HEAD = ("head.", "head_dist.", "fc.")


def read(where: Path, weights: Weights) -> Saved:
    """The weights in our words; ValueError, one sentence, where they are no ViT's of the catalogue.

    Heads leave no trace in shapes, so they are those of the catalogue's row. Mean and std are not known, nor is the
    decoder's target.
    """
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    lacking = [name for name in needed if name not in weights]
    if lacking or weights[needed[0]].ndim != 4:
        raise ValueError(
            f"{where} has no config.json beside it and holds no ViT by timm's or MAE's names (it lacks "
            f"{', '.join(lacking) or 'a patch projection'}); give the whole folder of its model."
        )
    left_out = tuple(name for name in weights if name.startswith(HEAD))
    encoder, decoder = split({name: each for name, each in weights.items() if name not in left_out})
    width, channels, patch, _ = encoder[needed[0]].shape
    depth, mlp_dim = _count(encoder, "blocks"), encoder[needed[2]].shape[0]
    side = math.isqrt(encoder["pos_embed"].shape[1] - 1)
    heads = next((m.heads for m in MODELS.values() if (m.width, m.depth, m.mlp_dim) == (width, depth, mlp_dim)), 0)
    config: Config = {
        "model": model_of(where, patch, width, depth, heads or width // 64, mlp_dim),
        "family": "pretrain",
        "image_size": side * patch,
        "patch_size": patch,
        "channels": channels,
    }
    if decoder and "decoder_embed.weight" in decoder and "decoder_pred.weight" in decoder:
        config |= {"decoder_width": decoder["decoder_embed.weight"].shape[0]}
        config |= {"decoder_depth": _count(decoder, "decoder_blocks")}
        for name in ("decoder_pred.weight", "decoder_pred.bias"):
            decoder[name] = channels_first(decoder[name], patch)
    return Saved(config, encoder, decoder, left_out)


def _count(weights: dict[str, torch.Tensor], stack: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(f"{stack}.")})
