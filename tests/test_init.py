"""02's `init`: the first loss beside the source's own, other sizes and bands, resuming, and what does not fit."""

import csv
import json
import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from geofm_lib.data import loader
from geofm_lib.data.shards import Shards
from geofm_lib.data.transforms import mask_noise, normalise
from geofm_lib.jobs import pretrain_start
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import mae, patches, vit
from geofm_lib.model.interop import export, formats, load, locate, start
from geofm_lib.report.colophon import colophon
from geofm_lib.runs import launch
from geofm_lib.runs.check import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, Resolved, SettingsError
from tests.support import encoders, packed, ranks

LOSS = 1e-5
SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}  # ViT-Atto
SIZE = {"image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 64, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2}
TARGET = {"decoder_intermediate_size": 256, "norm_pix_loss": True}
SIZES = {"embed_dim": 64, "depth": 4, "num_heads": 2, "img_size": 32, "patch_size": 8}  # the same for timm


def stir(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "pos" not in name:  # as MAE's, positions are sines and cosines
                weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def hf_folder(folder, **more):
    theirs = stir(ViTMAEForPreTraining(ViTMAEConfig(**(SMALL | SIZE | DECODER | TARGET | more))))
    positions, width = theirs.vit.embeddings.position_embeddings, theirs.config.decoder_hidden_size
    positions.data = patches.sincos_positions(64, 4, 4).roll(32, -1)  # as MAE has them: columns first
    theirs.decoder.decoder_pos_embed.data = patches.sincos_positions(width, 4, 4).roll(width // 2, -1)
    theirs.save_pretrained(folder)
    return theirs


def timm_folder(folder, **more):
    """The layout of timm/vit_base_patch16_224.mae: a plain ViT's config.json and weights, no decoder."""
    sizes = SIZES | more
    theirs = stir(timm.create_model("vit_base_patch16_224", num_classes=0, **sizes))
    if "reg_tokens" not in more:
        theirs.pos_embed.data = patches.sincos_positions(sizes["embed_dim"], 4, 4)
    save_for_hf(theirs, folder, model_args=sizes, safe_serialization=True)
    return theirs


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Pretrainings of one rank, each with its `init`, and the models that they started from."""
    place = tmp_path_factory.mktemp("init")
    for bands in (3, 13):
        (place / f"{bands} bands").mkdir()
        packed.textures(place / f"{bands} bands", bands)
    theirs = {"hf": hf_folder(place / "hf"), "timm": timm_folder(place / "timm")}
    shutil.copytree(place / "hf", place / "gone")

    def run(name, source, bands=3, stop=None, **settings):
        usual = {
            "model": "ViT-Atto",
            "epochs": 4,
            "warmup_epochs": 0,
            "global_batch": 8,
            "log_every": 1,
            "image_size": 32,
        }
        usual |= {"init": str(place / source), "data": str(place / f"{bands} bands"), "device": "cpu"}
        return {"settings": usual | settings | {"run_dir": str(place / name)}, "stop": stop}

    larger = {"image_size": 64, "base_learning_rate": 0.01}
    first = [run("from hf", "hf"), run("from timm", "timm"), run("stopped", "gone", stop=5)]
    first += [run("larger", "timm", **larger), run("again from run", "from hf", image_size=48)]
    first += [run(f"13 {how}", "hf", 13, init_bands=how, base_learning_rate=0.01) for how in start.BANDS]
    resumed = run("stopped", "gone") | {"remove": str(place / "gone")}  # it must not look for it
    return place, theirs, ranks.start("curves", place / "ranks", 1, runs=[*first, resumed])


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def first_batch(data):
    """(normalised images, masking noise) of a run's first step."""
    shards = Shards(data, split="train")
    stream = loader.stream(shards, seed=0, global_batch=8, epochs=4, image_size=32, crop_scale=(0.2, 1.0))
    _, epoch, ((pixels, indices),) = next(stream)
    return normalise(pixels, shards.mean, shards.std), mask_noise(0, epoch, indices.tolist(), 16)


@torch.no_grad()
def test_the_first_loss_is_that_of_transformers(found):
    place, theirs, _ = found
    pixels, noise = first_batch(place / "3 bands")
    assert abs(losses(place / "from hf")[0] - theirs["hf"](pixels, noise=noise).loss.item()) < LOSS
    record = json.loads((place / "from hf" / "init.json").read_text())
    assert (record["decoder"], record["norm_eps"], record["from"]) == (True, 1e-12, str(place / "hf"))
    assert record["notes"] == ["norms with an eps of 1e-12, as in the source"]
    assert record["digest"] == locate.digest(locate.find(place / "hf"))
    assert load.load_encoder(place / "from hf")[1]["norm_eps"] == 1e-12  # so that a probe builds what was trained


@torch.no_grad()
def test_the_first_loss_is_that_of_timms_encoder(found):
    """Its visible patches through timm's own modules, then the decoder that the seed draws."""
    place, theirs, _ = found
    encoder, decoder = theirs["timm"], mae.build("ViT-Atto", 32, norm_pix_loss=True, seed=0)
    pixels, noise = first_batch(place / "3 bands")
    seen, hidden = mae.random_masking(noise, 4)
    tokens = mae.take(encoder.patch_embed(pixels) + encoder.pos_embed[:, 1:], seen)
    first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(pixels), -1, -1)
    encoded = encoder.norm(encoder.blocks(torch.cat([first, tokens], dim=1)))
    predicted = decoder.decoder_pred(mae.take(decoder.decode(encoded, seen), hidden))
    expected = (predicted - decoder.target(mae.take(patches.patchify(pixels, 8), hidden))).square().mean().item()
    assert abs(losses(place / "from timm")[0] - expected) < LOSS
    record = json.loads((place / "from timm" / "init.json").read_text())
    assert record["notes"] == ["it has no decoder: the decoder is drawn anew from the seed"]


def test_the_page_says_where_a_run_started(found):
    place, _, _ = found
    page = colophon(Run(place / "larger"))._repr_html_()
    digest = locate.digest(locate.find(place / "timm"))
    for words in (f"{place / 'timm'} (SHA-256 {digest})", "positions interpolated from 4x4 to 8x8 patches"):
        assert words in page


def test_a_launch_keeps_the_digest_of_a_run_that_has_trained(tmp_path):
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}
    source = encoders.write(tmp_path / "source", vit.build("ViT-Atto", image_size=32, seed=0).state_dict(), config)
    settings = PretrainSettings(model="ViT-Atto", init=str(source), run_dir=str(tmp_path / "run"))
    first = launch._first_weights(settings)
    assert first == {"init": str(source), "init_digest": locate.digest(locate.find(source))}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"job": "pretrain", "resolved": first}))
    encoders.write(source, vit.build("ViT-Atto", image_size=32, seed=1).state_dict(), config)
    assert launch._first_weights(settings)["init_digest"] != first["init_digest"]  # nothing has been trained yet
    (tmp_path / "run" / "checkpoint" / "step-00000005").mkdir(parents=True)
    shutil.rmtree(source)
    assert launch._first_weights(settings) == first
    with pytest.raises(SettingsError, match="^init: .*does not exist"):
        check(settings)
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="^init: .*does not exist"):
        launch._first_weights(settings)  # it failed before its first checkpoint
    (tmp_path / "elsewhere").rename(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "init.json").write_text("{}")
    check(settings)  # it is not read again


