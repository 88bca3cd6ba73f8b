"""Other objectives than MAE's: views, the loss over all images of a step, their settings, and what is exported."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geofm_lib import files
from geofm_lib.advice import memory
from geofm_lib.data import loader, shards, views
from geofm_lib.distributed import contrast
from geofm_lib.figures import pretrain as page
from geofm_lib.jobs import pretrain_views
from geofm_lib.model import contrastive, mae
from geofm_lib.model.interop import folders, formats, locate, start
from geofm_lib.paper import accuracy
from geofm_lib.planning.flops import training_flops
from geofm_lib.runs import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, SettingsError
from tests.support import encoders, packed


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(contrast.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(contrast.dist, "get_rank", lambda: 0)


def projected(images=6, numbers=5, seed=0):
    return 3 + torch.randn(2 * images, numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(z):
    """What is compared: without what all views share, and of length 1."""
    return torch.nn.functional.normalize((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt(), dim=1)


def by_hand(z, temperature, same=()):
    """NT-Xent in numpy, view by view; same: pairs of images of one place."""
    n, total, z = len(z) // 2, 0.0, standardised(z).numpy()
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        others = [
            j for j in range(2 * n) if j != i and (j == positive or {i % n, j % n} not in same and i % n != j % n)
        ]
        weights = np.exp(z[others] @ z[i] / temperature)
        total -= np.log(np.exp(z[positive] @ z[i] / temperature) / weights.sum())
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_that_of_a_loop_over_views_and_of_another_library(alone, temperature):
    z = projected()
    assert float(contrast.info_nce(z, temperature)) == pytest.approx(by_hand(z, temperature), rel=1e-12)
    ntxent = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    theirs = float(ntxent(standardised(z)[:6].float(), standardised(z)[6:].float()))
    assert float(contrast.info_nce(z.float(), temperature)) == pytest.approx(theirs, rel=1e-6)


def test_held_out_views_have_the_loss_of_each_image_on_any_ranks(alone, monkeypatch, tmp_path):
    z = projected()
    assert float(contrast.of_each(z, 0.2).mean()) == pytest.approx(by_hand(z, 0.2), rel=1e-12)
    images = shards.Shards(packed.textures(tmp_path, count=37))
    settings = PretrainSettings(**CONTRASTIVE, image_size=16, model="ViT-Atto", global_batch=8)
    model = contrastive.build("ViT-Atto", 16, 3, "cpu", 8, 16, seed=0)
    asked = settings, model, images, "val", images

    def on(rank, world):
        return SimpleNamespace(rank=rank, world_size=world, device=torch.device("cpu"))

    found = pretrain_views.fixed_views(*asked, on(0, 1))
    assert found == pretrain_views.fixed_views(*asked, on(0, 1)), "always the same views"
    assert (found["held_out_contrast_images"], found["held_out_contrast_side"]) == (32, "val")
    assert 0 < found["held_out_contrast"] < 2 * contrast.guessing(32)
    for world in (2, 4):
        parts = []
        for rank in range(world):
            monkeypatch.setattr(contrast, "gathered", lambda own, kept=parts: kept.append(own) or own[None])
            pretrain_views.fixed_views(*asked, on(rank, world))
        monkeypatch.setattr(contrast, "gathered", lambda own, kept=parts: torch.stack(kept))
        others = pretrain_views.fixed_views(*asked, on(world - 1, world))
        assert others["held_out_contrast"] == pytest.approx(found["held_out_contrast"], rel=1e-5), world
        assert others["held_out_contrast_images"] == 32
    images.draw(1, 0)
    assert pretrain_views.fixed_views(*asked, on(0, 1)) == {}, "one image has no other to be told from"


def test_images_of_one_place_are_no_negatives_of_each_other(alone):
    z, places = projected(), torch.tensor([0, 1, 0, 2, 3, 1])
    found = float(contrast.info_nce(z, 0.2, places))
    assert found == pytest.approx(by_hand(z, 0.2, [{0, 2}, {1, 5}]), rel=1e-12)
    assert found < float(contrast.info_nce(z, 0.2))


def test_ranks_that_gather_have_the_loss_and_gradient_of_one(monkeypatch, alone):
    """Two ranks in turn: each sees what the other has; the mean over both is what one rank with all of it gets."""
    whole, rows = projected(), [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    together = whole.clone().requires_grad_()
    contrast.info_nce(together, 0.2).backward()
    held, losses = whole.clone().requires_grad_(), []
    parts = torch.stack([held[each] for each in rows])
    monkeypatch.setattr(contrast, "gathered", lambda own: parts)
    for rank in range(2):
        monkeypatch.setattr(contrast.dist, "get_rank", lambda rank=rank: rank)
        losses.append(contrast.info_nce(parts[rank], 0.2))
    (sum(losses) / 2).backward()
    assert float(sum(losses).detach() / 2) == pytest.approx(by_hand(whole, 0.2))
    assert torch.allclose(held.grad, together.grad, rtol=1e-10)


def test_guessing_is_the_loss_of_views_that_all_look_alike(alone):
    alike = torch.ones(8, 4)
    assert float(contrast.info_nce(alike, 0.1)) == pytest.approx(contrast.guessing(4), rel=1e-6)


def test_a_partner_is_of_the_same_place_and_an_image_without_one_is_its_own():
    partners = views.Partners(np.array([[0, 3], [3, 4], [1, 5]]), 7, seed=0)
    assert partners.place.tolist()[0] == partners.place.tolist()[3] == partners.place.tolist()[4]
    assert len(set(partners.place.tolist())) == 4
    assert partners.paired == 5
    assert [partners(0, i) for i in (0, 1, 2, 4, 5, 6)] == [3, 5, 2, 3, 1, 6]
    assert {partners(epoch, 3) for epoch in range(20)} == {0, 4}
    assert [partners(epoch, 3) for epoch in range(20)] == [partners(epoch, 3) for epoch in range(20)]


def test_the_first_views_are_those_of_mae_and_all_are_functions_of_the_image(tmp_path):
    images = shards.Shards(packed.textures(tmp_path, count=12))
    how = {"seed": 1, "global_batch": 4, "epochs": 1, "image_size": 16}
    usual = [batch for _, _, [batch] in loader.stream(images, **how)]
    partners = views.Partners(np.array([[0, 1], [2, 3]]), 12, 1)
    both = [batch for _, _, [batch] in loader.stream(images, **how, second=partners)]
    later = [batch for _, _, [batch] in loader.stream(images, **how, second=partners, done=2)]
    halves = [batch for _, _, [batch] in loader.stream(images, **how, second=partners, rank=1, world=2)]
    for (one, indices), (two, same), (half, own) in zip(usual, both, halves, strict=True):
        assert torch.equal(two[:4], one)
        assert torch.equal(indices, same)
        assert torch.equal(half, two[[2, 3, 6, 7]])
        assert torch.equal(own, indices[2:])
        assert not torch.equal(two[4:], one)
    assert torch.equal(later[0][0], both[2][0])
    itself = next(loader.stream(images, **how, second=views.itself))[2][0]
    paired = [k for k, i in enumerate(itself[1].tolist()) if i < 4]
    for k, i in enumerate(itself[1].tolist()):
        assert torch.equal(itself[0][4 + k], both[0][0][4 + k]) == (k not in paired), i


def test_colours_change_as_stored_values_would_and_nothing_but_the_image_decides():
    random = torch.Generator().manual_seed(0)
    stored = torch.rand(4, 5, 6, 6, generator=random)
    mean, std = [0.4, 0.5, 0.3, 0.2, 0.6], [0.2, 0.1, 0.3, 0.2, 0.1]
    m, s = (torch.tensor(each)[:, None, None] for each in (mean, std))
    normalised = (stored - m) / s
    found = views.recolour(normalised, 3, 0, [7, 8], 0.4, mean, std)
    alone = views.recolour(normalised[[1, 3]], 3, 0, [8], 0.4, mean, std)
    assert torch.allclose(found[[1, 3]], alone, atol=1e-6)
    assert not torch.allclose(found, views.recolour(normalised, 3, 1, [7, 8], 0.4, mean, std))
    assert views.recolour(normalised, 3, 0, [7, 8], 0.0, mean, std) is normalised
    drawn = views.sampler.generator(3, 0, 8, "second_colour").uniform(-1, 1, 8)
    bright, contrast_, saturation, *gains = 1 + 0.4 * drawn
    x = normalised[3]
    own = x.mean((1, 2), keepdim=True)
    x = own + contrast_ * (x - own)
    x = x.mean(0) + saturation * (x - x.mean(0))
    wanted = (x * s + m) * bright * torch.tensor([(1 + g) / 2 for g in gains])[:, None, None]
    assert torch.allclose(found[3] * s + m, wanted.float(), atol=1e-5)


def test_one_pass_of_visible_patches_serves_both_and_the_head_is_thrown_away():
    pair = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    plain = mae.build("ViT-Atto", 32, seed=1, device="cpu")
    both = mae.build("ViT-Atto", 32, seed=1, device="cpu", projection=16)
    loss, heads = both(*pair)
    assert torch.equal(loss, plain(*pair))
    assert heads.shape == (2, 16)
    alone = contrastive.build("ViT-Atto", 32, 3, "cpu", None, 16, seed=1)
    assert torch.equal(alone.features(pair[0]), plain.features(pair[0]))
    for model, decoded in ((both, True), (alone, False)):
        encoder, decoder = folders.split(model.state_dict())
        assert encoder.keys() == plain.encoder.state_dict().keys()
        assert bool(decoder) == decoded
    alone(pair[0]).sum().backward()
    assert all(p.grad is not None for p in alone.parameters() if p.requires_grad)


def test_first_weights_may_be_an_autoencoders(tmp_path):
    """Its encoder is taken, its decoder only where there is one, and a head is always drawn."""
    saved = formats.read(locate.find(encoders.autoencoder(tmp_path / "source")))
    size = (
        saved.config["model"],
        saved.config["image_size"],
        saved.config["channels"],
        "meta",
        saved.config["patch_size"],
    )
    for model in (contrastive.build(*size, 16), mae.build(*size, projection=16)):
        state, _ = start.fitted(saved, model, saved.config["model"], "mean", "it")
        own = {name for name, _ in model.named_parameters()}
        assert {name for name in own - set(state) if "decoder" not in name and name != "mask_token"} == {
            name for name in own if name.startswith("projector.")
        }


CONTRASTIVE = {"objective": "contrastive"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (CONTRASTIVE | {"temperature": 0}, "temperature: 0 cannot be used: input should be greater than 0"),
        (CONTRASTIVE | {"mask_ratio": 0.5}, "mask_ratio: 0.5 says nothing with objective=contrastive: contrastive"),
        (CONTRASTIVE | {"recipe": "fast"}, "recipe: 'fast' says nothing with objective=contrastive"),
        (CONTRASTIVE | {"decoder_depth": 2}, "decoder_depth: 2 says nothing with objective=contrastive"),
        (CONTRASTIVE | {"contrast_weight": 1}, "contrast_weight: 1.0 says nothing with objective=contrastive"),
        ({"temperature": 0.3}, "temperature: 0.3 says nothing with objective=mae: MAE compares no views"),
        (CONTRASTIVE | {"global_batch": 1}, "global_batch: 1 image has no other to be told apart from"),
        ({"objective": "both", "global_batch": 1}, "global_batch: 1 image has no other"),
        (
            CONTRASTIVE | {"max_batch_per_rank": 25, "ranks": 2},
            "max_batch_per_rank: objective=contrastive compares all 100 images of a step with each other, so 2 ranks "
            "cannot take them in 2 parts; set max_batch_per_rank=0",
        ),
        ({"objective": "clip"}, "objective: 'clip' cannot be used: must be one of mae, contrastive, both"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(SettingsError) as error:
        PretrainSettings(**settings)
    assert str(error.value).startswith(words)


def test_dates_of_a_set_without_pairs_are_refused_before_a_rank_starts(tmp_path):
    dates = CONTRASTIVE | {"positives": "dates", "global_batch": 8, "image_size": 32}
    with pytest.raises(SettingsError, match="positives: dates needs prepared images with pairs; prepare"):
        check.check(PretrainSettings(**dates))
    folder = packed.dated(tmp_path / "set")
    files.write_table(folder / "shards" / "x.csv", ("a",), [])
    check.check(PretrainSettings(**dates, data=str(folder)))
    (folder / "pairs.csv").unlink()
    with pytest.raises(SettingsError, match=r"positives: '.*' has no pairs of dates \(no pairs.csv\); prepare"):
        check.check(PretrainSettings(**dates, data=str(folder)))


def test_runs_without_another_objective_keep_their_names():
    usual = PretrainSettings()
    assert usual.name() == PretrainSettings(objective="mae").name()
    assert usual.name() != PretrainSettings(objective="both").name()
    assert PretrainSettings(objective="both", max_batch_per_rank=100).accumulation(1) == 1


def test_operations_are_of_both_views_and_of_whole_images_where_nothing_is_masked():
    each = {
        name: accuracy.of_image(PretrainSettings(objective=name).asked()) for name in ("mae", "both", "contrastive")
    }
    older = PretrainSettings().asked()
    del older["objective"]
    assert each["mae"] == accuracy.of_image(older)
    assert each["both"] == 2 * each["mae"]
    assert each["contrastive"] == 2 * training_flops("ViT-Femto", "encoder", image_size=64) > each["both"]


def test_memory_is_of_both_views():
    asked = {"model": "ViT-Base", "image_size": 224, "global_batch": 64}
    held = {
        name: memory.peak_gib(PretrainSettings(**asked, objective=name), 1) for name in ("mae", "both", "contrastive")
    }
    assert held["mae"] < held["both"] < held["contrastive"]


def test_the_page_of_a_contrastive_run_says_what_it_learned_and_draws_its_loss(tmp_path):
    rows = [
        {"step": n, "epoch": n / 10, "loss": 6.0 - n / 20, "learning_rate": 0.1, "grad_norm": 1.0} for n in range(1, 41)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PretrainSettings(**CONTRASTIVE)
    files.write_json(tmp_path / "settings.json", {"job": "pretrain", "asked": settings.asked(), "resolved": {}})
    summary = {"status": "finished", "objective": "contrastive", "guessing_loss": 5.29, "loss": 4.02, "loss_steps": 4}
    summary |= {"epochs": 4, "steps": 40, "train_images": 100, "global_batch": 10, "left_out_images": 0}
    files.write_json(tmp_path / "summary.json", summary)
    run = Run(tmp_path)
    found = page.answer(run)
    assert "contrastive loss is 4.02 (mean of the last 4 steps), where guessing among all views" in repr(found)
    assert page.result(run).text.endswith(
        "Nothing was measured on held-out images; 05 asks what the features are worth."
    )
    summary |= {"held_out_contrast": 3.21, "held_out_contrast_interval": 0.12, "held_out_contrast_guessing": 6.24}
    files.write_json(
        tmp_path / "summary.json", summary | {"held_out_contrast_images": 256, "held_out_contrast_side": "val"}
    )
    assert "Two views of each of 256 val images that it never saw" in page.result(Run(tmp_path)).text
    assert "with 3.21 ± 0.12 (95 %, over images), where guessing has 6.24." in page.result(Run(tmp_path)).text
    assert page.loss(run).alt.startswith("The training loss falls from 5.95 to 4.02")
    assert "masks and rebuilds nothing" in page.reconstruction(run).text
    assert repr(page.doubts(run))
