"""Series over dates: tables that are read or refused row by row, and one encoder through 01, 02, 05 and 08."""

import numpy as np
import pytest
import torch

from geofm_lib import files
from geofm_lib.catalog import transfer as arms
from geofm_lib.data import loader
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import listing, series
from geofm_lib.figures import pretrain as page
from geofm_lib.figures import transfer as transfer_page
from geofm_lib.jobs import pretrain, pretrain_loss, transfer
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import mae, vit
from geofm_lib.model.interop import load
from geofm_lib.runs import check
from geofm_lib.runs.run import Run
from geofm_lib.scenes import seasons
from geofm_lib.settings import PrepareSettings, PretrainSettings, Resolved, SettingsError, TransferSettings
from tests.support import encoders, ranks
from tests.support.preparations import prepared
from tests.test_transfer import alone  # noqa: F401  a fixture

QUICK = {"image_size": seasons.DATES, "device": "cpu", "attention": "fused", "linear": "matmul", "log_every": 1}
CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": [1, seasons.DATES], "patch_size": 1, "channels": 1,
          "mean": [0.4], "std": [0.2], "mask_ratio": 0.75}  # fmt: skip
ROWS = ["1\t0.1\t0.2\t0.3\t0.4", "2\t0.5\t0.6\t0.7\t0.8"] * 6