def test_files_that_changed_since_the_launch(tmp_path):
    source = encoders.autoencoder(tmp_path / "source")
    settings = PretrainSettings(model="ViT-Atto", image_size=32, init=str(source))
    alone = SimpleNamespace(is_main=True, broadcast=lambda value: value)
    with pytest.raises(ValueError, match="^init: the files in .* changed while this run was started"):
        pretrain_start.Start(settings, Folder(tmp_path, resolved=Resolved(init_digest="0" * 64)), alone)


def test_it_trains_at_another_size_and_on_other_bands(found):
    place, _, ended = found
    assert set(ended) - {"a stop was asked for; saved at step 5 of 12"} == {"finished"}
    for name, words in [
        ("larger", "positions interpolated from 4x4 to 8x8 patches"),
        ("again from run", "positions interpolated from 4x4 to 6x6 patches"),
        ("13 mean", "first projection made for 13 bands out of 3: the mean of its bands"),
        ("13 repeat", "its bands in turn (init_bands=repeat)"),
        ("13 new", "drawn anew (init_bands=new)"),
    ]:
        curve, record = losses(place / name), json.loads((place / name / "init.json").read_text())
        assert curve[-1] < 0.99 * curve[0], (name, curve)
        assert any(words in note for note in record["notes"]), record
    assert len({losses(place / f"13 {how}")[0] for how in start.BANDS}) == 3


