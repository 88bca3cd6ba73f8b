"""Encoders out to timm and Hugging Face and in again: the libraries themselves read and write the other side."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from transformers import (
    AutoImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

from geofm_lib.data.transforms import normalise
from geofm_lib.model import mae, patches, vit
from geofm_lib.model.init import materialise
from geofm_lib.model.interop import export, folders, load, locate, timm_folder
from geofm_lib.settings import ProbeSettings
from tests.support import encoders
from tests.support.timing import scaled

SIZE = {"image_size": 32, "patch_size": 8}
DECODER = {"decoder_width": 48, "decoder_depth": 2, "decoder_heads": 3, "mask_ratio": 0.75, "norm_pix_loss": True}
SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}  # ViT-Atto
SMALL_DECODER = {
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 192,
}


def stir(model):
    """Weights without a zero bias or a norm of one, so that no weight can be left out unseen."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def config(name="ViT-Atto", image_size=32, patch_size=8, channels=5, **more):
    shown = {"mean": [0.1 + c / 10 for c in range(channels)], "std": [0.2 + c / 10 for c in range(channels)]}
    size = {"image_size": image_size, "patch_size": patch_size, "channels": channels}
    return {"model": name, "family": "pretrain"} | size | shown | more


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished pretraining: ViT-Atto on 5 channels with its decoder, another norm_eps than timm's."""
    folder, settings = tmp_path_factory.mktemp("run"), config(**DECODER, norm_eps=1e-5)
    torch.manual_seed(0)
    model = stir(mae.build("ViT-Atto", 32, 5, patch_size=8, **DECODER, norm_eps=1e-5))
    encoders.write(folder / "encoder", model.state_dict(), settings)
    return folder


def save(folder, image_size=32, **more):
    """(encoder, folder) of our own, without a decoder."""
    settings = config(image_size=image_size, **more)
    encoder = stir(materialise(load.shell(settings), "cpu", 0))
    return encoder, encoders.write(folder, encoder.state_dict(), settings)


@pytest.mark.parametrize(
    "name, size, patch, channels, architecture",
    [
        ("ViT-Atto", 32, 8, 5, "vit_base_patch16_224"),
        ("ViT-Atto", [32, 64], 8, 1, "vit_base_patch16_224"),
        ("ViT-Tiny", 224, 16, 3, "vit_tiny_patch16_224"),
    ],
)
def test_timm_reads_the_folder_of_a_run(tmp_path, name, size, patch, channels, architecture):
    torch.manual_seed(0)
    ours, folder = save(tmp_path / "encoder", size, name=name, patch_size=patch, channels=channels)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    tuned = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).eval()
    assert theirs.pretrained_cfg["architecture"] == architecture
    shown = timm.data.resolve_data_config(model=theirs)
    assert list(shown["mean"]) == config(channels=channels)["mean"]
    assert shown["input_size"][0] == channels
    images = torch.randn(1, channels, *folders.pair(size))
    with torch.inference_mode():
        assert torch.equal(theirs.forward_features(images), ours.forward_features(images))
        assert torch.equal(tuned.forward_features(images), ours.forward_features(images))
        assert tuned(images).shape == (1, 3)
        assert torch.equal(theirs(images), ours(images))
        pooled = timm.create_model(f"local-dir:{folder}", pretrained=True, global_pool="avg", fc_norm=False).eval()
        by_hand = theirs.forward_features(images)[:, theirs.num_prefix_tokens :].mean(dim=1)
        for found, pool in ((theirs(images), "cls"), (pooled(images), "mean"), (by_hand, "mean")):
            torch.testing.assert_close(found, vit.features(ours, images, pool), atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert 'pretrained=True, global_pool="avg", fc_norm=False)' in card
    assert "model.forward_features(images)[:, model.num_prefix_tokens :].mean(dim=1)" in card


@pytest.mark.parametrize(
    "name, patch, architecture",
    [
        ("ViT-Base", 16, "vit_base_patch16_224"),
        ("ViT-Large", 16, "vit_large_patch16_224"),
        ("ViT-Huge", 14, "vit_huge_patch14_224"),
        ("ViT-5B", 14, "vit_base_patch16_224"),  # timm has no name for it, and its MLP is wider than 4 x width
    ],
)
def test_timm_builds_the_large_sizes(name, patch, architecture):
    asked = timm_folder.settings(config(name, 224, patch, 3))
    assert asked["architecture"] == architecture
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=0, **asked["model_args"]).state_dict()
    ours = vit.build(name, device="meta").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("size", [32, [32, 64]])
