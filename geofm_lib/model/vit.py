"""Vision transformers of both families, on timm's parts.

``pretrain`` is the plain ViT that MAE trains (GELU, learned class token, fixed 2-D sine-cosine positions); its
state dict has timm's names and loads into ``timm.create_model("vit_base_patch16_224", num_classes=0)``.
``benchmark`` is the classifier behind the paper's throughput figures: gated SiLU MLP, norms after the residual
branches, norms on queries and keys, and a patch embedding between two norms. Its six parameter counts are those
of Table I, to the digit.

Shapes: B images, C channels, N patches, P = C x patch x patch numbers per patch, D width.
"""

from functools import partial
from pathlib import Path

import torch
from timm.layers import GluMlp, LayerNorm, PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, Mlp, ResPostBlock, VisionTransformer
from torch import nn

from geofm_lib.catalog.models import grid, lookup
from geofm_lib.model.init import initialise
from geofm_lib.model.interop import folders, formats
from geofm_lib.model.interop.folders import find as find_encoder

FAMILIES = ("pretrain", "benchmark")
POOLS = ("mean", "cls")


def patchify(images_BCHW: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, N, C x patch x patch]; rows of patches from the top, each in a convolution's order."""
    B, C, H, W = images_BCHW.shape
    cut = images_BCHW.reshape(B, C, H // patch, patch, W // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * patch * patch)


def unpatchify(patches_BNP: torch.Tensor, patch: int, rows: int, columns: int) -> torch.Tensor:
    """The inverse of ``patchify`` for an image of ``rows`` x ``columns`` patches."""
    B, _, P = patches_BNP.shape
    cut = patches_BNP.reshape(B, rows, columns, P // patch**2, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(B, -1, rows * patch, columns * patch)


def sincos_positions(width: int, rows: int, columns: int, prefix: int = 1) -> torch.Tensor:
    """Fixed 2-D positions [1, prefix + rows x columns, width]; the prefix tokens get zeros.

    Half of the channels encode the row and half the column, each as sines and cosines of width/4 frequencies
    from 1 down to 1/10000 (MAE, arXiv 2111.06377, after "Attention is all you need").
    """
    if width % 4:
        raise ValueError(f"A width of {width} has no 2-D sine-cosine positions; use a multiple of 4.")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def encode(index: torch.Tensor) -> torch.Tensor:
        angle = index.to(torch.float64)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    table = torch.cat([encode(row), encode(column)], dim=1)
    return torch.cat([torch.zeros(prefix, width), table.float()])[None]


class DualPatchNorm(nn.Module):
    """The benchmark's patch embedding: norm, projection without bias, norm (arXiv 2302.01327)."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, norm, device=None, dtype=None, **_):
        super().__init__()
        kinds = {"device": device, "dtype": dtype}
        self.img_size, self.patch_size = img_size, (patch_size, patch_size)
        self.grid_size = grid(img_size, patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        numbers = in_chans * patch_size**2
        self.norm_in = norm(numbers, **kinds)
        self.proj = nn.Linear(numbers, embed_dim, bias=False, **kinds)
        self.norm = norm(embed_dim, **kinds)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if tuple(images_BCHW.shape[-2:]) != tuple(self.img_size):
            raise ValueError(f"This model takes images of {self.img_size}, not {tuple(images_BCHW.shape[-2:])}.")
        return self.norm(self.proj(self.norm_in(patchify(images_BCHW, self.patch_size[0]))))


class ViT(VisionTransformer):
    """timm's VisionTransformer, with positions that may be fixed and an ``init_weights`` of our own."""

    def __init__(self, *args, fixed_positions: bool = False, **kwargs):
        super().__init__(*args, weight_init="skip", **kwargs)
        self.fixed_positions = fixed_positions
        if fixed_positions:
            self.pos_embed.requires_grad_(False)

    def init_weights(self, seed: int | None = None) -> None:
        """Sets every parameter, see ``initialise``; works after ``to_empty()`` and on sharded parameters."""
        initialise(self, seed)

    def fixed_values(self) -> dict[str, torch.Tensor]:
        """Values of parameters that are computed, not drawn."""
        return (
            {"pos_embed": sincos_positions(self.embed_dim, *self.patch_embed.grid_size)} if self.fixed_positions else {}
        )

    def forward_features(self, images_BCHW: torch.Tensor, **kwargs) -> torch.Tensor:
        """[B, 1 + N, D] after the final norm; the images are cast to the weights' precision here."""
        return super().forward_features(images_BCHW.to(self.patch_embed.proj.weight.dtype), **kwargs)


def build(
    name: str,
    family: str = "pretrain",
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    device: torch.device | str | None = None,
    patch_size: int | None = None,
    num_classes: int | None = None,
    seed: int | None = None,
    norm_eps: float = folders.NORM_EPS,
) -> ViT:
    """The model ``name`` of the catalogue: images [B, channels, H, W] -> logits, or the class token's features.

    ``patch_size`` None or 0 is the model's own; ``num_classes`` None is 1000 for ``benchmark`` and no head for
    ``pretrain``; ``norm_eps`` is every LayerNorm's. On ``device="meta"`` no memory is used: then
    ``to_empty(device=...)`` and ``init_weights()``.

    >>> build("ViT-Atto", image_size=64)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 64])
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no model family '{family}'; use one of {', '.join(FAMILIES)}.")
    row = lookup(name)
    patch = patch_size or row.patch_size
    rows, columns = grid(image_size, patch)
    norm = partial(LayerNorm, eps=norm_eps)
    gated = partial(_gated_mlp, width=2 * row.gated_mlp_dim)
    kinds = {
        "pretrain": {
            "block_fn": Block,
            "mlp_layer": Mlp,
            "act_layer": nn.GELU,
            "embed_layer": PatchEmbed,
            "fixed_positions": True,
        },
        "benchmark": {
            "block_fn": ResPostBlock,
            "mlp_layer": gated,
            "act_layer": nn.SiLU,
            "embed_layer": partial(DualPatchNorm, norm=norm),
            "qk_norm": True,
            "pre_norm": True,
            "no_embed_class": True,
        },
    }
    classes = {"pretrain": 0, "benchmark": 1000}[family] if num_classes is None else num_classes
    model = ViT(
        img_size=(rows * patch, columns * patch),
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=row.width,
        depth=row.depth,
        num_heads=row.heads,
        mlp_ratio=row.mlp_dim / row.width,
        norm_layer=norm,
        device="meta",
        **kinds[family],
    )
    return materialise(model, device, seed)


def materialise(model: nn.Module, device: torch.device | str | None, seed: int | None = None) -> nn.Module:
    """Gives a model built on the meta device its memory and weights (``device`` None is the CPU)."""
    device = torch.device(device or "cpu")
    if device.type != "meta":
        model.to_empty(device=device)
        model.init_weights(seed)
    return model


def _gated_mlp(in_features, hidden_features=None, *, width, **kwargs):
    """One ``width -> 2 x hidden`` and one ``hidden -> width`` layer; the first half goes through SiLU."""
    return GluMlp(in_features, width, gate_last=False, **kwargs)


def features(encoder: ViT, images_BCHW: torch.Tensor, pool: str = "mean") -> torch.Tensor:
    """[B, D]: after the final norm, the class token (``cls``) or the mean of the patch tokens (``mean``)."""
    if pool not in POOLS:
        raise ValueError(f"There is no pooling '{pool}'; use one of {', '.join(POOLS)}.")
    tokens_BND = encoder.forward_features(images_BCHW)
    return tokens_BND[:, 0] if pool == "cls" else tokens_BND[:, encoder.num_prefix_tokens :].mean(dim=1)


def save_encoder(folder: str | Path, state: folders.Weights, config: dict) -> Path:
    """Writes our folder, which timm reads too: ``model.safetensors`` and ``config.json`` (see ``folders.Saved``)."""
    return folders.write(folder, formats.files(folders.Saved(config, state, {}), "geofm"))


def load_encoder(path: str | Path, image_size: int | tuple[int, int] | None = None) -> tuple[ViT, dict]:
    """(encoder on the CPU, its config) from a run folder, or an encoder's folder in any format of ``formats``.

    At another ``image_size`` than the encoder was trained at, the positions are interpolated to the new grid.
    Safetensors only, nothing is unpickled; ValueError in one sentence for what cannot be an encoder.
    """
    folder = find_encoder(path)
    saved = formats.read(folder, decoder=False)
    encoder, state = shell(saved.config, image_size), saved.encoder
    old = grid(folders.pair(saved.config["image_size"]), saved.config["patch_size"])
    new = encoder.patch_embed.grid_size
    prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    expected = (1, prefix + old[0] * old[1], encoder.embed_dim)
    if old != new and "pos_embed" in state and state["pos_embed"].shape == expected:  # others: fill says what is wrong
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new, old, num_prefix_tokens=prefix)
    return fill(encoder, state, f"{folder / folders.WEIGHTS} does not fit {saved.config['model']}").eval(), saved.config


def shell(config: dict, image_size: int | tuple[int, int] | None = None) -> ViT:
    """The encoder that a config describes, without head, memory or weights (on the meta device)."""
    return build(
        config["model"],
        config.get("family", "pretrain"),
        image_size or folders.pair(config["image_size"]),
        config["channels"],
        device="meta",
        patch_size=config["patch_size"],
        num_classes=0,
        norm_eps=config.get("norm_eps", folders.NORM_EPS),
    )


def fill(module: nn.Module, state: folders.Weights, complaint: str) -> nn.Module:
    """Gives a module on the meta device these very weights; ValueError, one sentence, unless all of them fit."""
    expected = {name: list(value.shape) for name, value in module.state_dict().items()}
    faults = {
        "it lacks": [name for name in expected if name not in state],
        "it holds the unknown": [name for name in state if name not in expected],
        "of another shape:": [
            f"{name} ({list(value.shape)}, not {expected[name]})"
            for name, value in state.items()
            if name in expected and list(value.shape) != expected[name]
        ],
    }
    words = [f"{fault} {', '.join(found[:3])}{' ...' * (len(found) > 3)}" for fault, found in faults.items() if found]
    if words:
        raise ValueError(f"{complaint}: {'; '.join(words)}.")
    module.load_state_dict(state, assign=True)
    return module