def test_a_resume_does_not_start_again(found):
    place, _, ended = found
    assert ended[-1] == "finished"
    assert losses(place / "stopped") == losses(place / "from hf")
    assert not (place / "gone").exists()
    rows = list(csv.DictReader((place / "stopped" / "ranks.csv").open()))
    assert len(rows) == 1


def fit(folder, bands="mean", channels=3, image_size=32, name="ViT-Atto", **more):
    model = mae.build(name, image_size, channels, "meta", **more)
    return start.fitted(formats.read(locate.find(folder)), model, name, bands, str(folder))


@pytest.mark.parametrize("bands", ["mean", "repeat"])
@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_equal_bands_give_the_tokens_that_they_gave(tmp_path, bands, channels):
    """One grey image in all bands: the first projection of more or fewer bands answers as before (repeat: of whole
    rounds), and the decoder predicts for each band what it predicted."""
    theirs = hf_folder(tmp_path / "hf")
    state, _ = fit(tmp_path / "hf", bands, channels)
    old, _ = fit(tmp_path / "hf")
    grey, name = torch.rand(1, 1, 8, 8), "encoder.patch_embed.proj.weight"
    new_tokens, old_tokens = ((grey.expand(1, w.shape[1], 8, 8) * w).sum((1, 2, 3)) for w in (state[name], old[name]))
    if bands == "mean" or channels % 3 == 0:
        torch.testing.assert_close(new_tokens, old_tokens)
    rows, before = (s["decoder_pred.weight"].reshape(-1, 64, 64) for s in (state, old))
    expected = before.mean(0) if bands == "mean" else before[(channels - 1) % 3]
    torch.testing.assert_close(rows[-1], expected)
    assert state["decoder_pred.bias"].shape == (channels * 64,)
    assert theirs.config.num_channels == 3


def test_a_published_file_is_read_without_a_config(tmp_path):
    """MAE's own layout: {"model": weights}, timm's names, the decoder's rows with the channels last."""
    theirs = hf_folder(tmp_path / "hf")
    saved = formats.read(locate.find(tmp_path / "hf"))
    rows = {
        n: saved.decoder[n].reshape(3, 64, -1).transpose(0, 1).reshape(saved.decoder[n].shape)
        for n in ("decoder_pred.weight", "decoder_pred.bias")
    }
    torch.save(
        {"model": saved.encoder | saved.decoder | rows | {"head.weight": torch.ones(2, 64)}}, tmp_path / "mae.pth"
    )
    state, notes = fit(tmp_path / "mae.pth")
    expected, _ = fit(tmp_path / "hf")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert notes == ["left out: head.weight"]
    exported = export.convert(tmp_path / "mae.pth", tmp_path / "ours", "geofm")
    assert "decoder_pred.bias" in exported.left_out  # its heads are not known
    assert torch.equal(load.load_encoder(tmp_path / "ours")[0].cls_token, saved.encoder["cls_token"])
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="no config.json beside it and holds no ViT.*give the whole folder"):
        fit(tmp_path / "resnet.pth")
    assert theirs.config.hidden_size == 64


