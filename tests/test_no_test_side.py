"""train_ratio=1: everything trains. 02 says that what it shows was trained on, and 05 refuses in one sentence."""

import json

import numpy as np
import pytest
import torch

from geofm_lib.data.shards import Shards
from geofm_lib.distributed import context
from geofm_lib.figures import pretrain as page
from geofm_lib.jobs import pretrain
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.runs import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, ProbeSettings, SettingsError
from tests.support.pictures import class_folders
from tests.support.preparations import apart, prepared
from tests.support.timing import scaled


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A union of two prepared folders whose images all train."""
    root = tmp_path_factory.mktemp("all")
    for name, classes in (("one", ("crop land", "río")), ("two", ("lake", "forest"))):
        summary = prepared(root / name, class_folders(root / f"{name} files", classes), workers=1, train_ratio=1.0)[0]
        assert (summary["train"], summary["test"], summary["train_ratio"]) == (12, 0, 1.0)
    summary = prepared(root / "both", f"{root}/one,{root}/two")[0]
    assert (summary["train"], summary["test"], summary["leaks"]) == (24, 0, 0)
    return root / "both"


def _train(data, folder):
    torch.set_num_threads(1)
    (folder / "run").mkdir()
    alone = context.join(folder / "run", "cpu")
    asked = PretrainSettings(data=str(data), model="ViT-Atto", device="cpu", ranks=1, image_size=16, patch_size=8,
                             epochs=1, warmup_epochs=0, global_batch=7)  # fmt: skip
    try:
        found = pretrain.run(asked, alone, Folder(folder / "run"))
    finally:
        context.leave(alone)
    (folder / "run" / "summary.json").write_text(json.dumps({"status": "finished"} | found))


def test_pretraining_shows_train_images_and_says_so(both, tmp_path):
    process = apart(_train, both, tmp_path)
    process.join(scaled(120))
    assert process.exitcode == 0
    run = Run(tmp_path / "run")
    assert run.summary["steps"] == 3
    assert run.summary["rebuilt"] == "train"
    with np.load(tmp_path / "run" / "reconstruction.npz") as saved:
        assert saved["original"].shape == (8, 16, 16, 3)
    words = "It trains on the 24 images of the train side, in 3 steps an epoch of 7 images. "
    assert str(page.images(run)) == f"{words}3 of them fill no batch and are left out, others in each epoch."
    (run.folder / "summary.json").write_text(json.dumps(run.summary | {"data_split": "random", "data_warnings": ["a"]}))
    words = str(page.images(Run(run.folder)))
    assert "train side (split: random), in" in words and words.endswith("each epoch. 01 warns: a.")
    figure = page.reconstruction(run)
    assert "the train image, which it was trained on since no image is held out" in figure.alt
    assert (run.summary["held_out_side"], run.summary["held_out_loss"]) == ("", None)
    assert "no image is held out, so there is no held-out loss" in str(page.result(run))
    assert [row["doubt"] for row in page.doubts(run).frame.to_dict("records")][-1] == "no image is held out"
    (run.folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    assert "the image of a side that was not noted, the patches" in page.reconstruction(Run(run.folder)).alt
    statistics = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text())
    assert statistics["mean"] == pytest.approx(Shards(both).mean)


def test_a_probe_is_refused_before_anything_is_pretrained(both, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "launch", lambda settings: pytest.fail("a run was launched"))
    with pytest.raises(
        SettingsError, match="has 24 train and 0 test images with labels, and a probe needs both"
    ) as caught:
        launch._resolved(ProbeSettings(data=str(both)), 1)
    assert str(caught.value).startswith("data: ")
    assert "prepare it with a train_ratio below 1, or" in str(caught.value)
    each = class_folders(tmp_path / "each", tuple("abcd"), each=1)
    summary = prepared(tmp_path / "one each", each, labels="folders", workers=1)[0]
    assert (summary["train"], summary["test"]) == (4, 0)
    assert "each of the 4 classes has one image, which trains" in summary["warnings"][0]
    with pytest.raises(SettingsError, match="each of its 4 classes has one image") as caught:
        launch._resolved(ProbeSettings(data=str(tmp_path / "one each")), 1)
    assert "train_ratio" not in str(caught.value)
    summary = prepared(tmp_path / "bare", class_folders(tmp_path / "files"), labels="none", workers=1)[0]
    assert (summary["train"], summary["test"], summary["classes"]) == (12, 0, {})
    with pytest.raises(SettingsError, match="has no labels, so it cannot be probed"):
        launch._resolved(ProbeSettings(data=str(tmp_path / "bare")), 1)
