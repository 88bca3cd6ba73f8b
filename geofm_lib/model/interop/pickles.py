"""Weights out of a pickle (.pth, .pt, .bin), by torch's reader that knows tensors and runs no code."""

import re
from pathlib import Path

import torch

from geofm_lib.model.init import plain_name

WRAPPED = ("model", "state_dict", "module")  # keys under which training scripts keep the weights


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle; ValueError, one sentence, where torch's reader refuses it or it is broken."""
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of before torch 1.6: it cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a reader makes of bytes that are no pickle
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not refused:
            first = (str(error).splitlines() or [""])[0]
            why = f"{type(error).__name__}: {first[:100]}"
            raise ValueError(f"{path} is no whole file of torch's ({why}); copy it again.") from None
        raise ValueError(
            f"{path} holds more than weights ({refused[1]}), and a pickle can run any code; who trusts it can save its "
            f"weights alone, in Python: import torch; found = torch.load('{path.name}', weights_only=False); "
            "torch.save(found.get('model', found), 'weights.pth')."
        ) from None
    while isinstance(found, dict) and (inner := next((k for k in WRAPPED if isinstance(found.get(k), dict)), "")):
        found = found[inner]
    if not isinstance(found, dict) or not any(isinstance(each, torch.Tensor) for each in found.values()):
        raise ValueError(f"{path} holds no weights by name but a {type(found).__name__}; give another file.")
    return {plain_name(str(n)): each for n, each in found.items() if isinstance(each, torch.Tensor)}
