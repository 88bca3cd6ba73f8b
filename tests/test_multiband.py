"""Images of many bands through the same door: prepared, pretrained a few steps and probed."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from geofm_lib import files
from geofm_lib.data import shards
from geofm_lib.distributed import context
from geofm_lib.jobs import pretrain, probe
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.settings import PretrainSettings, ProbeSettings, Resolved
from tests.support.preparations import apart, prepared
from tests.support.timing import scaled

BANDS = 5
LEVELS = np.array([300, 900, 1500, 2500, 40])  # like reflectances: far below the range of sixteen bits


@pytest.fixture(scope="module")
def five_bands(tmp_path_factory):
    """Class folders of TIFFs, uint16 [24, 24, 5]; what tells the classes apart is the fourth band."""
    source, random = tmp_path_factory.mktemp("five"), np.random.default_rng(0)
    for label, near_infrared in {"water": 200, "forest": 3000, "field": 6000}.items():
        (source / label).mkdir()
        for i in range(8):
            soft = np.kron(random.normal(1, 0.2, (6, 6, BANDS)), np.ones((4, 4, 1)))
            level = LEVELS.copy()
            level[3] = near_infrared
            pixels = (soft * level).clip(0, 65535).astype(np.uint16)
            tifffile.imwrite(source / label / f"{i}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return source


def end_to_end(folder, dataset, image_size, patch_size):
    """Summaries of the preparation, of a short pretraining and of its probe: one rank, in a process of its own.

    A fork of the tests' process could not train: PyTorch refuses a backward pass in a child of one that has done it.
    """
    process = apart(_all_jobs, folder, dataset, image_size, patch_size)
    process.join(scaled(120))
    assert process.exitcode == 0
    return json.loads((folder / "found.json").read_text())


def _all_jobs(folder, dataset, image_size, patch_size):
    torch.set_num_threads(1)
    data, _, _ = prepared(folder / "data", dataset, workers=1)
    usual = {"model": "ViT-Atto", "data": str(folder / "data"), "device": "cpu", "ranks": 1, "image_size": image_size}
    (folder / "run").mkdir()
    alone = context.join(folder / "run", "cpu")
    try:
        asked = PretrainSettings(**usual, patch_size=patch_size, epochs=1, global_batch=4, workers=1)
        resolved = Resolved(data_fingerprint=data["fingerprint"])
        trained = pretrain.run(asked, alone, Folder(folder / "run", resolved=resolved))
        (folder / "probe").mkdir()
        asked = ProbeSettings(**usual, encoder=str(folder / "run"), epochs=2, views=1, probe_seeds=1, details=False)
        probed = probe.run(asked, alone, Folder(folder / "probe"))
    finally:
        context.leave(alone)
    (folder / "found.json").write_text(json.dumps([data, trained, probed]))


def check(folder, data, trained, probed, bands):
    statistics = json.loads((folder / "data" / "statistics.json").read_text())
    config = json.loads((folder / "run" / "encoder" / "config.json").read_text())
    assert statistics["channels"] == config["channels"] == bands
    assert config["mean"] == pytest.approx(statistics["mean"])
    train = shards.Shards(folder / "data", split="train")
    pixels = torch.stack([train.decode(i) for i in range(len(train))])
    assert pixels.dtype == torch.uint16
    assert pixels.shape[1] == bands
    exact = pixels.double() / 65535
    assert np.allclose(train.mean, exact.mean((0, 2, 3)), atol=1e-8)
    assert np.allclose(train.std, exact.std((0, 2, 3), correction=0).clamp_min(1 / 65535), rtol=1e-3, atol=1e-8)
    assert np.isfinite(trained["loss"])
    assert trained["steps"] >= 3
    assert 0 <= probed["top1_pretrained_mean"] <= 100
    assert probed["histograms_top1"] > probed["chance"]
    with np.load(folder / "run" / "reconstruction.npz") as saved:
        rows = {name: saved[name] for name in ("original", "masked", "rebuilt")}
    for picture in rows.values():
        assert picture.dtype == np.uint8
        assert picture.shape[-1] == 3
    assert 60 < rows["original"].mean() < 200, "stretched to what the eye sees, not black"
    for name in ("contact_sheet", "model_view"):
        with np.load(folder / "data" / f"{name}.npz") as saved:
            shown = saved["images" if name == "contact_sheet" else "cropped"]
            assert shown.dtype == np.uint8
            assert shown.shape[-1] == 3


def test_five_bands_from_the_files_to_the_probe(five_bands, tmp_path):
    found = end_to_end(tmp_path, five_bands, image_size=16, patch_size=8)
    assert (found[0]["images"], found[0]["refused"], found[0]["converted"]) == (24, 0, 0)
    check(tmp_path, *found, bands=BANDS)
    index = files.read_csv(tmp_path / "data" / "index.csv")
    assert {(row["width"], row["height"], row["channels"]) for row in index} == {("24", "24", "5")}
    kept = shards.Shards(tmp_path / "data")
    assert kept.read(0) == (five_bands / kept.names[0]).read_bytes(), "the original bytes"


def test_bands_are_reduced_too(five_bands, tmp_path):
    found, _, _ = prepared(tmp_path / "data", five_bands, workers=1, short_side=16, quality=80)
    small = shards.Shards(tmp_path / "data")
    assert (found["images"], found["converted"]) == (24, 24)
    assert small.decode(0).shape == (BANDS, 16, 16)
    assert small.decode(0).dtype == torch.uint16


@pytest.mark.skipif("GEOFM_TEST_DATA" not in os.environ, reason="GEOFM_TEST_DATA names no folder of real images")
def test_eurosat_s_thirteen_bands(tmp_path):
    with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / "eurosat100_ms.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    found = end_to_end(tmp_path, tmp_path / "eurosat100_ms" / "tif", image_size=64, patch_size=16)
    assert (found[0]["images"], found[0]["refused"], len(found[0]["classes"])) == (100, 0, 10)
    check(tmp_path, *found, bands=13)
    mean = json.loads((tmp_path / "data" / "statistics.json").read_text())["mean"]
    assert 0.01 < mean[3] < 0.05
    assert mean[9] < 0.001  # red, and the cirrus band that hardly sees the ground
