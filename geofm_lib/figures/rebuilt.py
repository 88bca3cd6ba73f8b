"""02: how near what a pretraining rebuilt is to the image, beside two plain guesses that know each patch. No torch."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from geofm_lib.advice import pretraining
from geofm_lib.files import Damaged
from geofm_lib.runs.run import Run


def kept(run: Run) -> dict[str, Any]:
    """The ratios of what a run rebuilt, its side, and how many images; {} without: its own figure says why."""
    with suppress(OSError, Damaged), np.load(run.proved("reconstruction.npz")) as saved:
        if "means" in saved:
            about = {"images": len(saved["original"]), "side": run.summary.get("rebuilt", "")}
            return ratios(saved, patch(run)) | about | {"put back": bool(run.settings.get("norm_pix_loss"))}
    return {}


def beside(told: dict[str, Any]) -> str:
    """Of how many images the ratios are, all of them, and what a rebuilt patch knows for free."""
    back = "; what is rebuilt has each patch's true brightness and contrast put back" if told["put back"] else ""
    side = f"{told['side']} " if told["side"] else ""
    return f"{told['images']} {side}image{'s' * (told['images'] != 1)}: {listed(told)}{back}"


def listed(told: Mapping[str, float]) -> str:
    """Each ratio with what it is of."""
    words = {"rebuilt": "rebuilt", "means": pretraining.BRIGHTNESS, "colours": "mean colour of each patch"}
    return ", ".join(f"{said} {decibels(told[name])}" for name, said in words.items() if name in told)


def decibels(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:.1f} dB" if np.isfinite(ratio) else "no error"


def ratios(saved: Mapping[str, np.ndarray], size: int) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB over the masked pixels: rebuilt, means, and colours where the patch is known."""
    original, hidden = saved["original"].astype(float), saved["hidden"]
    guesses = {name: saved[name].astype(float) for name in ("rebuilt", "means")}
    if size:
        guesses["colours"] = colours(saved, size).astype(float)
    errors = {name: np.square(guess - original)[hidden].mean() for name, guess in guesses.items()}
    return {name: 10 * np.log10(255**2 / each) if each else np.inf for name, each in errors.items()}


def colours(saved: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """Images with the mean colour of each masked patch of `size` pixels, over what was measured: uint8 [B, H, W, C]."""
    original, hidden = saved["original"], saved["hidden"]
    hidden = hidden if hidden.ndim == original.ndim else hidden[..., None]  # one for all colours
    count, height, width, bands = original.shape
    apart = (count, height // size, size, width // size, size)
    counted = hidden.reshape(*apart, -1)
    summed = (original.astype(float).reshape(*apart, bands) * counted).sum((2, 4), keepdims=True)
    mean = summed / counted.sum((2, 4), keepdims=True).clip(1)
    whole = np.broadcast_to(mean, (*apart, bands)).reshape(original.shape)
    return np.where(hidden, whole.round().astype(np.uint8), original)


def patch(run: Run) -> int:
    """Pixels a side of a patch, as the encoder that the run left says; 0 where it left none."""
    return int(run.read_json("encoder/config.json").get("patch_size", 0))
