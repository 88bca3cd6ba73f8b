"""Encoders that people have: timm's own definitions beside ours, pickles, sharded files, and what is no encoder."""

import argparse
import json
import os

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from geofm_lib.model import vit
from geofm_lib.model.interop import export, load, locate
from geofm_lib.runs.check import check
from geofm_lib.settings import PretrainSettings, ProbeSettings, SettingsError
from tests.support import encoders

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SHAPES = {  # timm's definition, made small: its registers, scales, RoPE and pooling stay
    "vit_base_patch14_dinov2": SMALL | {"img_size": 70},
    "vit_base_patch14_reg4_dinov2": SMALL | {"img_size": 70},
    "vit_base_patch16_dinov3": SMALL,
    "vit_small_plus_patch16_dinov3": SMALL,
    "deit3_small_patch16_224": SMALL,
    "vit_base_patch16_224": SMALL | {"global_pool": "avg"},
    "vit_medium_patch16_gap_240": SMALL,
    "eva02_tiny_patch14_224": SMALL,
    "vit_tiny_patch16_224": SMALL,  # plain, but of no size in the catalogue
}


def stir(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def saved(folder, name, **more):
    """timm's own model with random weights, and the folder that timm saved it to."""
    torch.manual_seed(0)
    sizes = SHAPES[name] | more
    theirs = stir(timm.create_model(name, num_classes=7, **sizes))
    save_for_hf(theirs, folder, model_args=sizes, safe_serialization=True)
    return theirs, folder


@pytest.mark.parametrize("name", SHAPES)
def test_features_are_those_of_timm(tmp_path, name):
    theirs, folder = saved(tmp_path / "timm", name)
    ours, config = load.load_encoder(folder)
    side, shown = config["image_size"], timm.data.resolve_data_config(model=theirs)
    assert (config["patch_size"], config["channels"]) == (theirs.patch_embed.patch_size[0], 3)
    assert (tuple(config["mean"]), tuple(config["std"])) == (shown["mean"], shown["std"])
    images = torch.randn(2, 3, side, side)
    own = "mean" if theirs.global_pool == "avg" else "cls"
    larger, smaller = 2 * config["patch_size"] + side, side - config["patch_size"]
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(vit.features(ours, images, own), expected, atol=1e-5, rtol=0)
        for size in (larger, smaller):  # timm resizes its own folder
            here, _ = load.load_encoder(folder, image_size=size)
            there = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, img_size=size).eval()
            images = torch.randn(1, 3, size, size)
            torch.testing.assert_close(vit.features(here, images, own), there(images), atol=1e-5, rtol=0)
        assert vit.features(ours, torch.randn(1, 3, side, side), "mean").shape == (1, 32)
    with pytest.raises(
        ValueError, match=f"is not a multiple of the patch size {config['patch_size']}; use for example"
    ):
        load.load_encoder(folder, image_size=side + 1)
    with pytest.raises(ValueError, match="is no plain ViT|32 wide and 2 deep") as caught:
        export.convert(folder, tmp_path / "ours", "geofm")
    assert "\n" not in str(caught.value)


def test_a_random_encoder_of_timms_definition_depends_on_its_seed_alone(tmp_path):
    _, folder = saved(tmp_path, "vit_base_patch14_reg4_dinov2")
    _, config = load.load_encoder(folder)
    torch.manual_seed(1)
    first = load.fresh(config, 28, seed=5).state_dict()
    torch.manual_seed(2)
    again, other = load.fresh(config, 28, seed=5).state_dict(), load.fresh(config, 28, seed=6).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not torch.equal(other["blocks.0.attn.qkv.weight"], first["blocks.0.attn.qkv.weight"])


def test_a_model_without_a_class_token_says_so(tmp_path):
    _, folder = saved(tmp_path, "vit_medium_patch16_gap_240")
    encoder, _ = load.load_encoder(folder, image_size=32)
    with pytest.raises(ValueError, match="no class token; use pool=mean"):
        vit.features(encoder, torch.zeros(1, 3, 32, 32), "cls")


@pytest.fixture
def whole(tmp_path):
    """(folder of timm's with a whole safetensors file, its weights)."""
    _, folder = saved(tmp_path / "whole", "vit_base_patch16_dinov3")
    return folder, load.load_encoder(folder)[0].state_dict()


def cut(folder, weights, name):
    """Writes weights as transformers does when they are cut into files, and takes the whole file away."""
    names, base, suffix = sorted(weights), *name.rsplit(".", 1)
    parts = {f"{base}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, held in parts.items():
        part = {each: weights[each].contiguous() for each in held}
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
    index = {"metadata": {}, "weight_map": {each: file for file, held in parts.items() for each in held}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    return list(parts)


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "pickle", "old pickle", "wrapped"])
def test_the_same_weights_in_other_files(whole, form):
    folder, expected = whole
    weights = load.load_encoder(folder)[0].state_dict()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    if "." in form:
        cut(folder, weights, form)
    else:
        content = (
            {"model": {f"module._orig_mod.{n}": each for n, each in weights.items()}} if form == "wrapped" else weights
        )
        how = {"_use_new_zipfile_serialization": form != "old pickle"}
        torch.save(content, folder / "pytorch_model.bin", **how)
    found = load.load_encoder(folder)[0].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/geofm-was-here",)


