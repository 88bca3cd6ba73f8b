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

from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.suggest import did_you_mean

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
    # Of the bands its first convolution knows more: a configuration keeps timm's, whatever in_chans is.
    channels = next((each.in_channels for each in network.modules() if isinstance(each, nn.Conv2d)), channels)
    entered: list[torch.Size] = []

    def leave(_: nn.Module, inputs: Any, named: Any, __: Any) -> None:
        entered.extend(each.shape for each in (*inputs, *named.values()) if isinstance(each, torch.Tensor))
        raise _Enough

    blocks[0].register_forward_hook(leave, with_kwargs=True)
    try:
        with suppress(_Enough), FlopCounterMode(display=False) as counted:
            network(torch.empty((1, channels, side, side), device="meta"))
    except Exception as error:  # it may be somebody else's code
        raise ValueError(
            f"'{name}' cannot be run on an image of {side} pixels and {channels} bands: {_first_line(error)}"
        ) from None
    if not entered or len(entered[0]) < 3:
        what = f"gives them {tuple(entered[0])}" if entered else "does not run them"
        raise ValueError(f"'{name}' has 'blocks' and {what}; a plan needs images x tokens x width in its first block.")
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
    matrices = {key: shape for key, shape in shapes[0].items() if len(shape) == 2}
    inner = max((shape[0] for key, shape in matrices.items() if "mlp" in key), default=0)
    inner = inner or max((into for _, (out, into) in matrices.items() if out == width), default=4 * width)
    patch = round((side * side / (tokens - prefix)) ** 0.5)
    return {
        "source": f"timm {timm.__version__}" if ":" not in name else name, "image_size": side,
        "width": width, "depth": len(blocks), "heads": getattr(attention, "num_heads", 1), "mlp_dim": inner,
        "patch_size": patch, "patches": tokens - prefix, "prefix": prefix, "channels": channels,
        "blocks": shapes, "root": root,
    }  # fmt: skip


def _projects(name: str, shape: tuple[int, ...]) -> bool:
    """Is it the weight that makes tokens of patches? A convolution, or a matrix that is called so."""
    return len(shape) == 4 or (name.endswith("proj.weight") and len(shape) == 2 and "attn" not in name)


def _built(name: str, image_size: int) -> nn.Module:
    if ":" not in name:
        if not timm.is_model(name):
            raise ValueError(
                f"There is no model '{name}': neither a row of catalog/models.py nor a name of timm's{_near(name)}"
            )
        if not is_model_in_modules(name, TRANSFORMERS):  # at once: a table may name all of timm's networks
            raise ValueError(f"'{name}' is none of timm's plain ViTs ({', '.join(TRANSFORMERS)}), which a plan needs.")
        sized: dict[str, Any] = {"img_size": image_size} if image_size else {}
        try:
            return timm.create_model(name, pretrained=False, **sized)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"timm cannot build '{name}' for a plan: {str(error).splitlines()[0]}") from None
    module, _, function = name.partition(":")
    if module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"'{name}' names a file; write the module: {dotted}:{function}.")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)()
    except (Exception, SystemExit) as error:  # it is somebody else's code, so it may raise anything
        raise ValueError(f"'{name}' cannot be built: {type(error).__name__}: {_first_line(error)}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"'{name}' returned {type(made).__name__}, no torch.nn.Module.")
    return made


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason was given"])[0]


def _near(name: str) -> str:
    """The end of a sentence on a name that is none: the nearest ones."""
    known = [*MODELS, *(each for kind in TRANSFORMERS for each in timm.list_models(module=kind))]
    having = [each for each in known if name.lower() in each.lower()]
    return did_you_mean(name, having or known) or (f"; did you mean '{having[0]}'?" if having else ".")


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
