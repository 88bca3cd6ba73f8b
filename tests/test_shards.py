"""Data shards: ordinary tars, read by position, checked by checksum."""

import pickle
import tarfile

import numpy as np
import pytest
import torch

from geofm_lib import files
from geofm_lib.data import decode, duplicates, pack, shards
from geofm_lib.data.sample import Sample
from tests.support import packed
from tests.support.pictures import encode, noise


@pytest.fixture
def prepared(tmp_path):
    """A small prepared folder by the library's own writers: 3 shards, two classes, names that need more than ASCII."""
    samples = []
    for i in range(12):
        label = "río" if i % 2 else "a b"
        data = encode(noise(i), "JPEG" if i % 3 else "PNG")
        name = f"set/{label}/{'x' * 90} ü {i}.jpg"
        samples.append(Sample(name, label, width=24, height=20, channels=3, data=data))
    return packed.write(tmp_path, samples, ["train"] * 8 + ["test"] * 4, shard_bytes=5000), samples


def test_round_trip(prepared):
    folder, samples = prepared
    data = shards.Shards(folder)
    assert len(list((folder / "shards").glob("*.tar"))) > 1
    assert data.classes == ["a b", "río"]
    assert data.labels.tolist() == [0, 1] * 6
    assert data.labels.dtype == np.int64
    for i in np.random.default_rng(0).permutation(12).tolist():
        assert data.read(i, verify=True) == samples[i].data
        assert torch.equal(data.decode(i), decode.decode(samples[i].data))
    assert data.decode(0).shape == (3, 20, 24)
    assert data.decode(0).dtype == torch.uint8


def test_shards_are_plain_tars_and_repeatable(prepared, tmp_path_factory):
    folder, samples = prepared
    members = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {m.name: tar.extractfile(m).read() for m in tar}
    assert members == {sample.name: sample.data for sample in samples}
    again = tmp_path_factory.mktemp("again")
    list(pack.pack(samples, again, shard_bytes=5000))
    for path in (folder / "shards").glob("*.tar"):
        assert path.read_bytes() == (again / "shards" / path.name).read_bytes()


def test_sides_and_pickling(prepared):
    folder, _ = prepared
    train, test = shards.Shards(folder, "train"), shards.Shards(folder, "test")
    assert (len(train), len(test)) == (8, 4)
    assert not set(train.names) & set(test.names)
    train.keep()
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy.decode(3), train.decode(3))
    small = shards.Shards(folder, "train", keep_bytes=10)  # too large for memory: decoded each time
    assert small.decode(3) is not small.decode(3)
    assert torch.equal(small.decode(3), train.decode(3))


def test_damage_is_found_when_asked(prepared):
    folder, samples = prepared
    row = files.read_csv(folder / "index.csv")[4]
    path = folder / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    content[int(row["offset"]) + 30] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        shards.Shards(folder).read(4, verify=True)
    path.write_bytes(content[: int(row["offset"]) + 10])
    with pytest.raises(ValueError, match="is damaged"):
        shards.Shards(folder).read(4)


def test_a_folder_without_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no prepared images"):
        shards.Shards(tmp_path)


def test_split_by_class_and_without_leaks():
    names = [f"{label}/{i:03d}.jpg" for label in "abc" for i in range(100)]
    labels = [name[0] for name in names]
    same_as = {"a/001.jpg": "a/000.jpg", "b/005.jpg": "a/000.jpg", "c/009.jpg": "c/008.jpg"}
    sides = dict(zip(names, duplicates.split(names, labels, same_as, 0.3, seed=1), strict=True))
    for label in "abc":
        count = sum(sides[n] == "train" for n in names if n[0] == label)
        assert 29 <= count <= 31
    assert all(sides[name] == sides[first] for name, first in same_as.items())
    moved = dict(zip(names[::-1], duplicates.split(names[::-1], labels[::-1], {}, 0.3, 1), strict=True))
    plain = dict(zip(names, duplicates.split(names, labels, {}, 0.3, 1), strict=True))
    assert moved == plain, "the order of the files plays no part"
    assert plain != dict(zip(names, duplicates.split(names, labels, {}, 0.3, 2), strict=True))
    tar = duplicates.split([f"set/{n}" for n in names], labels, {}, 0.3, 1)
    assert tar == list(plain.values()), "a tar of the folder gives the same split"


def test_split_keeps_both_sides_and_unlabelled_trains():
    assert sorted(duplicates.split(["a/1", "a/2"], ["a", "a"], {}, 0.99, 0)) == ["test", "train"]
    assert sorted(duplicates.split(["a/1", "a/2"], ["a", "a"], {}, 0.01, 0)) == ["test", "train"]
    assert duplicates.split(["1", "2", "3"], ["", "", ""], {}, 0.5, 0) == ["train"] * 3


def test_fewer_images_are_drawn_by_the_seed_and_nested(prepared):
    folder, samples = prepared
    names = {}
    for seed, count in ((0, 6), (0, 3), (1, 6)):
        data = shards.Shards(folder, "train")
        data.draw(count, seed)
        names[seed, count] = data.names
        assert data.names == sorted(data.names, key=[s.name for s in samples].index), "in their order"
        assert len(data) == len(data.labels) == len(data.targets) == len(data.sizes) == count
        by_name = {sample.name: sample for sample in samples}
        assert [data.read(i) for i in range(count)] == [by_name[name].data for name in data.names]
    assert set(names[0, 3]) < set(names[0, 6]) != set(names[1, 6])