def test_a_pickle_runs_no_code(whole):
    folder, weights = whole
    (folder / "model.safetensors").unlink()
    for content, words in [
        ({"model": weights, "args": argparse.Namespace(lr=1)}, r"holds more than weights \(argparse.Namespace\)"),
        ({"model": weights, "extra": Evil()}, r"holds more than weights \(posix.system\).*weights_only=False"),
        ([1, 2], "holds no weights by name but a list"),
        ({"model": {"epoch": 3}}, "holds no weights by name but a dict"),
    ]:
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=words) as caught:
            load.load_encoder(folder)
        assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/geofm-was-here")
    good = (folder / "pytorch_model.bin").read_bytes()
    for content in (b"", b"no pickle", good[: len(good) // 2]):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="is no whole file of torch's"):
            load.load_encoder(folder)


def test_a_cut_folder_that_is_not_whole(whole):
    folder, weights = whole
    (folder / "model.safetensors").unlink()
    first, second = cut(folder, weights, "model.safetensors")
    (folder / second).unlink()
    with pytest.raises(ValueError, match=f"index.json names {second}, which is not in the folder"):
        load.load_encoder(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match="names ../../secret.safetensors, which is not in the folder"):
        load.load_encoder(folder)
    index.write_text("[]")
    with pytest.raises(ValueError, match="has no table of files"):
        load.load_encoder(folder)
    assert first


@pytest.mark.parametrize(
    "given, words",
    [
        ("timm/vit_base_patch16_dinov3.lvd1689m", "hf download timm/vit_base_patch16_dinov3.lvd1689m --local-dir vit_"),
        ("hf-hub:timm/vit_base_patch16_224.mae", "hf download timm/vit_base_patch16_224.mae --local-dir vit_base"),
        ("facebook/vit-mae-base", "hf download facebook/vit-mae-base --local-dir vit-mae-base"),
        ("vit_base_patch16_224.mae", "hf download timm/vit_base_patch16_224.mae --local-dir"),
        ("runs/pretrain-ViT-Tiny-FULL_SHARD-3f9a01", "does not exist; give a pretrain run"),
        ("/data/models/mine", "does not exist"),
    ],
)
def test_a_name_on_the_hub_gets_the_command_that_downloads_it(tmp_path, monkeypatch, given, words):
    """At launch, before anything is made; nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for settings in (ProbeSettings(encoder=given), PretrainSettings(init=given)):
        with pytest.raises(SettingsError, match=words) as caught:
            check(settings)
        assert str(caught.value).startswith(("encoder: ", "init: "))
        assert "\n" not in str(caught.value)


def test_init_is_never_random():
    with pytest.raises(SettingsError, match="^init: .*does not exist"):
        check(PretrainSettings(init="random"))


def test_a_folder_of_several_files_or_none(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    torch.save({}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="holds a.pth, b.pth and no config.json; give one of these files"):
        locate.find(tmp_path)
    assert locate.find(tmp_path / "a.pth").config is None
    (tmp_path / "b.pth").unlink()
    assert locate.find(tmp_path).weights == (tmp_path / "a.pth",)
    with pytest.raises(ValueError, match="a.pth has no config.json beside it.*start 02 from it .init."):
        load.load_encoder(tmp_path)
    with pytest.raises(SettingsError, match="^encoder: .*no config.json beside it"):
        check(ProbeSettings(encoder=str(tmp_path)))


def test_a_path_that_no_disk_has():
    with pytest.raises(SettingsError, match="^init: .*cannot be read .File name too long"):
        check(PretrainSettings(init="/" + 300 * "a"))


def test_the_digest_is_of_every_file(tmp_path):
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}
    folder = encoders.write(tmp_path, vit.build("ViT-Atto", image_size=32, seed=0).state_dict(), config)
    before = locate.digest(locate.find(folder))
    assert len(before) == 64
    for name in ("config.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + b" ")
        assert locate.digest(locate.find(folder)) != before
        (folder / name).write_bytes(whole)
    assert locate.digest(locate.find(folder)) == before


def test_a_probe_takes_any_size_that_the_encoders_own_patch_divides(tmp_path):
    """Not that of `model`, which only the random encoder has."""
    _, folder = saved(tmp_path, "vit_base_patch14_dinov2")
    assert ProbeSettings(encoder=str(folder), image_size=70).image_size == 70
    with pytest.raises(SettingsError, match="not a multiple of the patch size 8"):
        ProbeSettings(encoder="random", image_size=70)
