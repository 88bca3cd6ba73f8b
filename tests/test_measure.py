"""What is measured of an image counts measured pixels alone, for every type; and what mean and spread leave out."""

import numpy as np
import pytest

from geofm_lib.data import duplicates, measure
from geofm_lib.data.statistics import Statistics, far

KINDS = {"uint8": (0, 256), "uint16": (0, 2**16), "int16": (-(2**15), 2**15), "float32": (-500, 500)}


def pixels(kind, shape, seed=0):
    low, high = KINDS[kind]
    random = np.random.default_rng(seed)
    return (random.uniform(low, high, shape) if kind == "float32" else random.integers(low, high, shape)).astype(kind)


def one(image, valid=None):
    return measure.measure([(image, valid)])[0]


def test_the_table_of_types_is_in_the_order_that_digests_were_made_with():
    assert measure.FULL == {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float32": 1.0}
    assert list(measure.FULL) == list(KINDS)
    assert one(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).digest == "d740ed09be70f5c9"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(100, 40, 3), (9, 11, 13), (16, 17, 1), (300, 70, 2)])
def test_sums_are_those_of_numpy_over_measured_pixels(kind, shape):
    image, valid = pixels(kind, shape), np.random.default_rng(1).random(shape[:2]) < 0.3
    if len(image) < 2 * measure.ROWS:  # of larger ones that are measured everywhere some rows are enough
        everywhere, wide = one(image), image.astype(np.float64) / measure.FULL[kind]
        assert everywhere.valid == shape[0] * shape[1]
        np.testing.assert_allclose(everywhere.sums, wide.sum((0, 1)), rtol=1e-9)
        np.testing.assert_allclose(everywhere.squares, (wide**2).sum((0, 1)), rtol=1e-9)
    found, wide = one(image, valid), image[valid].astype(np.float64) / measure.FULL[kind]
    assert found.valid == valid.sum()
    np.testing.assert_allclose(found.sums, wide.sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.squares, (wide**2).sum(0), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_measured_changes_the_digest_and_nothing_else(kind):
    image, valid = pixels(kind, (40, 40, 2)), np.ones((40, 40), bool)
    assert one(image, valid) == one(image), "all measured is the same as no mask"
    valid[5:9] = False
    other = image.copy()
    other[5:9] = KINDS[kind][0]
    one_way, another = one(image, valid), one(other, valid)
    assert one_way.digest != another.digest != one(image).digest
    assert (one_way.sums, one_way.squares, one_way.look) == (another.sums, another.squares, another.look)
    assert one_way.contrast == another.contrast > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38])
def test_numbers_that_are_not_measured_may_be_none(value):
    image, valid = pixels("float32", (32, 32, 2)), np.ones((32, 32), bool)
    image[:4], valid[:4] = value, False
    found = one(image, valid)
    assert np.isfinite(found.sums + found.squares + [found.contrast]).all()
    assert one(np.full((32, 32, 2), value, np.float32)).contrast == 0, "and where they count they have no look"
    nothing = one(image, np.zeros((32, 32), bool))
    assert (nothing.valid, nothing.sums, nothing.contrast) == (0, [0, 0], 0)


def test_a_look_is_kept_where_an_edge_of_the_image_was_not_measured():
    random = np.random.default_rng(0)
    image = np.kron(random.integers(500, 2500, (8, 8, 1)), np.ones((8, 8, 4))).astype(np.uint16)
    whole = one(image)
    for fill in (0, 65535):
        cut, valid = image.copy(), np.ones((64, 64), bool)
        cut[:6, :6], valid[:6, :6] = fill, False
        look = one(cut, valid).look
        assert (int(look, 16) ^ int(whole.look, 16)).bit_count() <= duplicates.NEAR, fill
    assert (int(one(cut).look, 16) ^ int(whole.look, 16)).bit_count() > duplicates.NEAR


def statistics(images, valids=None, kind=None):
    found, valids = Statistics(), valids or [None] * len(images)
    for image, valid in zip(images, valids, strict=True):
        measures = one(image, valid)
        text = {"sums": measures.sums, "squares": measures.squares}
        row = {name: [" ".join(map(repr, values))] for name, values in text.items()}
        row |= {"valid": [str(measures.valid)], "height": [str(len(image))], "width": [str(image.shape[1])]}
        found.add(row | {"dtype": [image.dtype.name]}, [True])
    return found


def reflectances(count=40, kind="uint16", scale=1.0):
    """Images of three bands: mostly water, some bright land and a little snow, as a set of a coast has them."""
    random = np.random.default_rng(0)
    levels = {0: (450, 300, 60), 1: (700, 900, 3000), 2: (9000, 9500, 8000)}
    kinds = [2 if k % 20 == 7 else 1 if k % 6 == 0 else 0 for k in range(count)]
    return [(random.normal(1, 0.1, (24, 24, 3)) * levels[each] * scale).astype(kind) for each in kinds]


