"""The first weights of a pretraining, out of somebody's encoder or autoencoder, fitted to the model that is trained."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from geofm_lib.catalog.bands import spelled
from geofm_lib.catalog.models import grid
from geofm_lib.model.init import plain_name, write
from geofm_lib.model.interop import headers, load
from geofm_lib.model.interop.folders import Saved, Weights, pair
from geofm_lib.model.mae import MaskedAutoencoder
from geofm_lib.model.patches import groups_of, sincos_positions

BANDS = ("mean", "repeat", "new")
Notes = list[str]


def fitted(saved: Saved, model: MaskedAutoencoder, name: str, bands: str, where: str) -> tuple[Weights, Notes]:
    """(weights by the autoencoder's names, each of its shape; what was changed or left out, in words).

    Args:
        saved: what was found at `where`. Its decoder is optional, and taken when it is of the model's sizes.
        model: of the catalogue's row `name`, on any device; only its shapes are read.
        bands: what the first projection becomes for images of other bands, one of BANDS. `new` leaves what was drawn.

    ValueError, one sentence that names the difference, for weights of another model, patch or kind.
    """
    same_model(saved, name, model.patch, where)
    _same_groups(saved, model, where)
    groups = len(groups_of(model.encoder.patch_embed))
    theirs, ours = saved.config["channels"], cast(Any, model.encoder.patch_embed).proj.in_channels
    notes: Notes = []
    state = {f"encoder.{n}": each for n, each in load.resampled(saved, model.encoder).items()}
    old = grid(pair(saved.config["image_size"]), saved.config["patch_size"])
    new = model.encoder.patch_embed.grid_size
    if not _sines(saved.encoder.get("pos_embed", torch.empty(0)), model.encoder.embed_dim, old, groups):
        notes.append("its positions are not MAE's sines and cosines; they stay as they are")
    if old != new:
        notes.append(f"positions interpolated from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches")
    decoder, said = _decoder(saved, model, old, groups)
    notes += said
    state |= decoder
    if theirs != ours:
        for key, change in _CHANGES.items():
            if key in state and bands == "new":
                del state[key]
            elif key in state:
                state[key] = change(state[key], theirs, ours, model.patch, bands)
        words = {"mean": "the mean of its bands", "repeat": "its bands in turn", "new": "drawn anew"}[bands]
        notes.append(f"first projection made for {ours} bands out of {theirs}: {words} (init_bands={bands})")
    notes += [f"left out: {', '.join(saved.left_out[:4])}{' ...' * (len(saved.left_out) > 4)}"] * bool(saved.left_out)
    _fits(state, model, bands == "new" and theirs != ours, where)
    spoilt = next((n for n, each in state.items() if not each.isfinite().all()), "")
    if spoilt:
        raise ValueError(f"{where} holds values that are not finite (in {spoilt}); copy it again, or give another one.")
    return state, notes


def apply(state: Weights, model: nn.Module) -> None:
    """Copies each weight, or this rank's part of it, into a model that has its memory and is sharded already."""
    for name, parameter in model.named_parameters():
        if (value := state.get(plain_name(name))) is not None:
            write(parameter, value)


def same_model(saved: Saved, name: str, patch: int, where: str) -> None:
    """ValueError, one sentence that names the difference, unless it is the catalogue's row `name` of this patch."""
    if saved.foreign:
        raise ValueError(saved.foreign)
    if saved.config.get("family", "pretrain") != "pretrain":
        raise ValueError(f"{where} is of family '{saved.config['family']}', which cannot be pretrained; give another.")
    headers.refuse_other(saved.config["model"], saved.config["patch_size"], name, patch, where)


def _same_groups(saved: Saved, model: MaskedAutoencoder, where: str) -> None:
    """ValueError, one sentence, where the tokens of weights and model are of other groups of bands."""
    theirs = saved.config.get("band_groups", [])
    ours = [list(bands) for bands in getattr(model.encoder.patch_embed, "groups", ())]
    if theirs != ours:
        words = [f"groups of bands {spelled(each)}" if each else "all bands together" for each in (theirs, ours)]
        raise ValueError(
            f"{where} makes tokens of {words[0]} and this model of {words[1]}; set band_groups='{spelled(theirs)}'."
        )


def _sines(positions: torch.Tensor, width: int, grid: tuple[int, int], groups: int) -> bool:
    """Whether positions are the usual fixed ones, with rows or columns in the first half of the channels."""
    usual = sincos_positions(width, *grid, groups=groups)
    both = (usual, usual.roll(width // 2, -1))
    return any(positions.shape == each.shape and torch.allclose(positions.float(), each, atol=1e-4) for each in both)


def _decoder(saved: Saved, model: MaskedAutoencoder, old: tuple[int, int], groups: int) -> tuple[Weights, Notes]:
    """The decoder's weights, {} where it has none of the model's sizes; what is said of it."""
    if not hasattr(model, "decoder_blocks"):
        return {}, []
    anew = "the decoder is drawn anew from the seed"
    if not saved.decoder:
        return {}, [f"it has no decoder: {anew}"]
    block = cast(Any, model.decoder_blocks[0])
    sizes = {
        "decoder_width": model.decoder_embed.out_features,
        "decoder_depth": len(model.decoder_blocks),
        "decoder_heads": block.attn.num_heads,
    }
    differing = [f"{n} {saved.config[n]}, not {v}" for n, v in sizes.items() if saved.config.get(n, v) != v]
    if differing:
        return {}, [f"its decoder is of other sizes ({', '.join(differing)}): {anew}"]
    target = saved.config.get("norm_pix_loss", model.norm_pix_loss)
    said = [f"its decoder was trained with norm_pix_loss={target}"] if target != model.norm_pix_loss else []
    new = model.encoder.patch_embed.grid_size
    return saved.decoder | load.positions(saved.decoder, "decoder_pos_embed", old, new, 1, groups), said


def _fits(state: Weights, model: MaskedAutoencoder, new_bands: bool, where: str) -> None:
    named = ((name, each) for name, each in model.named_parameters() if not name.startswith("projector."))
    expected = {name: tuple(each.shape) for name, each in named}  # a head is drawn anew, since it is thrown away
    drawn = tuple(_CHANGES) if new_bands else ()
    encoder = [name for name in expected if name.startswith("encoder.") and name not in drawn]
    whole = [name for name in expected if name not in drawn] if any("decoder" in name for name in state) else encoder
    lacking = [name for name in whole if name not in state]
    unknown = [name for name in state if name not in expected]
    odd = [
        f"{n} {list(e.shape)}, not {list(expected[n])}" for n, e in state.items() if expected.get(n, e.shape) != e.shape
    ]
    faults = {"it lacks": lacking, "it holds the unknown": unknown, "of another shape:": odd}
    words = [f"{fault} {', '.join(found[:3])}{' ...' * (len(found) > 3)}" for fault, found in faults.items() if found]
    if words:
        raise ValueError(f"{where} does not fit the model: {'; '.join(words)}.")


def _first_projection(weight: torch.Tensor, theirs: int, ours: int, patch: int, bands: str) -> torch.Tensor:
    """[D, C, p, p] for other bands, scaled so that equal bands give what they gave before."""
    if weight.shape[1] != theirs:
        return weight
    return _spread(weight.float(), 1, ours, bands) * (theirs / ours)


def _prediction(rows: torch.Tensor, theirs: int, ours: int, patch: int, bands: str) -> torch.Tensor:
    """Rows (C, p, p) of the decoder's last layer for other bands; each band predicts itself, so nothing is scaled."""
    if len(rows) != theirs * patch * patch:
        return rows
    cut = rows.float().reshape(theirs, patch * patch, *rows.shape[1:])
    return _spread(cut, 0, ours, bands).reshape(-1, *rows.shape[1:])


def _spread(weight: torch.Tensor, dim: int, ours: int, bands: str) -> torch.Tensor:
    if bands == "mean":
        return weight.mean(dim, keepdim=True).expand(*weight.shape[:dim], ours, *weight.shape[dim + 1 :])
    return weight.index_select(dim, torch.arange(ours) % weight.shape[dim])


_CHANGES: dict[str, Callable[[torch.Tensor, int, int, int, str], torch.Tensor]] = {
    "encoder.patch_embed.proj.weight": _first_projection,
    "decoder_pred.weight": _prediction,
    "decoder_pred.bias": _prediction,
}
