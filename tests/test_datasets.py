"""The door: what `dataset` may be, and one sentence for everything else."""

from pathlib import Path
from urllib.error import URLError

import pytest
from torchvision.datasets import eurosat

from geofm_lib.catalog import datasets
from geofm_lib.data.sources import listing
from geofm_lib.jobs.prepare_collection import compare, recognise
from geofm_lib.scenes import generate
from tests.support.pictures import as_archive, class_folders
from tests.support.preparations import prepared


def test_cards_are_complete():
    for name, card in datasets.DATASETS.items():
        assert card.name == name
        assert card.classes > 1
        assert card.images > card.classes
        assert card.title
        assert card.terms
        assert card.citation
        assert card.where
        assert card.layout
        assert card.complete
        assert len(card.class_names) == card.classes
        assert not card.counts or sum(card.counts.values()) + card.unlabelled == card.images
    assert datasets.DATASETS["scenes"].class_names == tuple(generate.CLASSES)
    assert len(generate.CLASSES) >= 10
    assert {"scenes", "millionaid", "ucm", "aid", "nwpu-resisc45", "eurosat"} <= set(datasets.DATASETS)


def test_a_data_set_is_known_by_its_classes_and_counted_against_its_card():
    card = datasets.DATASETS["ucm"]
    assert recognise([name.upper() for name in card.class_names]) is card
    assert recognise(["forest", "river"]) is None
    assert recognise([]) is None
    assert recognise([*card.class_names, "my own"]) is None
    counts = dict.fromkeys(card.class_names[1:], 100) | {"river": 98}
    missing = {row["class"]: row["missing"] for row in compare(card, counts) if row["missing"]}
    assert missing == {"agricultural": 100, "river": 2, "all": 102}
    aid = compare(datasets.DATASETS["millionaid"], {"bapsketball_court": 5}, unlabelled=990_848)
    rows = {row["class"]: row for row in aid}
    assert rows["basketball_court"] == {"class": "basketball_court", "card": None, "found": 5, "missing": 0}
    assert rows["lake"]["missing"] == 1
    assert rows["(no label)"]["missing"] == 0


def test_eurosat_is_downloaded_or_one_sentence(tmp_path, monkeypatch):
    assert listing.find("eurosat") == listing.Source("eurosat", None, "download")

    def fetch(url, download_root, md5):
        assert url.endswith("EuroSAT.zip")
        assert md5 in datasets.DATASETS["eurosat"].complete
        class_folders(Path(download_root) / "2750", ("Forest", "River"), each=2)

    monkeypatch.setattr(eurosat, "download_and_extract_archive", fetch)
    folder = listing.fetch("eurosat", tmp_path / "download")
    names = [name for name in listing.names(folder, "folder") if listing.is_image_name(name)]
    assert names[0] == "eurosat/2750/Forest/Forest 0.jpg"
    assert len(names) == 4
    monkeypatch.setattr(eurosat, "download_and_extract_archive", None)
    assert listing.fetch("eurosat", tmp_path / "download") == folder, "not fetched twice"

    def offline(*arguments, **options):
        raise URLError("no address associated with the name")

    monkeypatch.setattr(eurosat, "download_and_extract_archive", offline)
    with pytest.raises(ValueError, match="EuroSAT .* cannot be downloaded .*; get it from https://") as error:
        listing.fetch("eurosat", tmp_path / "other")
    assert "\n" not in str(error.value)


def test_find_folder_tar_and_zip(tmp_path, monkeypatch):
    folder = class_folders(tmp_path / "my set.v2")
    assert listing.find(folder) == listing.Source("my set", folder.resolve(), "folder")
    for archive, kind in (("set.tar", "tar"), ("set.tar.gz", "tar"), ("set.zip", "zip"), ("no_suffix", "tar")):
        path = as_archive(folder, tmp_path / archive)
        assert listing.find(str(path)).kind == kind
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert listing.find("set.zip").path == listing.find("$MY_DATA/set.zip").path == tmp_path.resolve() / "set.zip"


def test_class_folders_may_be_links(tmp_path):
    real = class_folders(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "farm").symlink_to(real / "crop land")
    (tmp_path / "linked" / "farm" / "loop").symlink_to(tmp_path / "linked")
    found = [n for n in listing.names(tmp_path / "linked", "folder") if listing.is_image_name(n)]
    assert len(found) == 6
    assert found[0] == "farm/crop land 0.jpg"


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
        listing.find(make(tmp_path))
    assert "\n" not in str(error.value)


def test_a_table_or_an_image_as_dataset_is_answered_with_the_settings_that_work(tmp_path):
    source = class_folders(tmp_path / "set")
    images = sorted(path.relative_to(tmp_path).as_posix() for path in source.glob("*/[a-z]*.jpg"))
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{name},x\n" for name in images))
    (source / "list.txt").write_text("gone.jpg forest\n")
    for table, folder in ((tmp_path / "labels.csv", source), (source / "list.txt", source)):
        with pytest.raises(ValueError) as told:
            listing.find(table)
        assert f"is a table or list, not images; set dataset='{folder}' and labels='{table}'" in str(told.value)
    with pytest.raises(ValueError, match=f"is one image; set dataset='{tmp_path}/set/.*' and pattern='.*.jpg'"):
        listing.find(tmp_path / images[0])


def test_a_plain_list_of_paths_is_the_images_that_it_names(tmp_path):
    source = class_folders(tmp_path / "set")
    images = sorted(path for path in source.glob("*/[a-z]*.jpg"))[1::2]
    (source / "some.txt").write_text("".join(f"{image}\n" for image in images))
    (tmp_path / "some.csv").write_text("path\n" + "".join(f"{image.relative_to(tmp_path)}\n" for image in images))
    names = [image.relative_to(source).as_posix() for image in images]
    for plain in (source / "some.txt", tmp_path / "some.csv"):
        found = listing.find(plain)
        assert (found.path, found.kind, list(found.listed.names([]))) == (source, "folder", names)
    assert (
        listing.signature(source / "some.txt") == listing.signature(tmp_path / "some.csv") != listing.signature(source)
    )
    summary = prepared(tmp_path / "run", source / "some.txt", workers=1)[0]
    assert (summary["images"], summary["classes"]) == (6, {"crop land": 3, "río": 3})
    (tmp_path / "gone.lst").write_text("a/1.jpg\na/2.jpg\n")
    (tmp_path / "bare.txt").write_text("2007_000032\n2007_000033\n")
    for name, words in (
        ("gone.lst", "the images that '.*gone.lst' lists, such as 'a/1.jpg', are not there; write whole paths"),
        ("bare.txt", "'.*bare.txt' lists '2007_000032', which is no image by its suffix; write whole paths"),
    ):
        with pytest.raises(ValueError, match=words):
            listing.find(tmp_path / name)


def test_archive_without_images_is_refused(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_text("pdf")
    for name in ("a.tar", "a.tar.gz", "a.zip"):
        with pytest.raises(ValueError, match="holds no images"):
            listing.find(as_archive(tmp_path / "papers", tmp_path / name))
