"""The four formats of an encoder's folder: ours, timm's, Hugging Face's ViT and its ViTMAE."""

from typing import Any

from geofm_lib.catalog.bands import spelled
from geofm_lib.model.interop import bare, huggingface, timm_folder
from geofm_lib.model.interop.folders import Config, Saved, check, read_json, read_weights
from geofm_lib.model.interop.locate import CARD, DECODER, SETTINGS, WEIGHTS, Place

FORMATS = ("geofm", "timm", "vit", "vitmae")
NEEDED = ("model", "image_size", "patch_size", "channels")
NEEDED_BY_DECODER = ("decoder_width", "decoder_depth", "decoder_heads", "mask_ratio", "norm_pix_loss")
TYPES: dict[str, type] = {"model": str, "family": str, "norm_eps": float, "mask_ratio": float, "norm_pix_loss": bool}
TYPES |= dict.fromkeys(("image_size", "patch_size", "channels", *NEEDED_BY_DECODER[:3]), int)
TYPES |= {"bands": list, "band_groups": list, "group_masks": str}


def read(place: Place, decoder: bool = True) -> Saved:
    """What was found, in whichever of the formats; ``decoder=False`` leaves our decoder's file unread.

    ValueError in one sentence for another architecture, or a broken file.
    """
    if place.config is None:
        return bare.read(place.folder, read_weights(*place.weights))
    given = read_json(place.config)
    if "model" in given:
        return _read_ours(place, given, decoder)
    if given.get("model_type") in huggingface.MODEL_TYPES:
        return huggingface.read(place.folder, given, place.weights)
    if "architecture" in given and "model_type" not in given:
        return timm_folder.read(place, given)
    raise ValueError(
        f"{place.config} describes an architecture that geofm does not have (model_type "
        f"{given.get('model_type', 'not named')}); give a pretrain run, a timm ViT (timm has DINOv2 and DINOv3 too), "
        f"or a Hugging Face ViT or ViTMAE (model_type {' or '.join(huggingface.MODEL_TYPES)})."
    )


def files(saved: Saved, kind: str) -> dict[str, Any]:
    """{file name: weights, text, or settings for a .json} in that format; ValueError where it cannot hold this."""
    reason = obstacle(saved, kind)
    if reason:
        raise ValueError(f"This {saved.config['model']} cannot be exported as {kind}: {reason}.")
    if kind in huggingface.MODEL_TYPES.values():
        return huggingface.files(saved, kind)
    if kind == "timm":
        return {WEIGHTS: saved.encoder, SETTINGS: timm_folder.settings(saved.config)} | card(saved.config)
    found = {WEIGHTS: saved.encoder, SETTINGS: settings(saved.config)} | card(saved.config)
    return found | ({DECODER: saved.decoder} if saved.decoder else {})


def obstacle(saved: Saved, kind: str) -> str:
    """Why that format cannot hold this model; '' when it can."""
    if kind == "geofm":
        return ""
    return timm_folder.obstacle(saved.config) if kind == "timm" else huggingface.obstacle(saved, kind)


def card(config: Config) -> dict[str, str]:
    """{"README.md": what timm makes of the folder, or why nothing}, {} of another that timm does not read."""
    if config.get("band_groups"):
        return {CARD: timm_folder.GROUPED_CARD.format(**config | {"groups": spelled(config["band_groups"])})}
    return {} if timm_folder.obstacle(config) else {CARD: timm_folder.card(config)}


def settings(config: Config) -> dict[str, Any]:
    """Our config.json: what ``Saved`` lists, and timm's keys beside it, so that timm reads the same folder."""
    return config if timm_folder.obstacle(config) else config | timm_folder.settings(config)


def _read_ours(place: Place, given: dict[str, Any], decoder: bool) -> Saved:
    decoder = decoder and (place.folder / DECODER).is_file()
    where = place.folder / SETTINGS
    missing = [key for key in NEEDED + NEEDED_BY_DECODER * decoder if key not in given]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; export the encoder again.")
    check(given, where, TYPES)
    config = {key: value for key, value in given.items() if key not in timm_folder.KEYS}
    found = read_weights(place.folder / DECODER) if decoder else {}
    return Saved(config, read_weights(*place.weights), found)
