"""GeoTIFFs as GDAL writes them, JPEG 2000 and pictures of 16 bits: the whole way to a shard and back keeps numbers."""

import io
import json
import os
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.transform import from_bounds, from_origin

from geofm_lib import files
from geofm_lib.data import decode, verify
from geofm_lib.data.sources import raster
from geofm_lib.data.sources.item import Raster
from tests.support import geotiffs
from tests.support.cases import float_sar, int16, lzw_geotiff, nodata_uint16, rgbnir_alpha
from tests.support.cases.common import CLASSES, reflectance
from tests.support.pictures import encode, noise
from tests.support.preparations import prepared

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the tests' own reading
EVERY = 5  # one in so many of the 720 usual GeoTIFFs: the test has seconds


def through(data: bytes, **fit) -> tuple[verify.Checked, np.ndarray, np.ndarray]:
    """(what the check says, values and validity [H, W] that the shard decoder reads from the bytes it gives)."""
    checked = verify.check(data, verify.Fit(**fit))
    values, valid = decode.read(checked.data)
    assert np.array_equal(values, checked.values)
    assert (valid is None) == (checked.valid is None)
    assert valid is None or np.array_equal(valid, checked.valid)
    return checked, values, np.ones(values.shape[:2], bool) if valid is None else valid


def by_rasterio(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(values [H, W, C], mask [H, W]) in rasterio's own reading; CMYK as stored."""
    with rasterio.Env(), rasterio.MemoryFile(data) as file, file.open() as first:
        raw = first.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK"
        with rasterio.open("GTIFF_RAW:" * raw + file.name) as dataset:
            return np.moveaxis(dataset.read(), 0, -1), dataset.dataset_mask() > 0


def outcome(name: str, data: bytes) -> str:
    """ "exact", "told: ...", "refused: ..." or "silent"."""
    try:
        checked, values, valid = through(data)
    except verify.Refused as refusal:
        return f"refused: {refusal}"
    truth, mask = by_rasterio(data)
    if name == "two pages":
        truth = np.concatenate([truth, truth], axis=-1)
    if values.dtype == truth.dtype and values.shape == truth.shape and np.array_equal(valid, mask):
        if np.array_equal(values[valid], truth[valid]):
            return "exact"
    return f"told: {checked.converted}" if checked.converted else "silent"


def test_every_geotiff_is_exact_or_told_or_refused():
    cases = [*geotiffs.product(EVERY), *geotiffs.odd()]
    found = {name: outcome(name, data) for name, data in cases}
    counts = Counter(result.split(":")[0] for result in found.values())
    assert len(found) == len(cases) >= 260
    assert counts["silent"] == 0, [name for name, result in found.items() if result == "silent"]
    assert counts["exact"] >= 230, counts
    refused = {name: result for name, result in found.items() if result.startswith("refused")}
    assert set(refused) == {"complex64", "complex128", "complex_int16"}
    assert "complex numbers (complex64); save their magnitude" in refused["complex64"]
    told = {name: result.removeprefix("told: ") for name, result in found.items() if result.startswith("told")}
    assert all(
        name.split(" ")[0] in raster.BECOMES
        or any(word in name for word in ("alpha", "palette", "sparse", "miniswhite"))
        for name in told
    )
    assert told["float64 x 3"] == "float64 to float32"
    assert told["uint32 beyond 24 bits"] == "uint32 to float32 (rounded)"
    assert told["palette"] == "palette to RGB"
    assert told["sparse tiles, uint16"] == "not measured: fill of 0"
    assert told["fourth band called alpha: full, LZW"] == "full alpha dropped"
    assert found["fourth band called alpha: near infrared, LZW"] == "exact"
    assert told["fourth band called alpha: a mask, LZW"] == "not measured: alpha"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("packed", [{}, {"compression": "deflate"}, {"tile": (16, 16)}])
def test_grey_whose_white_is_0_keeps_its_numbers_and_has_no_palette(dtype, packed):
    """GDAL calls its greys a palette: of 16 bits 65,536 colours of 8, in which 2,133 numbers became 15."""
    numbers = (np.arange(48 * 48).reshape(48, 48) * 7 + 40).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, numbers, photometric="miniswhite", **packed)
    checked, values, valid = through(file.getvalue())
    assert np.array_equal(values[..., 0], numbers) and values.shape[-1] == 1 and valid.all()
    assert raster.WHITE in checked.converted and "palette" not in checked.converted