def test_a_decoder_of_other_sizes_is_told_and_drawn(tmp_path):
    hf_folder(tmp_path / "hf", decoder_hidden_size=32, decoder_intermediate_size=128, norm_pix_loss=False)
    state, notes = fit(tmp_path / "hf")
    assert notes == [
        "its decoder is of other sizes (decoder_width 32, not 64): the decoder is drawn anew from the seed"
    ]
    assert not any("decoder" in name or name == "mask_token" for name in state)
    state, notes = fit(tmp_path / "hf", decoder_width=32, norm_pix_loss=True)
    assert notes == ["its decoder was trained with norm_pix_loss=False"]
    assert "mask_token" in state


def test_learned_positions_are_told(tmp_path):
    theirs = timm_folder(tmp_path / "timm")
    with torch.no_grad():
        theirs.pos_embed.add_(0.02)
    save_for_hf(theirs, tmp_path / "timm", model_args=SIZES, safe_serialization=True)
    state, notes = fit(tmp_path / "timm")
    assert notes[0] == "its positions are not MAE's sines and cosines; they stay as they are"
    assert torch.equal(state["encoder.pos_embed"], theirs.pos_embed)


def test_what_does_not_fit_is_one_sentence(tmp_path):
    hf_folder(tmp_path / "hf")
    timm_folder(tmp_path / "registers", reg_tokens=4)
    timm_folder(tmp_path / "scaled", init_values=1e-5)
    config = {"model": "ViT-Atto", "image_size": 32, "patch_size": 8, "channels": 3, "family": "benchmark"}
    gated = vit.build("ViT-Atto", "benchmark", 32, num_classes=0)
    encoders.write(tmp_path / "gated", gated.state_dict(), config)
    broken = formats.read(locate.find(tmp_path / "hf")).encoder | {"blocks.0.extra": torch.ones(1)}
    del broken["blocks.1.mlp.fc2.bias"]
    torch.save(broken, tmp_path / "broken.pth")
    whole = formats.read(locate.find(tmp_path / "hf")).encoder
    torch.save(whole | {"norm.weight": torch.full((64,), torch.nan)}, tmp_path / "nan.pth")
    encoders.write(tmp_path / "renamed", whole, config | {"family": "pretrain"})
    renamed = json.loads((tmp_path / "renamed" / "config.json").read_text())
    (tmp_path / "renamed" / "config.json").write_text(json.dumps(renamed | {"model": "ViT-Nowhere"}))
    (tmp_path / "renamed" / "SHA256SUMS").unlink()
    encoders.write(
        tmp_path / "two", whole | {"patch_embed.proj.weight": torch.ones(64, 2, 8, 8)}, config | {"family": "pretrain"}
    )
    for source, how, words in [
        (
            "two",
            {"channels": 4},
            r"of another shape: encoder.patch_embed.proj.weight \[64, 2, 8, 8\], not \[64, 4, 8, 8\]",
        ),
        ("renamed", {}, "There is no model 'ViT-Nowhere'"),
        (
            "hf",
            {"name": "ViT-Femto"},
            r"is ViT-Atto \(64 wide, 4 deep.*ViT-Femto \(128 wide, 6 deep.*set model=ViT-Atto",
        ),
        ("hf", {"patch_size": 16}, "has patches of 8 pixels and this model of 16; set patch_size=8"),
        ("registers", {}, "no plain ViT.*a probe takes it as timm defines it"),
        ("scaled", {}, "no plain ViT"),
        ("nan.pth", {}, r"holds values that are not finite \(in encoder.norm.weight\)"),
        ("gated", {}, "of family 'benchmark', which cannot be pretrained"),
        ("broken.pth", {}, "it lacks encoder.blocks.1.mlp.fc2.bias; it holds the unknown encoder.blocks.0.extra"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            fit(tmp_path / source, **how)
        assert "\n" not in str(caught.value)