def test_transformers_reads_a_vit(tmp_path, size):
    torch.manual_seed(0)
    ours, folder = save(tmp_path / "ours", size, norm_eps=1e-3)
    export.convert(folder, tmp_path / "hf", "vit")
    theirs, found = ViTModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False, output_loading_info=True)
    assert not any(found.values()), found
    images = torch.randn(2, 5, *folders.pair(size))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images).last_hidden_state, ours.forward_features(images))


def test_transformers_prepares_images_as_we_do(tmp_path):
    _, folder = save(tmp_path / "ours", channels=3)
    export.convert(folder, tmp_path / "hf", "vit")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "hf")(Image.fromarray(pixels), return_tensors="pt")
    ours = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], *(config(channels=3)[n] for n in ("mean", "std")))
    torch.testing.assert_close(theirs["pixel_values"], ours)


@pytest.mark.parametrize("kind", ["geofm", "vit", "vitmae"])
def test_there_and_back_is_bitwise(run, tmp_path, kind):
    export.convert(run, tmp_path / kind, kind)
    back = export.convert(tmp_path / kind, tmp_path / "back", "geofm")
    names = [locate.WEIGHTS, locate.DECODER] if kind != "vit" else [locate.WEIGHTS]
    for name in names:
        before, after = (folders.read_weights(folder / name) for folder in (run / "encoder", tmp_path / "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(after[n], value) for n, value in before.items())
    expected = json.loads((run / "encoder" / "config.json").read_text())
    if kind == "vit":
        expected = {key: value for key, value in expected.items() if key not in DECODER}
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == expected
    assert not back.left_out
    assert (tmp_path / "back" / locate.DECODER).exists() == (kind != "vit")


def test_there_and_back_through_timm_is_bitwise(tmp_path):
    ours, folder = save(tmp_path / "ours", [32, 64])
    export.convert(folder, tmp_path / "timm", "timm")
    assert set(json.loads((tmp_path / "timm" / "config.json").read_text())) == set(timm_folder.KEYS)
    assert export.convert(tmp_path / "timm", tmp_path / "back", "geofm").config == config(image_size=[32, 64])
    after = folders.read_weights(tmp_path / "back" / locate.WEIGHTS)
    assert all(torch.equal(after[n], value) for n, value in ours.state_dict().items())


def test_a_run_gives_its_autoencoder_back(run):
    model, settings = load.load_autoencoder(run)
    assert settings == config(**DECODER, norm_eps=1e-5)
    assert (model.norm_pix_loss, model.visible) == (True, 4)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    model(torch.randn(2, 5, 32, 32), torch.rand(2, 16)).backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == {"encoder.pos_embed", "decoder_pos_embed"}


FOREIGN = {
    "a classifier": lambda: ViTForImageClassification(ViTConfig(**SMALL, **SIZE, num_labels=7)),
    "a ViT that rebuilds": lambda: ViTForMaskedImageModeling(ViTConfig(**SMALL, **SIZE, encoder_stride=8)),
    "a ViT with its pooler": lambda: ViTModel(ViTConfig(**SMALL, **SIZE)),
    "a ViTMAE": lambda: ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **SMALL_DECODER, **SIZE, mask_ratio=0.5)),
}


@pytest.mark.parametrize("hub_names", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_hugging_face_folder_is_an_encoder(tmp_path, kind, hub_names):
    """As it is, and imported; with Hugging Face's eps of 1e-12, under transformers' old and new names."""
    torch.manual_seed(0)
    theirs = stir(FOREIGN[kind]())
    theirs.save_pretrained(tmp_path / "hf", save_original_format=hub_names)
    ViTImageProcessor(image_mean=[0.3, 0.4, 0.5], image_std=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "hf")
    assert ProbeSettings(encoder=str(tmp_path / "hf")).encoder == str(tmp_path / "hf")
    ours, settings = load.load_encoder(tmp_path / "hf")
    assert (settings["model"], settings["mean"], settings["norm_eps"]) == ("ViT-Atto", [0.3, 0.4, 0.5], 1e-12)
    imported = export.convert(tmp_path / "hf", tmp_path / "ours", "geofm")
    left_out = {"a classifier": "classifier.weight", "a ViT that rebuilds": "decoder.0.weight"}
    left_out |= {"a ViT with its pooler": "pooler.dense.weight"}
    assert (left_out.get(kind) in imported.left_out) == (kind in left_out)
    again, _ = load.load_encoder(tmp_path / "ours")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        if kind == "a ViTMAE":
            noise = torch.rand(2, 16)
            model, _ = load.load_autoencoder(tmp_path / "ours")
            torch.testing.assert_close(model(images, noise), theirs(images, noise=noise).loss)
            visible, _ = mae.random_masking(noise, 8)
            ours_seen = model.encode(patches.patchify(images, 8), visible)
            torch.testing.assert_close(ours_seen, theirs.vit(images, noise=noise).last_hidden_state)
        else:
            body = getattr(theirs, "vit", theirs)
            torch.testing.assert_close(ours.forward_features(images), body(images).last_hidden_state)
        assert torch.equal(again.forward_features(images), ours.forward_features(images))
        larger, _ = load.load_encoder(tmp_path / "hf", image_size=64)
        assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 64)


