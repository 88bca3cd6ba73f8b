"""Scenes cut into tiles: their values, places, sides, and what cannot be cut. GDAL writes every file."""

import csv
import itertools
import random
import re
import tarfile
import zipfile
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from geofm_lib.data import decode, pool
from geofm_lib.data.sources import archives, listing, tiles
from geofm_lib.data.sources.item import Item
from geofm_lib.figures import places
from geofm_lib.jobs.prepare_refused import Refusals
from geofm_lib.runs.check import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings, SettingsError
from tests.support.cases import whole_scenes
from tests.support.preparations import apart, prepared, summarised

UTM = "EPSG:32630"


pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::rasterio.errors.NotGeoreferencedWarning"
)


def pixels(seed, height, width, bands=4, kind=np.uint16):
    return np.random.default_rng(seed).integers(1, 250, (height, width, bands)).astype(kind)


def write(path: Path, values: np.ndarray, corner=None, pixel=10.0, transform=None, crs=UTM, **options) -> Path:
    """A GeoTIFF (or what the suffix says) of values [H, W, C]; corner: west and north on the ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".png": "PNG", ".jpg": "JPEG", ".jp2": "JP2OpenJPEG"}.get(path.suffix, "GTiff")
    place = {"crs": crs} if corner or transform or "gcps" in options else {}
    if corner or transform:
        place["transform"] = transform or Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    height, width, count = values.shape
    with rasterio.open(
        path, "w", driver=driver, height=height, width=width, count=count, dtype=values.dtype, **place, **options
    ) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def cut(path, tile, stride=0):
    """{name: Raster} of the tiles of a source, and what `cut` says."""
    found = tiles.cut(archives.items(listing.find(path), apart=True), tile, stride)
    return {item.name: item.load() for item in found.tiles}, found


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


LAYOUTS = {
    "tiled": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    "lines": {"blockysize": 1, "compress": "lzw"},
    "strips": {"blockysize": 50, "compress": "zstd"},
    "one strip": {"blockysize": 210, "compress": "deflate"},
    "apart": {"interleave": "band", "tiled": True, "blockxsize": 32, "blockysize": 32},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_are_slices_of_the_scene(tmp_path, layout):
    values = pixels(1, 210, 333)
    write(tmp_path / "a" / "s.tif", values, (500000, 4600000), **LAYOUTS[layout])
    for tile, stride in ((64, 0), (64, 48), (100, 33), (210, 7), (50, 90)):
        found, told = cut(tmp_path / "a", tile, stride)
        seen = np.zeros((210, 333), bool)
        for name, raster in found.items():
            _, top, left = tiles.origin(name)
            assert np.array_equal(raster.values, values[top : top + tile, left : left + tile]), name
            assert raster.values.shape == (tile, tile, 4)
            assert raster.valid is None
            seen[top : top + tile, left : left + tile] = True
        assert told.total == len(found)
        assert seen.all() == (stride <= tile)
        assert told.left_out == pytest.approx(1 - seen.mean())


def test_the_order_of_tiles_never_changes_and_names_sort(tmp_path):
    write(tmp_path / "s.tif", pixels(0, 200, 200))
    first, second = (list(cut(tmp_path, 64, 32)[0]) for _ in range(2))
    assert first == second
    assert first[0] == "s.tif/r00000_c00000.tif"
    assert first[-1] == "s.tif/r00136_c00136.tif"
    assert Counter(map(tiles.scene_of, first)) == {"s.tif": 36}
    assert sorted(first) == sorted(first, key=tiles.origin)


@pytest.mark.parametrize("seed", range(6))
def test_starts_cover_every_pixel_once_they_overlap(seed):
    draw = random.Random(seed)
    for _ in range(200):
        side, tile, stride = draw.randint(1, 3000), draw.randint(1, 900), draw.randint(1, 1200)
        found = tiles.starts(side, tile, stride)
        assert found == sorted(set(found))
        assert all(0 <= start <= side - tile for start in found)
        assert bool(found) == (side >= tile)
        covered = np.zeros(side, bool)
        for start in found:
            covered[start : start + tile] = True
        if found and stride <= tile:
            assert covered.all()
        if found:
            assert covered.sum() == tiles.covered(side, tile, stride)


def test_tiles_that_are_decoded_at_once_go_to_one_process(tmp_path):
    write(tmp_path / "a.tif", pixels(0, 400, 900, 1), blockysize=1)
    write(tmp_path / "b.tif", pixels(0, 400, 900, 1), tiled=True, blockxsize=128, blockysize=128)
    items = list(tiles.cut(archives.items(listing.find(tmp_path)), 64).tiles)
    chunks = [chunk for chunk, _ in pool._chunks(iter(items))]
    assert [item for chunk in chunks for item in chunk] == items
    of = defaultdict(set)
    for number, chunk in enumerate(chunks):
        for item in chunk:
            of[item.load.together].add(number)
    assert all(len(numbers) == 1 for numbers in of.values())
    striped = [item.load.group for item in items if item.name.startswith("a.tif")]
    assert {(group.height, group.width) for group in striped} == {
        (64, 900)
    }  # every line is decoded once a row of tiles
    tiled = {item.load.group for item in items if item.name.startswith("b.tif")}
    assert all(group.top % 128 == 0 or group.top == 336 for group in tiled)  # two rows of tiles share a row of blocks


def test_groups_and_chunks_are_bounded(tmp_path):
    """Wide scenes of many bands: no group above its limit, no chunk much above its own."""
    scene = tiles.Scene(Item("s", b""), "", (), 20_000, 60_000, 26, (512, 60_000))
    for tile, stride in ((256, 256), (512, 128), (1024, 1024)):
        groups = [group for group, _ in tiles._groups(scene, tile, stride)]
        assert max(g.height * g.width * 26 for g in groups) <= max(tiles.MOST_GROUP, tile * tile * 26)
        items = itertools.islice(tiles._tiles(scene, tile, stride, ""), 3000)
        sizes = [sum(item.load.nbytes for item in chunk) for chunk, _ in pool._chunks(items)]
        assert max(sizes) <= pool.MOST_BYTES + tile * tile * 26


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jp2"])
def test_pictures_are_scenes_too(tmp_path, suffix):
    values = np.kron(pixels(3, 20, 30, 3, np.uint8), np.ones((8, 8, 1), np.uint8))
    write(tmp_path / f"s{suffix}", values)
    with rasterio.open(tmp_path / f"s{suffix}") as file:
        whole = file.read().transpose(1, 2, 0)
    found, _ = cut(tmp_path, 64)
    for name, raster in found.items():
        _, top, left = tiles.origin(name)
        assert np.array_equal(raster.values, whole[top : top + 64, left : left + 64])
    assert len(found) == 3 * 4


def test_a_grey_picture_is_rgb_and_a_single_band_stays_one(tmp_path):
    write(tmp_path / "grey.png", pixels(0, 64, 64, 1, np.uint8))
    write(tmp_path / "band.tif", pixels(0, 64, 64, 1, np.uint8))
    found, _ = cut(tmp_path, 64)
    assert {name[:4]: raster.values.shape[-1] for name, raster in found.items()} == {"grey": 3, "band": 1}
    assert {name[:4]: raster.converted for name, raster in found.items()} == {"grey": ["grey to RGB"], "band": []}


def test_scenes_in_archives(tmp_path):
    folder = tmp_path / "set"
    for name, seed in (("water/a é.tif", 1), ("crop/b.tif", 2)):
        write(folder / name, pixels(seed, 100, 130))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(folder, "set")
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        tar.add(folder, "set")
    with zipfile.ZipFile(tmp_path / "s {1}, b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.tif")):
            archive.write(path, path.relative_to(tmp_path))
    wanted, _ = cut(folder, 50)
    for name in ("s.tar", "s {1}, b.zip"):
        found, _ = cut(tmp_path / name, 50)
        assert {n.removeprefix("set/") for n in found} == set(wanted)
        assert all(np.array_equal(found[f"set/{n}"].values, wanted[n].values) for n in wanted)
    settings = PrepareSettings(dataset=str(tmp_path / "s.tar.gz"), tile=50, run_dir=str(tmp_path / "run"))
    with pytest.raises(
        SettingsError, match="tile: .* is compressed, so no parts of a scene can be read from it; unpack"
    ):
        check(settings)
    with pytest.raises(ValueError, match="is compressed"):
        prepared(tmp_path / "run", tmp_path / "s.tar.gz", tile=50)


TRANSFORMS = {
    "north up": Affine(10, 0, 500000, 0, -10, 4600000),
    "south up": Affine(10, 0, 500000, 0, 10, 4600000),
    "rotated": Affine(7, 3, 500000, 3, -7, 4600000),
    "degrees": Affine(1e-4, 0, -3.25, 0, -1e-4, 40.5),
}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_each_tile_keeps_its_place(tmp_path, kind):
    transform = TRANSFORMS[kind]
    crs = "EPSG:4326" if kind == "degrees" else UTM
    write(tmp_path / "s.tif", pixels(0, 150, 200), transform=transform, crs=crs)
    found, _ = cut(tmp_path, 64, 50)
    for name, raster in found.items():
        _, top, left = tiles.origin(name)
        assert raster.geo.crs == crs
        assert Affine(*raster.geo.transform) * (5, 7) == pytest.approx(transform * (left + 5, top + 7), abs=1e-6)


def test_places_are_listed(tmp_path):
    write(tmp_path / "set" / "ground.tif", pixels(0, 128, 192), (500000, 4600000))
    write(tmp_path / "set" / "none.tif", pixels(1, 128, 192))
    points = [GroundControlPoint(r, c, 500000 + c, 4600000 - r) for r, c in ((0, 0), (0, 191), (127, 0))]
    write(tmp_path / "set" / "points.tif", pixels(2, 128, 192), gcps=points, crs=UTM)
    prepared(tmp_path / "run", tmp_path / "set", tile=64)
    found = {row["name"]: row for row in rows(tmp_path / "run" / "places.csv")}
    assert len(found) == 18
    one = found["ground.tif/r00064_c00128.tif"]
    bounds = [float(one[side]) for side in ("west", "south", "east", "north")]
    assert bounds == [501280, 4598720, 501920, 4599360]
    assert (one["scene"], one["crs"], one["row"], one["column"]) == ("ground.tif", UTM, "64", "128")
    for scene in ("none", "points"):
        other = found[f"{scene}.tif/r00064_c00128.tif"]
        assert [other[side] for side in ("crs", "west", "south", "east", "north")] == ["", "128", "128", "192", "64"]


def test_labels_and_sides_are_those_of_the_scene(tmp_path):
    for side, label, seed in itertools.product(("train", "test"), ("crop", "water"), (1, 2)):
        write(
            tmp_path / "set" / side / label / f"{side}{label}{seed}.tif",
            pixels(hash((side, label, seed)) % 999, 96, 96),
        )
    summary, _, data = prepared(tmp_path / "run", tmp_path / "set", tile=32)
    assert summary["classes"] == {"crop": 36, "water": 36}
    assert summary["split_by"].startswith("given")
    for row in rows(tmp_path / "run" / "split.csv"):
        assert row["name"].startswith(row["split"])
    assert len(data) == 72


@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_a_scene_are_never_on_two_sides(tmp_path, seed):
    draw = random.Random(seed)
    for k in range(6):
        write(tmp_path / "set" / f"s{k}.tif", pixels(10 * seed + k, draw.randint(64, 200), draw.randint(64, 200), 2))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=64, stride=draw.randint(5, 80), seed=seed)
    assert summary["split_by"] == "scene"
    sides = defaultdict(set)
    for row in rows(tmp_path / "run" / "split.csv"):
        sides[tiles.scene_of(row["name"])].add(row["split"])
    assert all(len(each) == 1 for each in sides.values())
    assert set.union(*sides.values()) == {"train", "test"}


def overlap(a, b) -> bool:
    width = min(float(a["east"]), float(b["east"])) - max(float(a["west"]), float(b["west"]))
    low = [min(float(x["south"]), float(x["north"])) for x in (a, b)]
    high = [max(float(x["south"]), float(x["north"])) for x in (a, b)]
    return (
        a["crs"] == b["crs"] and width > 1e-6 and min(high) - max(low) > 1e-6 and (a["crs"] or a["scene"] == b["scene"])
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_training_tile_overlaps_a_test_tile_by_blocks(tmp_path, seed):
    draw = random.Random(seed)
    corners = [(500000, 4600000), (500000 + 10 * draw.randint(50, 250), 4600000 - 10 * draw.randint(0, 250))]
    for k, corner in enumerate(corners):  # two scenes that overlap, at different dates
        write(tmp_path / "set" / f"s{k}.tif", pixels(10 * seed + k, 260, 300, 2), corner if seed < 4 else None)
    tile = draw.randint(20, 40)
    stride = draw.randint(tile // 2, tile + 3)
    options = {"split": "block", "block_size": draw.choice((0.0, 600.0 if seed < 4 else 60.0))}
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=tile, stride=stride, seed=seed, **options)
    sides = {row["name"]: row["split"] for row in rows(tmp_path / "run" / "split.csv")}
    where = rows(tmp_path / "run" / "places.csv")
    train = [row for row in where if sides[row["name"]] == "train"]
    test = [row for row in where if sides[row["name"]] == "test"]
    assert train
    assert test
    assert not any(overlap(a, b) for a in train for b in test)
    assert summary["split_by"].startswith("block of ")
    assert summary["split_by"].endswith("m" if seed < 4 else "pixels")


def test_blocks_are_the_same_for_neighbouring_chips_and_any_scene(tmp_path):
    """Chips of one area, each a GeoTIFF: blocks of ground, without tile."""
    for x, y in itertools.product(range(8), repeat=2):
        write(tmp_path / "set" / f"{x}_{y}.tif", pixels(8 * x + y, 16, 16, 2), (500000 + 160 * x, 4600000 - 160 * y))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", split="block", block_size=320)
    assert summary["split_by"] == "block of 320 m"
    sides = {row["name"]: row["split"] for row in rows(tmp_path / "run" / "split.csv")}
    block = defaultdict(set)
    for row in rows(tmp_path / "run" / "places.csv"):
        centre = (float(row["west"]) + 80) // 320, (float(row["south"]) + 80) // 320
        block[centre].add(sides[row["name"]])
    assert len(block) >= 16
    assert all(len(each) == 1 for each in block.values())


def test_names_may_say_where_images_lie(tmp_path):
    for x, y, date in itertools.product(range(6), range(6), ("before", "after")):
        picture = np.kron(pixels(6 * x + y, 8, 8, 3, np.uint8), np.ones((2, 2, 1), np.uint8))
        write(tmp_path / "set" / date / f"{-9505 - 10 * x:.0f}e-2_{2905 + 10 * y}e-2.png", picture)
    options = {"pattern": "*/{lon}_{lat}.png", "split": "block", "block_size": 0.2}
    summary, _, _ = prepared(tmp_path / "run", tmp_path, **options)
    assert summary["split_by"] == "block of 0.2 degrees"
    where = {row["name"]: row for row in rows(tmp_path / "run" / "places.csv")}
    assert where["set/after/-9535e-2_2945e-2.png"]["west"] == "-95.35"
    assert where["set/after/-9535e-2_2945e-2.png"]["crs"] == "EPSG:4326"
    sides = {row["name"]: row["split"] for row in rows(tmp_path / "run" / "split.csv")}
    block = defaultdict(set)
    for name, row in where.items():
        block[float(row["west"]) // 0.2, float(row["south"]) // 0.2].add(sides[name])
    assert all(len(each) == 1 for each in block.values())
    assert set.union(*block.values()) == {"train", "test"}
    write(tmp_path / "set" / "after" / "-195.3_29.4.png", pixels(1, 16, 16, 3, np.uint8))
    with pytest.raises(ValueError, match="pattern: {lon} is '-195.3' in .* which is no number from -180 to 180"):
        prepared(tmp_path / "run", tmp_path, **options)


def test_one_scene_is_split_by_blocks_and_scene_says_so(tmp_path):
    write(tmp_path / "set" / "s.tif", pixels(0, 400, 400, 2), (500000, 4600000))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=40)
    assert summary["split_by"] == "block of 400 m"
    assert 30 <= summary["train"] <= 70
    assert summary["train"] + summary["test"] == 100
    for options, words in (
        ({"split": "scene"}, "split=scene: there is only one scene, 's.tif'; use split=block"),
        ({"split": "block", "block_size": 10}, "block_size=10 is less than the side of an image"),
        (
            {"split": "block", "block_size": 1e9},
            "split=block: all images lie in one block of 1e.09 m; set block_size below",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            prepared(tmp_path / "run", tmp_path / "set", tile=40, **options)
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=40, train_ratio=1)
    assert summary["train"] == 100


def test_a_scene_too_small_for_blocks_is_split_at_random_and_told(tmp_path):
    write(tmp_path / "set" / "s.tif", pixels(0, 100, 100, 2))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=64)
    assert summary["train"] == 4  # all, since they have no labels
    assert any("too small to split by blocks" in words for words in summary["warnings"])


def test_overlapping_scenes_are_split_by_blocks_and_told_of(tmp_path):
    for k in range(2):
        write(tmp_path / "set" / f"date{k}.tif", pixels(k, 128, 128, 2), (500000, 4600000))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=32)
    assert summary["split_by"].startswith("block of ")
    assert "split by scene, 16 training images, such as" in summary["warnings"][0]
    assert "would cover ground that test images cover too: blocks of ground keep it apart" in summary["warnings"][0]
    sides = {}
    for row in rows(tmp_path / "run" / "split.csv"):  # both dates of a place are on one side
        sides.setdefault(row["name"].partition("/")[2], set()).add(row["split"])
    assert {len(each) for each in sides.values()} == {1}
    summary, _, _ = prepared(tmp_path / "scenes", tmp_path / "set", tile=32, split="scene")
    assert summary["split_by"] == "scene", "which was asked for"
    assert any("cover ground that test images cover too: split=block" in words for words in summary["warnings"])
    (tmp_path / "set" / "table.csv").write_text("image,group\ndate0.tif,a\ndate1.tif,b\n")
    summary, _, _ = prepared(tmp_path / "groups", tmp_path / "set", tile=32, labels="table.csv")
    assert summary["split_by"] == "column group of table.csv", "what a table names stays together"
    assert any("split=block keeps ground apart" in words for words in summary["warnings"])
    for k in range(2):
        write(tmp_path / "labelled" / "ab"[k] / f"date{k}.tif", pixels(k, 128, 128, 2), (500000, 4600000))
    summary, _, _ = prepared(tmp_path / "labelled run", tmp_path / "labelled", tile=32, split="random")
    assert any("split=block keeps ground apart" in words for words in summary["warnings"])


def test_overlapping_scenes_too_small_for_blocks_are_split_by_scene_and_told(tmp_path):
    for k in range(2):
        write(tmp_path / "set" / f"date{k}.tif", pixels(k, 32, 32, 2), (500000, 4600000))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=32)
    assert summary["split_by"] == "scene"
    told = "cover ground that test images cover too: all lie too close together to be split by blocks of ground"
    assert any(told in words for words in summary["warnings"])


def test_scenes_of_several_reference_systems_share_blocks(tmp_path):
    """The same ground in two zones: its tiles are on one side."""
    from rasterio.warp import transform_bounds

    west, south, east, north = transform_bounds("EPSG:32630", "EPSG:32631", 790000, 4590000, 794000, 4594000)
    write(tmp_path / "set" / "a.tif", pixels(0, 400, 400, 2), (790000, 4594000))
    write(tmp_path / "set" / "b.tif", pixels(1, 400, 400, 2), (west, north), pixel=10, crs="EPSG:32631")
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "set", tile=40, split="block", block_size=1000)
    assert summary["split_by"] == "block of 1000 m"
    assert summary["val"] > 0  # training tiles that overlap a test tile of the other zone
    assert {row["crs"] for row in rows(tmp_path / "run" / "places.csv")} == {"EPSG:32630", "EPSG:32631"}


def test_empty_tiles_are_dropped_and_counted(tmp_path):
    values = pixels(0, 128, 256, 3)
    values[:, :100] = 0
    write(tmp_path / "set" / "s.tif", values, (500000, 4600000), nodata=0)
    write(tmp_path / "set" / "blank.tif", np.zeros((128, 128, 3), np.uint16), nodata=0)
    summary, lost, data = prepared(tmp_path / "run", tmp_path / "set", tile=64)
    assert summary["empty_tiles"] == 2 + 4
    assert summary["images"] == 6
    assert lost == {"blank.tif": "none of its 4 tiles was measured enough (valid_min)"}
    bands, valid = decode.read(data["s.tif/r00000_c00064.tif"])
    assert np.array_equal(valid, values[:64, 64:128, 0] > 0)
    assert np.array_equal(bands[valid], values[:64, 64:128][valid])


def test_what_the_fourth_band_is_and_what_is_fill_is_decided_for_the_scene(tmp_path):
    """Near infrared is 0 over water, like a mask, and a corner of fill is under 1 % of its tile."""
    colours = {"photometric": "RGB", "alpha": "YES"}
    infrared = pixels(1, 256, 256, 4, np.uint8)
    infrared[:64, :64, 3] = 0
    write(tmp_path / "near" / "s.tif", infrared, **colours)
    found, _ = cut(tmp_path / "near", 64)
    assert {raster.values.shape[-1] for raster in found.values()} == {4}
    assert all(raster.valid is None for raster in found.values())
    clear = pixels(1, 256, 256, 4, np.uint8)
    clear[..., 3] = 255
    clear[:100, :, 3] = 0
    write(tmp_path / "mask" / "s.tif", clear, **colours)
    found, _ = cut(tmp_path / "mask", 64)
    assert {raster.values.shape[-1] for raster in found.values()} == {3}
    assert found["s.tif/r00064_c00000.tif"].valid.sum() == 28 * 64
    fill = pixels(2, 256, 256, 3)
    fill[:, :70] = 65535  # six columns of the second tile of a row are whole, and one pixel of the third tile
    fill[200, 130] = 65535
    write(tmp_path / "fill" / "s.tif", fill)
    found, _ = cut(tmp_path / "fill", 64)
    for name, raster in found.items():
        _, top, left = tiles.origin(name)
        missing = (fill[top : top + 64, left : left + 64] == 65535).all(-1)
        assert np.array_equal(~missing, np.ones((64, 64), bool) if raster.valid is None else raster.valid), name


def test_scenes_that_cannot_be_cut_are_refused_once_each(tmp_path):
    folder = tmp_path / "set"
    for k in range(4):
        write(folder / f"good{k}.tif", pixels(k, 128, 128))
    write(folder / "small.tif", pixels(0, 40, 300))
    write(folder / "three.tif", pixels(0, 128, 128, 3))
    write(folder / "complex.tif", pixels(0, 128, 128).astype(np.complex64))
    whole = write(folder / "cut.tif", pixels(9, 128, 128), compress="deflate", blockysize=16).read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "text.tif").write_text("no image")
    (folder / "nothing.tif").write_bytes(b"")
    summary, lost, data = prepared(tmp_path / "run", folder, tile=64)
    assert lost["small.tif"] == "300 x 40 pixels are less than a tile; set tile=40 or less"
    assert lost["three.tif"].startswith("4 of its tiles: it has 3 bands of uint16, not 4 bands of uint16")
    assert lost["complex.tif"].startswith("complex numbers (complex64)")
    assert lost["text.tif"] == lost["nothing.tif"] == "not an image in a format that can be read"
    assert lost["cut.tif"].startswith("2 of its tiles: cannot be read: ")
    assert np.array_equal(decode.read(data["cut.tif/r00000_c00064.tif"])[0], pixels(9, 128, 128)[:64, 64:])
    assert {tiles.scene_of(name) for name in data} == {f"good{k}.tif" for k in range(4)} | {"cut.tif"}
    assert summary["refused"] == len(lost) == 6


@pytest.mark.parametrize("progressive", [False, True])
def test_a_photograph_that_is_cut_short_never_gives_grey_tiles(tmp_path, progressive):
    path = write(tmp_path / "s.jpg", pixels(3, 256, 256, 3, np.uint8), progressive=progressive)
    with rasterio.open(path) as file:
        whole = file.read().transpose(1, 2, 0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    lost = 0
    for item in tiles.cut(archives.items(listing.find(tmp_path)), 64).tiles:
        _, top, left = tiles.origin(item.name)
        try:
            assert np.array_equal(item.load().values, whole[top : top + 64, left : left + 64]), item.name
        except OSError as error:
            assert "Premature end" in str(error)
            lost += 1
    assert lost >= 8


def test_settings_that_cannot_be_meant():
    for options, words in (
        ({"tile": 7}, "tile: 7 pixels are no image"),
        ({"tile": -1}, "tile: -1 cannot be used"),
        ({"tile": 2.5}, "tile: 2.5 cannot be used"),
        ({"tile": "wide"}, "tile: 'wide' cannot be used"),
        ({"tile": 64, "dataset": "scenes"}, "tile: the built-in scenes are no larger than a tile"),
        ({"stride": 64}, "stride: it counts from tile to tile, and tile is 0"),
        ({"tile": 64, "stride": -3}, "stride: -3 cannot be used"),
        ({"block_size": -1, "split": "block"}, "block_size: -1 cannot be used"),
        ({"block_size": 500}, "block_size: with split=auto there are no blocks; set split=block"),
        ({"split": "blocks"}, "split: 'blocks' cannot be used"),
    ):
        with pytest.raises(SettingsError, match=words):
            PrepareSettings(**({"dataset": "somewhere"} | options))


def test_a_tile_larger_than_every_scene_is_one_sentence(tmp_path):
    write(tmp_path / "set" / "s.tif", pixels(0, 100, 100))
    with pytest.raises(ValueError, match="none of the 1 images .* 100 x 100 pixels are less than a tile; set tile=100"):
        prepared(tmp_path / "run", tmp_path / "set", tile=512)


def test_a_stride_larger_than_the_tile_is_told(tmp_path):
    write(tmp_path / "set" / "s.tif", pixels(0, 300, 300), (0, 0))
    summary, _, data = prepared(tmp_path / "run", tmp_path / "set", tile=50, stride=100)
    assert len(data) == 9
    assert "75.0% of the scenes' pixels lie in no tile, since stride is larger than tile" in summary["warnings"]


def test_a_preparation_goes_on_behind_its_finished_shards(tmp_path):
    for k in range(3):
        write(tmp_path / "set" / f"s{k}.tif", pixels(k, 256, 256), (500000, 4600000 + 5000 * k), compress="deflate")
    options = {"tile": 32, "shard_mib": 0.25, "workers": 2}
    prepared(tmp_path / "whole", tmp_path / "set", **options)
    prepared(tmp_path / "again", tmp_path / "set", **options)
    shards = sorted((tmp_path / "again" / "shards").glob("*.csv"))
    assert len(shards) > 4
    for path in shards[2:]:
        path.unlink()
    prepared(tmp_path / "again", tmp_path / "set", **options)
    for name in ("index.csv", "split.csv", "places.csv", "refused.csv", "statistics.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for path in sorted((tmp_path / "whole" / "shards").iterdir()):
        if path.name != "source.json":
            assert path.read_bytes() == (tmp_path / "again" / "shards" / path.name).read_bytes(), path.name


def test_scenes_without_tile(tmp_path):
    """More than any picture's pixels is refused by a sentence that names tile; large files are images, with advice."""
    (tmp_path / "rgb").mkdir()
    size = {"height": 13400, "width": 13400, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "rgb" / "ortho.tif", "w", driver="GTiff", sparse_ok=True, compress="deflate", **size):
        pass
    with pytest.raises(ValueError, match="too large: 13400 x 13400 pixels; set tile=512 to cut it into tiles"):
        prepared(tmp_path / "run", tmp_path / "rgb")
    for k in range(2):
        write(tmp_path / "big" / f"scene{k}.tif", whole_scenes.ground(1100, k))
    summary, _, _ = prepared(tmp_path / "run", tmp_path / "big")
    assert summary["images"] == 2
    assert any("tile=512 cuts them into tiles" in words for words in summary["warnings"])


