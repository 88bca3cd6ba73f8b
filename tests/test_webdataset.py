"""WebDataset shards: what the library writes is read, what is packed here the library reads, and tars that are none."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from geofm_lib.data import shards
from geofm_lib.data.sources import listing
from geofm_lib.data.sources import webdataset as ours
from tests.support.cases import labels_in_files, untidy_folders
from tests.support.cases.common import CLASSES
from tests.support.pictures import as_archive, encode, noise
from tests.support.preparations import prepared


def png(seed, size=(16, 16)):
    return encode(noise(seed, size))


def tar(path, *members, mode="w"):
    """A tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count, label, first=0, suffix="cls"):
    """Members of `count` samples: <key>.png and <key>.<suffix>."""
    keys = range(first, first + count)
    return [each for k in keys for each in ((f"{k:05d}.png", png(k)), (f"{k:05d}.{suffix}", label(k).encode()))]


def labels(folder):
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        return {row["name"]: row["label"] for row in csv.DictReader(file)}


def split(folder):
    with open(folder / "split.csv", encoding="utf-8", newline="") as file:
        return dict(list(csv.reader(file))[1:])


# The generators


@pytest.mark.parametrize("source", ["wds", "wds_one", "wds_one/all.tar"])
def test_shards_with_numbers(tmp_path, source):
    labels_in_files.make(tmp_path)
    summary, refused, packed = prepared(tmp_path / "run", tmp_path / source, workers=1)
    assert (summary["images"], refused, summary["labels_from"]) == (18, {}, "webdataset")
    assert summary["classes"] == {"0": 6, "1": 6, "2": 6} and summary["unused"] == {}
    for name, data in packed.items():
        k, i = int(name[-9:-4]) // 10000, int(name[-9:-4]) % 10000
        assert labels(tmp_path / "run")[name] == str(k)
        assert data == labels_in_files.png(100 * k + i)


@pytest.mark.parametrize("text", ["crop\nforest\nwater\n", '{"classes": ["crop", "forest", "water"]}'])
def test_numbers_get_the_names_beside_them(tmp_path, text):
    labels_in_files.make(tmp_path)
    (tmp_path / "wds" / ("dataset.json" if "{" in text else "classes.txt")).write_text(text)
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "wds", workers=1)
    assert summary["classes"] == dict.fromkeys(CLASSES, 6)


def test_a_zip_a_class(tmp_path):
    labels_in_files.make(tmp_path)
    summary, _, packed = prepared(tmp_path / "run", tmp_path / "zips", workers=1)
    assert summary["classes"] == dict.fromkeys(CLASSES, 6) and summary["labels_from"] == "folders"
    assert packed["forest/3.png"] == labels_in_files.png(103)


def test_a_zip_as_macos_packs_it(tmp_path):
    untidy_folders.make(tmp_path)
    summary, refused, packed = prepared(tmp_path / "run", tmp_path / "set.zip", workers=1)
    assert (summary["images"], refused) == (30, {})
    assert summary["classes"] == {"Dense Residential (2)": 6, "forêt": 11, "only one": 1, "water,#1%": 6, "耕地": 6}
    assert not any("._" in name or "MACOSX" in name or "checkpoint" in name for name in packed)


# With the library


def test_what_the_library_writes(tmp_path):
    pixels = [np.array(noise(k, (16, 16))) for k in range(20)]
    with webdataset.ShardWriter(str(tmp_path / "set-%06d.tar"), maxcount=8, verbose=0) as writer:
        for k in range(20):
            writer.write({"__key__": f"sample{k:04d}", "png": pixels[k], "cls": k % 3, "json": {"text": str(k)}})
    (tmp_path / "in").mkdir()
    for path in tmp_path.glob("*.tar"):
        path.rename(tmp_path / "in" / path.name)
    summary, refused, packed = prepared(tmp_path / "run", tmp_path / "in", workers=1)
    assert (summary["images"], refused, summary["classes"]) == (20, {}, {"0": 7, "1": 7, "2": 6})
    for name, data in packed.items():
        k = int(name[-8:-4])
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), pixels[k])
        assert labels(tmp_path / "run")[name] == str(k % 3)


