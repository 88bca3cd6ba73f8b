"""Several prepared folders as one data set: nothing is copied, and no test image of any of them is trained on."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from geofm_lib import files
from geofm_lib.data import union
from geofm_lib.data.shards import Shards
from tests.support.pictures import encode
from tests.support.preparations import prepared as prepare

EACH = 8  # images of a class


def picture(seed):
    """One that no other seed's looks like, with detail at all the frequencies of a look."""
    small = np.random.default_rng(seed).integers(0, 255, (14, 14, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((56, 56), Image.Resampling.BICUBIC)


def make(folder, seed, classes=("a", "b"), extra=None, **options):
    """A prepared folder of a set with classes, and with more files by name, which train."""
    source = folder.parent / f"{folder.name}-files" / folder.name
    for k, label in enumerate(classes):
        (source / label).mkdir(parents=True)
        for i in range(EACH):
            (source / label / f"{i}.jpg").write_bytes(encode(picture(seed + 100 * k + i), "JPEG", quality=95))
    for name, data in (extra or {}).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(data)
    prepare(folder, source, workers=1, **options)
    rows = files.read_csv(folder / "split.csv")
    for row in rows:
        row["split"] = "train" if row["name"] in (extra or {}) else row["split"]
    files.write_csv(folder / "split.csv", ("name", "split"), rows)
    (folder / "settings.json").write_text(json.dumps({"job": "prepare", "asked": {"dataset": str(source)}}))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets. Of test images of the first, the second has the same file, a harder JPEG, and a mirrored one."""
    root = tmp_path_factory.mktemp("sets")
    one = make(root / "one", 1000)
    tested = Shards(one, "test")
    assert len(tested) == 8
    planted = [1000 + 100 * (name[0] == "b") + int(name[2]) for name in tested.names[:4]]
    extra = {
        "c/same.jpg": encode(picture(planted[0]), "JPEG", quality=95),
        "c/harder.jpg": encode(picture(planted[1]), "JPEG", quality=60),
        "c/mirrored.jpg": encode(ImageOps.mirror(picture(planted[2])), "JPEG", quality=90),
        "c/turned.png": encode(picture(planted[3]).transpose(Image.Transpose.ROTATE_90)),
    }
    two = make(root / "two", 2000, ("c", "d"), extra)
    return one, two


def unite(folder, *members, **options):
    return prepare(folder, ",".join(map(str, members)), **options)[0]


def test_a_union_copies_nothing_and_keeps_test_images_out(sets, tmp_path):
    one, two = sets
    summary = unite(tmp_path / "both", two, one)
    both, first, second = (Shards(folder) for folder in (tmp_path / "both", one, two))
    assert both.names == [f"one/{name}" for name in first.names] + [f"two/{name}" for name in second.names]
    assert both.classes == ["one/a", "one/b", "two/c", "two/d"]
    assert [both.read(i, verify=True) for i in range(len(both))] == [
        each.read(i, verify=True) for each in (first, second) for i in range(len(each))
    ]
    assert not list((tmp_path / "both").rglob("*.tar"))
    sides = {row["name"]: row["split"] for row in files.read_csv(tmp_path / "both" / "split.csv")}
    leaks = {name.rpartition("/")[2] for name, side in sides.items() if side == union.LEAK}
    assert {"same.jpg", "harder.jpg"} <= leaks
    for name, folder in (("one", one), ("two", two)):
        own = {row["name"]: row["split"] for row in files.read_csv(folder / "split.csv")}
        assert all(sides[f"{name}/{image}"] in (side, union.LEAK) for image, side in own.items())
    rows = {row["set"]: row for row in summary["sets"]}
    assert (rows["one"]["images"], rows["one"]["train"], rows["one"]["test"], rows["one"]["val"]) == (16, 8, 8, 0)
    assert rows["one"]["leaks_exact"] == rows["one"]["leaks_near"] == 0
    assert rows["two"]["leaks_exact"] == 1
    assert summary["leaks"] == len(leaks) == rows["two"]["leaks_exact"] + rows["two"]["leaks_near"]
    assert summary["train"] + summary["test"] + summary["leaks"] == summary["images"] == len(both)
    assert "they are not trained on" in summary["warnings"][0]


def test_statistics_are_those_of_all_train_pixels(sets, tmp_path):
    summary = unite(tmp_path / "both", *sets)
    train = Shards(tmp_path / "both", "train")
    pixels = np.concatenate([train.decode(i).reshape(3, -1).numpy() / 255 for i in range(len(train))], axis=1)
    np.testing.assert_allclose(train.mean, pixels.mean(1), atol=2e-6)
    np.testing.assert_allclose(train.std, pixels.std(1), atol=2e-6)
    own = [i for i, name in enumerate(train.names) if name.startswith("two/")]
    pixels = np.concatenate([train.decode(i).reshape(3, -1).numpy() / 255 for i in own], axis=1)
    np.testing.assert_allclose(summary["sets"][1]["mean"], pixels.mean(1), atol=2e-6)
    np.testing.assert_allclose(summary["sets"][1]["std"], pixels.std(1), atol=2e-6)