def test_a_map_shows_which_side_is_where(tmp_path):
    for k in range(8):
        write(tmp_path / "set" / f"s{k}.tif", pixels(k, 64, 96, 2), (500000 + 2000 * k, 4600000) if k else None)
    prepared(tmp_path / "run", tmp_path / "set", tile=32)
    shown = places.places(Run(tmp_path / "run"))
    assert shown.alt.startswith("Map of 48 images in 2 scenes, by side: ")  # seven lie in one reference system
    assert shown.table[["train", "test"]].sum().sum() == 48
    assert len(shown.encoded) > 5000
    prepared(tmp_path / "plain", tmp_path / "set", pattern="s0.tif")
    assert "do not say where they lie" in places.places(Run(tmp_path / "plain")).text


def resident(pid: int) -> int:
    """Bytes that a process and its children hold; what they share counts once."""
    total, left = 0, [pid]
    while left:
        each = left.pop()
        with suppress(OSError, AttributeError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
            total += 1024 * int(found[1])
            for task in Path(f"/proc/{each}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return total


@pytest.mark.long
@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_a_sentinel_2_scene_takes_less_than_a_gibibyte(tmp_path, layout):
    """4,000 pixels a side and, as the generator writes it, 10,980: with two processes, torch and GDAL included."""
    if layout == "tiles":
        whole_scenes.make(tmp_path, tile=True)
        folder = tmp_path / "tile"
    else:
        folder = write(
            tmp_path / "set" / "s.tif", whole_scenes.ground(4000, 1), blockysize=8, compress="deflate"
        ).parent
    process = apart(summarised, tmp_path / "run", folder, {"tile": 512, "workers": 2})
    most = 0
    while process.is_alive():
        most = max(most, resident(process.pid))
        process.join(0.05)
    assert process.exitcode == 0
    assert most < 2**30


def test_refusals_of_tiles_are_counted_by_scene():
    found = Refusals()
    for k in range(1000):
        found.add(f"a.tif/r{k:05d}_c00000.tif", f"damaged: block {k}")
        found.add(f"b.tif/r{k:05d}_c00000.tif", f"only {k / 100:g} % of its pixels were measured; at least 10 %")
    found.good("b.tif/r99999_c00000.tif")
    found.add("c.jpg", "the file is empty")
    assert list(found) == [("a.tif", "1000 of its tiles: damaged: block 0"), ("c.jpg", "the file is empty")]
    assert (len(found), found.images, found.empty) == (2, 2001, 1000)
