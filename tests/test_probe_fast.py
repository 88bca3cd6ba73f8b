"""The fast protocol: its head beside scikit-learn's, its splits, its paired intervals, and the rows that it writes."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from geofm_lib import files
from geofm_lib.catalog.readouts import ACCURACY, GAIN, UNTRAINED
from geofm_lib.data import places, random_patches, transforms
from geofm_lib.data.sample import Sample
from geofm_lib.data.shards import Shards
from geofm_lib.figures import probe as page
from geofm_lib.figures import probe_details as details
from geofm_lib.jobs import probe as job
from geofm_lib.jobs import probe_judge, probe_kept, probe_metrics, probe_splits
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.model import logistic, probe_heads, vit
from geofm_lib.paper import accuracy
from geofm_lib.runs.run import Run
from geofm_lib.settings import ProbeSettings, SettingsError
from tests.support import encoders
from tests.support.preparations import prepared

CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3,
          "mean": [0.5] * 3, "std": [0.2] * 3}  # fmt: skip


def picture(kind, number):
    """Soft colours that look like no other's, greener or bluer by class."""
    random = np.random.default_rng([kind, number])
    small = random.integers(0, 200, (6, 6, 3), dtype=np.uint8)
    small[..., kind] += 40
    return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared set of 3 classes of 14 images, with a copy of one beside it, and an encoder."""
    root = tmp_path_factory.mktemp("fast")
    for kind in range(3):
        (root / "files" / f"class {kind}").mkdir(parents=True)
        for number in range(14):
            picture(kind, number).save(root / "files" / f"class {kind}" / f"{number}.png")
    picture(0, 3).save(root / "files" / "class 0" / "copy.png")
    files.write_json(root / "set" / "summary.json", prepared(root / "set", root / "files", workers=1)[0])
    state = vit.build("ViT-Atto", image_size=32, seed=7).state_dict()
    encoders.write(root / "run" / "encoder", state, CONFIG)
    return root


def one_rank():
    alone = {"rank": 0, "world_size": 1, "is_main": True, "device": torch.device("cpu")}
    return SimpleNamespace(**alone, broadcast=lambda v: v, gather=lambda v: [v], barrier=lambda: None)


def test_twins_and_places_are_one_group(tmp_path, monkeypatch):
    """A copy without a place goes with the place of what it copies; ground that test images cover is not trained on."""
    samples = [
        Sample(f"{k}.png", "ab"[k % 2], side="train", scene=scene, digest=f"{digest:x}", contrast=1.0)
        for k, (scene, digest) in enumerate([("p", 1), ("p", 2), ("", 2), ("q", 3), ("", 4), ("q", 5)])
    ]
    monkeypatch.setattr(probe_splits, "_samples", lambda folder: {each.name: each for each in samples})
    monkeypatch.setattr(probe_splits.prepared, "told", lambda folder: {"data_split": "scene"})
    images, again = probe_splits.read(tmp_path, [each.name for each in samples], 4)
    assert (images.group.tolist(), again) == ([0, 0, 0, 3, 4, 3], True)
    ground = np.array([[[10.0 * k, 0], [10.0 * k + 11, 5]] for k in range(6)])
    split = probe_splits._split(images._replace(ground=ground), "seed 1", np.arange(6) < 3, np.zeros(6, bool))
    assert (split.train.tolist(), split.test.tolist()) == ([0, 1], [3, 4, 5])


def start(place, folder, **more):
    usual = {"image_size": 32, "protocol": "fast", "probe_seeds": 2, "splits": 2, "details": False}
    usual |= {"encoder": str(place / "run")}
    folder.mkdir(exist_ok=True)
    asked = ProbeSettings(data=str(place / "set"), **(usual | more))
    return job.run(asked, one_rank(), Folder(folder))


def table(folder):
    with open(folder / "accuracy.csv") as stream:
        return list(csv.DictReader(stream))


def blobs(each=40, classes=5, width=24):
    random = np.random.default_rng(0)
    labels = np.arange(each * classes) % classes
    features = random.normal(size=(classes, width))[labels] + 1.2 * random.normal(size=(len(labels), width))
    return (features * random.uniform(0.1, 30, width) + random.normal(size=width)).astype(np.float32), labels


def test_the_head_is_scikit_learns():
    """At the strength that validation chooses: the same accuracy, within half a point, of float64 at full precision."""
    features, labels = blobs()
    fit, asked = np.arange(80), np.arange(80, 100)
    found = logistic.scores(features[:100], labels[:100], features[100:], (fit, asked), probe_metrics.top, 5)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=found.setting, tol=1e-8, max_iter=5000))
    theirs.fit(features[:100].astype(np.float64), labels[:100])
    assert found.chosen
    assert probe_metrics.top(found.scores, labels[100:])[0] == pytest.approx(
        100 * theirs.score(features[100:], labels[100:]), abs=0.5
    )
    np.testing.assert_allclose(found.scores, theirs.decision_function(features[100:]), atol=0.05)


def test_what_a_head_cannot_know():
    """A class without training images is never said; one image a class leaves nothing to choose by."""
    features, labels = blobs()
    none = np.arange(0)
    lone = np.array([0, 1, 2, 3])
    found = logistic.scores(features[lone], labels[lone], features, (np.arange(4), none), probe_metrics.top, 5)
    assert (found.setting, found.chosen) == (logistic.UNCHOSEN, False)
    assert np.isneginf(found.scores[:, 4]).all()
    two = logistic.scores(features[:2], labels[:2], features, (np.arange(2), none), probe_metrics.top, 5)
    assert set(two.scores.argmax(1)) <= {0, 1}
    with pytest.raises(ValueError, match="^All images of a train side are of one class"):
        logistic.scores(features[[0, 5]], labels[[0, 5]], features, (np.arange(2), none), probe_metrics.top, 5)
    targets = np.eye(5, dtype=np.float32)[labels]
    targets[:, 0] = 1  # all images have it
    several = logistic.scores(
        features[:100], targets[:100], features[100:], (np.arange(80), np.arange(80, 100)),
        probe_metrics.mean_average_precision, 5,
    )  # fmt: skip
    assert not several.scores[:, 0].any()
    assert probe_metrics.mean_average_precision(several.scores, targets[100:])[0] > 60


def test_splits_are_closed_and_never_test_what_was_seen(place):
    names = [line.split(",")[0] for line in (place / "set" / "split.csv").read_text().splitlines()[1:]]
    sides = [line.split(",")[1] for line in (place / "set" / "split.csv").read_text().splitlines()[1:]]
    ordered = sorted(names, key=lambda name: sides[names.index(name)] != "train")
    images, again = probe_splits.read(place / "set", ordered, sides.count("train"))
    assert again
    seen = np.zeros(len(names), bool)
    seen[:5] = True
    own, *others = probe_splits.splits(images, 4, seen)
    assert (own.name, [each.name for each in others]) == ("own", ["seed 1", "seed 2", "seed 3"])
    copies = [i for i, name in enumerate(ordered) if name.endswith(("copy.png", "class 0/3.png"))]
    for split in (own, *others):
        assert not set(split.train) & set(split.test)
        assert len({tuple(np.isin(copies, split.train))} & {(True, False), (False, True)}) == 0
        fit, asked = split.validation
        assert sorted([*fit, *asked]) == list(range(len(split.train)))
        assert {images.labels[split.train[i]] for i in fit} == set(images.labels)
    for split in others:
        assert not set(split.test) & set(range(5))
        assert set(split.train) != set(own.train)


def test_a_difference_is_paired():
    """Two sources that are right on nearly the same images differ by less than their own intervals."""
    labels = np.arange(400) % 2
    random = np.random.default_rng(0)
    images = probe_splits.Images(
        list(map(str, range(400))), list("ab" * 200), np.arange(400) < 200, np.arange(400), None
    )
    split = probe_splits.Split("own", np.arange(200), np.arange(200, 400), (np.arange(160), np.arange(160, 200)))
    judge = probe_judge.Judge(images, [split], labels, 2, probe_metrics.TOP)
    features = (labels[:, None] * 1.0 + random.normal(size=(400, 1))).astype(np.float32)
    close = features + 0.1 * random.normal(size=(400, 1)).astype(np.float32)
    makers = {"pretrained": features, UNTRAINED: close}
    sources = [
        probe_judge.Source(kind, Path(), {"objective": kind}, {"mean": (probe_judge.PLAIN,)}, lambda _, x=found: x)
        for kind, found in makers.items()
    ]
    rows = probe_judge.table(judge, sources, lambda file, make: make(), lambda *_: None)
    own, gain = rows[0], next(row for row in rows if row["metric"].endswith(GAIN))
    assert own["high"] - own["low"] == pytest.approx(
        2 * 1.96 * 100 * np.sqrt(own["value"] / 100 * (1 - own["value"] / 100) / 200), rel=0.15
    )
    assert gain["high"] - gain["low"] < 0.8 * (own["high"] - own["low"])
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert gain["value"] == pytest.approx(own["difference_to_untrained"])


def test_the_job_writes_rows_and_encodes_once(place, tmp_path, monkeypatch):
    encoded = []
    monkeypatch.setattr(vit, "features", lambda *given, real=vit.features: encoded.append(1) or real(*given))
    heads = counted(monkeypatch)
    found = start(place, tmp_path / "a", orientations=4, probe_seeds=1)
    assert len(encoded) == 2 * 4 * 2, "two encoders, four turns, two sides of one batch each"
    rows = table(tmp_path / "a")
    assert tuple(rows[0]) == ACCURACY
    whole = [row for row in rows if row["interval_kind"]]
    assert {row["split"] for row in whole} == {"2 splits"}
    assert {row["pooling"] for row in whole} == {
        "mean", "mean+spread+max+class", "mean, 4 orientations", "mean+spread+max+class, 4 orientations", "histograms",
        "random convolutions",
    }  # fmt: skip
    assert {row["objective"] for row in whole} == {"not known", UNTRAINED, "none"}
    (own,) = [
        row for row in whole if (row["objective"], row["pooling"], row["metric"]) == ("not known", "mean", "top1")
        and (row["protocol"], row["normalisation"]) == ("fast", "standardised")
    ]  # fmt: skip
    assert found["fast_value"] == pytest.approx(float(own["value"]))
    assert found["gain"] == pytest.approx(float(own["difference_to_untrained"]))
    assert found["verdict"].startswith("Pretraining adds ")
    assert "2 splits, logistic regression" in found["verdict"]
    heads.clear()
    again = start(place, tmp_path / "b", readouts="class", probe_seeds=1)
    assert len(encoded) == 16, "another readout, and fewer turns: nothing is encoded again"
    assert len(heads) == 2 * 3, "and only its own heads are trained, not those of histograms"
    assert again["readout"] == "class"
    heads.clear()
    start(place, tmp_path / "c", orientations=4, probe_seeds=1)
    assert (heads, table(tmp_path / "c")) == ([], table(tmp_path / "a"))


def counted(monkeypatch):
    """A list that grows with each result of heads that is made."""
    made = []
    real = probe_judge.Judge.result
    monkeypatch.setattr(probe_judge.Judge, "result", lambda *given: made.append(1) or real(*given))
    return made


def test_a_damaged_result_is_made_again(tmp_path, capsys):
    file, truth = tmp_path / "features" / "head.npz", probe_judge.Result(np.ones((1, 2)), np.ones(3), np.ones((4, 5)))
    assert probe_kept.result(file, lambda: truth) is truth
    again = probe_kept.result(file, lambda: pytest.fail("it is there"))
    assert all((a == b).all() for a, b in zip(again, truth, strict=True))
    file.write_bytes(file.read_bytes()[:-30])
    assert probe_kept.result(file, lambda: truth) is truth
    assert "is not what was written" in capsys.readouterr().out


class _StopsAt(Folder):
    """A run folder in which a stop is asked for at the n-th look."""

    left = 0

    def stop_requested(self):
        self.left -= 1
        return not self.left


def test_a_stopped_one_goes_on_behind_its_results(place, tmp_path, monkeypatch):
    asked = {"image_size": 24, "readouts": "mean", "splits": 2, "probe_seeds": 1, "details": False, "protocol": "fast"}
    settings = ProbeSettings(data=str(place / "set"), encoder=str(place / "run"), supervised_epochs=3, **asked)
    (tmp_path / "whole").mkdir()
    whole = job.run(settings, one_rank(), Folder(tmp_path / "whole"))
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "other"))  # where nothing is kept yet
    made, stops, found = counted(monkeypatch), 0, None
    (tmp_path / "run").mkdir()
    while found is None:
        folder = _StopsAt(tmp_path / "run")
        folder.left = 2 + stops % 3
        try:
            found = job.run(settings, one_rank(), folder)
        except Stopped:
            stops += 1
    assert {name: value for name, value in found.items() if whole[name] != value} == {}
    assert len(made) == 4 * 3, "each head once: two encoders, two kinds of features by hand"
    assert stops > 4
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert not (tmp_path / "run" / "kept").exists()


@pytest.fixture(scope="module")
def detailed(place):
    """A run with everything, and another encoder beside it."""
    state = vit.build("ViT-Atto", image_size=32, seed=8).state_dict()
    encoders.write(place / "other" / "encoder", state, CONFIG)
    folder = place / "detailed"
    summary = start(place, folder, details=True, probe_seeds=1, beside=str(place / "other"), splits=2,
                    supervised_epochs=2)  # fmt: skip
    files.write_json(folder / "summary.json", summary)
    return Run(folder)


def test_few_labels_blocks_neighbours_and_others_stand_beside(detailed):
    whole = [row for row in table(detailed.folder) if row["interval_kind"]]
    assert {row["protocol"] for row in whole} == {"fast", "knn", "supervised, AdamW 0.001"}
    assert {row["shot"] for row in whole} == {"", "1", "5", "10", "20", "10 %", "25 %", "50 %"}
    assert {row["layer"] for row in whole} == {"", "last", "block 1", "block 2", "block 3", "block 4"}
    assert {row["pretraining_run"] for row in whole} == {"", "run", "other"}
    few = {row["shot"]: int(row["n_train"]) for row in whole if row["shot"]}
    assert few["1"] == 3 < few["5"] == 15 <= few["10"]
    ranks = files.read_csv(detailed.folder / "features.csv")
    assert all(0 < float(row["effective_rank"]) <= float(row["width"]) for row in ranks)


def test_the_page_shows_them(detailed, monkeypatch):
    assert "pretrained, mean " in page.gains(detailed).alt
    assert "random convolutions" in page.gains(detailed).alt
    assert list(page.protocols().frame["name"]) == ["paper", "fast", "knn", "supervised", "dates"]
    assert "trained on the labels from scratch" in page.gains(detailed).alt
    assert "pretrained from" in details.labels(detailed).alt
    assert "behind block" in details.blocks(detailed).alt
    assert len(details.ranks(detailed).frame) > 4
    assert "for each of 3 classes" in details.classes(detailed).alt
    assert "taken for" in repr(details.confusion(detailed)) + details.confusion(detailed).empty
    assert "nearest training images" in details.retrieval(detailed).alt
    assert "test images of 3 classes" in details.features_map(detailed).alt
    monkeypatch.setenv("GEOFM_PICTURES", "builtin")
    assert "left out of this page on purpose" in repr(details.retrieval(detailed))
    none = Run(detailed.folder.parent)
    for show in (page.gains, details.labels, details.blocks, details.ranks, details.classes, details.confusion,
                 details.confused, details.features_map):  # fmt: skip
        assert repr(show(none))


def test_rows_are_written_once(place, tmp_path):
    start(place, tmp_path / "run", probe_seeds=1, compare_histograms=False)
    (tmp_path / "run" / "environment.json").write_text('{"commit": "abc", "launched": "2026-01-02T03:04"}')
    file = tmp_path / "reports" / "accuracy.csv"
    rows = accuracy.of_run(Run(tmp_path / "run"), images_seen=48000)
    for _ in range(2):
        accuracy.add(rows, file)
    found = accuracy.read(file)
    assert tuple(found.columns) == ACCURACY
    assert len(found) == sum(bool(row["interval_kind"]) for row in rows) > 8
    assert set(found["commit"]) == {"abc"}
    assert set(found.loc[found["pretraining_run"].notna(), "images_seen"]) == {48000}
    changed = dict(rows[0], value=1.0)
    accuracy.add([changed], file)
    assert (accuracy.read(file)["value"] == 1.0).sum() == 1
    with pytest.raises(ValueError, match="no column 'speed'"):
        accuracy.add([rows[0] | {"speed": 1}], file)
    bench = accuracy.export_torchgeo_bench(tmp_path / "bench.csv", rows)
    first = next(csv.DictReader(bench.open()))
    assert first["metric_name"] == "accuracy"
    assert float(first["metric_value"]) == pytest.approx(float(rows[0]["value"]) / 100, abs=1e-4)
    with pytest.raises(ValueError, match=r"holds no accuracy.csv"):
        accuracy.of_run(Run(tmp_path))


def test_bootstrapped_precision_is_scikit_learns():
    random = np.random.default_rng(0)
    scores, targets = random.normal(size=(60, 4)), (random.random((60, 4)) < 0.3).astype(np.float32)
    targets[:, 3] = 0
    weights = random.integers(0, 3, (3, 60)).astype(np.float32)
    ours = probe_metrics.precision_weighted(scores, targets, weights)
    theirs = [
        100 * np.mean([average_precision_score(targets[:, k], scores[:, k], sample_weight=row) for k in range(3)])
        for row in weights
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_an_image_that_lies_beside_another():
    boxes = np.array([[[0, 0], [10, 10]], [[50, 0], [60, 10]], [[500, 0], [510, 10]], [[np.nan] * 2] * 2], float)
    assert places.beside(boxes, boxes[:1]).tolist() == [True, False, False, False]
    assert places.beside(boxes, boxes[:1], 45).tolist() == [True, True, False, False]


def test_the_rate_of_lars_for_small_sets():
    """The paper's at its size, and never above what was tried."""
    assert probe_heads.base_rate(90 * 5000) == 0.1
    assert probe_heads.base_rate(90 * 4) == pytest.approx(27.8, abs=0.1)
    assert probe_heads.base_rate(10) == 30


def test_settings_that_cannot_be():
    with pytest.raises(SettingsError, match="there is no readout 'median'; use some of mean, class"):
        ProbeSettings(readouts="mean,median")
    with pytest.raises(SettingsError, match="use one of 1, 4, 8"):
        ProbeSettings(orientations=3)
    assert ProbeSettings(protocol="both", splits=5).name() == ProbeSettings().name()


def test_random_convolutions_are_those_of_whole_batches(place):
    images = Shards(place / "set", split="train")
    weights = random_patches.filters(images, 24)
    found = random_patches.features(images, weights, 24)
    assert found.shape == (len(images), 2 * random_patches.FILTERS)
    pixels = torch.stack([transforms.squeeze(images.decode(i), 24) for i in range(len(images))])
    responses = functional.conv2d(transforms.normalise(pixels, images.mean, images.std), weights)
    by_hand = [functional.relu(sign * responses - random_patches.THRESHOLD).mean((2, 3)) for sign in (1, -1)]
    np.testing.assert_allclose(found, torch.cat(by_hand, 1), rtol=1e-5, atol=1e-6)
    assert (found > 0).any(axis=1).all(), "every image answers to some filter"
