"""What 11_peers measures: configurations, the libraries beside ours, and ours from all optimisations off to all on."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from geofm_lib.catalog.recipes import RECIPES


@dataclass(frozen=True)
class Config:
    """One model with its images. The decoder is (width, blocks, heads); pixels a side; `batch` in images."""

    model: str
    image_size: int
    patch_size: int
    batch: int
    decoder: tuple[int, int, int] = (512, 8, 16)  # of the MAE paper, and what the peers have by default

    @property
    def sizes(self) -> dict[str, Any]:
        """What `mae.build` and the arithmetic take beside the model's name."""
        width, depth, heads = self.decoder
        decoder = {"decoder_width": width, "decoder_depth": depth, "decoder_heads": heads}
        return {"image_size": self.image_size, "patch_size": self.patch_size, **decoder}

    def under(self, recipe: str) -> Self:
        """The same with the decoder that a recipe of 02 has."""
        width, depth, heads = self.decoder
        return replace(self, decoder=(width, RECIPES[recipe].get("decoder_depth", depth), heads))

    @property
    def patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.patch_size) ** 2


CONFIGS = {
    "base": Config("ViT-Base", 224, 16, 16),
    "small": Config("ViT-Tiny", 96, 8, 64, (128, 4, 4)),  # 192 wide, 12 blocks, 3 heads, and the catalogue's decoder
    "tiny": Config("ViT-Atto", 32, 8, 4, (64, 2, 2)),  # shows in seconds that everything works, not who is faster
}
PEERS = {"transformers": "transformers' ViTMAE", "lightly": "lightly's MAE"}  # package -> words
MASK_RATIO = 0.75


class Stage(NamedTuple):
    """One optimisation of ours: its name in tables, and what it changes of `OFF`."""

    name: str
    change: dict[str, Any]


OURS, FAST = "geofm", "geofm: recipe=fast"
OFF: dict[str, Any] = {"wrapped": True, "attention": "fused", "linear": "matmul", "allocator": False}
"""How `jobs.peers_process` builds ours without any of them."""
STAGES = (
    Stage("no wrapper on one rank", {"wrapped": False}),
    Stage("attention kernel", {"attention": "auto"}),
    Stage("linear kernel", {"linear": "auto"}),
    Stage("memory kept by the allocator", {"allocator": True}),
)
"""Switched on one after the other; after the last, ours is as it is by default."""


def ours(stages: bool) -> dict[str, dict[str, Any]]:
    """Implementations of ours by name: all off, with `stages` those between, the default, the default's fast recipe."""
    found, how = {f"{OURS}: all off": OFF}, OFF
    for stage in STAGES:
        how = how | stage.change
        found[f"{OURS}: + {stage.name}"] = how
    first, *between, (_, on) = found.items()
    return dict([first, *(between if stages else []), (OURS, on), (FAST, on | {"recipe": "fast"})])
