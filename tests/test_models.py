"""model/vit.py: the counts of Table I, timm's names, sizes, initialisation, files."""

import json

import pytest
import timm
import torch
from torch import nn

from geofm_lib.catalog.models import MODELS
from geofm_lib.model import patches, vit
from geofm_lib.model.init import initialise, materialise
from geofm_lib.model.interop import load
from tests.support import encoders

# Exact counts of the network behind Table I: the authors' benchmark code (its log prints 87.02884 M for ViT-Base).
BENCHMARK = {
    "ViT-Base": 87_028_840,
    "ViT-Huge": 635_392_896,
    "ViT-1B": 914_252_416,
    "ViT-3B": 3_067_445_632,
    "ViT-5B": 5_349_511_040,
    "ViT-15B": 14_720_355_376,
}
# Millions: the plain encoder, and with a head of 1000 classes.
PLAIN = {
    "ViT-Base": (85.80, 86.57),
    "ViT-Huge": (630.76, 632.05),
    "ViT-1B": (907.91, 909.45),
    "ViT-3B": (3048.63, 3051.44),
    "ViT-5B": (3805.42, 3807.21),
    "ViT-15B": (14638.75, 14643.79),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", BENCHMARK)
def test_table_one(name):
    assert count(vit.build(name, "benchmark", device="meta")) == BENCHMARK[name]
    assert round(BENCHMARK[name] / 1e6) == pytest.approx(MODELS[name].published_params_M, abs=1)
    millions = [count(vit.build(name, device="meta", num_classes=k)) / 1e6 for k in (0, 1000)]
    assert millions == pytest.approx(PLAIN[name], abs=0.0051)


def test_vit_base_is_timms():
    ours = vit.build("ViT-Base", seed=3).eval()
    theirs = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize("family, classes", [("pretrain", 0), ("benchmark", 10)])
def test_rectangles_and_any_number_of_channels(family, classes):
    model = vit.build("ViT-Atto", family, image_size=(32, 64), channels=5, patch_size=16, num_classes=classes)
    assert model.patch_embed.num_patches == 8
    assert model(torch.randn(2, 5, 32, 64)).shape == (2, classes or 64)


def test_patches_come_back():
    images = torch.randn(2, 3, 16, 24)
    rows = patches.patchify(images, 8)
    assert torch.equal(rows[0, 1], images[0, :, :8, 8:16].flatten())  # row by row from the top left
    assert torch.equal(patches.unpatchify(rows, 8, 2, 3), images)


def test_positions_tell_rows_from_columns():
    table = patches.sincos_positions(64, 3, 5)
    assert table.shape == (1, 16, 64) and not table[:, 0].any()
    cells = table[0, 1:].reshape(3, 5, 64)
    assert torch.equal(cells[0, 2, :32], cells[0, 4, :32])  # one row: the same first half
    assert torch.equal(cells[0, 2, 32:], cells[2, 2, 32:])  # one column: the same second half
    assert len(torch.unique(table[0, 1:], dim=0)) == 15
    with pytest.raises(ValueError, match="multiple of 4"):
        patches.sincos_positions(6, 2, 2)


@pytest.mark.parametrize("family", vit.FAMILIES)
def test_weights_depend_on_the_seed_alone(family):
    first, again, other = (vit.build("ViT-Atto", family, 64, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    same = [n for (n, a), b in zip(first.named_parameters(), other.parameters(), strict=True) if torch.equal(a, b)]
    assert all(n.endswith("bias") or "norm" in n or n == "pos_embed" for n in same), same
    assert all(torch.isfinite(p).all() for p in first.parameters())
    # a wrapper's prefix in the names (checkpointing, compile) changes nothing
    wrapped = vit.build("ViT-Atto", family, 64, seed=5)
    wrapped.blocks[0] = nn.ModuleDict({"_checkpoint_wrapped_module": wrapped.blocks[0]})
    initialise(wrapped, 1)
    inner = wrapped.blocks[0]["_checkpoint_wrapped_module"]
    assert torch.equal(inner.mlp.fc1.weight, first.blocks[0].mlp.fc1.weight)


def test_materialising_from_meta_gives_the_same_weights():
    direct, late = vit.build("ViT-Atto", image_size=64, seed=1), vit.build("ViT-Atto", image_size=64, device="meta")
    with pytest.raises(ValueError, match="call to_empty"):
        initialise(late)
    materialise(late, "cpu", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(direct.state_dict().values(), late.state_dict().values(), strict=True))
    assert not late.pos_embed.requires_grad


def test_features_are_pooled_after_the_last_norm():
    encoder, images = vit.build("ViT-Atto", image_size=32, seed=0), torch.randn(2, 3, 32, 32)
    tokens = encoder.forward_features(images)
    torch.testing.assert_close(vit.features(encoder, images, "cls"), tokens[:, 0])
    torch.testing.assert_close(vit.features(encoder, images, "mean"), tokens[:, 1:].mean(1))
    with pytest.raises(ValueError, match="no pooling 'max'"):
        vit.features(encoder, images, "max")


CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}


def test_an_encoder_travels_through_its_two_files(tmp_path):
    encoder, images = vit.build("ViT-Atto", image_size=32, seed=0).eval(), torch.randn(2, 3, 32, 32)
    encoders.write(tmp_path / "run" / "encoder", encoder.state_dict(), CONFIG)
    loaded, config = load.load_encoder(tmp_path / "run")
    assert config == CONFIG
    torch.testing.assert_close(loaded(images), encoder(images))
    larger, _ = load.load_encoder(tmp_path / "run" / "encoder", image_size=64)
    assert larger.pos_embed.shape == (1, 65, 64) and larger(torch.randn(1, 3, 64, 64)).shape == (1, 64)
    with pytest.raises(ValueError, match="patch size 8"):
        load.load_encoder(tmp_path / "run", image_size=36)


def test_a_wrong_encoder_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load.load_encoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no model.safetensors with config.json"):
        load.load_encoder(tmp_path)
    encoders.write(tmp_path, vit.build("ViT-Atto", image_size=32).state_dict(), CONFIG | {"model": "ViT-Femto"})
    with pytest.raises(ValueError, match="does not fit ViT-Femto"):
        load.load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": "ViT-Atto"}))
    with pytest.raises(ValueError, match="lacks image_size"):
        load.load_encoder(tmp_path)


def test_unknown_names():
    with pytest.raises(ValueError, match="no model 'ViT-Gigantic'"):
        vit.build("ViT-Gigantic")
    with pytest.raises(ValueError, match="no model family 'mae'"):
        vit.build("ViT-Atto", family="mae")
