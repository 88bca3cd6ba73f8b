"""Path patterns: which files they take, what their fields say, stacked bands, and those that cannot be meant."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from geofm_lib.data import shards
from geofm_lib.data.sources import bands as band_names
from geofm_lib.data.sources import chosen, json_labels, listing, pattern, stack
from geofm_lib.data.sources.item import Refused
from geofm_lib.runs import check
from geofm_lib.settings import PrepareSettings, SettingsError
from tests.support.cases import arrays, band_per_file, given_split, labels_in_files
from tests.support.cases.band_per_file import SIDES
from tests.support.pictures import as_archive, encode, noise
from tests.support.preparations import prepared

S2 = "{patch}/*_{band}.tif"


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """BigEarthNet's, SSL4EO's and a SAFE product's trees."""
    folder = tmp_path_factory.mktemp("bands")
    band_per_file.make(folder)
    return folder


def paths(folder, *names):
    """Small pictures of these names."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(noise(k, (16, 16))))
    return folder


def index(folder):
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def split(folder):
    with open(folder / "split.csv", encoding="utf-8", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def values(folder, name=None):
    """[H, W, C] of one image, or of the first."""
    data = shards.Shards(folder)
    return data.decode(data.names.index(name) if name else 0).permute(1, 2, 0).numpy()


def gdal(path, height, width):
    """One band as GDAL resamples it bilinearly, float64 [height, width]."""
    with rasterio.open(path) as file:
        return file.read(1, out_shape=(height, width), resampling=Resampling.bilinear).astype(np.float64)


# What is read in a path


@pytest.mark.parametrize(
    ("text", "path", "fields"),
    [
        ("{side}/{label}/{place}/*_rgb.jpg", "val/crop/p1/7_rgb.jpg", {"side": "val", "label": "crop", "place": "p1"}),
        ("{patch}/*_{band}.tif", "S2A_T1_0/S2A_T1_0_B8A.TIF", {"patch": "S2A_T1_0", "band": "B8A"}),
        ("{label}_{n}.png", "any/where/dense_residential_001.png", {"label": "dense_residential", "n": "001"}),
        ("**/R10m/*_{band}_10m.jp2", "a/b/c/R10m/T30_2023_B02_10m.jp2", {"band": "B02"}),
        ("**/R10m/*_{band}_10m.jp2", "R10m/T30_2023_B02_10m.jp2", {"band": "B02"}),
        ("{patch}/{patch}_{band}.tif", "p1/p1_B01.tif", {"patch": "p1", "band": "B01"}),
        ("{patch}/{patch}_{band}.tif", "p1/p2_B01.tif", None),
        ("*.tif", "a/b/c.tif", {}),
        ("a/*.tif", "a/b/c.tif", None),
        ("a/**", "a/b/c.tif", {}),
        ("a/**", "b/c.tif", None),
        ("**/x/?.png", "x/1.png", {}),
        ("**/x/?.png", "x/12.png", None),
        ("[1] {label}.png", "[1] a b.png", {"label": "a b"}),
        ("耕地/{n}.png", "耕地/1.png", {"n": "1"}),
        ("a(b)+.{label}$/*.png", "a(b)+.x$/1.png", {"label": "x"}),
    ],
)
def test_what_a_pattern_reads(text, path, fields):
    found = pattern.parse(text).match(path)
    assert found is None if fields is None else found.fields == fields


def test_bands_of_a_sample_agree_in_names_or_in_the_whole_path():
    def sample(text, path):
        return pattern.parse(text).match(path).sample()

    assert sample(S2, "p1/x_B01.tif") == sample(S2, "p1/y_B02.tif") != sample(S2, "p2/x_B01.tif")
    deep = "**/*_{band}.tif"
    assert sample(deep, "p1/x_B01.tif") == sample(deep, "p1/x_B02.tif") != sample(deep, "p1/y_B01.tif")
    labelled = "{label}/*_{band}.tif"
    assert sample(labelled, "crop/x_B01.tif") != sample(labelled, "crop/y_B01.tif"), "a label names no sample"


# Labels, sides and scenes


def test_a_pattern_gives_labels_sides_and_scenes(tmp_path):
    names = [f"{side}/{label}/{place}_{k}/{n}_{kind}.jpg"
             for side in ("Training", "validation", "test") for label in ("port", "mine")
             for place in ("x",) for k in range(2) for n in range(2) for kind in ("rgb", "msrgb")]  # fmt: skip
    source = paths(tmp_path / "fmow", *names)
    summary, refused, packed = prepared(tmp_path / "run", source, workers=1, pattern="{side}/{label}/{place}/*_rgb.jpg")
    assert (summary["images"], summary["classes"], refused) == (24, {"mine": 12, "port": 12}, {})
    assert (summary["train"], summary["val"], summary["test"]) == (8, 8, 8)
    assert summary["labels_from"] == "pattern" and summary["split_by"] == "given: pattern"
    assert summary["unused"] == {".jpg": {"an image that pattern leaves out": 24}}
    assert {name: data == (source / name).read_bytes() for name, data in packed.items()} == dict.fromkeys(packed, True)
    for name, side in split(tmp_path / "run").items():
        assert side == {"T": "train", "v": "val", "t": "test"}[name[0]]


@pytest.mark.parametrize("field", ["place", "scene", "group"])
def test_a_scene_is_on_one_side(tmp_path, field):
    source = paths(
        tmp_path / "set", *(f"{place}/{label}_{n}.png" for place in "abcdef" for label in "xy" for n in "12")
    )
    summary, _, _ = prepared(tmp_path / "run", source, workers=1, pattern=f"{{{field}}}/{{label}}_{{n}}.png")
    assert summary["split_by"] != "random" and summary["classes"] == {"x": 12, "y": 12}
    by_place = {}
    for name, side in split(tmp_path / "run").items():
        by_place.setdefault(name[0], set()).add(side)
    assert all(len(sides) == 1 for sides in by_place.values()) and len(by_place) == 6


def test_names_as_uc_merced_and_patternnet_write_them(tmp_path):
    labels_in_files.make(tmp_path)
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "names", workers=1, pattern="{label}_{n}.png")
    assert summary["classes"] == {"crop": 6, "forest": 6, "water": 6}
    assert {name: row["label"] for name, row in index(tmp_path / "run").items()} == {
        name: name.partition("_")[0] for name in index(tmp_path / "run")
    }


def test_wildcards_alone_leave_labels_and_sides_to_the_folders(tmp_path):
    given_split.make(tmp_path)
    (tmp_path / "folders/train/crop/notes.tif").write_bytes(encode(noise(), "TIFF"))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "folders", workers=1, pattern="*.png")
    assert summary["classes"] == {"crop": 18, "forest": 18, "water": 18}
    assert (summary["train"], summary["val"], summary["test"]) == (36, 6, 12)
    assert summary["unused"] == {".tif": {"an image that pattern leaves out": 1}}


@pytest.mark.parametrize("form", ["set.zip", "set.tar", "set.tar.gz"])
def test_the_single_top_folder_of_an_archive_may_be_left_out(tmp_path, form):
    source = paths(tmp_path / "set", *(f"{label}/{n}.png" for label in "ab" for n in range(3)), "a/x/no.png")
    archive = as_archive(source, tmp_path / form)
    for k, text in enumerate(("{label}/*.png", "set/{label}/*.png")):
        summary, _, packed = prepared(tmp_path / f"run{k}", archive, workers=1, pattern=text)
        assert summary["classes"] == {"a": 3, "b": 3} and len(packed) == 6


def test_a_pattern_restarts_behind_its_finished_shards(tmp_path):
    source = paths(tmp_path / "set", *(f"{label}/{n}.png" for label in "ab" for n in range(9)), "c/0.jpg")
    options = {"workers": 1, "pattern": "{label}/*.png", "shard_mib": 0.003}
    prepared(tmp_path / "once", source, **options)
    prepared(tmp_path / "twice", source, **options)
    tars = sorted((tmp_path / "twice/shards").glob("*.tar"))
    assert len(tars) > 3
    for path in tars[2:]:
        path.unlink()
        path.with_suffix(".csv").unlink()
    prepared(tmp_path / "twice", source, **options)
    for path in (tmp_path / "once").rglob("*.*"):
        if path.suffix in (".tar", ".csv") and path.name != "metrics.csv":
            assert path.read_bytes() == (tmp_path / "twice" / path.relative_to(tmp_path / "once")).read_bytes(), path


# Bands of several files


@pytest.mark.parametrize("form", ["folder", "set.zip", "set.tar"])
def test_bigearthnet(bands, tmp_path, form):
    folder = bands / "bigearthnet"
    source = folder if form == "folder" else as_archive(folder, tmp_path / form)
    summary, refused, _ = prepared(tmp_path / "run", source, workers=1, pattern=S2)
    assert (summary["images"], refused, summary["several_labels"]) == (6, {}, True)
    assert summary["classes"] == {"Sea and ocean": 6, "crop": 2, "forest": 2, "water": 2}
    assert summary["conversions"] == {
        "12 files stacked": 6,
        "bands 2 and 6 times coarser resampled to the finest": 6,
    }
    patch = "S2A_MSIL2A_20170613T101031_1_0"
    name = next(name for name in index(tmp_path / "run") if name.endswith(f"{patch}/{patch}_bands.tif"))
    pixels = values(tmp_path / "run", name)
    assert (pixels.shape, pixels.dtype) == ((120, 120, 12), np.uint16)
    assert index(tmp_path / "run")[name]["label"] == "forest|Sea and ocean"
    order = sorted(SIDES, key=band_names.natural)
    assert order == ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    for k, band in enumerate(order):
        file = folder / patch / f"{patch}_{band}.tif"
        expected = tifffile.imread(file) if SIDES[band] == 120 else gdal(file, 120, 120)
        assert np.abs(pixels[..., k] - expected.astype(float)).max() <= (0 if SIDES[band] == 120 else 1), band
        assert np.isclose(pixels[..., k].mean(), gdal(file, 120, 120).mean(), rtol=1e-4)


def test_statistics_of_a_stack_are_those_of_its_files(bands, tmp_path):
    prepared(tmp_path / "run", bands / "bigearthnet", workers=1, pattern=S2, bands="B04,B03,B02", train_ratio=0.5)
    train = [name for name, side in split(tmp_path / "run").items() if side == "train"]
    found = json.loads((tmp_path / "run/statistics.json").read_text())
    for k, band in enumerate(("B04", "B03", "B02")):
        files = [bands / "bigearthnet" / name.replace("_bands", f"_{band}") for name in train]
        pixels = np.stack([tifffile.imread(file) for file in files]) / 65535
        assert found["mean"][k] == pytest.approx(pixels.mean(), abs=1e-6)
        assert found["std"][k] == pytest.approx(pixels.std(), abs=1e-6)


def test_ssl4eo(bands, tmp_path):
    summary, refused, _ = prepared(tmp_path / "run", bands / "ssl4eo", workers=1, pattern="{place}/{date}/{band}.tif")
    assert (summary["images"], summary["classes"], refused) == (6, {}, {})
    assert summary["labels_from"] == "" and summary["split_by"] != "random", "a place is on one side"
    assert set(index(tmp_path / "run")) == {
        f"{100 * n + i:07d}/20200604T054639/bands.tif" for n in range(3) for i in (0, 1)
    }


def test_a_safe_product(bands, tmp_path):
    summary, refused, _ = prepared(tmp_path / "run", bands / "safe", workers=1, pattern="**/R10m/*_{band}_10m.jp2")
    assert (summary["images"], refused) == (1, {})
    pixels = values(tmp_path / "run")
    expected = [band_per_file.band(7, "forest", k, 120) for k in range(4)]
    np.testing.assert_array_equal(pixels, np.stack(expected, axis=-1))
    assert summary["unused"][".jp2"] == {"an image that pattern leaves out": 8}, "the quicklook and the coarser bands"
    coarse, _, _ = prepared(tmp_path / "coarse", bands / "safe", workers=1, pattern="**/R20m/*_{band}_20m.jp2")
    assert values(tmp_path / "coarse").shape == (60, 60, 4) and coarse["conversions"]["SCL left out"] == 1


NAMED = {"bigearthnet": "{id}_{band}.tif", "ssl4eo": "{place}/*/{band}.tif", "safe": "{id}_{band}_10m.jp2"}


@pytest.mark.parametrize(("tree", "text"), NAMED.items())
def test_without_a_pattern_the_right_one_is_named(bands, tmp_path, tree, text):
    with pytest.raises(ValueError, match=f"looks like one band of a sample, .*pattern='{re.escape(text)}' stacks"):
        prepared(tmp_path / "run", bands / tree, workers=1)
    summary, _, _ = prepared(tmp_path / "each", bands / tree, workers=1, pattern="*")
    assert (summary["images"] > 10, summary["classes"]) == (True, {}), "unless each is wanted"
    found = chosen.survey(listing.find(bands / tree), text)
    assert len(found.samples) == (1 if tree == "safe" else 6), "and it does"


def write(path, pixels, pixel=0.0, corner=(500000, 4000000), **options):
    """A GeoTIFF by GDAL, with a reference where `pixel` says its side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    where = {"crs": "EPSG:32633", "transform": from_origin(*corner, pixel, pixel)} if pixel else {}
    count = 1 if pixels.ndim == 2 else pixels.shape[0]
    size = {"height": pixels.shape[-2], "width": pixels.shape[-1], "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **where, **options) as file:
        file.write(pixels.reshape(count, *pixels.shape[-2:]))


def ramp(side, factor=1):
    return (np.add.outer(np.arange(side), 2 * np.arange(side)) * factor + 100).astype(np.uint16)


def stacked(tmp_path, **options):
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1, pattern=S2, **options)
    return summary, refused, index(tmp_path / "run")


