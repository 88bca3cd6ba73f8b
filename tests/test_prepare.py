"""Preparation end to end: bad files are listed and left out, odd ones converted, nothing leaks across the split."""

import json
import os
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from geofm_lib import files
from geofm_lib.data import decode, shards, verify
from geofm_lib.jobs import prepare, prepare_pack, run_folder
from geofm_lib.jobs.run_folder import Stopped
from tests.support.pictures import as_archive, class_folders, encode, noise
from tests.support.preparations import prepared


def run(folder, dataset, **options):
    """Prepare in this process and give the summary."""
    return prepared(folder, dataset, **options)[0]


def test_bad_and_odd_images(tmp_path):
    source = class_folders(tmp_path / "set")
    odd = source / "crop land"
    picture = noise(77, (32, 32))
    ramp = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    palette = picture.quantize(8)
    jpeg, png = encode(picture, "JPEG"), encode(picture)
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    bad = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "text.jpg": (b"this is text", "not an image"),
        "one.png": (encode(Image.new("RGB", (1, 1))), "too small: 1 x 1"),
        "empty.png": (b"", "empty"),
        "cut.png": (png[:-300], "damaged"),
        "flipped bit.png": (bytes(flipped), "damaged"),
        "float.tif": (encode(picture.convert("F"), "TIFF"), "it has 1 band of float32, not 3 bands of uint8"),
        "sixteen.png": (encode(Image.fromarray(ramp)), "it has 1 band of uint16, not 3 bands of uint8"),
    }
    good = {
        "cmyk.jpg": encode(picture.convert("CMYK"), "JPEG", quality=95),
        "palette.png": encode(palette, transparency=2),
        "grey.png": encode(picture.convert("L")),
        "Küste – 1 (neu).png": png,
    }
    for name, data in {**{k: v for k, (v, _) in bad.items()}, **good}.items():
        (odd / name).write_bytes(data)
    summary = run(tmp_path / "run", source, workers=2)

    refused = {row["name"]: row["reason"] for row in files.read_csv(tmp_path / "run" / "refused.csv")}
    assert set(refused) == {f"crop land/{name}" for name in bad}
    for name, (_, words) in bad.items():
        assert words in refused[f"crop land/{name}"], refused
    assert (summary["images"], summary["refused"], summary["converted"]) == (16, 8, 3)
    assert summary["classes"] == {"crop land": 10, "río": 6}
    assert summary["train"] + summary["test"] == 16

    data = shards.Shards(tmp_path / "run")
    pixels = {name.split("/")[1]: data.decode(i).float() for i, name in enumerate(data.names)}
    exact = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    assert (pixels["cmyk.jpg"] - exact).abs().mean() < 4
    assert torch.equal(pixels["Küste – 1 (neu).png"], exact)
    clear = torch.from_numpy(np.array(palette) == 2)
    assert clear.any()
    solid = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1).float()
    assert torch.equal(
        pixels["palette.png"][:, clear], solid[:, ~clear].mean(1).round()[:, None].expand(-1, clear.sum())
    )
    assert torch.equal(pixels["palette.png"][:, ~clear], solid[:, ~clear])
    assert data.read(data.names.index("crop land/Küste – 1 (neu).png")) == png, "good bytes are kept"


def test_duplicates_never_lie_on_both_sides(tmp_path):
    source = class_folders(tmp_path / "set", ("a", "b", "c"), each=8)
    for i in range(4):  # the same pixels: in its own class, and in another
        same = (source / "a" / f"a {i}.jpg").read_bytes()
        (source / "a" / f"copy {i}.jpg").write_bytes(same)
        (source / "b" / f"copy {i}.png").write_bytes(encode(Image.fromarray(_decoded(same))))
    summary = run(tmp_path / "run", source)
    same_as = {row["name"]: row["same_as"] for row in files.read_csv(tmp_path / "run" / "duplicates.csv")}
    sides = {row["name"]: row["split"] for row in files.read_csv(tmp_path / "run" / "split.csv")}
    assert len(same_as) == summary["duplicates"] == 8
    assert all(sides[name] == sides[first] for name, first in same_as.items())


def _decoded(data):
    return decode.decode(data).permute(1, 2, 0).numpy()


