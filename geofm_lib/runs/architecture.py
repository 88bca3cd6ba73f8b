"""Networks that catalog/models.py does not describe, read in a process of their own: this side loads no torch."""

import json
import subprocess
import sys
from collections.abc import Iterable

from geofm_lib.catalog.models import MODELS, Model, grid, lookup, of_network
from geofm_lib.catalog.suggest import did_you_mean

ASK_S = 300.0  # for all names together


def described(names: Iterable[str], image_size: int = 0) -> dict[str, Model | str]:
    """name -> its row, or why there is none, in a sentence. ``image_size`` 0: the network's own."""
    names = list(dict.fromkeys(names))
    found: dict[str, Model | str] = {name: lookup(name) for name in names if name in MODELS}
    others = [name for name in names if name not in found]
    if not others:
        return found
    size = ["--image-size", str(image_size)] if image_size else []
    command = [sys.executable, "-m", "geofm_lib.model.described", *size, "--", *others]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{', '.join(others[:5])} cannot be read: building took more than {ASK_S:.0f} s.") from None
    try:
        read = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"{', '.join(others)} cannot be read: {last}") from None
    return found | {name: facts.get("refused") or of_network(name, facts) for name, facts in read.items()}


def model(name: str, image_size: int = 0) -> Model:
    """The row of one name: the catalog's, a timm ViT's, or of ``module:function``; ValueError, one sentence."""
    near = did_you_mean(name, MODELS) if ":" not in name and not name.islower() else None
    if near and name not in MODELS:
        return lookup(name)  # refuses it
    found = described([name], image_size)[name]
    if isinstance(found, str):
        raise ValueError(found)
    if image_size and found.built:
        grid(image_size, found.patch_size)  # a convolution drops what is over at the edges without a word
    return found
