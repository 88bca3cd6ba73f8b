"""Nothing is passed over without a word: what is no image is counted by suffix and reason."""

import io
import os
import tarfile
import time
import zipfile
from collections import Counter

import pytest

from geofm_lib import files
from geofm_lib.data.sources import archives, listing
from geofm_lib.data.sources.unused import Unused, look
from tests.support.pictures import class_folders, encode, noise
from tests.support.preparations import prepared

OTHERS = {
    "a/1.npy": (".npy", "an array, which is not read"),
    "a/2.NPY": (".npy", "an array, which is not read"),
    "cube.zarr/0.0.1": (".zarr", "an array, which is not read"),
    "cube.zarr/.zarray": (".zarr", "an array, which is not read"),
    "labels.xlsx": (".xlsx", "a table or text"),
    "b/more.tar": (".tar", "an archive inside the data set"),
    "b/cloud.las": (".las", "a format that is not read as an image"),
    "b/README": ("no suffix", "no image by its name"),
    "b/x.what": (".what", "no image by its name"),
    ".DS_Store": ("hidden", "a hidden file"),
    "b/._1.png": ("hidden", "a hidden file"),
    "__MACOSX/b/1.png": ("hidden", "a hidden file"),
    "Thumbs.db": ("hidden", "a hidden file"),
}


def clean(folder):
    """Two class folders of three images and nothing else."""
    class_folders(folder, ("a", "b"), each=3)
    for path in folder.rglob("*"):
        if path.is_file() and not listing.is_image_name(path.relative_to(folder).as_posix()):
            path.unlink()
    return folder


def expected():
    counts = {}
    for suffix, reason in OTHERS.values():
        counts.setdefault(suffix, {}).setdefault(reason, 0)
        counts[suffix][reason] += 1
    return counts


def test_folder_tar_and_zip_count_the_same(tmp_path):
    source = clean(tmp_path / "set")
    for name in OTHERS:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(source, "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, f"set/{path.relative_to(source)}")
    for path in (source, tmp_path / "set.tar", tmp_path / "set.zip"):
        found = listing.find(path)
        unused = Unused()
        assert sum(1 for _ in archives.items(found, unused=unused)) == 6
        assert unused.summary() == look(found).summary() == expected(), path
    summary, refused, _ = prepared(tmp_path / "run", source)
    assert summary["unused"] == expected()
    assert not refused
    rows = files.read_csv(tmp_path / "run" / "unused.csv")
    assert {(row["suffix"], row["reason"]): int(row["files"]) for row in rows} == {
        (suffix, reason): count for suffix, reasons in expected().items() for reason, count in reasons.items()
    }
    assert all(row["example"] for row in rows)


def test_links_are_counted(tmp_path):
    source = clean(tmp_path / "set")
    for name in ("moved away", "b/gone", "b/gone.png"):
        (source / name).symlink_to("/no/longer/there")
    summary, refused, _ = prepared(tmp_path / "run", source)
    assert summary["unused"] == {"link": {"a link to nothing": 2}}
    assert list(refused) == ["b/gone.png"], "by its name an image, so it is refused with its reason"
    with tarfile.open(tmp_path / "x.tar", "w") as out:
        for name, kind in (("a.png", tarfile.REGTYPE), ("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE)):
            info, data = tarfile.TarInfo(name), encode(noise())
            info.type, info.linkname, info.size = kind, "a.png", len(data) if kind == tarfile.REGTYPE else 0
            out.addfile(info, io.BytesIO(data))
    unused = Unused()
    assert len(list(archives.items(listing.find(tmp_path / "x.tar"), unused=unused))) == 1
    assert unused.summary() == {".png": {"a link inside an archive, which is not followed": 2}}


def test_a_folder_under_a_second_name_is_counted_with_the_one_it_repeats(tmp_path):
    source = clean(tmp_path / "set")
    real = clean(tmp_path / "real")
    for name, target in (("c", real / "a"), ("d", real / "a"), ("b/loop", source), ("e.jpg", source / "b")):
        (source / name).symlink_to(target)
    reasons = {"c": 1, "the data set's own folder": 1, "b": 1}
    expected = {
        f"a folder that is read already, as {name if ' ' in name else repr(name)}": count
        for name, count in reasons.items()
    }
    for options in ({}, {"pattern": "**/*.jpg"}):
        summary, refused, _ = prepared(tmp_path / "run", source, **options)
        assert (summary["images"], refused) == (9, {})
        assert summary["unused"] == {"folder": expected}
    rows = files.read_csv(tmp_path / "run" / "unused.csv")
    assert {row["example"] for row in rows} == {"d", "b/loop", "e.jpg"}


def test_a_folder_is_walked_once_by_a_preparation(tmp_path, monkeypatch):
    source = clean(tmp_path / "set")
    walked = Counter()
    walk = os.walk

    def counted(top, *arguments, **options):
        for each in walk(top, *arguments, **options):
            walked[os.path.relpath(each[0], top)] += 1
            yield each

    monkeypatch.setattr(os, "walk", counted)
    prepared(tmp_path / "run", source, workers=1)
    assert walked["b"] == 1, "which only a walk to the end reaches"
    before = walked["b"]
    (source / "labels.csv").write_text("image,label\n" + "".join(f"a {n}.jpg,x\nb {n}.jpg,y\n" for n in range(3)))
    prepared(tmp_path / "table", source, workers=1, labels="labels.csv")
    assert walked["b"] == before + 1


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".npy", "it holds 3 .npy (an array, which is not read): write each image as a TIFF"),
        (".npz", "it holds 3 .npz (an array"),
        (".h5", "it holds 3 .h5 (an array"),
        (".las", "it holds 3 .las (a format that is not read as an image): convert them to TIFF"),
        (".csv", "it holds 3 .csv (a table or text)"),
    ],
)
def test_a_folder_of_anything_else_says_what_there_is(tmp_path, suffix, words):
    for n in range(3):
        (tmp_path / f"{n}{suffix}").write_bytes(b"x")
    with pytest.raises(ValueError) as refused:
        listing.find(tmp_path)
    assert words in str(refused.value)


def test_counting_does_not_double_a_walk(tmp_path):
    for n in range(1000):
        (tmp_path / f"{n}.npy").touch()
        (tmp_path / f"{n}.jpg").touch()

    def cost(unused):
        wanted = unused.watch(listing.is_image_name, tmp_path) if unused else listing.is_image_name
        started = time.process_time()
        for _ in filter(wanted, listing.names(tmp_path, "folder")):
            pass
        return time.process_time() - started

    alone = min(cost(None) for _ in range(5))
    assert min(cost(Unused()) for _ in range(5)) < 1.5 * alone + 0.01