def test_what_is_written(tmp_path):
    source = class_folders(tmp_path / "set", each=20)
    summary = run(tmp_path / "run", as_archive(source, tmp_path / "set.tar"), train_ratio=0.25)
    folder = tmp_path / "run"
    index = files.read_csv(folder / "index.csv")
    assert list(index[0]) == list(shards.COLUMNS)
    assert len(index) == summary["images"] == 40
    assert (summary["train"], summary["test"], summary["shards"]) == (10, 30, 1)
    for row in index:  # the index is all one needs to find an image
        data = (folder / "shards" / row["shard"]).read_bytes()[int(row["offset"]) :][: int(row["size"])]
        assert f"{zlib.crc32(data):08x}" == row["checksum"]
        assert data.startswith(b"\xff\xd8\xff")
    train = shards.Shards(folder, "train")
    stack = torch.stack([train.decode(i) for i in range(10)]).double() / 255
    assert np.allclose(train.mean, stack.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(train.std, stack.std((0, 2, 3), correction=0), atol=1e-5)
    with np.load(folder / "contact_sheet.npz") as sheet:
        assert sheet["images"].dtype == np.uint8
        assert len(sheet["images"]) == len(sheet["labels"]) == 32
        assert set(sheet["labels"].tolist()) == {"crop land", "río"}
    with np.load(folder / "model_view.npz") as view:
        assert view["original"].shape == view["cropped"].shape == view["masked"].shape == (8, 64, 64, 3)
        assert 0.5 < (view["masked"] == 128).all(-1).mean() < 0.8
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["total"]) == (40, 40)
    assert last["packed_images_per_s"] > 0


def test_same_images_same_fingerprint_whatever_the_workers(tmp_path):
    source = class_folders(tmp_path / "set", each=30)
    first, second = run(tmp_path / "1", source, workers=1), run(tmp_path / "2", source, workers=3)
    assert first["fingerprint"] == second["fingerprint"]
    (source / "río" / "río 0.jpg").write_bytes(encode(noise(999), "JPEG"))
    assert run(tmp_path / "3", source)["fingerprint"] != first["fingerprint"]
    assert run(tmp_path / "4", source, seed=1)["fingerprint"] != first["fingerprint"]


def test_without_class_folders_everything_trains(tmp_path):
    source = tmp_path / "flat"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.png").write_bytes(encode(noise(i)))
    summary = run(tmp_path / "run", as_archive(source, tmp_path / "flat.zip"))
    assert summary["classes"] == {}
    assert (summary["train"], summary["test"]) == (5, 0)
    assert (shards.Shards(tmp_path / "run").labels == -1).all()


def test_stopped_and_started_again(tmp_path):
    source, folder = class_folders(tmp_path / "set", each=40), tmp_path / "run"
    folder.mkdir()
    run_folder.request(folder, run_folder.STOP)
    prepare_log, prepare_pack.LOG_S = prepare_pack.LOG_S, 0.0
    try:
        with pytest.raises(Stopped):
            run(folder, source, workers=2)
    finally:
        prepare_pack.LOG_S = prepare_log
    assert not (folder / "index.csv").exists()
    (folder / run_folder.STOP).unlink()
    (folder / "shards" / "000007.tar").write_bytes(b"left by a killed run")
    assert run(folder, source)["images"] == 80
    assert sorted(os.listdir(folder / "shards")) == ["000000.csv", "000000.tar", "source.json"]


def test_nothing_usable_is_one_sentence(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"none of the 3 images .* not an image in a format that can be read \(3\)"):
        run(tmp_path / "run", tmp_path)


def test_scenes_and_other_ranks(tmp_path):
    summary = run(tmp_path / "run", "scenes", images_per_class=4, scene_size=32, workers=2)
    assert summary["images"] == 4 * len(summary["classes"])
    assert summary["train"] == summary["test"]
    assert prepare.run(None, SimpleNamespace(is_main=False), None) == {}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_never_end_the_process():
    """Random damage to each format: an image or a refusal, and nothing else."""
    random = np.random.default_rng(0)
    palette = noise(1).quantize(8)
    originals = [encode(noise(1), kind) for kind in ("JPEG", "PNG", "TIFF")] + [encode(palette, transparency=1)]
    for k in range(400):
        data = bytearray(originals[k % len(originals)])
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(256)
        try:
            assert verify.check(bytes(data)).values.ndim == 3
        except verify.Refused as refusal:
            assert str(refusal)


@pytest.mark.skipif("GEOFM_TEST_DATA" not in os.environ, reason="GEOFM_TEST_DATA names no folder of real images")
def test_real_images(tmp_path):
    archive = os.path.join(os.environ["GEOFM_TEST_DATA"], "ucm.tar")
    summary = run(tmp_path / "run", archive)
    assert (summary["images"], summary["refused"], len(summary["classes"])) == (2100, 0, 21)
    assert abs(summary["train"] - 1050) <= 1
    assert (summary["card"], summary["train_ratio"]) == ("ucm", 0.5)
    assert not any(int(row["missing"]) for row in files.read_csv(tmp_path / "run" / "card.csv"))
    (pair,) = files.read_csv(tmp_path / "run" / "duplicates.csv")
    assert (pair["name"][-14:], pair["same_as"][-14:]) == ("airplane02.jpg", "airplane01.jpg")
    assert (pair["kind"], pair["distance"]) == ("exact", "0")
    ours = shards.Shards(tmp_path / "run")
    for name in ours.names:  # ImageFolder looks at nothing but names
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    theirs = ImageFolder(tmp_path / "ucm")
    assert theirs.classes == ours.classes
    assert len(theirs) == len(ours)
    assert np.bincount(theirs.targets).tolist() == np.bincount(ours.labels).tolist()
