"""What a pretraining's loss came to, and what speaks against it: rules on curves and numbers that a test has made."""

import numpy as np
import pandas as pd
import pytest
import torch

from geofm_lib.advice import pretraining
from geofm_lib.data.shards import Shards
from geofm_lib.figures import pretrain as page
from geofm_lib.jobs import pretrain_loss
from geofm_lib.model import mae
from geofm_lib.model.patches import patchify
from geofm_lib.runs.run import Run
from tests.support import packed, striped

GOOD = {
    "loss": 0.80, "loss_steps": 60, "held_out_side": "test", "held_out_loss": 0.81, "held_out_interval": 0.01,
    "held_out_images": 256, "trained_on_loss": 0.80, "trained_on_interval": 0.01, "trained_on_images": 256,
    "patch_mean_loss": 0.99,
}  # fmt: skip


def curve(losses, every=5, noise=0.03):
    random = np.random.default_rng(0)
    steps = every * (1 + np.arange(len(losses)))
    return pd.DataFrame({"step": steps, "loss": np.array(losses) + random.normal(0, noise, len(losses))})


STEPS = np.linspace(0, 1, 120)
FALLING = curve(0.75 + 0.5 * (1 - STEPS) ** 2)
FLAT = curve(0.85 + 0.5 * np.maximum(0, 0.4 - STEPS))


def told(summary, metrics):
    return {row["doubt"]: row for row in pretraining.doubts(summary, metrics)}


def test_nothing_is_said_of_a_run_that_does_well():
    assert told(GOOD, FALLING) == {}
    slow = curve(0.80 + 0.10 * (1 - STEPS))
    assert told(GOOD, slow) == {}, "a tenth of the loss in all, half of it in the second half"


def test_a_flat_second_half_is_told_with_its_steps():
    (row,) = told(GOOD, FLAT).values()
    assert row["doubt"] == "the loss is flat over the second half"
    assert row["evidence"] == (
        "0.8539 on average from step 245 on, 0.8481 from step 485 on: it fell by 0.7 % in between"
    )
    rising = curve(0.8 + 0.2 * STEPS)
    assert "the loss is flat over the second half" in told(GOOD, rising), "one that rises is worse"
    assert told(GOOD, FLAT.iloc[:29]) == {}, "too few rows to say so"
    assert told(GOOD, pd.DataFrame()) == {}


@pytest.mark.parametrize(("loss", "said"), [(0.93, False), (0.95, True), (1.3, True)])
def test_little_more_than_patch_means_is_told(loss, said):
    found = told(GOOD | {"held_out_loss": loss, "trained_on_loss": loss}, FALLING)
    assert list(found) == ["little more than one brightness a patch was learned"] * said
    if said:
        (row,) = found.values()
        assert (
            f"{loss:.3f} ± 0.010 on 256 test images; one brightness a patch alone would have 0.99" in (row["evidence"])
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [({"held_out_loss": 0.90}, True), ({"held_out_loss": 0.83}, False), ({"held_out_loss": 0.70}, False),
     ({"held_out_loss": 0.90, "held_out_interval": 0.2}, False),
     ({"held_out_loss": 0.90, "held_out_interval": None}, True)],
)  # fmt: skip
def test_a_held_out_gap_counts_when_it_is_more_than_chance(more, said):
    found = told(GOOD | more, FALLING)
    assert list(found) == ["it knows its train images better than others"] * said
    if said:
        (row,) = found.values()
        assert row["evidence"].endswith("0.800 ± 0.010 on 256 train images: 12 % more, under the same masks")


def test_without_held_out_images_that_is_told_and_the_train_images_stand_in():
    none = GOOD | {"held_out_side": "", "held_out_loss": None, "held_out_images": 0, "trained_on_loss": 0.97}
    found = told(none, FALLING)
    assert list(found) == ["little more than one brightness a patch was learned", "no image is held out"]
    assert "on 256 train images" in next(iter(found.values()))["evidence"]