@pytest.mark.parametrize(
    ("transform", "crs", "lies"),
    [
        (from_origin(0, 0, 1, 1), None, False),  # what writers put where they know no place
        (from_bounds(0, 0, 48, 48, 48, 48), None, False),
        (from_origin(0, 0, 1, 1), "EPSG:32631", True),
        (from_origin(500_000, 5_000_000, 10, 10), None, True),
        (from_origin(3, 0, 1, 1), None, True),
    ],
)
def test_a_count_of_pixels_is_no_place(transform, crs, lies, tmp_path):
    options = {"driver": "GTiff", "height": 48, "width": 48, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, crs=crs, **options) as file:
        file.write(np.arange(48 * 48, dtype=np.uint8).reshape(1, 48, 48))
    assert (raster.read((tmp_path / "a.tif").read_bytes()).geo is not None) == lies


def test_bytes_stay_where_ranks_read_the_same_numbers():
    kept = ("plain", "DEFLATE")
    for name, data in list(geotiffs.product(11)):
        kind, layout, packed = name.split(", ")
        checked = verify.check(data)
        if packed in kept or packed == "DEFLATE differences" and "float32" not in kind:
            assert checked.data == data, name
        elif kind in ("uint8 x 1", "uint8 x 3") and "LZW" in packed:
            assert checked.data == data, "by Pillow"
        elif packed.startswith(("LZW", "ZSTD", "LERC")):
            assert checked.data != data
            with tifffile.TiffFile(io.BytesIO(checked.data)) as file:
                assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert checked.converted == ""
        assert checked.geo.crs == "EPSG:32631"
        assert checked.geo.transform == (10, 0, 500_000, 0, -10, 5_400_000)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
@pytest.mark.parametrize("turned", [1, 3, 6])
def test_a_tiff_is_as_stored_whatever_its_orientation(compression, turned):
    rgb = np.moveaxis(geotiffs.values("uint8", 3), 0, -1)[:24].copy()
    data = encode(Image.fromarray(rgb), "TIFF", compression=compression, tiffinfo={274: turned})
    assert np.array_equal(through(data)[1], rgb)