def test_the_library_reads_what_is_packed(tmp_path):
    labels_in_files.make(tmp_path)
    _, _, packed = prepared(tmp_path / "run", tmp_path / "wds", workers=1)
    url = str(tmp_path / "run/shards/000000.tar")
    read = {each["__key__"]: each["png"] for each in webdataset.WebDataset(url, shardshuffle=False, empty_check=False)}
    assert read == {name.removesuffix(".png"): data for name, data in packed.items()}


def test_our_own_shards_without_their_lists(tmp_path):
    labels_in_files.make(tmp_path)
    prepared(tmp_path / "run", tmp_path / "zips", workers=1, shard_mib=0.02)
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "run/shards").glob("*.tar"):
        path.rename(tmp_path / "moved" / path.name)
    summary, _, packed = prepared(tmp_path / "again", tmp_path / "moved", workers=1)
    assert len(list((tmp_path / "moved").iterdir())) > 1
    assert summary["classes"] == dict.fromkeys(CLASSES, 6) and packed["water/2.png"] == labels_in_files.png(202)


# Labels


@pytest.mark.parametrize(
    ("suffix", "text", "label"),
    [
        ("cls", "7\n", "7"),
        ("cls", "forest", "forest"),
        ("label", "été", "été"),
        ("txt", "dense residential\n", "dense residential"),
        ("json", '{"label": "a"}', "a"),
        ("json", '{"class": 3, "url": "x"}', "3"),
        ("json", '{"labels": ["a", "b"]}', "a|b"),
    ],
)
def test_labels_of_each_kind(tmp_path, suffix, text, label):
    tar(tmp_path / "set.tar", *samples(4, lambda k: text if k else text.replace("a", "z"), suffix=suffix))
    prepared(tmp_path / "run", tmp_path / "set.tar", workers=1)
    assert labels(tmp_path / "run")["00003.png"] == label


def test_sides_by_the_names_of_shards_and_their_folders(tmp_path):
    for k, name in enumerate(("train-000000", "train-000001", "val-000000", "test-000000")):
        tar(tmp_path / "named" / f"{name}.tar", *samples(3, lambda k: str(k % 2), first=10 * k))
    for k, name in enumerate(("train/00000", "train/00001", "validation/00000")):
        tar(tmp_path / "folders" / f"{name}.tar", *samples(3, lambda k: str(k % 2), first=10 * k))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "named", workers=1)
    assert (summary["train"], summary["val"], summary["test"]) == (6, 3, 3)
    assert {name[:5]: side for name, side in split(tmp_path / "run").items()} == {
        "train": "train", "val-0": "val", "test-": "test",
    }  # fmt: skip
    items = list(ours.items(listing.find(tmp_path / "folders")))
    assert [item.side for item in items] == ["train"] * 6 + ["val"] * 3


def test_keys_that_begin_anew_in_each_shard(tmp_path):
    for k in range(3):
        tar(tmp_path / "set" / f"{k:05d}.tar", *samples(4, str))
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert (summary["images"], refused) == (12, {})


def test_shards_without_labels_are_unlabelled(tmp_path):
    for k in range(3):
        tar(tmp_path / "set" / f"{k:05d}.tar", *((f"{n}.png", png(10 * k + n)) for n in range(4)))
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert (summary["images"], refused, summary["classes"]) == (12, {}, {})


def test_captions_are_no_classes(tmp_path):
    tar(tmp_path / "set.tar", *samples(30, lambda k: f"a satellite view of place {k}", suffix="txt"))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set.tar", workers=1)
    assert summary["classes"] == {} and "captions or names and not classes" in summary["warnings"][0]


