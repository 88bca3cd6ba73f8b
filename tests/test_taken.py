"""01's answer: what was taken, converted, refused and not used, in words that add up."""

from geofm_lib import files
from geofm_lib.figures import taken
from geofm_lib.runs.run import Run
from tests.support.cases import arrays, nodata_uint16
from tests.support.preparations import prepared


def shown(folder, source, **options):
    """The rows of the answer, and its caption, of a preparation in this process."""
    summary, _, _ = prepared(folder, source, workers=1, **options)
    files.write_json(folder / "summary.json", {"status": "finished", **summary})
    run = Run(folder)
    table = taken.answer(run)
    return dict(zip(table.frame["fact"], table.frame["value"], strict=True)), table.caption, taken.conversions(run)


def test_what_was_converted_and_refused_is_counted_in_images(tmp_path):
    nodata_uint16.make(tmp_path)
    rows, caption, conversions = shown(tmp_path / "run", tmp_path / "fill65535")
    assert caption == "21 images taken, 9 of them converted; 3 refused; 0 other files not used"
    assert rows["taken"] == "21 images, 3 classes, 4 bands of uint16"
    assert rows["not measured"].startswith("15 % of all pixels, in 9 images")
    assert rows["refused"] == "only 0 % of its pixels were measured; at least 10 % are needed (valid_min) (3)"
    assert conversions.caption.startswith("9 images not stored as they came")


def test_what_was_not_used_is_listed_by_suffix(tmp_path):
    arrays.make(tmp_path)
    rows, caption, _ = shown(tmp_path / "run", tmp_path / "mixed", pattern="{label}/*.jpg")
    assert caption.endswith("60 other files not used")
    assert (rows["not used"], rows["labels"]) == (".npy (60)", "pattern")


def test_a_run_without_images_is_one_sentence(tmp_path):
    assert "packed no image" in repr(taken.answer(Run(tmp_path)))