def made(case, folder: Path) -> dict[str, bytes]:
    """{relative name: bytes} of what a generator writes."""
    case.make(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def drawn(name: str, *arguments) -> np.ndarray:
    """The reflectances from which a generator made form/label/i.suffix."""
    _, label, file = name.split("/")
    return reflectance(100 * CLASSES.index(label) + int(Path(file).stem), label, *arguments)


def same_means(values, valid, exact):
    assert np.allclose(values[valid].mean(0, dtype=float), exact[valid].mean(0, dtype=float), rtol=0, atol=1e-6)


def test_lzw_tiles_bigtiff_and_planar(tmp_path):
    found = made(lzw_geotiff, tmp_path)
    assert len(found) == 72
    for name, data in found.items():
        checked, values, valid = through(data)
        exact = drawn(name).astype(np.uint16)
        assert np.array_equal(values, exact)
        same_means(values, valid, exact)
        assert (checked.converted, valid.all(), checked.data == data) == ("", True, not name.startswith("lzw"))


def test_near_infrared_is_a_band_whatever_the_file_calls_it(tmp_path):
    found = made(rgbnir_alpha, tmp_path)
    assert len(found) == 72
    for name, data in found.items():
        checked, values, valid = through(data)
        exact = (drawn(name) / 16).clip(0, 255).astype(np.uint8)
        assert np.array_equal(values, exact), name
        same_means(values, valid, exact)
        assert (checked.converted, valid.all()) == ("", True)
        assert through(data, alpha="keep")[1].shape[-1] == 4
        assert through(data, alpha="mask")[1].shape[-1] == 3


def test_floats_keep_their_numbers_and_nan_is_not_measured(tmp_path):
    for name, data in made(float_sar, tmp_path).items():
        checked, values, valid = through(data)
        truth, _ = by_rasterio(data)
        assert values.dtype == np.float32
        expected = np.isfinite(truth).all(-1) & (truth > -9000).all(-1)
        assert np.array_equal(valid, expected)
        assert np.array_equal(values[valid], truth[valid])
        same_means(values, valid, truth)
        assert np.allclose(values[~valid], truth[valid].mean(0), atol=1e-4), "filled with the mean of what was measured"
        words = {"sar": "not measured: NaN", "reflectance": "not measured: -9999", "single": "not measured: NaN"}
        assert checked.converted == words[name.split("/")[0]]


def test_signed_numbers_keep_their_sign(tmp_path):
    for data in made(int16, tmp_path).values():
        checked, values, valid = through(data)
        truth, mask = by_rasterio(data)
        assert values.dtype == np.int16
        assert np.array_equal(valid, mask)
        assert valid.mean() == 29 / 32
        assert np.array_equal(values[valid], truth[valid])
        assert (values[5, 5] == -12).all()
        same_means(values, valid, truth)
        assert checked.converted == "not measured: -9999"


def test_fill_at_the_edge_of_a_swath_is_not_measured(tmp_path):
    found = made(nodata_uint16, tmp_path)
    for name, data in found.items():
        clean = found["clean/" + name.split("/", 1)[1]]
        if name.endswith("/0.tif") and not name.startswith("clean"):
            with pytest.raises(verify.Refused, match=r"only 0 % of its pixels were measured; at least 10 % are needed"):
                verify.check(data)
            assert verify.check(data, verify.Fit(nodata="none")).valid is None
            continue
        checked, values, valid = through(data)
        truth, _ = by_rasterio(clean)
        masked = not name.startswith("clean") and int(Path(name).stem) < 4
        assert valid.mean() == (21 / 32 if masked else 1)
        assert np.array_equal(values[valid], truth[valid])
        same_means(values, valid, truth)


FORMS = {
    "lzw": lzw_geotiff, "planar": lzw_geotiff, "gdal": rgbnir_alpha, "cmyk": rgbnir_alpha, "sar": float_sar,
    "reflectance": float_sar, "bands": int16, "fill65535": nodata_uint16,
}  # fmt: skip


@pytest.mark.parametrize("form", list(FORMS))
def test_a_prepared_set_has_the_means_of_what_was_measured(form, tmp_path):
    FORMS[form].make(tmp_path / "in")
    summary, refused, packed = prepared(tmp_path / "run", tmp_path / "in" / form, workers=1)
    each = 7 if form == "fill65535" else 6
    assert summary["classes"] == dict.fromkeys(CLASSES, each)
    assert len(packed) == 3 * each
    assert all("only 0 % of its pixels" in reason for reason in refused.values())
    assert len(refused) == (3 if form == "fill65535" else 0)
    sides = {row["name"]: row["split"] for row in files.read_csv(tmp_path / "run" / "split.csv")}
    pixels = []
    for name in packed:
        if sides[name] == "train":
            values, mask = by_rasterio((tmp_path / "in" / form / name).read_bytes())
            seen = np.isfinite(values).all(-1) & (True if form == "gdal" else mask)  # near infrared is no mask
            pixels.append(values[seen].astype(float) / decode.FULL[values.dtype])
    found = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert np.allclose(found["mean"], np.concatenate(pixels).mean(0), rtol=0, atol=1e-6)
    assert np.allclose(found["std"], np.concatenate(pixels).std(0), rtol=1e-3, atol=1e-6)


def test_fill_that_nothing_declares_is_found_and_only_where_it_is_obvious():
    pixels = geotiffs.values("uint16", 3)
    pixels[:, :10] = 65535
    checked, values, valid = through(geotiffs.write(pixels))
    assert checked.converted == "not measured: fill of 65535"
    assert np.array_equal(valid, np.repeat(np.arange(32) >= 10, 32).reshape(32, 32))
    assert through(geotiffs.write(pixels), nodata="none")[0].valid is None
    one = geotiffs.values("uint16", 3)
    one[0, :10] = 65535
    assert through(geotiffs.write(one))[0].valid is None, "one band alone may be saturated"
    sea = geotiffs.values("uint16", 1)
    sea[:, :10] = 0
    assert through(geotiffs.write(sea))[0].valid is None, "one band alone may be zero"
    assert through(geotiffs.write(sea), nodata="0")[2].mean() == 22 / 32
    few = geotiffs.values("uint16", 3)
    few[:, 0, :10] = 65535  # ten of 1,024 pixels
    assert through(geotiffs.write(few))[0].valid is None
    white = np.array(noise())
    white[:8] = 255
    assert through(encode(Image.fromarray(white)))[0].valid is None, "nothing undeclared is masked in 8 bits"
    assert through(encode(Image.fromarray(white)), nodata="255")[2].mean() == 12 / 20


def test_a_pixel_counts_only_where_all_its_bands_were_measured():
    pixels = geotiffs.values("int16", 3)
    pixels[1, :4] = -9999  # bands of a swath end one after the other
    assert through(geotiffs.write(pixels, nodata=-9999))[2].mean() == 28 / 32
    dark = geotiffs.values("uint16", 3)
    dark[1, :4] = 0  # a number that occurs
    assert through(geotiffs.write(dark, nodata=0))[0].valid is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_png_of_16_bits(mode, tmp_path):
    pixels = geotiffs.values("uint16", {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[mode]) * 17
    colours = {"RGBA": "yes", "LA": "yes"}
    for alpha in ("band", "mask", "full"):
        if mode in colours and alpha != "band":
            pixels[-1] = 65535
            pixels[-1, :8] = 0 if alpha == "mask" else 65535
        path = tmp_path / "x.png"
        size = {"count": len(pixels), "height": 32, "width": 32, "dtype": "uint16"}
        with rasterio.open(path, "w", driver="PNG", **size) as file:
            file.write(pixels)
        checked, values, valid = through(path.read_bytes())
        bands = len(pixels) - (mode in colours and alpha != "band")
        assert np.array_equal(values[valid], np.moveaxis(pixels[:bands], 0, -1)[valid])
        assert values.dtype == np.uint16
        assert valid.mean() == (0.75 if mode in colours and alpha == "mask" else 1)


def test_pictures_of_8_bits_with_transparency():
    picture = noise(1, (40, 40))
    rgb = np.array(picture)
    near_infrared = rgb[..., :1] // 2 + 7
    bands = np.concatenate([rgb, near_infrared], axis=-1)
    assert np.array_equal(through(encode(Image.fromarray(bands)))[1], bands)
    bands[..., 3] = 255
    checked, values, _ = through(encode(Image.fromarray(bands)))
    assert np.array_equal(values, rgb)
    assert checked.converted == "full alpha dropped"
    bands[:10, :, 3] = 0
    for kind, options in {"PNG": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        checked, values, valid = through(encode(Image.fromarray(bands), kind, **options))
        assert np.array_equal(values[valid], rgb[10:].reshape(-1, 3))
        assert (valid.mean(), checked.converted) == (0.75, "not measured: alpha")
        assert through(encode(Image.fromarray(bands), kind, **options), alpha="keep")[1].shape[-1] == 4
    index = np.arange(1600).reshape(40, 40) // 400
    clear = Image.fromarray(index.astype(np.uint8), "P")
    clear.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    checked, values, valid = through(encode(clear, "GIF", transparency=2))
    assert np.array_equal(valid, index != 2)
    assert [values[0, 0].tolist(), values[39, 0].tolist()] == [[10, 20, 30], [1, 2, 3]]
    empty = bands.copy()
    empty[...] = 0
    with pytest.raises(verify.Refused, match="only 0 % of its pixels"):
        verify.check(encode(Image.fromarray(empty)))


def test_single_bits_and_netpbm_of_16_bits():
    bits = geotiffs.values("uint8", 1) % 2
    for data in (geotiffs.write(bits, nbits=1), encode(Image.fromarray(bits[0] > 0), "TIFF", compression="group4")):
        checked, values, _ = through(data)
        assert np.array_equal(values[..., 0], bits[0]), "numbers, not black and white"
        assert checked.converted == ""
    for kind, bands in ((b"P5", 1), (b"P6", 3)):
        pixels = geotiffs.values("uint16", bands) * 7
        data = kind + b"\n# a word\n32 32\n65535\n" + np.moveaxis(pixels, 0, -1).astype(">u2").tobytes()
        assert np.array_equal(through(data)[1], np.moveaxis(pixels, 0, -1))
        with pytest.raises(verify.Refused, match="cut short"):
            verify.check(data[:-7])


def test_jpeg_2000_keeps_its_type_and_its_sign(tmp_path):
    path = tmp_path / "x.jp2"
    for kind in ("uint8", "uint16", "int16"):
        for bands in (1, 3, 4):
            pixels = geotiffs.values(kind, bands)
            with rasterio.open(
                path,
                "w",
                driver="JP2OpenJPEG",
                dtype=kind,
                count=bands,
                height=32,
                width=32,
                quality=100,
                reversible="YES",
            ) as file:
                file.write(pixels)
            _, values, valid = through(path.read_bytes())
            assert values.dtype == kind
            assert np.array_equal(values, np.moveaxis(pixels, 0, -1))
            assert valid.all()


@pytest.mark.skipif("GEOFM_TEST_DATA" not in os.environ, reason="GEOFM_TEST_DATA names no folder of real images")
def test_modis_s_vegetation_index_is_negative_over_water():
    with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / "timeseries.tar") as archive:
        dates = [m for m in archive.getmembers() if m.name.endswith(".jp2")]
        for member in dates[1:4]:
            data = archive.extractfile(member).read()
            _, values, _ = through(data)
            assert (values.dtype, values.shape) == (np.int16, (147, 255, 1))
            shifted = np.array(Image.open(io.BytesIO(data))).astype(int) - 32768  # Pillow's reading of signed samples
            assert np.array_equal(values[..., 0], shifted)
            assert values.min() < -2500
            assert 4000 < values.mean() < 9000  # NDVI x 10000 of fields, over the year


def test_rasters_are_reduced_and_filled():
    pixels = np.moveaxis(geotiffs.values("float32", 2), 0, -1).copy()
    valid = np.ones((32, 32), bool)
    valid[:8] = False
    pixels[:8] = np.nan
    checked = verify.check(Raster(pixels, valid, None, ["float64 to float32"]), verify.Fit(short_side=16))
    assert checked.converted == "float64 to float32, reduced to 16 pixels"
    assert checked.values.shape == (16, 16, 2)
    assert checked.values.dtype == np.float32
    assert np.isfinite(checked.values).all()
    assert checked.valid[6:].all(), "nothing of these comes from what was not measured"
    assert not checked.valid[:4].any()
    assert np.abs(checked.values[6:].mean((0, 1)) - pixels[12:].mean((0, 1))).max() < 0.2
    thin = np.zeros((32, 32), bool)
    thin[0] = True
    with pytest.raises(
        verify.Refused, match=r"^only 3.1 % of its pixels were measured; at least 10 % are needed \(valid_min\)$"
    ):
        verify.check(Raster(pixels, thin))
    assert verify.check(Raster(np.nan_to_num(pixels), thin), verify.Fit(valid_min=0.01)).valid.sum() == 32


def test_cut_and_changed_rasters_are_refused_or_read_and_nothing_worse(capfd):
    random = np.random.default_rng(0)
    odd = list(geotiffs.odd())
    originals = [data for _, data in [*odd[::8], *geotiffs.product(121)]]
    assert len(originals) >= 20
    slowest = 0.0
    for data in originals:
        for k in range(24):
            broken = bytearray(data if k % 2 else data[: random.integers(1, len(data))])
            for _ in range(k % 2 and 3):
                place = int(random.integers(min(400, len(broken))))
                broken[place] ^= 1 << int(random.integers(8))
            started = time.perf_counter()
            try:
                checked = verify.check(bytes(broken))
                whole = k % 2 or np.array_equal(checked.values, verify.check(data).values)
                assert whole, "half an image is no image; what is lost may be a reduced copy"
            except verify.Refused as refusal:
                assert 5 < len(str(refusal)) < 220
                assert "vsimem" not in str(refusal)
            slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 5
    assert capfd.readouterr() == ("", ""), "GDAL and its libraries say nothing on the screen"


def test_a_small_file_cannot_claim_a_large_image():
    for side, words in ((100_000, "too large"), (12_000, "cannot hold")):
        data = geotiffs.write(np.zeros((1, 16, 16), np.uint8), compress="deflate")
        for tag in (256, 257):  # width and height
            at = data.index(tag.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
            entry = tag.to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00" + side.to_bytes(4, "little")
            data = data[:at] + entry + data[at + 12 :]
        assert len(data) < 1000
        started = time.perf_counter()
        with pytest.raises(verify.Refused, match=words):
            verify.check(data)
        assert time.perf_counter() - started < 1


def test_a_file_that_points_elsewhere_is_not_followed(tmp_path):
    target = tmp_path / "secret.tif"
    target.write_bytes(geotiffs.write(geotiffs.values("uint8", 1)))
    inside = f"<SimpleSource><SourceFilename>{target}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{inside}</VRTRasterBand>'
    pointer = f'<VRTDataset rasterXSize="32" rasterYSize="32">{band}</VRTDataset>'
    with rasterio.open(io.BytesIO(pointer.encode())) as dataset:
        assert dataset.read().shape == (1, 32, 32), "GDAL alone would follow it"
    with pytest.raises(verify.Refused, match="not an image in a format that can be read"):
        verify.check(pointer.encode())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "pointer.tif").write_text(pointer)
    (tmp_path / "in" / "good.tif").write_bytes(geotiffs.write(geotiffs.values("uint8", 1, side=64)))
    summary, refused, _ = prepared(tmp_path / "run", tmp_path / "in", workers=1, tile=32)
    assert summary["images"] == 4
    assert refused == {"pointer.tif": "not an image in a format that can be read"}


def test_without_rasterio_one_sentence_says_what_to_install(monkeypatch):
    raster.gdal.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    try:
        with pytest.raises(
            ValueError, match=r"^TIFF and JPEG 2000 are read by rasterio, .*: pip install rasterio, then"
        ):
            verify.check(geotiffs.write(geotiffs.values("uint8", 1)))
        assert verify.check(encode(noise(), "JPEG")).converted == ""
    finally:
        raster.gdal.cache_clear()