def test_the_sentence_has_every_loss_with_what_it_is_of():
    assert pretraining.result(GOOD) == (
        "The mean loss of the last 60 steps is 0.8; with masks that are always the same, 0.800 ± 0.010 on 256 "
        "train images, and 0.810 ± 0.010 on 256 test images, which it was not trained on. One brightness a patch "
        "alone (its true mean over pixels and bands) would have 0.99."
    )
    assert "+0.010, which is within the two intervals together (± 0.014)" in pretraining.side_by_side(GOOD)
    assert pretraining.slope(FALLING).startswith("From step ") and " % below that of steps " in pretraining.slope(
        FALLING
    )
    assert pretraining.slope(FALLING.head(5)) == pretraining.side_by_side({}) == ""
    assert "An earlier version measured none" in pretraining.result({"loss": 0.85})
    assert "when the run has ended" in pretraining.result({})


def test_a_run_of_an_earlier_version_and_one_that_goes_are_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert page.doubts(Run(tmp_path)).empty == "Its curve, as far as it goes, is not flat."
    assert "is told when" in str(page.result(Run(tmp_path)))


@pytest.mark.parametrize(("total", "window"), [(24, 2), (640, 64), (5000, 100), (3, 1)])
def test_the_window_is_the_last_tenth_of_the_steps_up_to_a_hundred(tmp_path, total, window):
    recent = pretrain_loss.Recent(total)
    recent.go_on(tmp_path / "none", 0, [])
    assert recent.told() == {"loss": None, "loss_steps": 0}
    losses = np.random.default_rng(0).random(total)
    recent.losses.extend(losses)
    assert recent.told() == {"loss": np.mean(losses[-window:]), "loss_steps": window}
    old = pretrain_loss.Recent(total)
    old.go_on(tmp_path / "none", total, [{"step": step + 1, "loss": losses[step]} for step in range(total)])
    assert old.told() == recent.told(), "an older checkpoint keeps none: then the logged ones count"


def test_what_is_held_out_is_val_unless_it_is_tiny(tmp_path):
    folder = striped.write(tmp_path)
    assert pretrain_loss.held_out(folder)[0] == "test"
    names, lines = Shards(folder).names, ["name,split"]
    for few in (5, 40):
        sides = ["val"] * few + ["test"] * 40 + ["train"] * (80 - few)
        lines[1:] = [f"{name},{side}" for name, side in zip(names, sides, strict=True)]
        (folder / "split.csv").write_text("\n".join(lines) + "\n")
        side, images = pretrain_loss.held_out(folder)
        assert (side, len(images)) == ("test" if few == 5 else "val", 40)
    (tmp_path / "all").mkdir()
    assert pretrain_loss.held_out(packed.textures(tmp_path / "all")) == ("", None)


def test_the_loss_of_patch_means_is_that_of_an_autoencoder_that_predicts_them():
    torch.manual_seed(0)
    images, noise, valid = torch.randn(6, 3, 32, 32), torch.rand(6, 16), torch.rand(6, 1, 32, 32) < 0.7
    valid[0], valid[1, :, :8] = False, False
    model = mae.build("ViT-Atto", 32, seed=0, norm_pix_loss=True)
    torch.nn.init.zeros_(model.decoder_pred.weight), torch.nn.init.zeros_(model.decoder_pred.bias)
    with torch.no_grad():  # the target's mean is 0, and so is the prediction
        for measured in (None, valid):
            found = pretrain_loss._patch_means(model, images, noise, measured)
            torch.testing.assert_close(found, model(images, noise, measured))
    model.norm_pix_loss = False
    _, masked = mae.random_masking(noise, model.visible)
    errors = mae.take(patchify(images, 8), masked).var(2, correction=0)
    torch.testing.assert_close(pretrain_loss._patch_means(model, images, noise, None), errors.mean())