def test_a_compressed_tar_and_a_restart(tmp_path):
    path = tar(tmp_path / "set.tar.gz", *samples(12, lambda k: str(k % 2)), mode="w:gz")
    for name in ("once", "twice"):
        prepared(tmp_path / name, path, workers=1, shard_mib=0.003)
    tars = sorted((tmp_path / "twice/shards").glob("*.tar"))
    assert len(tars) > 2
    for each in tars[1:]:
        each.unlink()
        each.with_suffix(".csv").unlink()
    prepared(tmp_path / "twice", path, workers=1, shard_mib=0.003)
    for name in ("index.csv", "split.csv"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_a_pattern_chooses_one_of_several_images(tmp_path):
    files = {"rgb.png": png, "nir.png": lambda k: png(50 + k), "cls": lambda k: str(k % 2).encode()}
    members = [(f"{k}.{end}", make(k)) for k in range(6) for end, make in files.items()]
    path = tar(tmp_path / "set.tar", *members)
    with pytest.raises(ValueError) as told:
        prepared(tmp_path / "none", path, workers=1)
    assert "sample '0' of 'set.tar' has several images ('0.rgb.png', '0.nir.png')" in str(told.value)
    assert "pattern='*.rgb.png' takes one of them" in str(told.value)
    summary, _, packed = prepared(tmp_path / "one", path, workers=1, pattern="*.rgb.png")
    assert summary["classes"] == {"0": 3, "1": 3} and packed["4.rgb.png"] == png(4)
    assert summary["unused"] == {".png": {"an image that pattern leaves out": 6}}
    prepared(tmp_path / "both", path, workers=1, pattern="{id}.{band}.png", bands="rgb,nir")
    assert shards.Shards(tmp_path / "both").decode(0).shape == (6, 16, 16)


# Tars that are none


def folders(suffix, text):
    """Class folders with a text beside each image."""

    def pair(label, n):
        return (f"{label}/{n}.png", png(ord(label) + n)), (f"{label}/{n}.{suffix}", text.encode())

    return [each for label in "ab" for n in range(3) for each in pair(label, n)]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("txt", "0 0.5 0.5 0.1 0.1\n"),
        ("txt", "a house"),
        ("json", '{"shapes": [{"label": "roof"}], "imagePath": "0.png"}'),
        ("xml", "<annotation/>"),
        ("tif.aux.xml", "<PAMDataset/>"),
    ],
)
def test_class_folders_with_texts_beside_the_images_stay_class_folders(tmp_path, suffix, text):
    summary, _, _ = prepared(tmp_path / "run", tar(tmp_path / "set.tar", *folders(suffix, text)), workers=1)
    assert summary["classes"] == {"a": 3, "b": 3} and summary["labels_from"] == "folders"


def hostile(tmp_path, *members):
    return prepared(tmp_path / "run", tar(tmp_path / "set.tar", *members), workers=1)


def test_labels_that_cannot_be_read_are_refused_by_image(tmp_path):
    good = samples(6, lambda k: str(k % 2))
    broken = [("x1", b"\xff\xfe\x00binary"), ("x2", b"two\nlines"), ("x3", b"\x00\x01"), ("x4", b"\x80\x04K\x01.")]
    members = [each for key, data in broken for each in ((f"{key}.png", png(ord(key[1]))), (f"{key}.cls", data))]
    summary, refused, _ = hostile(tmp_path, *good, *members)
    assert summary["images"] == 6 and summary["classes"] == {"0": 3, "1": 3}
    assert refused == {f"{key}.png": "its label, .cls, is no line of text" for key, _ in broken}


def test_a_number_without_a_name(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="'00002.cls' says class 2, but only 2 names of classes are beside it"):
        hostile(tmp_path, *samples(6, str))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"classes": 5}', '{"classes": []}'])
