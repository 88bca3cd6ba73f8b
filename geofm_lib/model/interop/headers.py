"""What an encoder's files say of themselves before torch reads them: are they whole, and of which model and patch."""

import re
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from geofm_lib import files
from geofm_lib.catalog.models import MODELS, lookup
from geofm_lib.model.interop.locate import DECODER, Place

LARGE = 2**30  # bytes; what is larger is proved by whoever reads it, and not by each look before
FIRST = ("patch_embed.proj.weight", "patch_embeddings.projection.weight")  # [width, bands, patch, patch]
BLOCK = re.compile(r"(?:.*\.)?(?:blocks|layer)\.(\d+)\.")


def check(place: Place) -> None:
    """ValueError, one sentence, for files that are not whole, or not what was sealed."""
    found = [each for each in (place.config, *place.weights, place.folder / DECODER) if each and each.is_file()]
    stats = [(each, each.stat()) for each in found]
    if sum(stat.st_size for _, stat in stats) <= LARGE:
        _prove(tuple((each, stat.st_mtime_ns, stat.st_size) for each, stat in stats))
    for file in place.weights:
        shapes(file)


def shapes(file: Path) -> dict[str, list[int]]:
    """{name: shape} of a safetensors file, of which the header alone is read; {} of a pickle."""
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, "np") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(not_whole(file, error)) from None


def not_whole(file: Path, error: Exception) -> str:
    """The sentence for a file that safetensors cannot read."""
    return f"{file} is no whole safetensors file ({error}); copy the folder again."


def same_model(place: Place, name: str, patch: int) -> None:
    """ValueError, one sentence, where shapes show another model than `name`, or another patch.

    What they do not show (heads, parts that ours has not) is asked when the weights are read.
    """
    found = {n: shape for file in place.weights for n, shape in shapes(file).items() if not n.startswith("decoder")}
    first = next((shape for n, shape in found.items() if n.endswith(FIRST) and len(shape) == 4), None)
    if first is None or first[2] != first[3]:
        return
    depth = 1 + max((int(match[1]) for n in found if (match := BLOCK.match(n))), default=-1)
    like = [row.name for row in MODELS.values() if (row.width, row.depth) == (first[0], depth)]
    if like:
        refuse_other(name if name in like else like[0], first[2], name, patch, str(place.folder))


def refuse_other(theirs: str, their_patch: int, name: str, patch: int, where: str) -> None:
    """ValueError, one sentence that names the difference, unless model and patch are the same."""
    if theirs != name:
        here, there = (
            f"{row.name} ({row.width} wide, {row.depth} deep, {row.heads} heads, MLP {row.mlp_dim})"
            for row in (lookup(name), lookup(theirs))
        )
        raise ValueError(f"{where} is {there} and model is {here}; set model={theirs}.")
    if their_patch != patch:
        raise ValueError(
            f"{where} has patches of {their_patch} pixels and this model of {patch}; set patch_size={their_patch}."
        )


@cache
def _prove(known: tuple[tuple[Path, int, int], ...]) -> None:
    """Hold files against the seals beside them; `known` has their times and sizes, so that it is done once."""
    for file, _, _ in known:
        files.prove(file.parent, [file.name])
