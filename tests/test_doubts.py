"""What is read as stored and may not be meant is said: scales, swapped bands, fill in one band, alpha by image."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from geofm_lib.data import verify
from geofm_lib.data.sources import listing, previews, raster, stack, tiles, unused
from geofm_lib.data.statistics import other_scale
from geofm_lib.jobs.prepare_collection import looks_swapped
from tests.support.pictures import encode
from tests.support.preparations import prepared

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
FLOATS = ("float32", "float64")
NETCDF = float(np.float32(9.969209968386869e36))


def soft(seed, bands=3, side=32):
    """Smooth values in about 0.2 .. 0.8 [H, W, C]."""
    random = np.random.default_rng(seed)
    return np.kron(random.uniform(0.2, 0.8, (side // 8, side // 8, bands)), np.ones((8, 8, 1)))


def write(path, values, scale=None, offset=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = values.shape
    form = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": values.dtype}
    with rasterio.open(path, "w", **form, **options) as file:
        file.write(np.moveaxis(values, -1, 0))
        if scale is not None:
            file.scales, file.offsets = (scale,) * count, (offset,) * count
    return path


@pytest.mark.parametrize(
    ("kind", "fill"),
    [("int16", -9999), ("int16", -32768), ("int32", -99999), ("int32", -(2**31))]
    + [(kind, fill) for kind in FLOATS for fill in (-9999, NETCDF, float(np.finfo("float32").min))],
)
def test_fill_in_one_band_is_not_measured(tmp_path, kind, fill):
    values = (3000 * soft(1, 4)).astype(kind)
    values[:6, :20, 2] = fill
    if kind == "float64" and abs(fill) > 1e38:
        values[:6, :20, 2] = np.finfo("float64").min
    path = write(tmp_path / "a.tif", values)
    checked = verify.check(path.read_bytes())
    missing = np.zeros((32, 32), bool)
    missing[:6, :20] = True
    assert np.array_equal(~checked.valid, missing)
    assert "not measured: fill of" in checked.converted
    assert np.array_equal(checked.values[~missing], values[~missing].astype(checked.values.dtype))


@pytest.mark.parametrize(("kind", "value"), [("uint16", 65535), ("uint16", 0), ("int16", 0), ("int16", 32767)])
def test_saturation_or_zero_in_one_band_is_measured(tmp_path, kind, value):
    values = (3000 * soft(1, 4)).astype(kind)
    values[:6, :20, 2] = value
    assert verify.check(write(tmp_path / "a.tif", values).read_bytes()).valid is None
    values[:6, :20] = value
    checked = verify.check(write(tmp_path / "b.tif", values).read_bytes())
    assert (checked.valid.sum(), checked.converted) == (32 * 32 - 120, f"not measured: fill of {value}")


def test_a_few_pixels_of_fill_in_one_band_are_chance(tmp_path):
    values = (3000 * soft(1, 4)).astype("int16")
    values[0, :10, 2] = -9999
    assert verify.check(write(tmp_path / "a.tif", values).read_bytes()).valid is None


@pytest.mark.parametrize("nodata", ["", "none", "-9999"])
@pytest.mark.parametrize(
    ("kind", "fills"),
    [(kind, (-3.4028234663852886e38,)) for kind in FLOATS]
    + [(kind, (-3.4e38, 1e30)) for kind in FLOATS]  # two bands, each with its own
    + [("float64", (1e40,)), ("float64", (-1.7976931348623157e308,))],
)
def test_numbers_beyond_any_measurement_are_fill_however_few(tmp_path, kind, fills, nodata):
    values = soft(1, 4).astype(kind)
    for k, fill in enumerate(fills):
        values[k, 3, k] = fill
    checked = verify.check(write(tmp_path / "a.tif", values).read_bytes(), verify.Fit(nodata=nodata))
    assert np.argwhere(~checked.valid).tolist() == [[k, 3] for k in range(len(fills))]
    assert f"not measured: fill of {' '.join(f'{fill:g}' for fill in sorted(fills))}" in checked.converted
    assert np.isfinite(checked.values).all()
    assert np.abs(checked.values).max() < 10


def test_fill_that_differs_from_pixel_to_pixel_is_told_once(tmp_path):
    values = soft(1, 4).astype("float32")
    values[:2, :, 0] *= np.float32(1e36)
    checked = verify.check(write(tmp_path / "a.tif", values).read_bytes())
    assert (checked.converted, (~checked.valid).sum()) == ("not measured: fill of numbers beyond 1e+30", 64)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("fill", [-3.4028234663852886e38, np.nan])
def test_fill_in_the_file_of_one_band_is_not_measured_in_the_stack(tmp_path, kind, fill):
    fine, coarse = soft(1, 1).astype(kind), soft(2, 1)[:16, :16].astype(kind)
    coarse[2, 3] = fill
    loads = [(name, write(tmp_path / name, each).read_bytes) for name, each in (("B1", fine), ("B2", coarse))]
    found = stack.read(loads)
    assert np.argwhere(~found.valid).tolist() == [[y, x] for y in (4, 5) for x in (6, 7)]
    assert np.abs(found.values[found.valid]).max() < 10


GREYS = [  # a grey picture's mode and format, how it is taken, what is told
    ("L", "PNG", {}, "grey to RGB"),
    ("L", "JPEG", {}, "grey to RGB"),
    ("L", "BMP", {}, "grey to RGB, BMP to PNG"),
    ("L", "PNG", {"short_side": 16}, "grey to RGB, reduced to 16 pixels"),
    ("L", "JPEG", {"quality": 90}, "grey to RGB, JPEG 90"),
    ("L", "PNG", {"nodata": "7"}, "not measured: 7, grey to RGB"),
    ("LA", "PNG", {}, "full alpha dropped, grey to RGB"),
    ("RGB", "PNG", {}, ""),
    ("RGB", "JPEG", {}, ""),
]


@pytest.mark.parametrize(("mode", "form", "fit", "told"), GREYS)
def test_a_grey_picture_that_becomes_three_bands_is_told(mode, form, fit, told):
    grey = (255 * soft(1, 1)[..., 0]).astype(np.uint8)
    grey[:4] = 7
    checked = verify.check(encode(Image.fromarray(grey).convert(mode), form), verify.Fit(**fit))
    assert (checked.converted, checked.values.shape[-1]) == (told, 3)


def test_nan_and_infinity_are_told_as_what_they_are(tmp_path):
    values = soft(1).astype("float32")
    values[0, :4, 0] = np.inf
    assert verify.check(write(tmp_path / "a.tif", values).read_bytes()).converted == "not measured: infinity"
    values[1, :4, 1] = np.nan
    told = verify.check(write(tmp_path / "b.tif", values).read_bytes()).converted
    assert told == "not measured: NaN, not measured: infinity"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (4.5e6 + 0.01 * np.random.default_rng(0).random((32, 32, 2)), " (rounded: different numbers become equal)"),
        (np.random.default_rng(0).random((32, 32, 2)), ""),
        (np.random.default_rng(0).integers(2**31, 2**32, (32, 32, 2), np.uint32), " (rounded)"),
        (np.random.default_rng(0).integers(0, 2**24, (32, 32, 2), np.uint32), ""),
    ],
)
def test_rounding_is_told_in_one_text(tmp_path, values, told):
    checked = verify.check(write(tmp_path / "a.tif", values).read_bytes())
    assert checked.converted == f"{values.dtype} to float32{told}"
    assert ", " not in checked.converted


LEVELS = {
    "two scales": ([0.5] * 12 + [5000] * 4, 4),
    "one of sixteen": ([0.5] * 15 + [5000], 1),
    "bytes in a set of reflectances": ([100] * 6 + [4000] * 20, 6),
    "one of forty": ([0.5] * 39 + [5000], 0),
    "dark water on the way to snow": (np.geomspace(30, 10000, 30), 0),
    "backscatter of four decades": (np.geomspace(1e-4, 1, 30), 0),
    "black images": ([0] * 10 + [100] * 10, 0),
    "without end": ([np.inf] * 10 + [100] * 10, 0),
    "one image": ([7], 0),
}


@pytest.mark.parametrize("case", LEVELS)
def test_two_scales_with_nothing_between_are_told(case):
    levels, fewer = LEVELS[case]
    level = np.random.default_rng(0).permutation(np.array(levels, float))
    rows = np.column_stack([np.full(len(level), 50.0), 50 * level, 50 * level, 50 * level**2, 50 * level**2])
    told = other_scale(rows, [f"{i}.tif" for i in range(len(level))])
    assert len(told) == bool(fewer)
    if fewer:
        assert told[0].startswith(f"{fewer} images, such as '")
        assert level[int(told[0].split("'")[1].split(".")[0])] in (5000, 100)


def test_two_scales_are_on_the_page(tmp_path):
    for i in range(16):
        write(tmp_path / "set" / f"{i:02d}.tif", (soft(i) * (1 if i < 12 else 10000)).astype("float32"))
    (words,) = prepared(tmp_path / "run", tmp_path / "set", workers=1, train_ratio=1)[0]["warnings"]
    assert words.startswith("4 images, such as '12.tif', hold numbers about 10,000 times as large as those of the rest")


@pytest.mark.parametrize("offsets", [(-0.1, -0.1), (-0.1, 0.0), (-0.1, None)])
def test_scale_and_offset_are_told_and_a_mix_is_a_warning(tmp_path, offsets):
    for i in range(8):
        values, offset = (3000 * soft(i)).astype("int16"), offsets[i % 2]
        write(tmp_path / "set" / f"{i}.tif", values, None if offset is None else 0.0001, offset)
    summary = prepared(tmp_path / "run", tmp_path / "set", workers=1, train_ratio=1)[0]
    told = summary["conversions"]
    text = "stored numbers kept: scale 0.0001 and offset -0.1 not applied"
    assert told[text] == (8 if offsets[1] == -0.1 else 4)
    if offsets[1] == -0.1:
        assert (summary["warnings"], len(told)) == ([], 1)
    else:
        (words,) = summary["warnings"]
        assert words.startswith(
            "files differ in the scale and offset that turn their numbers into units (4 scale 0.0001"
        )
        assert ("4 without any" in words) == (offsets[1] is None)


def test_scale_and_offset_are_told_of_tiles_and_stacks(tmp_path):
    text = "stored numbers kept: scale 0.0001 and offset -0.1 not applied"
    for i in range(4):
        values = (3000 * soft(i, 1, 64)).astype("int16")
        write(tmp_path / "set" / f"s{i // 2}_b{i % 2}.tif", values, 0.0001, -0.1)
    found = prepared(tmp_path / "tiles", tmp_path / "set", workers=1, train_ratio=1, tile=32, pattern="*.tif")[0]
    assert found["conversions"] == {text: 16}
    found = prepared(tmp_path / "stacks", tmp_path / "set", workers=1, train_ratio=1, pattern="{patch}_{band}.tif")[0]
    assert found["conversions"][text] == 2


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13, 40])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_the_call_for_arrays_is_right_as_printed(tmp_path, bands, kind):
    pixels_HWC = (200 * soft(bands, bands)).astype(kind)
    pixels_HWC[:, :4] = 250  # no band looks like a mask
    name = tmp_path / "a.tif"
    exec(unused.WRITE, {"tifffile": tifffile, "name": name, "pixels_HWC": pixels_HWC})
    checked = verify.check(name.read_bytes())
    assert np.array_equal(checked.values, pixels_HWC)
    assert checked.valid is None


def test_arrays_are_answered_with_that_call(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3):
        np.save(tmp_path / "a" / f"{i}.npy", soft(i))
    with pytest.raises(ValueError, match="holds no images") as told:
        listing.find(tmp_path)
    assert str(told.value).endswith(unused.WRITE)
    Image.fromarray(np.zeros((9, 9), "uint8")).save(tmp_path / "a" / "0.png")
    with pytest.raises(ValueError, match="arrays") as told:
        previews.count(listing.find(tmp_path))
    assert unused.WRITE in str(told.value)


def test_swapped_bands_are_told(tmp_path):
    for i in range(4):
        (tmp_path / "set").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "set" / f"{i}.tif", (3000 * soft(i, 13, 64)).astype("uint16"))
    (words,) = prepared(tmp_path / "run", tmp_path / "set", workers=1, train_ratio=1)[0]["warnings"]
    assert words.startswith("4 images, such as '0.tif', have 64 bands and are narrow: bands and columns look swapped")
    assert words.endswith(unused.WRITE)
    swapped = [(64, 13, 64), (64, 200, 64), (48, 10, 64), (16, 13, 16)]
    sound = [(64, 64, 13), (9, 9, 224), (64, 64, 224), (13, 64, 4), (8, 9, 8), (256, 100, 64)]
    assert [looks_swapped(*shape) for shape in swapped + sound] == [True] * 4 + [False] * 6


def rgba(folder, count, kinds, size=32):
    folder.mkdir(parents=True)
    for i in range(count):
        alpha = np.full((size, size, 1), 255)
        least = kinds[i % len(kinds)]
        if least is not None:
            alpha[:, :12] = least
        Image.fromarray(np.concatenate([255 * soft(i, 3, size), alpha], -1).astype("uint8")).save(
            folder / f"{i:02d}.png"
        )
    return folder


def test_alpha_is_decided_for_the_set(tmp_path):
    source = rgba(tmp_path / "set", 20, [0, 128, 0, None])
    summary, refused, _ = prepared(tmp_path / "auto", source, workers=1, train_ratio=1)
    assert (summary["images"], len(refused)) == (15, 5)
    words = "it has 4 bands of uint8, not 3 bands of uint8 as most; if its last band is transparency, "
    assert {*refused.values()} == {words + "alpha=mask or alpha=keep takes all images alike"}
    for alpha, bands, masked in (("mask", 3, 10), ("keep", 4, 0)):
        summary, refused, _ = prepared(tmp_path / alpha, source, workers=1, train_ratio=1, alpha=alpha)
        found = [summary[name] for name in ("images", "channels", "masked_images")]
        assert (found, refused) == ([20, bands, masked], {})
    told = prepared(tmp_path / "mask", source, workers=1, train_ratio=1, alpha="mask")[0]["conversions"]
    assert told["alpha dropped: partly clear pixels count as measured"] == 5
    assert told["full alpha dropped"] == 5


def test_alpha_in_an_even_mix_is_asked_for(tmp_path):
    source = rgba(tmp_path / "set", 12, [0, 128])
    with pytest.raises(ValueError, match="mixes 6 images of") as told:
        prepared(tmp_path / "auto", source, workers=1)
    assert "say which are meant, by alpha=mask or alpha=keep" in str(told.value)


def test_keep_is_not_named_where_it_does_not_help(tmp_path):
    source = rgba(tmp_path / "set", 12, [0, 128])
    for i in range(0, 12, 4):
        Image.open(source / f"{i:02d}.png").convert("RGB").save(source / f"{i:02d}.png")
    with pytest.raises(ValueError) as told:
        prepared(tmp_path / "auto", source, workers=1)
    assert "by alpha=mask or" in str(told.value) and "alpha=keep" not in str(told.value)
    assert prepared(tmp_path / "mask", source, workers=1, alpha="mask")[0]["images"] == 12


def test_the_remedy_for_virtual_rasters_runs_as_printed(tmp_path):
    write(tmp_path / "one.tif", (3000 * soft(1)).astype("int16"))
    (tmp_path / "old.vrt").write_text(
        '<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Int16" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">one.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    call = unused._REMEDIES[unused.FORMAT].split("'")[1]
    assert call == "rio convert old.vrt new.tif"
    program, *arguments = shlex.split(call)
    subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=tmp_path, check=True)
    assert raster.read((tmp_path / "new.tif").read_bytes()).values.shape == (32, 32, 1)


def test_the_remedy_for_large_blocks_runs_as_printed(tmp_path):
    values = np.random.default_rng(0).integers(0, 3000, (700, 901, 2), np.int16)
    write(tmp_path / "old.tif", values, blockysize=700)  # one strip, as what the sentence is about
    program, *arguments = shlex.split(tiles.TILED)
    subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=tmp_path, check=True)
    with rasterio.open(tmp_path / "new.tif") as file:
        assert file.block_shapes[0] == (512, 512)
        assert np.array_equal(np.moveaxis(file.read(), 0, -1), values)


@pytest.mark.parametrize("count", [2, 9, 10, 13, 101])
def test_grey_pages_are_bands_in_their_order(tmp_path, count):
    pages = np.arange(1, count + 1, dtype="uint16")[:, None, None] + np.zeros((count, 16, 24), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    assert verify.check((tmp_path / "a.tif").read_bytes()).values[0, 0].tolist() == list(range(1, count + 1))
