"""Images with several labels: stored, split, counted, and probed with mean average precision."""

import itertools
import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from geofm_lib import files
from geofm_lib.advice import signs
from geofm_lib.data import baselines, duplicates, several, shards
from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import folders, probeable
from geofm_lib.distributed import features
from geofm_lib.figures import probe as page
from geofm_lib.jobs import probe as job
from geofm_lib.jobs import probe_progress
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.runs.run import Run
from geofm_lib.settings import ProbeSettings
from tests.support import packed
from tests.support.pictures import encode
from tests.support.preparations import prepared
from tests.support.timing import scaled

CLASSES = ("blue", "green", "red")


def picture(kinds, random):
    """A picture whose bands are bright for the classes that it has."""
    level = np.array([200 if name in kinds else 60 for name in ("red", "green", "blue")])
    return Image.fromarray((level + random.normal(0, 25, (32, 32, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """120 images with one to three of three classes; one more class is in the train side only."""
    random, samples, sides = np.random.default_rng(0), [], []
    sets = [kinds for n in (1, 2, 3) for kinds in itertools.combinations(CLASSES, n)]
    for i in range(120):
        kinds = sets[i % len(sets)] + (("rare",) if i == 0 else ())
        sample = Sample(f"{i:03d}.png", "|".join(kinds), width=32, height=32, channels=3)
        sample.data = encode(picture(kinds, random))
        samples.append(sample)
        sides.append("train" if i % 14 < 7 else "test")
    return packed.write(tmp_path_factory.mktemp("several"), samples, sides)


def settings(data, **values):
    usual = {"image_size": 32, "model": "ViT-Atto", "epochs": 20, "warmup_epochs": 1, "views": 2, "batch": 32}
    usual |= {"probe_seeds": 2, "base_learning_rate": 20.0, "encoder": "random", "details": False}
    return ProbeSettings(data=str(data), **(usual | values))


def start(asked, folder):
    folder.mkdir(exist_ok=True)
    summary = job.run(asked, _Rank(0, threading.Barrier(1)), Folder(folder))
    files.write_json(folder / "summary.json", {"status": "finished"} | summary)
    return summary


def test_shards_give_targets(data):
    train, both = shards.Shards(data, "train"), shards.Shards(data)
    assert both.several
    assert both.classes == ["blue", "green", "rare", "red"]
    assert both.targets.dtype == np.float32
    assert both.targets.shape == (120, 4)
    assert both.targets[0].tolist() == [1, 0, 1, 0]
    assert both.targets[6].tolist() == [1, 1, 0, 1]
    assert both.labels[:3].tolist() == [0, 1, 3]
    assert train.targets.shape == (len(train), 4)
    assert train.targets[0].tolist() == both.targets[0].tolist()


def test_a_table_of_labels_is_prepared_and_put_into_a_union(tmp_path):
    """From a CSV beside the images to the page's counts: an image counts once for each of its labels."""
    random = np.random.default_rng(3)
    (tmp_path / "set").mkdir()
    kinds = [("red",), ("red", "green"), ("red", "green", "blue"), ("blue",)] * 6
    for k, each in enumerate(kinds):
        (tmp_path / "set" / f"{k}.png").write_bytes(encode(picture(each, random)))
    rows = [f"{k}.png,{' | '.join(each)}" for k, each in enumerate(kinds)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    summary = prepared(tmp_path / "run", tmp_path / "set", labels=str(tmp_path / "set" / "labels.csv"), workers=1)[0]
    assert summary["several_labels"]
    assert summary["classes"] == {"blue": 12, "green": 12, "red": 18}
    found = shards.Shards(tmp_path / "run")
    assert found.targets.sum(0).tolist() == [12, 12, 18]
    assert summary["train"] == 12
    (tmp_path / "run").rename(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    united = prepared(tmp_path / "both", f"{tmp_path}/one,{tmp_path}/two")[0]
    assert united["several_labels"]
    assert united["classes"]["one/red"] == united["classes"]["two/red"] == 18


def test_images_with_none_of_the_labels_are_trained_and_tested_on(tmp_path):
    random, kinds = np.random.default_rng(4), [("red", "green"), ("red",), ("blue",), ()]
    (tmp_path / "set").mkdir()
    for k in range(41):
        (tmp_path / "set" / f"{k}.png").write_bytes(encode(picture(kinds[k % 4], random)))
    table = [f"{k}.png," + ",".join(str(int(name in kinds[k % 4])) for name in CLASSES) for k in range(40)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,blue,green,red", *table]) + "\n")
    summary = prepared(tmp_path / "run", tmp_path / "set", labels="labels.csv", workers=1)[0]
    assert summary["classes"] == {"blue": 10, "green": 10, "red": 20}
    for side in ("train", "test"):
        found = shards.Shards(tmp_path / "run", side)
        none = [name for name, row in zip(found.names, found.targets, strict=True) if not row.any()]
        assert len(set(none) - {"40.png"}) == 5
    labels = {row["name"]: row["label"] for row in files.read_csv(tmp_path / "run" / "index.csv")}
    assert (labels["40.png"], labels["3.png"]) == ("", "|")
    assert summary["unlabelled"] == 1
    assert summary["warnings"][-1].startswith("1 of 41 images have no label: 02 trains on those of the train side, 05")
    assert probeable.check(tmp_path / "run") == 1
    assert len(shards.Shards(tmp_path / "run", labelled=True)) == 40


def test_one_label_each_is_no_set_of_several(data, tmp_path):
    rows = [row | {"label": row["label"].split("|")[0]} for row in files.read_csv(data / "index.csv")]
    files.write_csv(tmp_path / "index.csv", shards.COLUMNS, rows)
    (tmp_path / "statistics.json").write_text((data / "statistics.json").read_text())
    found = shards.Shards(tmp_path)
    assert not found.several
    assert found.targets.sum(axis=1).tolist() == [1] * 120
    assert found.targets.argmax(axis=1).tolist() == found.labels.tolist()


def test_a_folder_is_one_class_whatever_its_name():
    names = [f"set/{label}/{label[0]}{k}.jpg" for label in ("rice|wheat", "sea") for k in range(8)]
    assert several.counts(folders.read(names).labels) == {"rice/wheat": 8, "sea": 8}


def test_a_split_by_the_rarest_label_has_each_class_on_both_sides():
    random = np.random.default_rng(1)
    share = {"common": 0.9, "usual": 0.4, "rare": 0.05}
    labels = ["|".join(name for name, p in share.items() if random.random() < p) or "common" for _ in range(600)]
    names = [f"{i}.jpg" for i in range(600)]
    sides = duplicates.split(names, several.strata(labels), {"1.jpg": "0.jpg"}, 0.5, seed=0)
    assert sides[0] == sides[1]
    for name, images in several.counts(labels).items():
        own = Counter(side for side, label in zip(sides, labels, strict=True) if name in several.parts(label))
        assert abs(own["train"] - images / 2) <= max(2, 0.1 * images), name


def test_the_probe_of_several_labels(data, tmp_path, monkeypatch):
    monkeypatch.setattr(probe_progress, "LOG_S", 0)  # every epoch is logged
    found = start(settings(data), tmp_path / "run")
    assert found["metric"] == "map"
    assert found["map_random_mean"] > 70
    assert found["knn_random"] > 60
    assert found["histograms_map"] > 95
    assert 0 < found["histograms_interval"] < 10
    assert found["classes_untested"] == ["rare"]
    tested = shards.Shards(data, "test").targets
    assert found["chance"] == pytest.approx(100 * tested[:, [0, 1, 3]].mean())
    assert not [name for name in found if "top" in name]
    assert "% mAP (4 classes, chance" in found["verdict"]
    assert "1 classes without a test image are not in it: rare" in found["verdict"]
    json.dumps(found)
    rows = files.read_csv(tmp_path / "run" / "probe.csv")
    assert list(rows[0]) == ["features", "seed", "epoch", "map", "loss"]
    last = [float(row["map"]) for row in rows if row["epoch"] == "20"]
    assert found["map_random_mean"] == pytest.approx(np.mean(last))
    run = Run(tmp_path / "run")
    assert "Mean average precision" in page.accuracy(run).alt
    assert "mAP" in page.curves(run).alt
    signs.doubts(run.summary, run.read_csv("probe.csv"))
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("map" in row for row in metrics)


def test_histograms_with_one_label_each_are_scored_as_before(data):
    """Targets with a single one in each row give the very scores of the labels, at a given strength."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 5)), np.arange(40) % 3
    one = baselines.ridge(x, labels, x, strength=10.0)
    np.testing.assert_allclose(baselines.ridge(x, np.eye(3)[labels], x, strength=10.0), one)
    assert baselines.ridge(x, np.eye(3)[labels], x).shape == (40, 3)


class _Rank:
    """A rank of several that are threads of this process, as far as the probe needs it."""

    def __init__(self, rank, barrier):
        self.rank, self.world_size, self.is_main, self.device = rank, barrier.parties, rank == 0, torch.device("cpu")
        self.barrier = barrier.wait
        self.values = vars(barrier).setdefault("values", [None] * barrier.parties)  # of all threads

    def gather(self, value):
        self.values[self.rank] = value
        self.barrier()
        found = list(self.values)
        self.barrier()
        return found

    def broadcast(self, value):
        return self.gather(value)[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_more_ranks_find_what_one_finds(data, tmp_path, monkeypatch, ranks):
    monkeypatch.setattr(features, "BATCH", 16)
    asked = settings(data, epochs=3, probe_seeds=1, compare_histograms=False)
    alone = start(asked, tmp_path / "one")
    (tmp_path / "more").mkdir()
    barrier = threading.Barrier(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        runs = [pool.submit(job.run, asked, _Rank(r, barrier), Folder(tmp_path / "more", r == 0)) for r in range(ranks)]
        together = [run.result(scaled(60)) for run in runs]
    assert together == [alone] + [{}] * (ranks - 1)
    assert files.read_csv(tmp_path / "one" / "probe.csv") == files.read_csv(tmp_path / "more" / "probe.csv")


def test_a_probe_leaves_images_without_a_label_out_and_says_so(data, tmp_path):
    rows = files.read_csv(data / "index.csv")
    files.write_csv(tmp_path / "index.csv", shards.COLUMNS, [row | {"label": ""} if k < 3 else row
                                                             for k, row in enumerate(rows)])  # fmt: skip
    for name in ("split.csv", "statistics.json"):
        (tmp_path / name).write_text((data / name).read_text())
    (tmp_path / "shards").symlink_to(data / "shards")
    found = start(settings(tmp_path, epochs=1, probe_seeds=1), tmp_path / "run")
    assert (found["unlabelled"], found["train_images"] + found["test_images"]) == (3, 117)
    assert found["verdict"].endswith("; 3 images without a label are left out.")