def test_georeference_is_that_of_the_finest_and_metres_are_told(tmp_path):
    for n in range(3):
        write(tmp_path / f"set/p{n}/x_B02.tif", ramp(24), 10)
        write(tmp_path / f"set/p{n}/x_B05.tif", ramp(12), 20)
        write(tmp_path / f"set/p{n}/x_B01.tif", ramp(4), 60)
    summary, refused, _ = stacked(tmp_path)
    assert refused == {} and summary["conversions"]["20 m and 60 m bands resampled to 10 m"] == 3
    with open(tmp_path / "run/places.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_stacks_are_read_by_several_processes(tmp_path):
    for n in range(140):
        for k, band in enumerate(("B02", "B05")):
            path = tmp_path / f"set/p{n:03d}/x_{band}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, ramp(16 >> k, n % 9 + 1) + n, photometric="minisblack")
    for workers in (1, 2):
        prepared(tmp_path / f"run{workers}", tmp_path / "set", workers=workers, pattern=S2)
    for name in ("index.csv", "shards/000000.tar"):
        assert (tmp_path / "run1" / name).read_bytes() == (tmp_path / "run2" / name).read_bytes()


def test_files_of_other_ground_or_type_or_shape_are_refused_by_name(tmp_path):
    for n in range(9):
        write(tmp_path / f"set/p{n}/x_B02.tif", ramp(24), 10)
        write(tmp_path / f"set/p{n}/x_B03.tif", ramp(24), 10)
    write(tmp_path / "set/p0/x_B03.tif", ramp(24), 10, corner=(600000, 4000000))
    write(tmp_path / "set/p1/x_B03.tif", ramp(24).astype(np.uint8), 10)
    write(tmp_path / "set/p2/x_B03.tif", ramp(24)[:12], 10)
    (tmp_path / "set/p3/x_B03.tif").unlink()
    (tmp_path / "set/p4/x_B03.tif").write_bytes(b"no image")
    whole = (tmp_path / "set/p5/x_B03.tif").read_bytes()
    (tmp_path / "set/p5/x_B03.tif").write_bytes(whole[:300])
    _, refused, _ = stacked(tmp_path)
    reasons = {name[:2]: reason for name, reason in refused.items()}
    assert reasons.pop("p5").startswith("cannot be read: band B03")
    assert reasons == {
        "p0": "its bands B02 and B03 lie on different ground",
        "p1": "its bands have different types: uint16 (B02) and uint8 (B03); choose by bands",
        "p2": "its bands of 24 x 24 and 24 x 12 pixels (B03) cannot show the same ground",
        "p3": "it has no band B03",
        "p4": "band B03 is no image in a format that can be stacked",
    }


def test_a_band_that_few_have_is_left_out_and_told(tmp_path):
    for n in range(6):
        for band in ("B02", "B03") if n else ("B02", "B03", "cloud"):
            write(tmp_path / f"set/p{n}/x_{band}.tif", ramp(24))
    summary, refused, rows = stacked(tmp_path)
    assert refused == {} and {row["channels"] for row in rows.values()} == {"2"}
    assert summary["conversions"] == {"2 files stacked": 6, "cloud left out": 1}


def test_pixels_that_a_band_has_not_measured_are_not_measured(tmp_path):
    for n in range(4):
        fine, coarse = ramp(24), ramp(12)
        fine[:6], coarse[:, 9:] = 65535, 65535
        write(tmp_path / f"set/p{n}/x_B02.tif", fine, nodata=65535)
        write(tmp_path / f"set/p{n}/x_B05.tif", coarse, nodata=65535)
    summary, refused, rows = stacked(tmp_path)
    valid = np.ones((24, 24), bool)
    valid[:6], valid[:, 18:] = False, False
    assert refused == {} and summary["masked_images"] == 4
    assert summary["masked_share"] == pytest.approx(1 - valid.mean(), abs=1e-4)
    bilinear = stack.bilinear(ramp(12).astype(float), 24, 24)
    pixels = values(tmp_path / "run")
    inside = valid.copy()
    inside[:, 17] = False  # beside the fill the nearest pixel is taken, never a mean with it
    assert np.abs(pixels[..., 1] - bilinear)[inside].max() <= 1
    assert pixels[..., 1][valid].max() <= ramp(12).max()


def test_a_few_zeros_of_one_band_are_measurements(tmp_path):
    for n in range(4):
        dark = ramp(24)
        dark[:12] = 0  # water in the infrared
        write(tmp_path / f"set/p{n}/x_B02.tif", ramp(24), nodata=0)
        write(tmp_path / f"set/p{n}/x_B12.tif", dark, nodata=0)
    summary, _, _ = stacked(tmp_path)
    assert summary.get("masked_images", 0) == 0
    assert (values(tmp_path / "run")[:12, :, 1] == 0).all()


def test_colour_and_infrared_pictures_are_stacked(tmp_path):
    for n in range(3):
        rgb, nir = noise(n, (16, 16)), noise(50 + n, (16, 16)).convert("L")
        folder = tmp_path / f"set/p{n}"
        folder.mkdir(parents=True)
        (folder / "x_rgb.png").write_bytes(encode(rgb))
        (folder / "x_nir.png").write_bytes(encode(nir))
    prepared(tmp_path / "run", tmp_path / "set", workers=1, pattern="{patch}/*_{band}.png", bands="rgb,nir")
    expected = np.dstack([np.array(noise(0, (16, 16))), np.array(noise(50, (16, 16)).convert("L"))])
    np.testing.assert_array_equal(values(tmp_path / "run"), expected)


def test_labels_beside_the_bands(tmp_path):
    def label(text):
        return json_labels.label(text.encode())

    assert label('{"labels": ["a", "b"]}') == "a|b"
    assert label('{"label": "a"}') == "a" and label('{"class": 3}') == "3"
    for text in ("", "[1]", "{", '{"labels": {}}', "nul", '{"other": 1}', "[" * 100_000):
        assert label(text) == ""


# What cannot be meant

EMPTY = "nothing says where '{}' ends and '{}' begins"
HOSTILE = {
    "/data/*.tif": "begins at the root of the disk",
    "~/set/*.tif": "begins at the root of the disk",
    "C:/set/*.tif": "begins at the root of the disk",
    "\\\\server\\set": "begins at the root of the disk",
    "set\\*.tif": "has a backslash",
    "../*.png": "has '../', but only what lies in",
    "a/../../*.png": "has '../', but only what lies in",
    "./*.png": "has './', but only what lies in",
    "a//*.png": "has an empty part",
    "{label}/": "has an empty part",
    "{label/*.png": "has a '{' without its partner",
    "label}/*.png": "has a '}' without its partner",
    "{{label}}/*.png": "has a '{' without its partner",
    "{}/*.png": "has the field '{}'",
    "{a b}/*.png": "has the field '{a b}'",
    "{band:B.*}.tif": "has the field '{band:B.*}'",
    "{_x}.tif": "has the field '{_x}'",
    "{labels}/*.png": "which nothing reads; write {label}",
    "{Label}/*.png": "which nothing reads; write {label}",
    "{lable}/*.png": "which nothing reads; write {label}",
    "{class}/*.png": "which nothing reads; write {label}",
    "{split}/*.png": "which nothing reads; write {side}",
    "{bands}.tif": "which nothing reads; write {band}",
    "{place}/{scene}/*.png": "kept on one side by one of them only",
    "{label}{n}.png": EMPTY.format("{label}", "{n}"),
    "*{band}.tif": EMPTY.format("*", "{band}"),
    "{label}*.png": EMPTY.format("{label}", "*"),
    "x**.png": "'**' stands for whole folders",
    "**.png": "'**' stands for whole folders",
    "**/a/**/b/**/c/**/d.png": "more than three times",
    "*a*b*c*d*e*f*g.png": "more than 6 open pieces",
    "*.tif": "matches none of the images; the nearest path is 'wood_1.png'",
    "{label}/{n}.png": "matches none of the images; the nearest path is",
    "images/*.png": "matches none of the images",
    "*.npy": "it matches 'x.npy', which is no image that can be read",
    "{side}_*.png": "reads {side} as 'water' in 'water_1.png', which is no side; sides are train, val, test",
}  # fmt: skip


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Six pictures and an array in one folder."""
    folder = paths(
        tmp_path_factory.mktemp("flat"), *(f"{label}_{n}.png" for label in ("water", "wood") for n in (1, 2, 3))
    )
    (folder / "x.npy").write_bytes(b"")
    return folder


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_pattern_is_one_sentence_at_launch(flat, tmp_path, text):
    with pytest.raises(SettingsError) as told:
        check.check(PrepareSettings(dataset=str(flat), pattern=text, run_dir=str(tmp_path / "run")))
    assert HOSTILE[text] in str(told.value)
    assert "\n" not in str(told.value) and text in str(told.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bands": "B02"}, "bands: 'B02' needs a pattern with {band}"),
        ({"bands": "B02", "pattern": "*.png"}, "needs a pattern with {band}"),
        ({"bands": "1,,2", "pattern": "{id}_{band}.png"}, "bands: '1,,2' has an empty name"),
        ({"bands": "1,9", "pattern": "{id}_{band}.png"}, "bands: there is no 9; the files have 1, 2, 3"),
        ({"bands": "1,2,1", "pattern": "{id}_{band}.png"}, "names 1 twice"),
        ({"dataset": "scenes", "pattern": "*.png"}, "chooses files, and the drawn 'scenes' have none"),
        ({"pattern": "{date}_{n}_{band}.png"}, "matches none of the images"),
    ],
)
def test_settings_that_do_not_go_together(flat, tmp_path, options, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        check.check(PrepareSettings(**{"dataset": str(flat), "run_dir": str(tmp_path / "run")} | options))


def refuses(tmp_path, source, **options):
    with pytest.raises(ValueError) as told:
        prepared(tmp_path / "refused", source, workers=1, **options)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_bands_that_are_not_there(bands, tmp_path):
    told = refuses(tmp_path, bands / "bigearthnet", pattern=S2, bands="B04,B99")
    assert told == "bands: there is no B99; the files have B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12"


def test_two_files_for_one_band_of_one_sample(bands, tmp_path):
    told = refuses(tmp_path, bands / "safe", pattern="{product}/**/*_{band}_*.jp2")
    assert "finds two files for band B02 of one sample" in told and "R10m" in told and "R20m" in told


def test_a_band_that_half_of_the_samples_have_is_asked_for(tmp_path):
    for n in range(6):
        for band in ("B02", "B03") if n % 2 else ("B02", "B03", "B11"):
            write(tmp_path / f"set/p{n}/x_{band}.tif", ramp(24))
    told = refuses(tmp_path, tmp_path / "set", pattern=S2)
    assert told.startswith("pattern: only 3 of 6 samples have the band B11; say which to stack, such as bands=B02,B03")
    assert prepared(tmp_path / "run", tmp_path / "set", workers=1, pattern=S2, bands="B02,B03")[0]["images"] == 6


def test_a_field_that_is_no_band(tmp_path):
    source = paths(tmp_path / "set", *(f"x{n}_{n}.png" for n in range(600)))
    assert "finds more than 512 bands" in refuses(tmp_path, source, pattern="{id}_{band}.png")
    few = paths(tmp_path / "few", *(f"x{n}_{n}.png" for n in range(6)))
    assert "no {band} is in most of the 6 samples (0, 1, 2, 3, 4, 5)" in refuses(
        tmp_path, few, pattern="{id}_{band}.png"
    )


def test_bands_in_a_compressed_tar(bands, tmp_path):
    archive = as_archive(bands / "bigearthnet", tmp_path / "set.tar.gz")
    assert "is a compressed tar, out of which the bands" in refuses(tmp_path, archive, pattern=S2)


@pytest.mark.parametrize("form", ["folder", "set.zip", "set.tar"])
def test_stacks_are_cut_into_tiles(bands, tmp_path, form):
    folder = bands / "bigearthnet"
    source = folder if form == "folder" else as_archive(folder, tmp_path / form)
    prepared(tmp_path / "whole", folder, workers=1, pattern=S2)
    summary, refused, _ = prepared(tmp_path / "run", source, workers=1, pattern=S2, tile=40)
    assert (summary["images"], refused) == (54, {})
    assert summary["classes"] == {"Sea and ocean": 54, "crop": 18, "forest": 18, "water": 18}
    assert summary["conversions"] == {"12 files stacked": 54, "bands 2 and 6 times coarser resampled to the finest": 54}
    name = next(each for each in index(tmp_path / "run") if each.endswith("_2_1_bands.tif/r00040_c00080.tif"))
    scene = name.rpartition("/")[0].removeprefix("bigearthnet/")
    expected = values(tmp_path / "whole", scene)[40:80, 80:120]
    assert np.abs(values(tmp_path / "run", name) - expected.astype(float)).max() <= 1
    np.testing.assert_array_equal(values(tmp_path / "run", name)[..., 1:4], expected[..., 1:4])


def test_stacks_that_do_not_belong_together_are_no_scenes(tmp_path):
    for n in range(3):
        write(tmp_path / f"set/p{n}/x_B02.tif", ramp(24, n + 1))
        write(tmp_path / f"set/p{n}/x_B03.tif", ramp(24, 3 * n + 1) if n else ramp(24).astype(np.uint8))
    summary, refused, _ = stacked(tmp_path, tile=12)
    assert summary["images"] == 8
    assert list(refused) == ["p0/x_bands.tif"] and "different types: uint16 (B02)" in refused["p0/x_bands.tif"]


def test_every_image_is_refused_where_every_band_is_broken(tmp_path):
    for n in range(3):
        for band in ("B02", "B03"):
            path = tmp_path / f"set/p{n}/x_{band}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    told = refuses(tmp_path, tmp_path / "set", pattern=S2)
    assert told.endswith("can be used: band B02 is empty (3)")


def test_scenes_that_are_all_the_same_leave_nothing_to_train_on(tmp_path):
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        paths(tmp_path / "set", name)
    told = refuses(tmp_path, tmp_path / "set", pattern="{scene}/*.png")
    assert told.startswith("split: no image is left to train on (")


def test_names_with_strange_letters(tmp_path):
    source = paths(tmp_path / "set", "forêt/a b.png", "耕地/(1).png", "x{y}/1.png", "new\nline/1.png")
    summary, _, _ = prepared(tmp_path / "run", source, workers=1, pattern="{label}/*.png")
    assert summary["images"] == 4 and len(summary["classes"]) == 4


def test_matching_takes_no_time_where_it_could(tmp_path):
    template = pattern.parse("*a*b*c*d*e*.png")
    assert template.match("a" * 250) is None
    assert pattern.parse("**/a/**/b/**/c.png").match("a/" * 100 + "b") is None


def test_a_million_paths(tmp_path):
    template = pattern.parse(S2)
    found = {template.match(f"p{n // 12}/x_B{n % 12:02d}.tif").sample() for n in range(60_000)}
    assert len(found) == 5000


# Arrays and suffixes


def test_previews_of_arrays_stop(tmp_path):
    arrays.make(tmp_path)
    told = refuses(tmp_path, tmp_path / "mixed")
    assert "beside 6 images, such as 'crop/preview0.jpg', lie 60 arrays (.npy), which are not read" in told
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "mixed", workers=1, pattern="*.jpg")
    assert summary["images"] == 6 and summary["unused"][".npy"] == {"an array, which is not read": 60}
    (tmp_path / "suffixes/mosaic.vrt").write_text("<VRTDataset/>")
    summary, _, _ = prepared(tmp_path / "run2", tmp_path / "suffixes", workers=1)
    assert summary["images"] == 54
    assert summary["unused"] == {
        "no suffix": {"no image by its name": 6},
        ".vrt": {"a format that is not read as an image": 1},
    }


SUFFIXES = {
    "geotiff": "GTiff", "gtiff": "GTiff", "gtif": "GTiff", "cog": "COG", "j2k": "J2K", "j2c": "J2K",
    "jpf": "JP2OpenJPEG", "jpx": "JP2OpenJPEG", "jfif": "JPEG", "avif": "AVIF", "pnm": "PPM",
}  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_suffix_is_read_by_what_writes_it(tmp_path, suffix):
    kind = SUFFIXES[suffix]
    (tmp_path / "set").mkdir()
    for n in range(3):
        file = tmp_path / "set" / f"{n}.{suffix}"
        if kind in ("GTiff", "COG", "JP2OpenJPEG"):
            pixels = np.random.default_rng(n).integers(0, 9999, (4, 32, 32), dtype=np.uint16)
            options = {"QUALITY": 100, "REVERSIBLE": True} if kind == "JP2OpenJPEG" else {}
            with rasterio.open(file, "w", driver=kind, height=32, width=32, count=4, dtype="uint16", **options) as out:
                out.write(pixels)
        else:
            options = {"no_jp2": True} if kind == "J2K" else {"quality": 95} if kind in ("JPEG", "AVIF") else {}
            file.write_bytes(encode(noise(n, (32, 32)), "JPEG2000" if kind == "J2K" else kind, **options))
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "set", workers=1)
    assert (summary["images"], refused) == (3, {})
    if kind in ("GTiff", "COG", "JP2OpenJPEG"):
        expected = np.random.default_rng(0).integers(0, 9999, (4, 32, 32), dtype=np.uint16)
        np.testing.assert_array_equal(values(tmp_path / "run", f"0.{suffix}"), expected.transpose(1, 2, 0))


def test_a_stack_says_what_it_is_refused_for():
    with pytest.raises(Refused, match="band B02 is empty"):
        stack.read([("B02", bytes)])


def test_nothing_is_left_of_a_folder_that_is_gone(flat, tmp_path):
    shutil.copytree(flat, tmp_path / "gone")
    source = listing.find(tmp_path / "gone")
    found = chosen.survey(source, "{label}_{n}.png")
    shutil.rmtree(tmp_path / "gone")
    items = list(chosen.items(source, "{label}_{n}.png", found))
    assert len(items) == found.files
    for item in items:
        with pytest.raises(OSError, match="No such file"):
            item.load()


@pytest.mark.parametrize("top", ["", "images/"])
def test_folders_of_bands_are_told_a_pattern_that_works(tmp_path, top):
    names = [f"{top}{band}/patch{n}.png" for band in ("B02", "B03", "B04") for n in range(5)]
    source = paths(tmp_path / "set", *names)
    summary, _, _ = prepared(tmp_path / "run", source, workers=1)
    assert summary["classes"] == {} and "pattern='**/{band}/*' stacks them" in summary["warnings"][0]
    summary, _, _ = prepared(tmp_path / "stacked", source, workers=1, pattern="**/{band}/*")
    assert (summary["images"], shards.Shards(tmp_path / "stacked").channels) == (5, 9)