def test_a_folder_that_timm_saved_is_an_encoder(tmp_path):
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 2, "img_size": 32, "patch_size": 8, "in_chans": 4}
    theirs = stir(timm.create_model("vit_tiny_patch16_224", num_classes=9, **sizes))
    save_for_hf(theirs, tmp_path / "timm", model_args=sizes, safe_serialization=True)
    imported = export.convert(tmp_path / "timm", tmp_path / "ours", "geofm")
    assert set(imported.left_out) == {"head.bias", "head.weight"}
    assert len(imported.config["mean"]) == 4
    images = torch.randn(2, 4, 32, 32)
    with torch.inference_mode():
        for folder in ("timm", "ours"):
            ours, _ = load.load_encoder(tmp_path / folder)
            assert torch.equal(ours.forward_features(images), theirs.forward_features(images))


HF = {"model_type": "vit", **SMALL, **SIZE}
TIMM = timm_folder.settings(config())


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("vit", HF | {"model_type": "dinov2"}, "does not have .model_type dinov2.*model_type vit or vit_mae"),
        ("vit", HF | {"hidden_size": 96}, r'add _row\("ViT-NAME", 96, 4, 2, 8, _MAE, "SOURCE", mlp_dim=256\)'),
        ("vit", HF | {"num_attention_heads": 4}, "64 wide and 4 deep with 4 heads"),
        ("vit", HF | {"hidden_act": "quick_gelu"}, "activation 'quick_gelu'"),
        ("vit", HF | {"patch_size": [8, 4]}, "patches of 8x4 pixels"),
        ("vit", HF | {"image_size": 36}, "not a multiple of the patch size 8"),
        ("vit", HF | {"image_size": 64}, r"of another shape: pos_embed \(\[1, 17, 64\], not \[1, 65, 64\]\)"),
        ("timm", TIMM | {"architecture": "vit_nowhere"}, "timm cannot build the 'vit_nowhere'"),
        ("timm", {"architecture": "resnet18", "pretrained_cfg": {}}, "'resnet18' of .* is no plain ViT"),
        ("timm", TIMM | {"model_args": TIMM["model_args"] | {"global_pool": "avg"}}, "is no plain ViT"),
        ("timm", TIMM | {"model_args": TIMM["model_args"] | {"depth": 5}}, "64 wide and 5 deep"),
        ("timm", TIMM | {"model_args": TIMM["model_args"] | {"reg_tokens": 1}}, "is no plain ViT"),
        ("geofm", config(image_size=48), r"of another shape: pos_embed \(\[1, 17, 64\], not \[1, 37, 64\]\)"),
        ("geofm", {"model": "ViT-Atto"}, "lacks image_size, patch_size, channels"),
        ("geofm", {"embed_dim": 3}, "does not have .model_type not named"),
        ("geofm", [], "holds no settings but a list"),
    ],
)
def test_a_folder_that_is_no_encoder_of_ours(tmp_path, kind, settings, words):
    _, folder = save(tmp_path / "source")
    export.convert(folder, tmp_path / kind, kind)
    (tmp_path / kind / "config.json").write_text(json.dumps(settings))
    (tmp_path / kind / "SHA256SUMS").unlink()  # else it says that the file was changed
    with pytest.raises(ValueError, match=words) as caught:
        export.convert(tmp_path / kind, tmp_path / "target", "geofm")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "target").exists()
    with pytest.raises(ValueError):
        load.load_encoder(tmp_path / kind, image_size=96)


