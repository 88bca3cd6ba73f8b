"""model/probe.py and jobs/probe.py: the head, LARS, nearest neighbours, and the whole job on tiny images."""

import csv
import json
import math
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from geofm_lib import files
from geofm_lib.advice import signs
from geofm_lib.data import shards
from geofm_lib.distributed import features
from geofm_lib.jobs import probe as job
from geofm_lib.jobs import run_folder
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.model import vit
from geofm_lib.settings import ProbeSettings
from tests.support import encoders, striped
from tests.support.preparations import server
from tests.support.timing import scaled


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared folder: 20 images of each of 6 classes, half of them the test side."""
    return striped.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An exported encoder that a probe can use as if it were pretrained."""
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}
    config |= {"mean": [0.5] * 3, "std": [0.2] * 3}
    model = vit.build("ViT-Atto", image_size=32, seed=7)
    return encoders.write(tmp_path_factory.mktemp("pretrain") / "encoder", model.state_dict(), config).parent


def settings(data, **values):
    usual = {
        "image_size": 32,
        "model": "ViT-Atto",
        "epochs": 4,
        "warmup_epochs": 1,
        "views": 2,
        "batch": 32,
        "protocol": "paper",
    }
    return ProbeSettings(data=str(data), **(usual | {"probe_seeds": 2, "base_learning_rate": 2.0} | values))


def one_rank(**values):
    alone = {"rank": 0, "world_size": 1, "is_main": True, "device": torch.device("cpu")}
    same = {"broadcast": lambda value: value, "gather": lambda value: [value], "barrier": lambda: None}
    return SimpleNamespace(**alone, **same, **values)


def start(settings, folder):
    folder.mkdir(exist_ok=True)
    return job.run(settings, one_rank(), Folder(folder))


def rows(folder):
    with open(folder / "probe.csv") as stream:
        return list(csv.DictReader(stream))


def test_the_job_writes_what_the_page_reads(data, encoder, tmp_path):
    found = start(settings(data, encoder=str(encoder)), tmp_path)
    assert Counter(row["features"] for row in rows(tmp_path)) == {"pretrained": 8, "random": 8}
    assert {int(row["epoch"]) for row in rows(tmp_path)} == {1, 2, 3, 4}
    assert all(0 <= float(row["top1"]) <= float(row["top5"]) <= 100 for row in rows(tmp_path))
    last = [float(row["top1"]) for row in rows(tmp_path) if (row["features"], row["epoch"]) == ("pretrained", "4")]
    assert found["top1_pretrained_mean"] == pytest.approx(np.mean(last))
    assert found["top1_pretrained_interval"] is None, "two seeds are two values"
    assert found["top1_pretrained_values"] == pytest.approx(last)
    assert (found["classes"], found["train_images"], found["test_images"]) == (6, 60, 60)
    assert found["chance"] == pytest.approx(100 / 6)
    assert found["histograms_top1"] > 50
    assert {"top5_random_mean", "knn_pretrained", "knn_random", "histograms_interval"} <= set(found)
    assert found["verdict"].startswith("The pretrained encoder's features reach")
    assert "histograms" in found["verdict"]
    json.dumps(found)
    progress = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert progress[-1]["step"] == progress[-1]["total_steps"]
    assert progress[-1]["phase"] == "probe"
    assert {"top1", "encoded_images_per_s", "seconds_left"} <= set(progress[-1])


