"""The shapes of all weights in closed form, equal to those of the built networks: what every cost is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from geofm_lib.catalog.models import Model, grid, lookup, visible_patches

HEADS = ("head", "fc_norm", "attn_pool")  # of somebody else's network, which MAE's encoder goes without
WORKLOADS = ("mae", "classify", "encoder")  # "encoder": the pretrained encoder alone, as it is exported


@dataclass(frozen=True)
class Unit:
    """Weights that are gathered and freed together: one block, or ``root`` for everything outside the blocks."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    fixed: tuple[str, ...] = ()  # names that are not trained: the sine-cosine positions

    def count(self, trainable: bool = False) -> int:
        return sum(prod(s) for n, s in self.shapes.items() if not (trainable and n in self.fixed))

    def shard(self, ranks: int, trainable: bool = False) -> int:
        """Numbers on the fullest rank of a shard group. Fixed weights are not cut."""
        cut = sum(_fullest(s, ranks) for n, s in self.shapes.items() if n not in self.fixed)
        return cut + (0 if trainable else self.count() - self.count(trainable=True))

    def gathered(self, ranks: int, padded: bool) -> int:
        """Trained numbers when the unit is gathered from the shards of a group."""
        return ranks * self.shard(ranks, trainable=True) if padded else self.count(trainable=True)


@dataclass(frozen=True)
class Shape:
    """One workload of one model in numbers."""

    row: Model
    workload: str
    channels: int
    patches: int  # of an image: tokens
    visible: int  # patches that the encoder sees
    classes: int
    decoder: tuple[int, int, int] | None  # width, depth, heads
    prefix: int = 1  # tokens before the patches
    groups: int = 1  # of bands, whose patches are tokens of their own

    @property
    def patch_numbers(self) -> int:
        """Of a place, in all groups."""
        return self.channels * self.row.patch_size**2

    def numbers(self, patches: int) -> int:
        """Of so many patches, of each group as many."""
        return patches * self.patch_numbers // self.groups

    @property
    def gated(self) -> bool:
        """Is it the benchmark's network?"""
        return self.workload == "classify" and self.row.built is None

    @property
    def tokens(self) -> int:
        """Tokens of an image in the encoder."""
        return self.visible + self.prefix

    @property
    def products(self) -> int:
        """Weights of the matrix products of one block of the encoder."""
        if self.row.built:
            return sum(prod(shape) for _, shape in self.row.built.blocks[0] if len(shape) == 2)
        inner = 3 * self.row.gated_mlp_dim if self.gated else 2 * self.row.mlp_dim
        return (4 * self.row.width + inner) * self.row.width


def describe(
    model: str | Model,
    workload: str = "mae",
    image_size: int | tuple[int, int] = 224,
    tokens: int | None = None,
    channels: int = 3,
    patch_size: int | None = None,
    mask_ratio: float = 0.75,
    decoder: tuple[int, int, int] | None = None,
    num_classes: int = 1000,
    groups: Sequence[Any] = (),
) -> Shape:
    """The ``Shape`` of a model's workload; all other functions take the same keyword arguments.

    ``tokens``: patches of an image, whatever its size, as where images keep their aspect; a ``Built`` network was
    read at one size, and has its own count. ``decoder`` is (width, depth, heads), None or zeros for the model's own.
    ``groups``: of bands whose patches are tokens of their own (`model.patches`), () for all bands in one.
    ValueError for unknown names and an image that the patch does not divide.
    """
    if workload not in WORKLOADS:
        raise ValueError(f"There is no workload '{workload}'; use one of {', '.join(WORKLOADS)}.")
    width, depth, heads = decoder or (0, 0, 0)
    row = lookup(model).resized(patch_size=patch_size, decoder_width=width, decoder_depth=depth, decoder_heads=heads)
    patches = tokens or (row.built.patches if row.built else prod(grid(image_size, row.patch_size)))
    prefix, channels = (row.built.prefix, row.built.channels) if row.built else (1, channels)
    each = max(1, len(groups))
    if workload == "mae":
        own = (row.decoder_width, row.decoder_depth, row.decoder_heads)
        seen = each * visible_patches(patches, mask_ratio)
        return Shape(row, workload, channels, each * patches, seen, 0, own, prefix, each)
    classes = num_classes if workload == "classify" else 0
    return Shape(row, workload, channels, each * patches, each * patches, classes, None, prefix, each)


