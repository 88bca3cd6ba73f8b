"""What an encoder's folder holds, in our words, and its files. Of a pickle only tensors are read."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from geofm_lib import files
from geofm_lib.catalog.models import MODELS
from geofm_lib.model.interop import headers, pickles

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # by their names in safetensors

Weights = dict[str, torch.Tensor]
Config = dict[str, Any]  # its keys: see Saved
GROUPED = "makes tokens of groups of bands; geofm's own format holds it, and geofm_lib.model.interop.load reads that"


class Saved(NamedTuple):
    """A folder's content in our words.

    config: model, family, image_size (pixels, or [height, width]), patch_size, channels; mean and std (0..1 units)
    where known; norm_eps where it is not 1e-6; decoder_width, decoder_depth, decoder_heads, mask_ratio and
    norm_pix_loss where there is a decoder; bands (their names, where they have any); band_groups (the numbers of the
    bands of each group, where their patches are tokens of their own) and group_masks;
    objective where it is not MAE; checkpoint (see `origin`) where it is that of
    a run. encoder, decoder:
    weights by our names, the decoder's empty when there is none. left_out: names in the folder that are neither.
    foreign: the sentence why it is none of our ViTs, of one that timm's own definition builds; its config has `timm`
    (the folder) then, and its weights timm's names.
    """

    config: Config
    encoder: Weights
    decoder: Weights
    left_out: tuple[str, ...] = ()
    foreign: str = ""


def origin(config: Config) -> str:
    """Which checkpoint of a run a config is of, in words; "" for none.

    `checkpoint` has run (its name), step, of (all steps), ended (had the run?) and digest (of the manifest).
    """
    if not (found := config.get("checkpoint")):
        return ""
    return f"step {found['step']} of {found['of']} of a run that has {'' if found['ended'] else 'not '}ended"


def split(state: Weights) -> tuple[Weights, Weights]:
    """(encoder, decoder) of an autoencoder's dictionary by name; ``encoder.`` is taken off the encoder's names.

    The head in which a contrastive objective compares views is neither: it is thrown away.
    """
    state = {n: each for n, each in state.items() if not n.startswith("projector.")}
    decoder = {n: each for n, each in state.items() if n.startswith("decoder") or n == "mask_token"}
    return {n.removeprefix("encoder."): each for n, each in state.items() if n not in decoder}, decoder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError in one sentence when it is none, or not what was written."""
    files.prove(path.parent, [path.name])
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); copy the folder again.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings but a {type(found).__name__}; copy the folder again.")
    return found


def check(config: dict[str, Any], where: Path, keys: dict[str, type]) -> None:
    """ValueError in one sentence when one of these values, where it is given, is of another type."""
    for key, kind in keys.items():
        value: Any = config.get(key)
        size = key in ("image_size", "patch_size") and isinstance(value, list)
        plain = not isinstance(value, bool) if kind is int else True
        good = len(value) == 2 and all(type(v) is int for v in value) if size else isinstance(value, kind) and plain
        if key in config and not good:
            raise ValueError(f"{where}: {key} is {value!r}, which is none; copy the folder again, or mend that line.")


def read_weights(*paths: Path) -> Weights:
    """The tensors of one or more files, mapped from the disk; ValueError in one sentence when one is broken."""
    found: Weights = {}
    for path in paths:
        files.prove(path.parent, [path.name])
        found |= _safetensors(path) if path.suffix == ".safetensors" else pickles.read(path)
    return found


def _safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(headers.not_whole(path, error)) from None


def write(folder: str | Path, contents: dict[str, Any]) -> Path:
    """Writes {file name: weights, text, or settings for a .json} and seals the folder; weights go by the CPU."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in contents.items():
        if isinstance(value, str):
            files.write_text(folder / name, value)
        elif name.endswith(".json"):
            files.write_json(folder / name, value)
        else:
            write_tensors(folder / name, value.items(), value)
    files.seal(folder, {*files.sums(folder), *contents})
    return folder


def carry(source: Path, target: Path, name: str) -> list[str]:
    """Copy a file into another folder, proved; returns [name], or [] where there is none."""
    if not (source / name).is_file():
        return []
    if name in files.sums(source):
        files.prove(source, [name])
    shutil.copyfile(source / name, target / name)
    return [name]


def write_tensors(file: str | Path, tensors: Iterable[tuple[str, torch.Tensor]], layout: Weights) -> None:
    """Write a safetensors file of `tensors`, (name, value) in the order of `layout`, whole or not at all.

    One tensor at a time, so that a model need not be in memory: the library's own writer wants all of them at once.
    The format: https://github.com/huggingface/safetensors, "Format".

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
    with files.whole(file) as fresh, open(fresh, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for (name, value), expected in zip(tensors, layout, strict=True):
            if (name, value.shape, value.dtype) != (expected, layout[expected].shape, layout[expected].dtype):
                raise ValueError(f"{file}: {name} {list(value.shape)} came where {expected} belongs")
            stream.write(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size as a config.json holds it."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def side(height: int, width: int) -> int | list[int]:
    """The inverse of ``pair``: one number where both are the same."""
    return height if height == width else [height, width]


def refuse_kind(config: Config, dates: int, encoder: str, data: str) -> None:
    """ValueError, one sentence, for an encoder of images where the data are series of so many dates, or the reverse."""
    of_series = pair(config.get("image_size", 0))[0] == 1
    if of_series != bool(dates):
        kinds = ("series", "images") if of_series else ("images", "series")
        raise ValueError(f"The encoder in {encoder} takes {kinds[0]}, and {data} holds {kinds[1]}; give one for these.")


def model_of(where: Path, patch: int, width: int, depth: int, heads: int, mlp_dim: int) -> str:
    """The catalogue's name of this size; ValueError says which row to add when there is none."""
    for row in MODELS.values():
        if (row.width, row.depth, row.heads, row.mlp_dim) == (width, depth, heads, mlp_dim):
            return row.name
    more = "" if mlp_dim == 4 * width else f", mlp_dim={mlp_dim}"
    raise ValueError(
        f"{where} is {width} wide and {depth} deep with {heads} heads and an MLP of {mlp_dim}, which is no row of "
        f'geofm_lib/catalog/models.py; add _row("ViT-NAME", {width}, {depth}, {heads}, {patch}, _MAE, "SOURCE"{more}).'
    )


def statistics(mean: Any, std: Any, channels: int) -> Config:
    """mean and std for a config; nothing where the source has none, or not one for each channel."""
    fits = all(isinstance(each, list | tuple) and len(each) == channels for each in (mean, std))
    return {"mean": [float(v) for v in mean], "std": [float(v) for v in std]} if fits else {}
