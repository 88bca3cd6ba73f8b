"""Names of weights in Hugging Face's ViT and ViTMAE, and ours.

A weight is only renamed, cut, joined or reordered, so a round trip is bitwise. Names are written as the hub has them
(transformers 4); transformers 5 reads those, and the names that it writes are read here too.
"""

import re

import torch

from geofm_lib.catalog.models import lookup
from geofm_lib.model.interop.folders import Config, Saved, Weights, split

LEFT_OUT = re.compile(r"(pooler|classifier)\..*|embeddings\.mask_token")  # what frozen features do not need

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


def names(depth: int, decoder_depth: int = 0) -> dict[str, tuple[str, ...]]:
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
    for ours, theirs in names(lookup(saved.config["model"]).depth, saved.config["decoder_depth"] if mae else 0).items():
        value = state[ours]
        if ours.startswith("decoder_pred."):
            value = _channels_last(value, saved.config["patch_size"])
        for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            found[f"vit.{name}" if mae and not name.startswith("decoder.") else name] = part
    return found


def to_ours(weights: Weights, config: Config) -> Saved:
    """Weights by the names of the hub, or of transformers 5, in our words.

    A weight that has no place with us keeps its name, and one that is missing stays missing: who loads them says so.
    """
    waiting = {}
    for name, value in weights.items():
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        waiting[name] = value
    left_out = tuple(name for name in waiting if LEFT_OUT.fullmatch(name))
    found = {}
    for ours, theirs in names(lookup(config["model"]).depth, config.get("decoder_depth", 0)).items():
        if all(name in waiting for name in theirs):
            parts = [waiting.pop(name) for name in theirs]
            found[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
            if ours.startswith("decoder_pred."):
                found[ours] = _channels_first(found[ours], config["patch_size"])
    unknown = {name: value for name, value in waiting.items() if name not in left_out}
    return Saved(config, *split(found | unknown), left_out)


def _channels_last(rows: torch.Tensor, patch: int) -> torch.Tensor:
    """Rows of ``decoder_pred`` in their order of a patch's numbers, (row, column, channel). Ours is a convolution's,
    (channel, row, column)."""
    return rows.reshape(-1, patch * patch, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _channels_first(rows: torch.Tensor, patch: int) -> torch.Tensor:
    """The inverse of ``_channels_last``."""
    return rows.reshape(patch * patch, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
