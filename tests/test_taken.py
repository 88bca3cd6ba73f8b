"""01's answer: what was taken, converted, refused and not used, in words that add up."""

import numpy as np
import rasterio
import tifffile

from geofm_lib import files
from geofm_lib.figures import data, taken
from geofm_lib.runs.run import Run
from tests.support.cases import arrays, nodata_uint16
from tests.support.preparations import prepared


def shown(folder, source, **options):
    """The rows of the answer, and its sentence, of a preparation in this process."""
    summary, _, _ = prepared(folder, source, workers=1, **options)
    files.write_json(folder / "summary.json", {"status": "finished", **summary})
    run = Run(folder)
    table = taken.answer(run)
    return (
        dict(zip(table.frame["fact"], table.frame["value"], strict=True)),
        taken.said(run).text,
        taken.conversions(run),
    )


def test_what_was_converted_and_refused_is_counted_in_images(tmp_path):
    nodata_uint16.make(tmp_path)
    rows, said, conversions = shown(tmp_path / "run", tmp_path / "fill65535")
    assert said.startswith("21 images, ")
    assert said.endswith("9 of them were converted, 3 images refused, 0 other files not used.")
    assert rows["taken"] == "21 images, 3 classes, 4 bands of uint16"
    assert rows["not measured"].startswith("15 % of all pixels, in 9 images")
    assert rows["refused"] == "only 0 % of its pixels were measured; at least 10 % are needed (valid_min) (3)"
    assert conversions.caption.startswith("9 images not stored as they came")


def test_stacked_bands_are_named(tmp_path):
    for n in range(4):
        for k, band in enumerate(("B10", "B02", "B8A")):
            pixels = np.full((16, 16), 100 * k + n, np.uint16) + np.arange(16, dtype=np.uint16)
            path = tmp_path / "set" / f"p{n}" / f"x_{band}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels, photometric="minisblack")
    for options, names in (({}, ["B02", "B8A", "B10"]), ({"bands": "B10,B02"}, ["B10", "B02"])):
        folder = tmp_path / options.get("bands", "all")
        rows, _, _ = shown(folder, tmp_path / "set", pattern="{patch}/*_{band}.tif", **options)
        assert rows["taken"] == f"4 images, no labels, {len(names)} bands of uint16 ({', '.join(names)})"
        statistics = data.statistics(Run(folder)).frame
        assert list(statistics["band"]) == names
        assert statistics["mean_stored"].round(-2).tolist() == [{"B10": 0, "B02": 100, "B8A": 200}[n] for n in names]
    rows, _, _ = shown(tmp_path / "union", tmp_path / "all")
    assert rows["taken"].endswith("(B02, B8A, B10)")


def test_what_was_not_used_is_listed_by_suffix(tmp_path):
    arrays.make(tmp_path)
    rows, said, _ = shown(tmp_path / "run", tmp_path / "mixed", pattern="{label}/*.jpg")
    assert said.endswith("60 other files not used.")
    assert (rows["not used"], rows["labels"]) == (".npy (60)", "pattern")


def test_a_run_without_images_is_one_sentence(tmp_path):
    assert "packed no image" in repr(taken.answer(Run(tmp_path)))


def test_empty_tiles_are_counted_on_the_first_screen(tmp_path):
    """Three scenes of 4 x 5 tiles, the first of each without a measured pixel."""
    (tmp_path / "in").mkdir()
    for k in range(3):
        pixels = np.arange(256 * 320, dtype=np.uint16).reshape(256, 320) % 999 + 1
        pixels[:70, :70] = 0
        options = {"driver": "GTiff", "height": 256, "width": 320, "count": 1, "dtype": "uint16", "nodata": 0}
        with rasterio.open(tmp_path / "in" / f"{k}.tif", "w", **options) as file:
            file.write(pixels, 1)
    rows, said, _ = shown(tmp_path / "run", tmp_path / "in", tile=64, split="random")
    assert said.startswith("57 images") and said.endswith(
        "0 images refused, 0 other files not used, 3 empty tiles left out."
    )
    assert rows["empty tiles"].startswith("3 tiles of scenes")
