"""The four formats of an encoder's folder: ours, timm's, Hugging Face's ViT and its ViTMAE."""

from pathlib import Path
from typing import Any

from geofm_lib.model.interop import huggingface, timm_folder
from geofm_lib.model.interop.folders import DECODER, SETTINGS, WEIGHTS, Config, Saved, check, read_json, read_weights

FORMATS = ("geofm", "timm", "vit", "vitmae")
NEEDED = ("model", "image_size", "patch_size", "channels")
NEEDED_BY_DECODER = ("decoder_width", "decoder_depth", "decoder_heads", "mask_ratio", "norm_pix_loss")
TYPES: dict[str, type] = {"model": str, "family": str, "norm_eps": float, "mask_ratio": float, "norm_pix_loss": bool}
TYPES |= dict.fromkeys(("image_size", "patch_size", "channels", *NEEDED_BY_DECODER[:3]), int)


def read(folder: Path, decoder: bool = True) -> Saved:
    """The folder's content, whichever of the four formats it has; ``decoder=False`` leaves our decoder's file unread.

    ValueError in one sentence for another architecture, a size that is no row of the catalogue, or a broken file.
    """
    given = read_json(folder / SETTINGS)
    if "model" in given:
        return _read_ours(folder, given, decoder)
    if given.get("model_type") in huggingface.MODEL_TYPES:
        return huggingface.read(folder, given)
    if "architecture" in given and "model_type" not in given:
        return timm_folder.read(folder, given)
    raise ValueError(
        f"{folder / SETTINGS} describes an architecture that geofm does not have (model_type "
        f"{given.get('model_type', 'not named')}); give a pretrain run, a timm ViT, or a Hugging Face ViT or ViTMAE "
        f"(model_type {' or '.join(huggingface.MODEL_TYPES)})."
    )


def files(saved: Saved, kind: str) -> dict[str, Any]:
    """{file name: weights, or settings for a .json} in that format; ValueError where it cannot hold this model."""
    reason = obstacle(saved, kind)
    if reason:
        raise ValueError(f"This {saved.config['model']} cannot be exported as {kind}: {reason}.")
    if kind in huggingface.MODEL_TYPES.values():
        return huggingface.files(saved, kind)
    if kind == "timm":
        return {WEIGHTS: saved.encoder, SETTINGS: timm_folder.settings(saved.config)}
    found = {WEIGHTS: saved.encoder, SETTINGS: settings(saved.config)}
    return found | ({DECODER: saved.decoder} if saved.decoder else {})


def obstacle(saved: Saved, kind: str) -> str:
    """Why that format cannot hold this model; '' when it can."""
    if kind == "geofm":
        return ""
    return timm_folder.obstacle(saved.config) if kind == "timm" else huggingface.obstacle(saved, kind)


def settings(config: Config) -> dict[str, Any]:
    """Our config.json: what ``Saved`` lists, and timm's keys beside it, so that timm reads the same folder."""
    return config if timm_folder.obstacle(config) else config | timm_folder.settings(config)


def _read_ours(folder: Path, given: dict[str, Any], decoder: bool) -> Saved:
    decoder = decoder and (folder / DECODER).is_file()
    missing = [key for key in NEEDED + NEEDED_BY_DECODER * decoder if key not in given]
    if missing:
        raise ValueError(f"{folder / SETTINGS} lacks {', '.join(missing)}; export the encoder again.")
    check(given, folder / SETTINGS, TYPES)
    config = {key: value for key, value in given.items() if key not in timm_folder.KEYS}
    found = read_weights(folder / DECODER) if decoder else {}
    return Saved(config, read_weights(folder / WEIGHTS), found)
