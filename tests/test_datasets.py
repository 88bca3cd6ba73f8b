"""The door: what `dataset` may be, and one sentence for everything else."""

import pytest
from pictures import as_archive, class_folders

from geofm_lib.catalog import datasets
from geofm_lib.data import scenes


def test_cards_are_complete():
    for name, card in datasets.DATASETS.items():
        assert card.name == name and card.classes > 1 and card.images > card.classes
        assert card.title and card.terms and card.citation and card.where
    assert datasets.DATASETS["scenes"].classes == len(scenes.CLASSES) >= 10
    assert {"scenes", "millionaid", "ucm", "aid", "nwpu-resisc45", "eurosat"} <= set(datasets.DATASETS)


def test_find_folder_tar_and_zip(tmp_path, monkeypatch):
    folder = class_folders(tmp_path / "my set.v2")
    assert datasets.find(folder) == datasets.Source("my set", folder.resolve(), "folder")
    for archive, kind in (("set.tar", "tar"), ("set.tar.gz", "tar"), ("set.zip", "zip"), ("no_suffix", "tar")):
        path = as_archive(folder, tmp_path / archive)
        assert datasets.find(str(path)).kind == kind
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert datasets.find("set.zip").path == datasets.find("$MY_DATA/set.zip").path == tmp_path.resolve() / "set.zip"


def test_class_folders_may_be_links(tmp_path):
    real = class_folders(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "farm").symlink_to(real / "crop land")
    (tmp_path / "linked" / "farm" / "loop").symlink_to(tmp_path / "linked")
    found = [n for n in datasets.names(tmp_path / "linked", "folder") if datasets.is_image_name(n)]
    assert len(found) == 6 and found[0] == "farm/crop land 0.jpg"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda d: "", "dataset is empty"),
        (lambda d: "scene", "did you mean 'scenes'"),
        (lambda d: "ucm", "UC Merced Land Use is not shipped"),
        (lambda d: d / "absent", "there is no folder or file"),
        (lambda d: (d / "bare").mkdir() or d / "bare", "the folder .* is empty"),
        (lambda d: (d / "zero.tar").touch() or d / "zero.tar", "the file .* is empty"),
        (lambda d: (d / "x.tar").write_text("text") and d / "x.tar", "neither a folder nor a tar or zip"),
        (lambda d: (d / "notes.txt").write_text("text") and d, "holds no images"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, make, words):
    with pytest.raises(ValueError, match=words) as error:
        datasets.find(make(tmp_path))
    assert "\n" not in str(error.value)


def test_archive_without_images_is_refused(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_text("pdf")
    for name in ("a.tar", "a.tar.gz", "a.zip"):
        with pytest.raises(ValueError, match="holds no images"):
            datasets.find(as_archive(tmp_path / "papers", tmp_path / name))
