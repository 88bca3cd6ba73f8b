"""Reading images out of folders and archives: the same images whichever it is."""

import tarfile

import pytest

from geofm_lib.data.sources import archives, labels, listing, previews
from tests.support.pictures import as_archive, class_folders, encode, noise


def read(source) -> dict[str, bytes]:
    return {each.name: each.load() if callable(each.load) else each.load for each in archives.items(source)}


@pytest.mark.parametrize("archive", ["set.tar", "set.tar.gz", "set.zip"])
def test_folder_and_archive_give_the_same_images(tmp_path, archive):
    folder = class_folders(tmp_path / "set")
    expected = read(listing.find(folder))
    assert len(expected) == 12
    assert set(labels.of_folders(list(expected))) == {"crop land", "río"}
    source = listing.find(as_archive(folder, tmp_path / archive))
    found = read(source)
    assert {name.removeprefix("set/"): data for name, data in found.items()} == expected
    assert labels.of_folders(list(found)) == labels.of_folders(list(expected))
    assert previews.count(source) == (None if archive.endswith("gz") else 12)


def test_labels_are_class_folders_or_nothing():
    assert labels.of_folders(["a/1.png", "b/2.png"]) == ["a", "b"]
    assert labels.of_folders(["top/train/a/1.png", "top/test/b/2.png"]) == ["a", "b"]
    assert labels.of_folders(["1.png", "2.png"]) == ["", ""]
    assert labels.of_folders(["photos/1.png", "photos/2.png"]) == ["", ""]
    assert labels.of_folders(["set/a/1.png", "set/b/2.png", "set/3.png"]) == ["a", "b", ""]
    million_aid = ["m/train/water/lake/1.jpg", "m/train/road/2.jpg", "m/train/water/river/3.jpg", "m/test/4.jpg"]
    assert labels.of_folders(million_aid) == ["lake", "road", "river", ""]
    assert labels.of_folders(["train/1.jpg", "test/2.jpg"]) == ["", ""]
    assert labels.of_folders(["car/1.jpg", "train/2.jpg"]) == ["car", "train"], "a train may be a vehicle"


def test_names_cannot_leave_the_shard():
    assert archives.clean("/etc/../../a b.jpg") == "etc/a b.jpg"
    assert archives.clean("x\\été.jpg") == "x/été.jpg"
    assert [archives.clean(name) for name in ("a/b.jpg", "a/.b.jpg", "a/./b", "a//b", "./a", "a/", "")] == [
        *("a/b.jpg", "a/.b.jpg", "a/b", "a/b", "a", "a", "")
    ]
    assert archives.clean(b"caf\xe9.jpg".decode("utf-8", "surrogateescape")) == r"caf\xe9.jpg"


@pytest.mark.parametrize("archive", ["set.tar", "set.tar.gz"])
def test_the_readable_part_of_a_truncated_tar_is_read(tmp_path, archive):
    path = as_archive(class_folders(tmp_path / "set"), tmp_path / archive)
    whole = list(archives.items(listing.find(path)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    *kept, (name, load, *_) = archives.items(listing.find(path))
    assert name == archive
    assert 0 < len(kept) < len(whole)
    assert kept == whole[: len(kept)]
    with pytest.raises(OSError, match="damaged here .* what follows is lost"):
        load()


def test_damage_that_looks_like_the_end_of_a_tar(tmp_path):
    path = as_archive(class_folders(tmp_path / "set"), tmp_path / "set.tar")
    with tarfile.open(path) as archive:
        place = archive.getmembers()[6].offset
    data = bytearray(path.read_bytes())
    data[place : place + 512] = b"x" * 512
    path.write_bytes(data)
    assert list(archives.items(listing.find(path)))[-1][0] == "set.tar", "tarfile itself stops without a word"


def test_links_in_a_tar_are_not_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(noise()))
    with tarfile.open(tmp_path / "x.tar", "w") as out:
        out.add(tmp_path / "a.png", "a.png")
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    assert list(read(listing.find(tmp_path / "x.tar"))) == ["a.png"]
