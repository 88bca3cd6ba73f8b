"""Duplicates: found whatever was done to the file, kept apart from what only looks flat, and never split."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageEnhance

from geofm_lib.data import decode, duplicates, measure
from geofm_lib.data.sample import Sample
from geofm_lib.jobs.prepare_collection import Collection
from geofm_lib.scenes import generate
from tests.support.cases import near_twins_16_bits
from tests.support.pictures import encode, noise


def measured(data: bytes) -> measure.Measures:
    return measured_pixels(decode.decode(data).numpy().transpose(1, 2, 0))


def measured_pixels(image: np.ndarray) -> measure.Measures:
    return measure.measure([(image, None)])[0]


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_a_changed_copy_looks_the_same_and_another_image_does_not():
    names = list(generate.CLASSES)
    originals = [Image.open(io.BytesIO(generate.draw(0, name, 0, 96))).convert("RGB") for name in names]
    looks = [measured(encode(image)).look for image in originals]
    changes = {
        "jpeg 60": lambda image: Image.open(io.BytesIO(encode(image, "JPEG", quality=60))),
        "half": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
        "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    }
    for name, change in changes.items():
        far = [bits(look, measured(encode(change(image))).look) for look, image in zip(looks, originals, strict=True)]
        assert sum(distance <= duplicates.NEAR for distance in far) >= len(far) - 1, (name, far)
    pairs = [bits(a, b) for k, a in enumerate(looks) for b in looks[:k]]
    assert min(pairs) > duplicates.NEAR


def test_a_flat_picture_has_no_look():
    random = np.random.default_rng(0)
    one_colour = np.full((64, 64, 3), 100, np.uint8)
    flat = (100 + random.normal(0, 8, (64, 64, 3))).clip(0, 255).astype(np.uint8)
    varied = flat.copy()
    varied[:32] += 50
    contrasts = np.array([measured_pixels(image).contrast for image in (one_colour, flat, varied)])
    assert contrasts[0] == 0
    assert duplicates.flat(contrasts.repeat([1, 1, 3])).tolist() == [True, True, False, False, False]
    assert duplicates.flat(contrasts[:1]).tolist() == [True]
    assert not duplicates.flat(contrasts[1:2]).any(), "in a set of such images they are what there is to see"


def test_sums_are_exact_for_any_kind_of_image():
    random = np.random.default_rng(0)
    kinds = {(100, 40, 3): np.uint8, (9, 11, 13): np.uint16, (16, 16, 1): np.uint8, (96, 300, 3): np.uint8}
    for shape, kind in kinds.items():
        image = random.integers(0, np.iinfo(kind).max + 1, shape).astype(kind)
        found, wide = measured_pixels(image), image.astype(np.float64) / np.iinfo(kind).max
        np.testing.assert_allclose(found.sums, wide.sum((0, 1)), rtol=1e-13)
        np.testing.assert_allclose(found.squares, (wide**2).sum((0, 1)), rtol=1e-13)
        other = image.copy()
        other[-1, -1, -1] ^= 1
        assert measured_pixels(other).digest != found.digest == measured_pixels(image.copy()).digest


def test_search_agrees_with_comparing_all():
    random = np.random.default_rng(0)
    for _ in range(10):
        looks = random.integers(1, 2**63, 30, dtype=np.uint64)[random.integers(0, 30, 200)]
        for k, place in enumerate(random.integers(0, 64, (200, 3))):
            looks[k] ^= (
                np.bitwise_or.reduce(np.uint64(1) << place[: k % 4].astype(np.uint64)) if k % 4 else np.uint64(0)
            )
        looks[:5] = 0
        digests = np.arange(200, dtype=np.uint64)
        digests[150:160] = digests[20:30]
        looks[150:160] = looks[20:30]
        near = (np.bitwise_count(looks[:, None] ^ looks) <= duplicates.NEAR) & (looks[:, None] != 0) & (looks != 0)
        near |= digests[:, None] == digests
        first = np.arange(200)
        while (lower := np.where(near, first, 200).min(1)).tolist() != first.tolist():
            first = lower
        image, twin, distance = duplicates.find(digests, looks)
        assert image.tolist() == np.flatnonzero(first != np.arange(200)).tolist()
        assert duplicates.firsts(200, image, twin).tolist() == first.tolist()
        assert ((distance == -1) == (digests[image] == digests[twin])).all()


def test_sets_of_duplicates_are_never_split():
    random = np.random.default_rng(1)
    names = [f"{'ab'[k % 2]}/{k:03d}.jpg" for k in range(200)]
    same_as = {names[k]: names[int(random.integers(0, 20))] for k in range(20, 120)}
    sides = dict(zip(names, duplicates.split(names, [n[0] for n in names], same_as, 0.3, 0), strict=True))
    assert all(sides[name] == sides[first] for name, first in same_as.items())
    assert 0.25 < list(sides.values()).count("train") / 200 < 0.35


def test_equal_pixels_in_another_format_are_the_same():
    image = noise(3, (40, 40))
    assert measured(encode(image)).digest == measured(encode(image, "TIFF")).digest


def test_the_compiled_loop_needs_no_place_to_be_kept():
    assert measure._compiled(eval("lambda value: value + 1"))(1) == 2


@pytest.mark.parametrize("form, scale", [("u16", 1), ("u8", 1), ("u16", 1e-4), ("u16", 1e4), ("u16", -0.5)])
def test_twins_are_found_at_the_scale_of_reflectances(tmp_path_factory, form, scale):
    """Also as float32 of any unit, and as negative numbers of 16 bits."""
    folder = tmp_path_factory.getbasetemp() / "twins"
    if not folder.exists():
        near_twins_16_bits.make(folder)
    images = Collection()
    for file in sorted((folder / form).rglob("*.tif")):
        stored = tifffile.imread(file)
        if scale != 1:
            stored = (stored * scale).astype(np.int16 if scale < 0 else np.float32)
        found = measured_pixels(stored)
        sample = Sample(file.stem, digest=found.digest, look=found.look, contrast=found.contrast)
        images.add(sample)
    image, twin, _ = duplicates.find(*images.hashes())
    names = images.names
    assert len(image) == 15
    assert all(names[i] == f"{names[j][:-1]}b" for i, j in zip(image, twin, strict=True))


@pytest.mark.skipif("GEOFM_TEST_DATA" not in os.environ, reason="GEOFM_TEST_DATA names no folder of real images")
def test_chips_of_sentinel_2_have_looks_and_no_false_twins():
    images, pixels = Collection(), []
    with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / "eurosat100_ms.tar") as archive:
        for member in archive:
            if member.name.endswith(".tif"):
                pixels.append(decode.decode(archive.extractfile(member).read()).numpy().transpose(1, 2, 0))
                found = measured_pixels(pixels[-1])
                images.add(Sample(member.name, digest=found.digest, look=found.look, contrast=found.contrast))
    digests, looks = images.hashes()
    assert len(looks) == 100
    assert np.count_nonzero(looks) == 96, "the others are open sea"
    assert not len(duplicates.find(digests, looks)[0])
    noisy = [image + np.random.default_rng(0).normal(0, 20, image.shape) for image in pixels]
    close = [
        (int(measured_pixels(image.clip(0).astype(np.uint16)).look, 16) ^ int(look)).bit_count() <= duplicates.NEAR
        for image, look in zip(noisy, looks, strict=True)
    ]
    assert sum(close) >= 96, "copies with noise of 0.2 % of reflectance are found"


@pytest.mark.parametrize("hole", ["rows", "corner", "other rows"])
def test_twins_are_found_where_parts_were_not_measured_and_equal_masks_make_no_twins(tmp_path, hole):
    near_twins_16_bits.make(tmp_path)
    images = Collection()
    for number, file in enumerate(sorted((tmp_path / "u16").rglob("*.tif"))):
        valid = np.ones((64, 64), bool)
        if hole == "corner":
            valid &= np.add.outer(np.arange(64), np.arange(64)) > 50
        else:
            valid[: 21 if hole == "rows" else 5 + 3 * (number // 2 % 5)] = False
        found = measure.measure([(tifffile.imread(file), valid)])[0]
        images.add(Sample(file.stem, digest=found.digest, look=found.look, contrast=found.contrast))
    image, twin, _ = duplicates.find(*images.hashes())
    assert len(image) == 15
    assert all(images.names[i] == f"{images.names[j][:-1]}b" for i, j in zip(image, twin, strict=True))