@pytest.mark.parametrize("kind, scale", [("uint16", 1), ("int16", 1), ("float32", 1e-4), ("float32", 1e4)])
def test_rare_ground_counts_and_what_cannot_be_does_not(kind, scale):
    images = reflectances(kind=kind, scale=scale)
    clean = statistics(images)
    result = clean.result()
    everything = np.stack(images).astype(np.float64)
    assert result["left_out"] == 0
    np.testing.assert_allclose(result["mean_stored"], everything.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(result["std_stored"], everything.std((0, 1, 2)), rtol=1e-6)
    assert clean.summary([""] * 40) == {
        "masked_images": 0, "masked_share": 0, "left_out_of_statistics": 0, "warnings": []
    }  # fmt: skip
    worst = np.iinfo(kind).max if kind != "float32" else np.float32(1e30)
    for place in (3, 11):
        images[place] = images[place].copy()
        images[place][:3] = worst
    spoilt = statistics(images)
    rest = np.delete(everything, (3, 11), axis=0)
    np.testing.assert_allclose(spoilt.result()["std_stored"], rest.std((0, 1, 2)), rtol=1e-6)
    told, *_ = spoilt.summary([f"{k}.tif" for k in range(40)])["warnings"]
    assert "leave out 2 images" in told
    assert "the first is 3.tif" in told


def test_one_band_may_be_what_spoils_an_image():
    images = reflectances()
    images[8] = images[8].copy()
    images[8][:, :, 1] = 65535
    assert statistics(images).result()["left_out"] == 1


def test_a_band_that_is_the_same_in_most_images_is_no_reason_to_leave_the_others_out():
    random = np.random.default_rng(0)
    images = [np.zeros((16, 16, 2), np.uint16) for _ in range(40)]
    for k, image in enumerate(images):
        image[..., 0] = random.integers(100, 200, (16, 16))
        image[..., 1] = 60000 if k % 5 == 0 else 7
    assert statistics(images).result()["left_out"] == 0


def test_eight_bits_are_never_left_out():
    night = [np.full((16, 16, 3), 255 if k == 5 else k % 3, np.uint8) for k in range(40)]
    assert statistics(night).result()["left_out"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_without_end_are_left_out(value):
    images = reflectances(kind="float32")
    images[0] = np.full((24, 24, 3), value, np.float32)
    found = statistics(images).result()
    assert found["left_out"] == 1
    assert np.isfinite(found["mean"] + found["std"]).all()
    with pytest.raises(ValueError, match="no image of the train side has numbers"):
        statistics(images[:1]).result()


def test_nothing_to_measure_is_a_sentence():
    for found in (Statistics(), statistics([np.zeros((9, 9, 1), np.uint8)], [np.zeros((9, 9), bool)])):
        with pytest.raises(ValueError, match="no image of the train side has numbers"):
            found.result()


def test_units_and_masks_are_told():
    images = reflectances(12)
    valids = [None] * 12
    valids[4] = np.ones((24, 24), bool)
    valids[4][:6] = False
    found = statistics(images, valids)
    result, summary = found.result(), found.summary([""] * 12)
    assert (result["dtype"], result["full"], result["masked_images"]) == ("uint16", 65535, 1)
    np.testing.assert_allclose(np.array(result["mean"]) * 65535, result["mean_stored"], rtol=1e-4)
    assert (summary["masked_images"], summary["masked_share"]) == (1, pytest.approx(0.25 / 12, abs=1e-6))


@pytest.mark.parametrize("kind, least", [("uint8", 1 / 255), ("uint16", 1 / 65535), ("int16", 1 / 32767)])
def test_images_of_one_colour_are_not_divided_by_zero(kind, least):
    assert statistics([np.full((9, 9, 1), 7, kind)] * 3).result()["std"] == [pytest.approx(least, rel=1e-3)]


def test_small_floats_keep_their_digits():
    radar = [np.full((9, 9, 1), value, np.float32) for value in (1e-7, 3e-7)]
    found = statistics(radar).result()
    assert found["mean"] == [pytest.approx(2e-7, rel=1e-6)]
    assert found["std"] == [pytest.approx(1e-7, rel=1e-6)]
    assert statistics(radar[:1] * 2).result()["std"] == [1.0]


def test_far_needs_enough_images_to_know_what_is_usual():
    rows = np.array([[1.0, 0.01, 0.0001], [1.0, 0.02, 0.0004], [1.0, 1.0, 1.0]])
    assert not far(rows, "uint16").any()
