"""Images of several kinds in one set: that of most is taken, whichever comes first; without a majority it is asked."""

import shutil

import numpy as np
import pytest
import tifffile

from geofm_lib.data import pack
from tests.support.pictures import as_archive, encode, noise
from tests.support.preparations import prepared


def chips(folder, count, bands=5, name="chip{}.tif", dtype=np.uint16):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(bands)
    for i in range(count):
        pixels = random.integers(0, 200, (16, 16, bands)).astype(dtype)
        tifffile.imwrite(folder / name.format(i), pixels, photometric="minisblack", planarconfig="contig")


def previews(folder, count, name="preview{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / name.format(i)).write_bytes(encode(noise(1000 + i, (16, 16))))


@pytest.fixture
def mixed(tmp_path):
    """Four previews, which come first by name, and twelve chips."""
    previews(tmp_path / "mixed", 4, "a{}.png")
    chips(tmp_path / "mixed", 12)
    return tmp_path / "mixed"


def refuses(tmp_path, source, **options):
    with pytest.raises(ValueError) as told:
        prepared(tmp_path / "asked", source, workers=1, **options)
    return str(told.value)


@pytest.mark.parametrize("form", ["folder", "set.tar", "set.tar.gz", "set.zip"])
def test_the_kind_of_most_is_taken_though_another_comes_first(mixed, tmp_path, form):
    source = mixed if form == "folder" else as_archive(mixed, tmp_path / form)
    summary, refused, packed = prepared(tmp_path / "run", source, workers=1)
    assert (summary["images"], summary["refused"]) == (12, 4)
    assert set(refused.values()) == {
        "it has 3 bands of uint8, not 5 bands of uint16 as most; channels=3 takes those that have"
    }
    for name, data in packed.items():
        assert data == (mixed / name.rpartition("/")[2]).read_bytes()


def test_shards_are_as_if_the_kind_had_been_known(mixed, tmp_path):
    prepared(tmp_path / "found", mixed, workers=1, shard_mib=0.01)
    prepared(tmp_path / "known", mixed, workers=1, shard_mib=0.01, channels=5)
    tars = sorted(path.name for path in (tmp_path / "known" / "shards").glob("*.tar"))
    assert len(tars) > 1
    for name in tars:
        assert (tmp_path / "found/shards" / name).read_bytes() == (tmp_path / "known/shards" / name).read_bytes()
    assert (tmp_path / "found/index.csv").read_bytes() == (tmp_path / "known/index.csv").read_bytes()
    assert not list((tmp_path / "found").glob("*again*")), "nothing is left beside the shards"


def test_a_restart_gives_the_same(mixed, tmp_path, monkeypatch):
    prepared(tmp_path / "once", mixed, workers=1)
    real, calls = pack.os.replace, []

    def dies(old, new):
        calls.append(new)
        if str(new).endswith("before"):
            raise KeyboardInterrupt
        real(old, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack.os, "replace", dies)
        prepared(tmp_path / "twice", mixed, workers=1)
    prepared(tmp_path / "twice", mixed, workers=1)
    prepared(tmp_path / "twice", mixed, workers=1)  # behind finished shards too
    for name in ("index.csv", "split.csv", "refused.csv", "shards/000000.tar", "shards/000000.csv"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name
    assert not list((tmp_path / "twice").glob("*again*"))


def test_a_hundred_thumbnails_and_a_hundred_chips_are_asked_for(tmp_path):
    previews(tmp_path / "set/png", 20)
    chips(tmp_path / "set/tif", 20)
    told = refuses(tmp_path, tmp_path / "set")
    assert "mixes 20 images of 3 bands of uint8 ('png/preview0.png') with 20 images of 5 bands of uint16" in told
    ways = "say which are meant, by channels=3 or pattern='*.png' or channels=5 or pattern='*.tif'"
    assert told.endswith(ways)
    assert prepared(tmp_path / "run", tmp_path / "set", workers=1, channels=5)[0]["images"] == 20


def test_channels_is_not_named_where_it_does_not_help(tmp_path):
    chips(tmp_path / "set", 6, 3, "{}_toa.tif")
    chips(tmp_path / "set", 6, 3, "{}_rgb.tif", np.uint8)
    told = refuses(tmp_path, tmp_path / "set")
    assert "channels=" not in told
    assert "pattern='*_rgb.tif'" in told and "pattern='*_toa.tif'" in told


def test_folders_separate_where_names_do_not(tmp_path):
    chips(tmp_path / "set/ms", 6, 5, "{}.tif")
    chips(tmp_path / "set/pan", 6, 4, "{}.tif")
    told = refuses(tmp_path, tmp_path / "set")
    assert "channels=5 or pattern='ms/**' or channels=4 or pattern='pan/**'" in told


def test_nothing_separates(tmp_path):
    chips(tmp_path / "set", 6, 3, "{}.tif")
    for i in range(6):
        chips(tmp_path / "set", 1, 3, f"{i}a.tif", np.uint8)
        shutil.move(tmp_path / "set" / f"{i}a.tif", tmp_path / "set" / f"{9 - i}b.tif")
    assert refuses(tmp_path, tmp_path / "set").endswith("put each kind into a folder of its own")


def test_names_that_no_pattern_can_hold_are_not_suggested(tmp_path):
    chips(tmp_path / "set/{a}", 6, 5, "{}_x{{.tif")
    chips(tmp_path / "set/b", 6, 4, "{}.tif")
    told = refuses(tmp_path, tmp_path / "set")
    assert told.endswith("by channels=4 or pattern='b/**' or channels=5")


def test_three_kinds_without_a_majority(tmp_path):
    for bands in (3, 4, 5):
        chips(tmp_path / "set", 4, bands, f"{bands}_{{}}.tif")
    assert "and 4 of 1 other kinds" in refuses(tmp_path, tmp_path / "set")


def test_channels_chooses_and_a_mix_within_it_is_still_asked(tmp_path):
    chips(tmp_path / "set", 4, 3, "{}_a.tif")
    chips(tmp_path / "set", 4, 3, "{}_b.tif", np.uint8)
    chips(tmp_path / "set", 2, 5, "{}_c.tif")
    told = refuses(tmp_path, tmp_path / "set", channels=3)
    assert "mixes 4 images of 3 bands of uint16" in told and "with 4 images of 3 bands of uint8" in told
    summary, refused, _ = prepared(tmp_path / "five", tmp_path / "set", workers=1, channels=5)
    assert summary["images"] == 2
    assert refused["0_b.tif"] == "it has 3 bands of uint8, not 5; channels=3 takes those that have"


def test_channels_of_two_kinds_separates_neither(tmp_path):
    """Eleven of sixteen images of three bands are two thirds, and yet of the kinds that are named."""
    for i in range(20):
        bands, dtype = (4 if i > 17 else 5, np.uint8) if i > 15 else (3, np.uint16 if i > 10 else np.uint8)
        chips(tmp_path / "set" / "ab"[i % 2], 1, bands, f"m{i}.tif", dtype)
    told = refuses(tmp_path, tmp_path / "set")
    assert "mixes 11 images of 3 bands of uint8" in told and "with 5 images of 3 bands of uint16" in told
    assert told.endswith("and 4 of 2 other kinds; put each kind into a folder of its own")


@pytest.mark.parametrize(
    "names, ways",
    [
        (("ms_{}.tif", "pan_{}.tif"), ("ms_*", "pan_*")),
        (("{}/ms/a.tif", "{}/pan/a.tif"), ("**/ms/**", "**/pan/**")),
        (("{}a.tif", "{}b.tif"), ()),
    ],
)
def test_a_pattern_is_named_by_what_the_names_of_a_kind_share(tmp_path, names, ways):
    for each, dtype in zip(names, (np.uint16, np.uint8), strict=True):
        for i in range(6):
            path = tmp_path / "set" / each.format(i)
            chips(path.parent, 1, 3, path.name, dtype)
    told = refuses(tmp_path, tmp_path / "set")
    wanted = "say which are meant, by " + " or ".join(f"pattern='{way}'" for way in ways)
    assert told.endswith(wanted if ways else "put each kind into a folder of its own")
    for number, way in enumerate(ways):
        assert prepared(tmp_path / str(number), tmp_path / "set", workers=1, pattern=way)[0]["images"] == 6


def test_the_reason_for_a_refused_image_says_how_to_take_it(tmp_path):
    chips(tmp_path / "set", 15, 3, "{}.tif", np.uint8)
    chips(tmp_path / "set", 3, 3, "{}_toa.tif")
    chips(tmp_path / "set", 2, 3, "1{}9.tif", np.int16)
    _, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    begin = "it has 3 bands of {}, not 3 bands of uint8 as most; "
    assert refused["0_toa.tif"] == begin.format("uint16") + "pattern='*_toa.tif' takes those that have"
    apart = "to take those that have, put each kind into a folder of its own"
    assert refused["109.tif"] == begin.format("int16") + apart
