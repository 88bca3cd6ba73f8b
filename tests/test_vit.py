"""model/vit.py: the counts of Table I, timm's names, sizes, features."""

import pytest
import timm
import torch

from geofm_lib.catalog.models import MODELS
from geofm_lib.model import vit

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


def test_features_are_pooled_after_the_last_norm():
    encoder, images = vit.build("ViT-Atto", image_size=32, seed=0), torch.randn(2, 3, 32, 32)
    tokens = encoder.forward_features(images)
    torch.testing.assert_close(vit.features(encoder, images, "cls"), tokens[:, 0])
    torch.testing.assert_close(vit.features(encoder, images, "mean"), tokens[:, 1:].mean(1))
    both = torch.cat([tokens[:, 1:].amax(1), tokens[:, 0]], 1)
    torch.testing.assert_close(vit.features(encoder, images, "max+cls"), both)
    with pytest.raises(ValueError, match="no pooling 'median'"):
        vit.features(encoder, images, "mean+median")


def test_unknown_names():
    with pytest.raises(ValueError, match="no model 'ViT-Gigantic'"):
        vit.build("ViT-Gigantic")
    with pytest.raises(ValueError, match="no model family 'mae'"):
        vit.build("ViT-Atto", family="mae")