def test_weights_that_have_no_place_or_are_not_there(run, tmp_path):
    export.convert(run, tmp_path / "hf", "vitmae")
    weights = folders.read_weights(tmp_path / "hf" / locate.WEIGHTS)
    del weights["vit.encoder.layer.1.attention.attention.key.bias"], weights["decoder.mask_token"]
    folders.write(tmp_path / "hf", {locate.WEIGHTS: weights | {"vit.registers": torch.zeros(3)}})
    with pytest.raises(ValueError, match="it lacks mask_token, encoder.blocks.1.attn.qkv.bias; .* unknown .*registers"):
        load.load_autoencoder(tmp_path / "hf")


def test_what_a_format_cannot_hold(run, tmp_path):
    def refused(words, source, kind):
        with pytest.raises(ValueError, match=words) as caught:
            export.convert(source, tmp_path / "target", kind)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "target").exists()

    refused("as timm: timm builds its norms with an eps of 1e-06 and this one has 1e-05", run, "timm")
    _, plain = save(tmp_path / "plain")
    refused("as vitmae: its folder holds no decoder.safetensors", plain, "vitmae")
    with pytest.raises(ValueError, match="holds an encoder and no decoder"):
        load.load_autoencoder(plain)
    wide = mae.build("ViT-Atto", (32, 64), 5, **DECODER)
    encoders.write(tmp_path / "wide", wide.state_dict(), config(image_size=[32, 64], **DECODER))
    refused("as vitmae: ViTMAE takes square images, and this one takes 32x64 pixels", tmp_path / "wide", "vitmae")
    _, gated = save(tmp_path / "gated", family="benchmark")
    assert "architecture" not in json.loads((gated / "config.json").read_text())
    for kind in ("timm", "vit"):
        refused("gated MLP of family 'benchmark'; only 'pretrain' travels", gated, kind)


def test_the_command(run, tmp_path):
    """The file is run in a process of its own, so that `geofm` itself need not load torch."""

    def call(*words):
        command = [sys.executable, "-m", "geofm_lib", "export", *(str(word) for word in words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=scaled(200))

    done = call(run, tmp_path / "mae", "--format", "vitmae")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'mae'}: ViT-Atto, 32x32 pixels in patches of 8, 5 channels, with its decoder\n"
    again = call(run, tmp_path / "mae", "--format", "vitmae")
    assert (again.returncode, again.stdout) == (2, "")  # refused, as every command says it
    assert "exists and holds something; give a new or an empty folder" in again.stderr
    assert again.stderr.count("\n") == 1


def test_what_cannot_be_exported_is_one_sentence(run, tmp_path):
    export.convert(run, tmp_path / "mae", "vitmae")
    (tmp_path / "mae" / locate.WEIGHTS).rename(tmp_path / "mae" / "pytorch_model.bin")
    (tmp_path / "mae" / "SHA256SUMS").unlink()
    (tmp_path / "cut").mkdir()
    for name in (locate.WEIGHTS, locate.SETTINGS):
        (tmp_path / "cut" / name).write_bytes((run / "encoder" / name).read_bytes()[:2000])
    for source, target, words in [
        (run, tmp_path / "mae", "exists and holds something; give a new or an empty folder"),
        (run, run / "encoder" / "config.json", "exists and holds something"),
        (run, run / "encoder" / "config.json" / "new", "cannot be written: Not a directory"),
        (tmp_path / "nowhere", tmp_path / "new", "does not exist"),
        (tmp_path / "mae", tmp_path / "new", "is no whole file of torch's"),
        (tmp_path / "cut", tmp_path / "new", "is no whole safetensors file"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            export.export(source, target, "geofm")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["geofm", "vit"])
@pytest.mark.parametrize(
    "key, value", [("image_size", "32"), ("image_size", None), ("image_size", [32]), ("patch_size", True)]
)
def test_a_setting_of_another_type_is_one_sentence(tmp_path, kind, key, value):
    encoder = vit.build("ViT-Atto", image_size=32, seed=0)
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}
    encoders.write(tmp_path / "ours", encoder.state_dict(), config)
    export.convert(tmp_path / "ours", tmp_path / "given", kind)
    settings = json.loads((tmp_path / "given" / "config.json").read_text())
    (tmp_path / "given" / "config.json").write_text(json.dumps(settings | {key: value}))
    (tmp_path / "given" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=f"config.json: {key} is .* mend that line"):
        load.load_encoder(tmp_path / "given")
