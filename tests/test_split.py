"""Sides of a split: given ones stay exact, scenes stay whole, and what is sure of no side is kept apart."""

import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from geofm_lib import files
from geofm_lib.data import duplicates, split
from geofm_lib.data.sources import archives, labels, listing
from tests.support.preparations import prepared

FOREST = ["forest", "water"] * 20


def decide(given=(), scenes=(), how="auto", labels=FOREST, same_as=None, ratio=0.5):
    names = [f"{n}.png" for n in range(len(labels))]
    blank = [""] * len(labels)
    return split.decide(
        how, names, labels, list(given) or blank, list(scenes) or blank, same_as or {}, ratio, 0, "lists"
    )


def test_a_given_split_is_exact_and_its_duplicates_are_told():
    given = (["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 4
    found = decide(given, same_as={"8.png": "0.png", "18.png": "0.png", "3.png": "2.png"})
    assert found.sides == given
    assert found.by == "given: lists"
    (told,) = found.warnings
    assert told.startswith(
        "2 test images of the given split, such as '8.png', have an exact or near duplicate in its train"
    )
    assert decide(given, how="random").by == "random"
    assert Counter(decide(given, how="random").sides) == {"train": 20, "test": 20}


@pytest.mark.parametrize(
    ("given", "labelled", "sides", "told"),
    [
        ({"train": 30, "val": 10}, "all", {"train": 30, "test": 10}, "its 10 val images are tested on"),
        (
            {"train": 30, "val": 10},
            "none",
            {"train": 30, "test": 10},
            "has no test side: its 10 val images are tested on",
        ),
        (
            {"train": 20, "val": 10, "test": 10},
            "not test",
            {"train": 30, "test": 10},
            "has no labels, so its 10 images",
        ),
        ({"train": 30, "test": 10}, "not test", {"train": 26, "test": 14}, "there is only train"),
        ({"train": 40}, "all", {"train": 20, "test": 20}, "only train: the images are split anew; train_ratio=1 keeps"),
        ({"train": 40}, "none", {"train": 40}, "there is only train: all images train"),
        ({"test": 40}, "all", {"train": 20, "test": 20}, "there is only test"),
        ({"val": 20, "test": 20}, "all", {"train": 20, "test": 20}, "is only val and test"),
        ({"train": 20, "test": 10, "": 10}, "all", {"train": 20, "test": 10, "val": 10}, "names no side for 10 images"),
        ({"train": 20, "test": 20}, "none", {"train": 20, "test": 20}, ""),
    ],
)
def test_a_split_that_lacks_something(given, labelled, sides, told):
    given = [side for side, count in given.items() for _ in range(count)]
    known = {"all": given, "none": [], "not test": ["train", "val"]}[labelled]
    found = decide(given, labels=[FOREST[i] if side in known else "" for i, side in enumerate(given)])
    assert Counter(found.sides) == sides
    assert told in " ".join(found.warnings)
    assert bool(told) == bool(found.warnings)


def test_a_ratio_that_is_not_reached_is_told():
    given = decide((["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 4)
    (told,) = split.missed(given, FOREST, 0.9)
    assert told == "train_ratio=0.9 is not used, since the split is given: lists; split=random splits anew"
    few = decide(scenes=[f"s{n // 20}" for n in range(40)], ratio=0.9)
    (told,) = split.missed(few, FOREST, 0.9)
    assert told.startswith("train_ratio=0.9 was asked for, and 0.50 of the train and test images train: a split by")
    assert split.missed(few, FOREST, 0.5) == split.missed(few, FOREST, 0.0) == split.missed(given, FOREST, 0.0) == []
    assert split.missed(decide(ratio=0.7), FOREST, 0.7) == []


@pytest.mark.parametrize(
    ("each", "asked", "twins", "reached", "why"),
    [
        (2, 0.9, False, "0.50", "classes have few images, of which one at least trains and one is tested on"),
        (2, 0.1, False, "0.50", "classes have few images, of which one at least trains and one is tested on"),
        (3, 0.5, False, "0.67", "classes have few images, and their shares are rounded to whole ones"),
        (20, 0.9, True, "0.50", "a random split keeps images that belong together on one side"),
    ],
)
def test_why_a_ratio_is_not_reached_is_true(each, asked, twins, reached, why):
    classes = [f"c{n // each}" for n in range(40 // each * each)]
    names = [f"{n}.png" for n in range(len(classes))]
    same_as = {name: names[n // 10 * 10] for n, name in enumerate(names) if n % 10} if twins else {}
    found = split.decide("auto", names, classes, [""] * len(names), [""] * len(names), same_as, asked, 0)
    (told,) = split.missed(found, classes, asked)
    assert f"{reached} of the train and test images train: {why}" in told
    assert split.missed(found, classes, float(reached)) == []


def test_a_ratio_of_images_without_labels_is_not_used():
    found = decide(labels=[""] * 40, ratio=0.7)
    assert set(found.sides) == {"train"}
    assert split.missed(found, [""] * 40, 0.7) == ["train_ratio=0.7 is not used, since images without labels all train"]
    assert split.missed(found, [""] * 40, 1.0) == []


def test_scenes_stay_whole_with_labels_and_without():
    scenes = [f"s{n // 4}" for n in range(40)]
    for classes in (FOREST, [""] * 40, ["forest"] * 20 + ["water"] * 20):
        found = decide(scenes=scenes, labels=classes)
        assert found.by == "scene"
        sides = {(scene, side) for scene, side in zip(scenes, found.sides, strict=True)}
        assert len(sides) == 10
        assert 16 <= found.sides.count("train") <= 20
        assert "val" not in found.sides
    assert set(decide(scenes=scenes, ratio=1.0).sides) == {"train"}
    assert len(set(zip(scenes, decide(scenes=scenes, how="random").sides, strict=True))) > 10
    with pytest.raises(ValueError, match="split=scene needs to know which images belong together"):
        decide(how="scene")


def test_what_is_sure_of_no_side_is_kept_apart():
    scenes = [f"s{n // 4}" for n in range(36)] + [""] * 4
    found = decide(scenes=scenes)
    assert found.sides[36:] == ["val"] * 4
    assert "4 images belong to no group, such as '36.png'" in found.warnings[0]
    tested, trained = (next(n for n, side in enumerate(found.sides) if side == which) for which in ("test", "train"))
    first, second = sorted((tested, trained))
    twin = decide(scenes=scenes, same_as={f"{second}.png": f"{first}.png"})
    assert twin.sides[trained] == "val"
    assert twin.sides[tested] == "test"
    assert "1 training images have a twin on the test side" in " ".join(twin.warnings)
    assert "val" not in decide(scenes=scenes, ratio=1.0).sides, "nothing is tested on"


def test_harvey_is_split_by_its_cells():
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    path = Path(os.environ["GEOFM_TEST_DATA"]) / "harvey.tar"
    source = listing.find(path)
    names = list(archives.names(source))
    blank = [("", "", "")] * len(names)
    known = labels.assign(names, blank, "pairs.csv:path=before+after,group=cell_5km", source=source)
    found = split.decide("auto", names, known.labels, known.sides, known.scenes, {}, 0.5, 0, "", known.scenes_from)
    assert found.by == "column cell_5km of pairs.csv"
    assert len(names) == 21_322
    assert set(known.labels) == {""}
    with tarfile.open(path) as archive:
        rows = archive.extractfile("harvey/pairs.csv").read().decode().splitlines()[1:]
    side = dict(zip(names, found.sides, strict=True))
    cells = {}
    for _, cell, before, after in (row.split(",") for row in rows):
        cells.setdefault(cell, set()).update({side["harvey/" + before], side["harvey/" + after]})
    assert len(cells) == 83
    assert all(len(each) == 1 for each in cells.values())
    counts = Counter(found.sides)
    assert counts["val"] == 21_322 - 2 * 7_087
    assert abs(counts["train"] - counts["test"]) < 200


def test_all_for_training_leaves_no_last_image_for_the_test():
    assert set(duplicates.split(["a/1", "a/2", "b/3"], ["a", "a", "b"], {}, 1.0, 0)) == {"train"}


def test_a_class_that_is_only_tested_is_told():
    given = ["train"] * 20 + ["test"] * 20
    found = decide(given, labels=["a", "b"] * 10 + ["a", "c"] * 10)
    assert found.warnings == ["the class 'c' has test images and no training image: that cannot be learned"]
    found = decide(given, labels=["a", "b"] * 10 + ["a|c", "d"] * 10)
    assert found.warnings == ["2 classes, such as 'c', have test images and no training image: that cannot be learned"]


def test_eurosat100s_own_split_is_reproduced(tmp_path):
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    path = Path(os.environ["GEOFM_TEST_DATA"]) / "eurosat100_ms.tar"
    summary, _, _ = prepared(tmp_path / "run", path, channels=13, labels="split.csv")
    with tarfile.open(path) as archive:
        lines = archive.extractfile("eurosat100_ms/split.csv").read().decode().splitlines()[1:]
    words = {"train": "train", "validate": "val", "validation": "val", "val": "val", "test": "test"}
    given = {name: (words[side], label) for side, label, name in (line.split(",") for line in lines)}
    sides = {row["name"]: row["split"] for row in files.read_csv(tmp_path / "run" / "split.csv")}
    assert len(sides) == 100
    for row in files.read_csv(tmp_path / "run" / "index.csv"):
        assert given[Path(row["name"]).stem] == (sides[row["name"]], row["label"])
    assert (summary["train"], summary["val"], summary["test"]) == (60, 20, 20)
