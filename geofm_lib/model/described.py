"""What a plan needs to know of a network: the shapes of its weights, and its tokens. No weight gets memory.

A name of timm's, or ``module:function`` that returns a network. It is built, and run through its first block, on
torch's meta device, where tensors have a shape and no bytes. The command prints JSON: for each name its facts, or
``{"refused": why}``. The notebook's side asks in a process of its own, since it loads no torch:

    python -m geofm_lib.model.described NAME... [--image-size N]
"""

import importlib
import json
import os
import sys
from argparse import ArgumentParser
from contextlib import suppress
from math import prod
from typing import Any

import timm
import torch
from timm.layers import set_fused_attn
from timm.models import is_model_in_modules
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

APART = 0.03  # of its operations, that its blocks need not account for

TRANSFORMERS = ("vision_transformer", "vision_transformer_hybrid", "deit", "beit", "eva", "naflexvit", "hiera")


class _Enough(Exception):
    """The first block is done."""


def facts(name: str, image_size: int = 0) -> dict[str, Any]:
    """Width, depth, heads, patches and shapes of the network called ``name``; ValueError for what is no plain ViT."""
    with torch.device("meta"):
        network = _built(name, image_size)
    network.eval()
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise ValueError(f"'{name}' has no row of transformer blocks called 'blocks'; a plan knows plain ViTs only.")
    shapes = [{key: tuple(each.shape) for key, each in block.named_parameters()} for block in blocks]
    if any(each != shapes[0] for each in shapes):
        raise ValueError(f"The blocks of '{name}' are not all of one size; a plan knows plain ViTs only.")
    config = getattr(network, "default_cfg", None) or {}
    channels, side, _ = config.get("input_size", (3, image_size or 224, image_size or 224))
    side = image_size or side
    entered: list[torch.Size] = []

    def leave(_: nn.Module, inputs: Any, __: Any) -> None:
        entered.append(inputs[0].shape)
        raise _Enough

    blocks[0].register_forward_hook(leave)
    try:
        with suppress(_Enough), FlopCounterMode(display=False) as counted:
            network(torch.empty((1, channels, side, side), device="meta"))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"'{name}' cannot be run on an image of {side} pixels: {str(error).splitlines()[0]}") from None
    _, *between, width = entered[0]
    tokens, prefix = prod(between), getattr(network, "num_prefix_tokens", 0) or 0
    products = sum(prod(shape) for shape in shapes[0].values() if len(shape) == 2)
    root = {k: tuple(p.shape) for k, p in network.named_parameters() if not k.startswith("blocks.")}
    outside = 2 * (tokens - prefix) * max((prod(s) for k, s in root.items() if _projects(k, s)), default=0)
    plain = outside + 2 * tokens * products + 4 * tokens**2 * width
    if abs((done := counted.get_total_flops()) / plain - 1) > APART:
        raise ValueError(
            f"'{name}' is no plain ViT, which a plan needs: to the end of its first block it does {done / 1e9:.2f} "
            f"GFLOP an image, and patches with one block of its size {plain / 1e9:.2f}."
        )
    attention = next((each for each in blocks[0].modules() if hasattr(each, "num_heads")), None)
    inner = max((shape[0] for key, shape in shapes[0].items() if "mlp" in key and len(shape) == 2), default=4 * width)
    patch = round((side * side / (tokens - prefix)) ** 0.5)
    return {
        "source": f"timm {timm.__version__}" if ":" not in name else name, "image_size": side,
        "width": width, "depth": len(blocks), "heads": getattr(attention, "num_heads", 1), "mlp_dim": inner,
        "patch_size": patch, "patches": tokens - prefix, "prefix": prefix, "blocks": shapes, "root": root,
    }  # fmt: skip


def _projects(name: str, shape: tuple[int, ...]) -> bool:
    """Is it the weight that makes tokens of patches?"""
    return name.endswith("proj.weight") and len(shape) in (2, 4) and "attn" not in name


def _built(name: str, image_size: int) -> nn.Module:
    if ":" not in name:
        if not timm.is_model(name):
            raise ValueError(f"There is no model '{name}': neither a row of catalog/models.py nor a name of timm's.")
        if not is_model_in_modules(name, TRANSFORMERS):  # at once: a table may name all of timm's networks
            raise ValueError(f"'{name}' is none of timm's plain ViTs ({', '.join(TRANSFORMERS)}), which a plan needs.")
        sized: dict[str, Any] = {"img_size": image_size} if image_size else {}
        try:
            return timm.create_model(name, pretrained=False, **sized)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"timm cannot build '{name}' for a plan: {str(error).splitlines()[0]}") from None
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:  # it is somebody else's code, so it may raise anything
        raise ValueError(f"'{name}' cannot be built: {type(error).__name__}: {error}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"'{name}' returned {type(made).__name__}, no torch.nn.Module.")
    return made


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--image-size", type=int, default=0)
    asked = parser.parse_args()
    set_fused_attn(False)  # the counter sees every product
    found: dict[str, Any] = {}
    for name in asked.names:
        try:
            found[name] = facts(name, asked.image_size)
        except ValueError as error:
            found[name] = {"refused": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