def table(folder, rows, name="crops.tsv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / name


BAD_ROWS = {
    "3\t0.1\t0.2\t0.3": "it has 3 values, not 4 as most",
    "3\t0.1\tcloud\t0.3\t0.4": "value 2 is 'cloud', which is no number",
    "3\t0.1\tinf\t0.3\t0.4": "value 2 is 'inf', which is not finite",
    "3\t?\tNaN\t\tnull": "only 0 % of its dates were measured; at least 10 % are needed (valid_min)",
}


def test_bad_rows_are_refused_with_their_reason_and_the_rest_goes_on(tmp_path):
    summary, refused, packed = prepared(tmp_path / "set", table(tmp_path, [*ROWS, *BAD_ROWS]), workers=1)
    assert refused == {f"crops/{len(ROWS) + k:07d}": why for k, why in enumerate(BAD_ROWS.values(), start=1)}
    assert len(packed) == len(ROWS) and summary["classes"] == {"1": 6, "2": 6} and summary["dates"] == 4
    assert summary["labels_from"] == "the table of series"
    images = Shards(tmp_path / "set")
    assert images.dates == 4 and images.pixels(0)[0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


BAD_TABLES = {
    "unequal": (
        [f"1{',0.5' * n}" for n in range(4, 14)],
        {},
        "have from 4 to 13 values, and no number of them is that",
    ),
    "few values": (["1,0.5,0.4"] * 3, {}, "has 2 values a row beside the label; a series needs at least 3"),
    "no whole bands": (
        [f"1{',0.5' * 7}"] * 3,
        {"dates": 3},
        "dates: the 7 values of a row .* no whole bands of 3 dates",
    ),
    "a value as label": ([f"{k / 99},0.1,0.2,0.3,0.4" for k in range(24)], {}, "its first column .* 24 of 24 rows"),
    "another table": (["1,0.1,0.2,0.3,0.4"] * 3, {"labels": "x.csv"}, "labels: 'x.csv' cannot be used, since a table"),
    "tiles": (["1,0.1,0.2,0.3,0.4"] * 3, {"tile": 64}, "tile: 64 is for images, and 'dataset' names a table of series"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_cannot_be_meant_is_one_sentence(tmp_path, case):
    rows, options, words = BAD_TABLES[case]
    with pytest.raises(ValueError, match=words):
        prepared(tmp_path / "set", table(tmp_path, rows, "crops.csv"), workers=1, **options)


def test_columns_are_known_by_their_names(tmp_path):
    """A place keeps its series on one side; missing values are dates that were not measured, several values bands."""
    head = "id,place,crop class,2019-01 red,2019-01 nir,2019-02 red,2019-02 nir"
    rows = [f"p{k},farm {k // 2},{'maize' if k % 2 else 'rape'},0.1,{k},,0.4" for k in range(12)]
    file = table(tmp_path, [head.replace("crop class", "label"), *rows], "crops.csv")
    summary, refused, _ = prepared(tmp_path / "set", file, dates=2, workers=1)
    assert refused == {} and summary["classes"] == {"maize": 6, "rape": 6} and summary["split_by"] == "scene"
    sides = [set(Shards(tmp_path / "set", side).names) for side in ("train", "test")]
    assert all({f"crops/p{2 * k}", f"crops/p{2 * k + 1}"} & side in (set(), {f"crops/p{2 * k}", f"crops/p{2 * k + 1}"})
               for k in range(6) for side in sides)  # fmt: skip
    images = Shards(tmp_path / "set")
    values, valid = images.pixels(images.names.index("crops/p3"))
    assert values.shape == (2, 1, 2) and values[1, 0, 0] == 3 and valid.tolist() == [[[True, False]]]
    plain, *_ = prepared(
        tmp_path / "bare", table(tmp_path, ["0.1 0.2 0.3 0.4"] * 9, "bare.txt"), labels="none", workers=1
    )
    assert plain["classes"] == {} and plain["dates"] == 4


def test_one_class_is_told_and_pictures_in_a_list_are_no_series(tmp_path):
    summary, *_ = prepared(tmp_path / "set", table(tmp_path, ROWS[::2]), workers=1)
    assert "all labels, from the table of series, are '1'" in " ".join(summary["warnings"])
    with pytest.raises(ValueError, match="is a table or list, not images"):
        listing.find(table(tmp_path, ["path,label", "a.png,3", "b.png,4"], "labels.csv"))


def test_each_pixel_of_a_raster_is_a_series(tmp_path):
    import tifffile

    values = np.arange(3 * 34 * 6, dtype=np.int16).reshape(3, 34, 6)
    (tmp_path / "files").mkdir()
    for name, bands in (("all.tif", values), ("odd.tif", values[..., :5])):
        tifffile.imwrite(tmp_path / "files" / name, bands, photometric="minisblack", planarconfig="contig")
    summary, refused, packed = prepared(tmp_path / "set", tmp_path / "files", dates=3, workers=1)
    assert len(packed) == 3 * 34 and summary["dates"] == 3 and summary["split_by"] == "scene"
    assert [*refused.values()] == ["its 5 bands are not those of 3 dates"]
    images = Shards(tmp_path / "set")
    found = images.pixels(images.names.index("all.tif/00002_00005"))[0]
    assert found[:, 0].T.flatten().tolist() == values[2, 5].tolist()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Seasons, 8 series of each cover, and an encoder of them."""
    root = tmp_path_factory.mktemp("series")
    files.write_json(root / "set" / "summary.json", prepared(root / "set", "seasons", images_per_class=8, workers=1)[0])
    state = vit.build("ViT-Atto", image_size=(1, seasons.DATES), channels=1, patch_size=1, seed=7).state_dict()
    encoders.write(root / "run" / "encoder", state, CONFIG)
    return root


def test_nothing_is_cropped_or_mirrored(place):
    images = Shards(place / "set", "train")
    for transform in ("pretrain_turned", "probe_test", "none"):
        batch, _ = next(loader.batches(images, [[0, 1]], image_size=seasons.DATES, transform=transform))
        assert torch.equal(batch[0], images.decode(0)), transform


def test_a_pretraining_rebuilds_dates_and_its_encoder_is_one_of_series(place, alone):  # noqa: F811
    folder = place / "pretrained"
    folder.mkdir()
    asked = PretrainSettings(data=str(place / "set"), model="ViT-Atto", patch_size=1, norm_pix_loss=False, epochs=2,
                             warmup_epochs=0, global_batch=16, **QUICK)  # fmt: skip
    files.write_json(folder / "settings.json", {"job": "pretrain", "asked": asked.asked(), "resolved": {}})
    summary = pretrain.run(asked, alone, Folder(folder, resolved=Resolved()))
    files.write_json(folder / "summary.json", {"status": "finished", **summary})
    assert summary["dates"] == seasons.DATES and 0 < summary["patch_mean_loss"] < 2
    run = Run(folder)
    assert "straight lines between the visible dates" in str(page.answer(run)) + str(page.result(run))
    assert "8 test series over their dates" in page.reconstruction(run).alt
    assert "needle forest" in page.contact_sheet(Run(place / "set")).alt and "every date" in str(
        page.model_view(Run(place / "set"))
    )
    encoder, config = load.load_encoder(folder, seasons.DATES)
    assert config["image_size"] == [1, seasons.DATES] and encoder.patch_embed.grid_size == (1, seasons.DATES)
    assert vit.features(encoder, torch.zeros(2, 1, 1, seasons.DATES)).shape == (2, 64)


def test_interpolation_is_numpys(place):
    images = Shards(place / "set", "train")
    model = mae.build("ViT-Atto", (1, seasons.DATES), 1, "cpu", 1, seed=0)
    pixels = torch.stack([images.decode(i) for i in range(3)])
    noise, known = torch.rand(3, seasons.DATES), torch.ones(3, 1, 1, seasons.DATES, dtype=torch.bool)
    errors = []
    for own, each in zip(pixels[:, 0, 0].numpy(), noise.numpy(), strict=True):
        seen = np.sort(each.argsort()[: model.visible])
        hidden = np.setdiff1d(np.arange(seasons.DATES), seen)
        errors.append(np.square(np.interp(hidden, seen, own[seen]) - own[hidden]).mean())
    found = [pretrain_loss._between(model, pixels, noise, valid) for valid in (None, known)]
    assert found == pytest.approx([np.mean(errors)] * 2, rel=1e-5)


def test_covers_are_told_apart_beside_a_forest(place, alone):  # noqa: F811
    folder = place / "task"
    folder.mkdir()
    asked = TransferSettings(task="series", data=str(place / "set"), encoder=str(place / "run" / "encoder"), seeds=1,
                             arms="fine-tuned,scratch", train_images=0, test_images=0, epochs=2, **QUICK)  # fmt: skip
    files.write_json(folder / "settings.json", {"job": "transfer", "asked": asked.asked(), "resolved": {}})
    summary = transfer.run(asked, alone, Folder(folder))
    files.write_json(folder / "summary.json", {"status": "finished", **summary})
    assert summary["dates"] == seasons.DATES and summary[f"value_{arms.FOREST}"] > 60
    rows = files.read_csv(folder / "accuracy.csv")
    assert {row["task"] for row in rows} == {"series classification"}
    assert {row["model"] for row in rows} == {"ViT-Atto", arms.FOREST}
    pairs = {(row["first"], row["second"]) for row in files.read_csv(folder / "differences.csv")}
    assert {(arms.TUNED, arms.FOREST), (arms.PROBE, arms.FOREST)} <= pairs
    run = Run(folder)
    assert "6 test series over their dates" in transfer_page.pictures(run).alt
    assert arms.FOREST in str(transfer_page.controls(run)) and "%" in str(transfer_page.verdict(run))


REFUSED = {
    "pixels a side": ({"image_size": 32}, "image_size: the data are series of 64 dates, each of which is a patch; set "
                                          "image_size=64 patch_size=1 norm_pix_loss=False"),
    "a contrastive objective": ({"patch_size": 1, "objective": "contrastive"}, "norm_pix_loss: .*"
                                "set norm_pix_loss=False objective=mae"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_of_images_are_refused_before_a_rank_starts(place, case):
    more, words = REFUSED[case]
    with pytest.raises(SettingsError, match=words):
        check.check(PretrainSettings(data=str(place / "set"), model="ViT-Atto", **{"image_size": 64} | more))


def test_what_is_meant_for_the_other_kind_is_refused(place, alone, tmp_path):  # noqa: F811
    state = vit.build("ViT-Atto", image_size=64, channels=1, seed=0).state_dict()
    image = encoders.write(tmp_path / "encoder", state, CONFIG | {"image_size": 64, "patch_size": 8})
    asked = TransferSettings(task="series", data=str(place / "set"), encoder=str(image), train_images=0, **QUICK)
    with pytest.raises(ValueError, match="takes images, and .* holds series; give one for these"):
        transfer.run(asked, alone, Folder(tmp_path))
    with pytest.raises(SettingsError, match="dataset: the scenes are images; set dataset=seasons"):
        TransferSettings(task="series").preparation()
    assert PrepareSettings(dataset="seasons").name() != PrepareSettings().name()
    assert TransferSettings(task="series", dataset="seasons").pretraining().patch_size == 1
    assert series.is_one(place / "set" / "nothing.png") is False


@pytest.mark.long
def test_every_strategy_is_one_process(place, tmp_path):
    how = QUICK | {"encoder": str(place / "run" / "encoder"), "seeds": 1, "epochs": 2, "frozen_share": 0.5}
    how |= {"arms": "fine-tuned,untrained", "train_images": 16, "test_images": 0, "global_batch": 4}
    arguments = {"how": how, "hows": {"parts": {"max_batch_per_rank": 1}}, "tasks": {"series": str(place / "set")}}
    one, two = (ranks.start("transfer", tmp_path / str(world), world, strategies=strategies, **arguments,
                            place=str(tmp_path / "jobs"))
                for world, strategies in ((1, ["FULL_SHARD"]), (2, ["FULL_SHARD", "HYBRID_1GPU", "DDP"])))  # fmt: skip
    assert len(two) == 4
    for name, found in (one | two).items():
        assert np.allclose(found["losses"], one["series/FULL_SHARD"]["losses"], atol=1e-5), name