def test_the_same_settings_give_the_same_curve_and_another_seed_another(data, encoder, tmp_path):
    quick = {"encoder": str(encoder), "compare_random": False, "compare_histograms": False}
    for name, more in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("fresh", {"views": 0}), ("cls", {"pool": "cls"})):
        start(settings(data, **quick, **more), tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    # two cached views are the first two epochs' fresh crops; from the third epoch on they differ
    first, fresh = ([row for row in rows(tmp_path / name) if row["seed"] == "0"] for name in ("a", "fresh"))
    assert first[:2] == fresh[:2]
    assert first[2:] != fresh[2:]
    assert rows(tmp_path / "a") != rows(tmp_path / "cls")


def test_a_poor_probe_is_told_in_words(data, encoder, tmp_path):
    """Random weights as if they were pretrained, and a head after one step: what speaks against it, and what to do."""
    poor = start(settings(data, encoder=str(encoder), epochs=1, base_learning_rate=1e-3), tmp_path)
    curves = pd.read_csv(tmp_path / "probe.csv")
    told = {row["doubt"]: row for row in signs.doubts(poor, curves)}
    assert set(told) == {"no better than untrained (LARS)", "no better than histograms (LARS)",
                         "the head is hardly trained", "it may have seen test images"}  # fmt: skip
    assert "after 1 steps the loss is" in told["the head is hardly trained"]["evidence"]
    assert "raise base_learning_rate" in told["the head is hardly trained"]["what to do"]
    assert "untrained" in told["no better than untrained (LARS)"]["evidence"]

    good = poor | {
        "pretrained_on": "known",
        "top1_pretrained_mean": 99.0,
        "top1_pretrained_interval": None,
        "histograms_top1": 60.0,
        "loss": 0.1,
    }
    assert not signs.doubts(good, curves)
    few = good | {"fewest_train": 3, "fewest_class": "c"}
    (row,) = signs.doubts(few, curves)
    assert row["evidence"] == "3 training images of 'c', the fewest of a class"
    assert "raise train_ratio" in row["what to do"]
    (row,) = signs.doubts(few | {"data_split": "given: folders train, test"}, curves)
    assert "train_ratio" not in row["what to do"], "which a given split does not use"
    lone, warned = signs.doubts(good | {"unlearned": {"c": 4}, "data_warnings": ["one thing", "another"]}, curves)
    assert f"no training image of 'c' (4 test images): 4 of {good['test_images']} test images" in lone["evidence"]
    assert warned["evidence"] == "one thing; and 1 more"
    later = pd.concat([curves, curves.assign(epoch=2, top1=curves["top1"] - 5, loss=curves["loss"] / 2)])
    (over,) = signs.doubts(good, later)
    assert over["doubt"] == "the head is overfitted"
    assert "fell by 5.0 points after epoch 1" in over["evidence"]


def test_features_and_heads_that_are_not_finite_stop_the_probe(data, encoder, tmp_path):
    quick = {"compare_random": False, "compare_histograms": False, "probe_seeds": 1}
    with pytest.raises(
        ValueError, match=r"head on pretrained features \(seed 0\) diverged in epoch \d.*lower base_learn"
    ):
        start(settings(data, encoder=str(encoder), base_learning_rate=1e38, **quick), tmp_path / "diverged")
    shutil.copytree(encoder / "encoder", tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    weights["blocks.1.mlp.fc1.weight"][3, 5] = 4e37  # one flipped bit
    weights["norm.weight"][0] = float("inf")
    save_file(weights, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors is not what was written"):
        start(settings(data, encoder=str(tmp_path / "encoder"), **quick), tmp_path / "sealed")
    (tmp_path / "encoder" / "SHA256SUMS").unlink()  # as a folder that is not ours
    with pytest.raises(ValueError, match="features of the pretrained encoder are not finite, first for 0/00.png"):
        start(settings(data, encoder=str(tmp_path / "encoder"), **quick), tmp_path / "foreign")


def test_random_weights_alone(data, tmp_path):
    found = start(settings(data, encoder="random", compare_histograms=False, pool="cls", probe_seeds=1), tmp_path)
    assert "top1_pretrained_mean" not in found
    assert found["top1_random_interval"] is None
    assert found["verdict"].startswith("The features of random weights reach")


class _Pair:
    """Two ranks that meet in files, as far as the probe needs it."""

    def __init__(self, rank, folder, barrier):
        self.rank, self.world_size, self.is_main, self.device = rank, 2, rank == 0, torch.device("cpu")
        self.folder, self.barrier, self.calls = folder, barrier.wait, 0

    def gather(self, value):
        self.calls += 1
        (self.folder / f"{self.calls}-{self.rank}.json").write_text(json.dumps(value))
        self.barrier()
        return [json.loads((self.folder / f"{self.calls}-{rank}.json").read_text()) for rank in (0, 1)]

    def broadcast(self, value):
        return self.gather(value)[0]


def _one_of_two(rank, asked, folder, barrier):
    torch.set_num_threads(1)
    features.BATCH = 16  # as in the test's own process
    job.run(asked, _Pair(rank, folder, barrier), Folder(folder, is_main=rank == 0))


def test_two_ranks_find_what_one_finds(data, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "BATCH", 16)
    asked = settings(data, encoder=str(encoder), compare_random=False, compare_histograms=False)
    start(asked, tmp_path / "one")
    (tmp_path / "two").mkdir()
    context = server()
    barrier = context.Barrier(2)
    ranks = [context.Process(target=_one_of_two, args=(r, asked, tmp_path / "two", barrier)) for r in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(scaled(60))
        assert rank.exitcode == 0
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert not (tmp_path / "two" / "kept").exists()


def change(data, folder, **columns):
    """A copy of the index and split of ``data`` with other values in some columns."""
    table = files.read_csv(data / "index.csv")
    files.write_csv(folder / "index.csv", shards.COLUMNS, [row | columns for row in table])
    for name in ("split.csv", "statistics.json"):
        (folder / name).write_text((data / name).read_text())
    return folder


@pytest.mark.parametrize("label, words", [("", "has no labels"), ("water", "has 1 class; a probe needs at least 2")])
def test_data_that_cannot_be_probed(data, tmp_path, label, words):
    with pytest.raises(ValueError, match=words):
        start(settings(change(data, tmp_path, label=label), encoder="random"), tmp_path / "run")


def test_an_encoder_that_does_not_fit(data, encoder, tmp_path):
    own = json.loads((encoder / "encoder" / "config.json").read_text())
    state = vit.build("ViT-Atto", image_size=32, channels=4).state_dict()
    encoders.write(tmp_path / "four", state, own | {"channels": 4})
    with pytest.raises(ValueError, match="takes 4 channels, the images .* have 3"):
        start(settings(data, encoder=str(tmp_path / "four")), tmp_path / "run")
    encoders.write(tmp_path / "seven", state, own | {"patch_size": 7})
    with pytest.raises(ValueError, match="not a multiple of the patch size 7"):
        start(settings(data, encoder=str(tmp_path / "seven")), tmp_path / "run")
    gone = settings(data, encoder="random").model_copy(update={"encoder": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match="does not exist"):
        start(gone, tmp_path / "run")


def test_an_encoder_of_timms_own_definition(data, tmp_path):
    """DINOv3 with registers and RoPE: its own patch size, mean and std; random weights of it beside it."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)  # what weights see by chance can be worse than guessing
    theirs = timm.create_model("vit_base_patch16_dinov3", num_classes=0, **sizes)
    save_for_hf(theirs, tmp_path / "dinov3", model_args=sizes, safe_serialization=True)
    found = start(settings(data, encoder=str(tmp_path / "dinov3"), compare_histograms=False), tmp_path / "run")
    assert (found["encoder"], found["model"], found["patch_size"]) == ("dinov3", "vit_base_patch16_dinov3", 16)
    assert found["top1_pretrained_mean"] > found["chance"], found["top1_pretrained_mean"]
    assert len(found["top1_random_values"]) == 2


def test_a_stop_is_heard(data, tmp_path):
    run_folder.request(tmp_path, run_folder.STOP)
    with pytest.raises(Stopped):
        start(settings(data, encoder="random"), tmp_path)


class _StopsAt(Folder):
    """A run folder in which a stop is asked for at the n-th look."""

    left = 0

    def stop_requested(self):
        self.left -= 1
        return not self.left


@pytest.mark.parametrize("views", [2, 0])
def test_a_stopped_probe_goes_on_and_ends_with_the_same_bits(data, encoder, tmp_path, monkeypatch, views):
    """Stopped at every place where it can be: nothing is encoded twice, and no epoch of the heads is done again."""
    monkeypatch.setattr(features, "BATCH", 16)
    asked = settings(data, encoder=str(encoder), views=views, compare_histograms=False)
    whole = start(asked, tmp_path / "whole")
    encoded = []
    monkeypatch.setattr(vit, "features", lambda *given, real=vit.features: encoded.append(1) or real(*given))
    place, stops, summary = tmp_path / "run", 0, None
    place.mkdir()
    while summary is None:
        folder = _StopsAt(place)
        folder.left = 3 + stops % 3
        try:
            summary = job.run(asked, one_rank(), folder)
        except Stopped:
            stops += 1
    assert summary == whole
    assert rows(place) == rows(tmp_path / "whole")
    assert stops > 5
    batches = math.ceil(60 / 16)
    assert len(encoded) == 3 * batches * (2 + (views or 4)), "three encoders: each batch once"
    progress = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert progress == sorted(set(progress))
    assert progress[-1] == batches * (2 + (views or 4)) + 4
    assert not (place / "kept").exists()


def test_what_was_kept_and_is_damaged_is_made_again(data, encoder, tmp_path, capsys):
    asked = settings(data, encoder=str(encoder), compare_random=False, compare_histograms=False)
    whole = start(asked, tmp_path / "whole")
    place = tmp_path / "run"
    place.mkdir()
    stopping = _StopsAt(place)
    stopping.left = 6
    with pytest.raises(Stopped, match="what is encoded and the heads are kept"):
        job.run(asked, one_rank(), stopping)
    kept = sorted((place / "kept").rglob("*.safetensors")) + sorted((place / "kept").rglob("*.pt"))
    assert {each.suffix for each in kept} == {".safetensors", ".pt"}
    for file in kept:
        file.write_bytes(file.read_bytes()[:-8] + b"somebody")
    assert start(asked, place) == whole
    assert capsys.readouterr().out.count("is not what was written") == len(kept)


def test_what_another_encoder_gave_is_not_gone_on_with(data, encoder, tmp_path):
    asked = settings(data, encoder=str(tmp_path / "encoder"), compare_random=False, compare_histograms=False)
    shutil.copytree(encoder / "encoder", tmp_path / "encoder")
    (tmp_path / "run").mkdir()
    stopping = _StopsAt(tmp_path / "run")
    stopping.left = 4
    with pytest.raises(Stopped):
        job.run(asked, one_rank(), stopping)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    encoders.write(tmp_path / "encoder", vit.build("ViT-Atto", image_size=32, seed=8).state_dict(), config)
    assert start(asked, tmp_path / "run") == start(asked, tmp_path / "other")
