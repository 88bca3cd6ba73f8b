"""The models, one row each: the paper's six, a family that trains on a laptop, and one of equal shape for the study.

A row is read two ways (``model/vit.py`` builds both):

* family ``pretrain``: the plain ViT that MAE trains, with an MLP of ``width -> mlp_dim -> width``;
* family ``benchmark``: the network behind the paper's throughput figures and Table I's counts, with a gated
  SiLU MLP of ``width -> 2 x gated_mlp_dim``, then ``gated_mlp_dim -> width``.

A third kind is ``Built``: somebody else's transformer, read off the network by ``model/described.py``.

The paper's counts belong to the second. Its MLP column (4 x width) describes the first, except for ViT-5B,
whose 15360 is the hidden width of the gated MLP and is kept for both readings.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from geofm_lib.catalog.suggest import did_you_mean


@dataclass(frozen=True)
class Built:
    """What was read off a network that no row describes, at one image size."""

    image_size: int
    patches: int
    prefix: int  # tokens before the patches: class token, registers
    blocks: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]  # of each, the names and shapes of its weights
    root: tuple[tuple[str, tuple[int, ...]], ...]  # the same of everything outside the blocks
    channels: int = 3  # bands of its images


@dataclass(frozen=True)
class Model:
    """One architecture. Widths in units of channels, ``patch_size`` in pixels, counts in millions."""

    name: str
    width: int
    depth: int
    heads: int
    mlp_dim: int
    gated_mlp_dim: int
    patch_size: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    source: str = ""
    published_params_M: float | None = None

    built: "Built | None" = None

    def resized(self, **sizes: Any) -> Self:
        """This row with other sizes: the patch's and the decoder's that are given, its own where None or 0 is."""
        return replace(self, **{name: size for name, size in sizes.items() if size})


def _row(name, width, depth, heads, patch_size, decoder, source, mlp_dim=0, gated_mlp_dim=0, published=None):
    gated = gated_mlp_dim or int(2.6875 * width)  # the benchmark code's default MLP ratio
    return Model(name, width, depth, heads, mlp_dim or 4 * width, gated, patch_size, *decoder, source, published)


_TABLE_I = "Table I of arXiv 2404.11706"
_OURS = "this project: small enough for a CPU"
_STUDY = "this project's scaling study (07): only the width differs, heads are 32 wide"
_DEIT = "the widths of DeiT (arXiv 2012.12877)"
_VIT = "Table 1 of arXiv 2010.11929; MAE's second size"
_SHARED = (128, 2, 4)  # the study's decoder, so that sizes differ in their encoder alone
_MAE = (512, 8, 16)  # the decoder of the MAE paper (arXiv 2111.06377): 512 wide, 8 blocks, 16 heads

_ROWS = [
    #    name       width depth heads patch decoder      source
    _row("ViT-Atto", 64, 4, 2, 8, (64, 2, 2), _OURS),
    _row("ViT-Femto", 128, 6, 4, 8, (64, 2, 2), _OURS),
    _row("ViT-Pico", 192, 6, 6, 8, (96, 2, 3), _OURS),
    _row("ViT-Nano", 256, 8, 8, 8, (128, 2, 4), _OURS),
    _row("ViT-0.4M", 64, 8, 2, 8, _SHARED, _STUDY),
    _row("ViT-1.6M", 128, 8, 4, 8, _SHARED, _STUDY),
    _row("ViT-3.6M", 192, 8, 6, 8, _SHARED, _STUDY),
    _row("ViT-10M", 320, 8, 10, 8, _SHARED, _STUDY),
    _row("ViT-25M", 512, 8, 16, 8, _SHARED, _STUDY),
    _row("ViT-Tiny", 192, 12, 3, 16, (128, 4, 4), _DEIT),
    _row("ViT-Small", 384, 12, 6, 16, (256, 4, 8), _DEIT),
    _row("ViT-Base", 768, 12, 12, 16, _MAE, _TABLE_I, published=87),
    _row("ViT-Large", 1024, 24, 16, 16, _MAE, _VIT),
    _row("ViT-Huge", 1280, 32, 16, 14, _MAE, _TABLE_I, published=635),
    _row("ViT-1B", 1536, 32, 16, 14, _MAE, _TABLE_I, published=914),
    _row("ViT-3B", 2816, 32, 32, 14, _MAE, _TABLE_I, published=3067),
    _row("ViT-5B", 1792, 56, 16, 14, _MAE, _TABLE_I, mlp_dim=15360, gated_mlp_dim=15360, published=5349),
    _row("ViT-15B", 5040, 48, 48, 14, _MAE, _TABLE_I, published=14720),
]

MODELS: dict[str, Model] = {row.name: row for row in _ROWS}
FAMILY = tuple(row.name for row in _ROWS if row.source == _STUDY)  # smallest first


def lookup(name: str | Model) -> Model:
    """The row called ``name``, or the row given; ValueError in one sentence, with a suggestion, when there is none."""
    if isinstance(name, Model):
        return name
    if name in MODELS:
        return MODELS[name]
    raise ValueError(f"There is no model '{name}'{did_you_mean(name, MODELS) or '.'} Known are {', '.join(MODELS)}.")


def of_network(name: str, facts: dict[str, Any]) -> Model:
    """The row of a network that ``model/described.py`` has read: a plain ViT whose decoder would be MAE's own."""
    parts = [tuple((key, tuple(shape)) for key, shape in each.items()) for each in (*facts["blocks"], facts["root"])]
    built = Built(
        facts["image_size"], facts["patches"], facts["prefix"], tuple(parts[:-1]), parts[-1], facts.get("channels", 3)
    )
    names = ("width", "depth", "heads", "mlp_dim", "patch_size", "source")
    sizes: dict[str, Any] = {each: facts[each] for each in names} | {"gated_mlp_dim": 0}
    sizes |= dict(zip(("decoder_width", "decoder_depth", "decoder_heads"), _MAE, strict=True))
    return Model(name, **sizes, built=built)


def grid(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches: ``grid(224, 14)`` is (16, 16), ``grid((64, 96), 8)`` is (8, 12).

    ValueError when the patch does not divide the image.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch_size < 1 or height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        low = max(1, min(height, width) // max(1, patch_size)) * patch_size
        size = height if height == width else f"{height}x{width}"
        raise ValueError(
            f"An image size of {size} pixels is not a multiple of the patch size {patch_size}; "
            f"use for example {low} or {low + patch_size}."
        )
    return height // patch_size, width // patch_size


def visible_patches(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches MAE shows to the encoder: ``visible_patches(256, 0.75)`` is 64.

    At least one patch stays visible and at least one is hidden. ValueError outside 0 < mask_ratio < 1.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"A mask ratio of {mask_ratio} is not between 0 and 1; MAE uses 0.75.")
    if patches < 2:
        raise ValueError(f"An image of {patches} patch cannot be masked; use a larger image or a smaller patch.")
    return min(max(patches - round(patches * mask_ratio), 1), patches - 1)