def test_names_of_classes_that_are_none(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    summary, _, _ = hostile(tmp_path, *samples(6, lambda k: str(k % 2)))
    assert summary["classes"] == {"0": 3, "1": 3}


def test_an_image_without_a_label_and_a_label_without_an_image(tmp_path):
    members = [*samples(6, lambda k: str(k % 2)), ("alone.png", png(90)), ("lost.cls", b"1"), ("x.json", b"{")]
    summary, refused, _ = hostile(tmp_path, *members, ("readme.md", b"x"))
    assert (summary["images"], refused) == (7, {})
    assert summary["unused"] == {".md": {"a table or text": 1}}
    assert labels(tmp_path / "run")["alone.png"] == ""


def test_an_empty_label_is_none(tmp_path):
    summary, _, _ = hostile(tmp_path, *samples(6, lambda k: ["", "a", "b"][k % 3]))
    assert summary["classes"] == {"a": 2, "b": 2}


def test_names_that_lead_out_of_the_tar(tmp_path):
    members = [(f"../../{name}", data) for name, data in samples(4, lambda k: str(k % 2))]
    _, _, packed = hostile(tmp_path, *members)
    assert set(packed) == {f"{k:05d}.png" for k in range(4)}


def test_a_key_twice(tmp_path):
    _, refused, packed = hostile(tmp_path, *samples(4, lambda k: str(k % 2)), *samples(1, str))
    assert refused == {"00000.png": "another image has the same name"} and len(packed) == 4


def test_huge_labels_and_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ours.archives, "MOST_BYTES", 50_000)
    big = [("big.png", png(70)), ("big.cls", b"1" * 2**21), ("wide.png", bytes(60_000)), ("wide.cls", b"1")]
    summary, refused, _ = hostile(tmp_path, *samples(5, lambda k: str(k % 2)), *big)
    assert summary["images"] == 5
    assert refused.pop("big.png") == "its label, .cls, is no line of text"
    assert refused.pop("wide.png").startswith("cannot be read: it has 60000 bytes, more than the 50000")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.61])
def test_a_shard_that_is_cut(tmp_path, share):
    for k in range(2):
        tar(tmp_path / "set" / f"{k:05d}.tar", *samples(8, lambda k: str(k % 2), first=10 * k))
    path = tmp_path / "set/00001.tar"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert 8 <= summary["images"] <= 16
    assert list(refused) == ["00001.tar"] and "the archive is damaged here" in refused["00001.tar"]


def test_a_shard_that_is_no_archive(tmp_path):
    for k in range(2):
        tar(tmp_path / "set" / f"{k:05d}.tar", *samples(8, lambda k: str(k % 2), first=10 * k))
    (tmp_path / "set/00002.tar").write_bytes(b"no tar at all")
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert summary["images"] == 16 and refused == {
        "00002.tar": "cannot be read: the archive is damaged; fetch it again"
    }


def test_archives_beside_images_are_counted(tmp_path):
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "set" / label / f"{n}.png").write_bytes(png(ord(label) + n))
    as_archive(tmp_path / "set/a", tmp_path / "set/a.zip")
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert summary["images"] == 6 and summary["unused"] == {".zip": {"an archive inside the data set": 1}}


def test_an_archive_inside_an_archive_is_counted(tmp_path):
    inner = tar(tmp_path / "inner.tar", ("x.png", png(9))).read_bytes()
    for label in "ab":
        tar(tmp_path / "set" / f"{label}.tar", *((f"{n}.png", png(ord(label) + n)) for n in range(3)), ("i.tar", inner))
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert (summary["images"], refused, summary["classes"]) == (6, {}, {"a": 3, "b": 3})
    assert summary["unused"] == {".tar": {"an archive inside the data set": 2}}


def test_one_zip_a_side(tmp_path):
    for side in ("train", "test"):
        tar(
            tmp_path / "set" / f"{side}.tar",
            *((f"{c}/{n}.png", png(ord(c) + n + len(side))) for c in "ab" for n in range(3)),
        )
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert summary["classes"] == {"a": 6, "b": 6} and (summary["train"], summary["test"]) == (6, 6)


def test_json_that_says_several_labels(tmp_path):
    text = [json.dumps({"labels": ["sea", "port"][: 1 + k % 2]}) for k in range(6)]
    summary, _, _ = hostile(tmp_path, *samples(6, lambda k: text[k], suffix="json"))
    assert summary["several_labels"] and summary["classes"] == {"port": 3, "sea": 6}
