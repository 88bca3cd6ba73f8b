"""safetensors files written one tensor at a time, so that a model need not be in memory to be exported.

The library's own writer wants all tensors at once; its reader reads these files (format:
https://github.com/huggingface/safetensors, "Format"). Nothing is ever unpickled.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from geofm_lib import files

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write(file: str | Path, tensors: Iterable[tuple[str, torch.Tensor]], layout: dict[str, torch.Tensor]) -> None:
    """Write `tensors`, (name, value) in the order of `layout`, whole or not at all.

    Args:
        layout: name -> anything with the tensor's shape and dtype (a meta tensor, a shard of it): the file begins
            with a table of all of them.
    """
    start, table = 0, {}
    for name, like in layout.items():
        size = like.numel() * like.element_size()
        table[name] = {"dtype": DTYPES[like.dtype], "shape": list(like.shape), "data_offsets": [start, start + size]}
        start += size
    header = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    header += b" " * (-len(header) % 8)
    with files.whole(file, durable=True) as fresh, open(fresh, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for (name, value), expected in zip(tensors, layout, strict=True):
            if (name, value.shape, value.dtype) != (expected, layout[expected].shape, layout[expected].dtype):
                raise ValueError(f"{file}: {name} {list(value.shape)} came where {expected} belongs")
            stream.write(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