def _fullest(shape: tuple[int, ...], ranks: int) -> int:
    """The largest part of a weight, as ``distributed.sharding`` cuts it: along its first dimension, padded.

    Tokens and positions, whose first dimension is 1, are cut along another that the ranks divide.
    """
    if shape[0] == 1 and any(length % ranks == 0 for length in shape):
        return prod(shape) // ranks
    return ceil(shape[0] / ranks) * prod(shape[1:])


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(width: int, mlp_dim: int, gated_heads: int = 0) -> dict[str, tuple[int, ...]]:
    """A plain block, or with ``gated_heads`` the benchmark's: gated MLP, norms on queries and keys per head."""
    shapes = _linear("attn.qkv", width, 3 * width) | _linear("attn.proj", width, width)
    shapes |= _norm("norm1", width) | _norm("norm2", width)
    shapes |= _linear("mlp.fc1", width, 2 * mlp_dim if gated_heads else mlp_dim) | _linear("mlp.fc2", mlp_dim, width)
    if gated_heads:
        shapes |= _norm("attn.q_norm", width // gated_heads) | _norm("attn.k_norm", width // gated_heads)
    return shapes


def units(model: str | Model, workload: str = "mae", **size: Any) -> list[Unit]:
    """The weights of a workload, in FSDP's units: the blocks in running order, then ``root``."""
    s = describe(model, workload, **size)
    row, width, patch, inside = s.row, s.row.width, s.row.patch_size, "encoder." if s.decoder else ""
    fixed: tuple[str, ...] = ()
    if row.built:
        kept = [each for each in row.built.root if workload == "classify" or not each[0].startswith(HEADS)]
        root = {inside + name: shape for name, shape in kept}
    elif s.gated:
        block = _block(width, row.gated_mlp_dim, row.heads)
        root = {"cls_token": (1, 1, width), "pos_embed": (s.patches, width)}  # a matrix, see jobs/throughput
        root |= _norm("patch_embed.norm_in", s.patch_numbers)
        root |= _linear("patch_embed.proj", s.patch_numbers, width, bias=False) | _norm("patch_embed.norm", width)
        root |= _norm("norm_pre", width) | _norm("norm", width)
        root |= _linear("head", width, s.classes) if s.classes else {}
    else:
        block = _block(width, row.mlp_dim)
        root = {"cls_token": (1, 1, width), "pos_embed": (1, s.patches + 1, width)}
        root |= {"patch_embed.proj.weight": (width, s.channels, patch, patch), "patch_embed.proj.bias": (width,)}
        root |= _norm("norm", width)
        root = {inside + name: shape for name, shape in root.items()}
        fixed = (inside + "pos_embed",)
    blocks = [dict(each) for each in row.built.blocks] if row.built else [block] * row.depth
    found = [Unit(f"{inside}blocks.{i}", each) for i, each in enumerate(blocks)]
    if s.decoder:
        narrow, depth, _ = s.decoder
        found += [Unit(f"decoder_blocks.{i}", _block(narrow, 4 * narrow)) for i in range(depth)]
        root |= {"mask_token": (1, 1, narrow), "decoder_pos_embed": (1, s.patches + 1, narrow)}
        root |= _linear("decoder_embed", width, narrow) | _norm("decoder_norm", narrow)
        root |= _linear("decoder_pred", narrow, s.patch_numbers)
        fixed += ("decoder_pos_embed",)
    return [*found, Unit("root", root, fixed)]


def parameters(model: str | Model, workload: str = "mae", trainable: bool = False, **size: Any) -> int:
    """How many numbers the weights hold; Table I's for ``classify``. Fixed positions count unless ``trainable``."""
    return sum(unit.count(trainable) for unit in units(model, workload, **size))
