"""Groups of bands whose patches are tokens of their own: what they mean, what is masked, counted, kept and refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from geofm_lib.catalog import bands
from geofm_lib.data import shards
from geofm_lib.distributed.context import Context
from geofm_lib.figures import pretrain as page
from geofm_lib.jobs import encoder_bands, pretrain, pretrain_loss
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import contrastive, decoders, mae, patches, vit
from geofm_lib.model.interop import export, formats, load, locate, start
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.weights import describe, parameters, units
from geofm_lib.runs import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, SettingsError
from tests.support import packed
from tests.test_planning import ATTENTION

NAMES = ("B2", "B3", "B4", "B8", "B11")
GROUPS = ((0, 3), (1, 2), (4,))  # the first is no run of neighbours
SIZE = {"image_size": (32, 64), "channels": 5, "groups": GROUPS}


def test_bands_are_meant_by_name_or_number():
    assert bands.resolve("B8,B2|B11|B3,B4", 5, NAMES) == ((0, 3), (4,), (1, 2))
    assert bands.resolve("0,3|1-2|4", 5) == bands.resolve("0,3|1-2|4", 5, NAMES) == GROUPS
    assert bands.resolve("", 5) == bands.resolve("0-4", 5) == bands.resolve("4,2-3,0,1", 5) == ()
    assert bands.spelled(GROUPS) == "0,3|1,2|4"


@pytest.mark.parametrize(
    ("text", "names", "words"),
    [
        ("0-2|", (), "group 2 is empty; name its bands, or take a | away"),
        ("0,,1|2-4", (), "group 1 has a comma without a band"),
        ("B2,B3|B3,B4,B8,B11", NAMES, "'B3' is there twice; a band is in one group"),
        ("0-3|3-4", (), "band 3 is in two groups; leave it in one"),
        ("B2,1-2|B4,3-4", NAMES, "band B4 is in two groups"),
        ("0-2|3", (), "band 4 is in no group; add it to one"),
        ("B2|B3", NAMES, "bands B4, B8, B11 are in no group; add them to one"),
        ("0-2|3-5", (), "no band '3-5', the images' bands have no names but their numbers, 0 to 4"),
        ("B2,B3|B4,B8,B12", NAMES, "no band 'B12', the images' bands are B2, B3, B4, B8, B11; did you mean 'B1?2'?"),
        ("1-2|3,4,5", ("1", "2", "3", "4", "5"), "no band '1-2', the images' bands are 1, 2"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text, names, words):
    with pytest.raises(SettingsError, match=f"^band_groups: .*{words}") as caught:
        try:
            PretrainSettings(band_groups=text).groups(5, names)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    assert "\n" not in str(caught.value)


def test_settings_that_say_nothing():
    with pytest.raises(SettingsError, match="group_masks: 'consistent' says nothing without groups; set band_groups"):
        PretrainSettings(group_masks="consistent")
    with pytest.raises(SettingsError, match="group_masks: 'consistent' says nothing with objective=contrastive"):
        PretrainSettings(group_masks="consistent", band_groups="0|1-2", objective="contrastive", global_batch=4)


def test_a_launch_refuses_groups_that_the_prepared_images_have_not(tmp_path):
    folder = packed.textures(tmp_path, bands=5)
    (folder / "fingerprint").touch()
    asked = {"data": str(folder), "model": "ViT-Atto", "global_batch": 8, "image_size": 32}
    check.check(PretrainSettings(**asked, band_groups="0,3|1,2|4"))
    with pytest.raises(SettingsError, match="^band_groups: band 4 is in no group"):
        check.check(PretrainSettings(**asked, band_groups="0,3|1,2"))


@pytest.fixture
def case():
    """(model, images, noise): 5 bands in 3 groups, 4 x 8 places of which 8 stay visible in each group."""
    torch.manual_seed(0)
    return mae.build("ViT-Atto", seed=0, norm_pix_loss=True, **SIZE), torch.randn(3, 5, 32, 64), torch.rand(3, 96)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_one_group_is_plain_stacking_to_the_bit(norm_pix_loss):
    torch.manual_seed(0)
    images, noise = torch.randn(3, 5, 32, 64), torch.rand(3, 32)
    found = []
    for groups in ((), (range(5),)):
        model = mae.build("ViT-Atto", (32, 64), 5, seed=0, norm_pix_loss=norm_pix_loss, groups=groups)
        optimiser, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
        for _ in range(3):
            optimiser.zero_grad()
            losses.append(model(images, noise))
            losses[-1].backward()
            optimiser.step()
        found.append([*losses, model.reconstruct(images, noise)[0], *model.state_dict().values()])
    assert all(map(torch.equal, *found))


def test_tokens_of_a_group_know_its_bands_alone(case):
    """timm's way, by whole convolutions of a group's bands, is the way of a pretraining."""
    model, images, _ = case
    encoder, D = model.encoder, 64
    projection = encoder.patch_embed.proj
    tokens = torch.cat(
        [F.conv2d(images[:, g], projection.weight[:, g], projection.bias, 8).flatten(2) for g in GROUPS], 2
    )
    torch.testing.assert_close(encoder.patch_embed(images), tokens.mT)
    torch.testing.assert_close(encoder.forward_features(images), mae.whole(encoder, images))
    assert encoder.forward_features(images).shape == (3, 1 + 3 * 32, D)
    plain = vit.build("ViT-Atto", image_size=(32, 64), channels=5)
    assert {n: p.shape for n, p in plain.named_parameters() if n != "pos_embed"} == {
        n: p.shape for n, p in encoder.named_parameters() if n != "pos_embed"
    }
    for g in GROUPS:  # each is drawn as the matrix that it is
        bound = (6 / (D + 64 * len(g))) ** 0.5
        assert 0.95 * bound < projection.weight[:, g].abs().max() <= bound


def test_positions_tell_places_and_groups_apart():
    table = patches.sincos_positions(64, 4, 8, groups=3)[0, 1:].view(3, 32, 64)
    torch.testing.assert_close(table[:, :, :48], patches.sincos_positions(48, 4, 8)[0, 1:].expand(3, -1, -1))
    assert (table[:, :1, 48:] == table[:, :, 48:]).all()
    assert torch.pdist(table[:, 0]).min() > 0.5
    with pytest.raises(ValueError, match="A width of 12 has no positions of groups of bands; use 16 or more"):
        patches.sincos_positions(12, 4, 8, groups=3)


@pytest.mark.parametrize("kind", ["independent", "consistent"])
def test_each_group_masks_equally_many_at_its_own_places_or_the_same(kind):
    model = mae.build("ViT-Atto", seed=0, group_masks=kind, **SIZE)
    visible, masked = model.masks(torch.rand(2, model.drawn))
    assert model.drawn == (96 if kind == "independent" else 32)
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(96).expand(2, -1))
    assert (visible // 32).unique(return_counts=True)[1].tolist() == [16, 16, 16]
    places = (visible % 32).view(2, 3, 8).sort(2).values
    assert (places[:, :1] == places).all() == (kind == "consistent")


def test_the_loss_is_the_mean_over_groups_of_their_errors(case):
    model, images, noise = case
    _, masked = model.masks(noise)
    whole, mask = model.reconstruct(images, noise)
    assert mask.sum(1).tolist() == [72, 72, 72]
    errors = []
    for number, group in enumerate(GROUPS):
        at = masked[:, number * 24 : (number + 1) * 24] - number * 32
        truth, guess = (mae.take(patches.patchify(each[:, list(group)], 8), at) for each in (images, whole))
        spread = truth.var(2, keepdim=True).add(1e-6).sqrt()  # what reconstruct has put back
        errors.append(((guess - truth) / spread).square().mean())
    torch.testing.assert_close(model(images, noise), torch.stack(errors).mean())
    hidden = F.interpolate(mask.view(3, 3, 4, 8), scale_factor=8)
    hidden = torch.stack([hidden[:, next(n for n, g in enumerate(GROUPS) if band in g)] for band in range(5)], 1)
    changed = images + 5 * torch.randn_like(images) * hidden
    model.norm_pix_loss = False
    torch.testing.assert_close(model.reconstruct(changed, noise)[0], model.reconstruct(images, noise)[0])


def test_where_nothing_is_missing_a_mask_of_validity_changes_nothing(case):
    model, images, noise = case
    everywhere = torch.ones(3, 1, 32, 64, dtype=torch.bool)
    assert torch.equal(model(images, noise), model(images, noise, everywhere))
    everywhere[:, :, :8] = False
    model(images, noise, everywhere).backward()
    assert 0.1 < model.not_measured < 0.5
    assert {n for n, p in model.named_parameters() if p.grad is None} == {"encoder.pos_embed", "decoder_pos_embed"}
    torch.nn.init.zeros_(model.decoder_pred.weight), torch.nn.init.zeros_(model.decoder_pred.bias)
    for valid in (None, everywhere):  # the target's mean is 0 in each group, and so is the prediction
        torch.testing.assert_close(pretrain_loss._patch_means(model, images, noise, valid), model(images, noise, valid))


def test_plans_count_the_tokens_of_groups(case):
    model, images, noise = case
    for workload, network in (("mae", model), ("encoder", model.encoder)):
        found = units("ViT-Atto", workload, **SIZE)
        ours = {n if u.name == "root" else f"{u.name}.{n}": s for u in found for n, s in u.shapes.items()}
        assert ours == {n: tuple(p.shape) for n, p in network.named_parameters()}
        assert parameters("ViT-Atto", workload, **SIZE) == sum(p.numel() for p in network.parameters())
    shape = describe("ViT-Atto", "mae", **SIZE)
    assert (shape.tokens, shape.patches + 1) == model.tokens == (25, 97)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        model(images, noise).backward()
    assert 3 * training_flops("ViT-Atto", "mae", **SIZE) == counter.get_total_flops()


def test_other_heads_and_objectives_take_them(case):
    _, images, _ = case
    network = contrastive.build("ViT-Atto", (32, 64), 5, "cpu", None, 16, groups=GROUPS)
    assert network(images).shape == (3, 16)
    assert network.tokens == (97,)
    for head in (decoders.Light, decoders.Pyramid):
        made = head(network.encoder, 4).to_empty(device="cpu")
        assert made(made.take(network.encoder, images)).shape == (3, 4, 32, 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished pretraining on 5 named bands in 3 groups, of which those that are shown are of two."""
    place = tmp_path_factory.mktemp("bands")
    (place / "data").mkdir()
    file = packed.textures(place / "data", bands=5) / "statistics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bands": NAMES}))
    asked = {"data": str(place / "data"), "model": "ViT-Atto", "image_size": 32, "epochs": 1, "warmup_epochs": 0}
    asked |= {"global_batch": 8, "attention": "fused", "linear": "matmul", "run_dir": str(place / "run")}
    settings = PretrainSettings(**asked, band_groups="B2,B8|B3,B4|B11")
    (place / "run").mkdir()
    store = dist.FileStore(str(place / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        pretrain.run(settings, Context(0, 1, torch.device("cpu"), dist.HashStore()), Folder(place / "run"))
    finally:
        dist.destroy_process_group()
    stored = {"job": "pretrain", "asked": settings.asked(), "resolved": {}}
    (place / "run" / "settings.json").write_text(json.dumps(stored))
    return place / "run"


def test_the_page_shows_colours_of_several_groups(run):
    with np.load(run / "reconstruction.npz") as saved:
        hidden, original, masked = saved["hidden"], saved["original"], saved["masked"]
        assert hidden.shape == original.shape == (8, 32, 32, 3)
        assert hidden.mean((0, 1, 2)).tolist() == [0.75] * 3
        assert (masked[hidden] == 128).all() and np.array_equal(masked[~hidden], original[~hidden])
        assert np.array_equal(hidden[..., 1], hidden[..., 2]) and not np.array_equal(hidden[..., 0], hidden[..., 1])
    told = page.reconstruction(Run(run)).alt
    assert "groups of bands are masked apart" in told and "mean colour" in told


def test_there_and_back_is_bitwise_and_others_are_told_why_not(run, tmp_path):
    config = json.loads((run / "encoder" / "config.json").read_text())
    assert (config["bands"], config["band_groups"]) == (list(NAMES), [list(group) for group in GROUPS])
    assert "neither timm nor transformers can load" in (run / "encoder" / "README.md").read_text()
    told = export.export(run, tmp_path / "copy", "geofm")
    assert told.endswith("with its decoder, of groups of bands, which neither timm nor transformers can load")
    images = torch.randn(2, 5, 32, 32)
    (ours, _), (copied, _) = (load.load_autoencoder(each) for each in (run, tmp_path / "copy"))
    noise = torch.rand(2, ours.drawn)
    assert torch.equal(ours(images, noise), copied(images, noise))
    larger, _ = load.load_encoder(tmp_path / "copy", 64)
    assert larger.forward_features(torch.randn(1, 5, 64, 64)).shape == (1, 1 + 3 * 64, 64)
    assert torch.equal(vit.features(load.load_encoder(run)[0], images), vit.features(copied.encoder, images))
    for kind, words in {"timm": "timm has no ViT that", "vit": "Hugging Face has no", "vitmae": "Hugging Face"}.items():
        with pytest.raises(ValueError, match=f"as {kind}: {words}.* makes tokens of groups of bands; geofm's own"):
            export.convert(run, tmp_path / kind, kind)


def test_weights_start_a_model_of_the_same_groups_alone(run):
    saved = formats.read(locate.find(run))

    def fit(groups, size=32):
        model = mae.build("ViT-Atto", size, 5, "meta", groups=groups, norm_pix_loss=True)
        return start.fitted(saved, model, "ViT-Atto", "mean", "init: there")

    state, notes = fit(GROUPS)
    assert notes == []
    assert torch.equal(state["encoder.pos_embed"], saved.encoder["pos_embed"])
    assert fit(GROUPS, 64)[1] == ["positions interpolated from 4x4 to 8x8 patches"]
    for other, ours in (((), "all bands together"), (((0, 1), (2, 3, 4)), r"groups of bands 0,1\|2,3,4")):
        words = rf"of groups of bands 0,3\|1,2\|4 and this model of {ours}; set band_groups='0,3\|1,2\|4'"
        with pytest.raises(ValueError, match=f"^init: there makes tokens {words}"):
            fit(other)


def test_an_encoder_is_not_asked_about_other_bands(tmp_path):
    images = SimpleNamespace(channels=5, bands=list(NAMES), folder="data")
    known = {"channels": 5, "bands": list(NAMES)}
    for config in (known, {"channels": 5}, known | {"bands": []}):
        encoder_bands.refuse_other(config, images, "run", "leave it out")
    with pytest.raises(ValueError, match="takes 13 channels, the images in data have 5; leave it out"):
        encoder_bands.refuse_other({"channels": 13}, images, "run", "leave it out")
    with pytest.raises(ValueError, match="takes the bands B3, B2, .* have B2, B3, .*prepare them with bands=B3,B2,B4"):
        encoder_bands.refuse_other({"channels": 5, "bands": ["B3", "B2", *NAMES[2:]]}, images, "run", "")
    assert shards.Shards(packed.textures(tmp_path)).bands == []
