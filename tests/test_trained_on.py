"""An encoder says on which images it was trained, and a probe looks whether they are those that it tests on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geofm_lib import files
from geofm_lib.advice import signs
from geofm_lib.data import shards, trained_on
from geofm_lib.jobs import probe_seen, probe_splits
from geofm_lib.model import vit
from geofm_lib.model.interop import export, folders, formats, locate
from geofm_lib.settings import ProbeSettings
from tests.support import encoders
from tests.support.preparations import prepared

CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}


def soft(seed):
    """Smooth colours of 64 pixels a side that look like no other seed's."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return small.resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A labelled set (8 of 16 images are its test side) and what a pretraining may hold of it."""
    root = tmp_path_factory.mktemp("seen")
    for number in range(16):
        folder = root / "files" / ("train" if number % 2 else "test") / ("forest", "lake")[number % 4 // 2]
        folder.mkdir(parents=True, exist_ok=True)
        soft(number).save(folder / f"{number}.png")
    prepared(root / "set", root / "files", workers=1)
    leaks = {"clean": [], "same": [0], "mirrored": [0], "most": range(0, 16, 2)}
    for name, numbers in leaks.items():
        (root / name).mkdir()
        for seed in range(100, 112):
            soft(seed).save(root / name / f"{seed}.png")
        for number in numbers:
            leak = soft(number)
            if name == "mirrored":
                leak = Image.eval(leak.transpose(Image.Transpose.FLIP_LEFT_RIGHT), lambda value: min(255, value + 3))
            leak.save(root / name / f"leak {number}.png")
        prepared(root / f"{name} set", root / name, workers=1, train_ratio=1.0)
        run = root / f"{name} run"
        run.mkdir()
        trained_on.write(run / locate.TRAINED_ON, root / f"{name} set")
        state = vit.build("ViT-Atto", image_size=32, seed=7).state_dict()
        encoder = encoders.write(run / "encoder", state, CONFIG | trained_on.told(run / locate.TRAINED_ON))
        files.seal(encoder, {*files.sums(encoder), *folders.carry(run, encoder, locate.TRAINED_ON)})
    return root


def compare(place, name, **more):
    asked = ProbeSettings(data=str(place / "set"), encoder=str(place / name), image_size=32, **more)
    where = locate.find(asked.encoder)
    return probe_seen.compare(asked, formats.read(where).config)


@pytest.mark.parametrize(("name", "exact", "near"), [("clean", 0, 0), ("same", 1, 0), ("mirrored", 0, 1)])
def test_a_leak_is_counted_and_told(place, name, exact, near):
    found = compare(place, f"{name} run")
    assert found == {"pretrained_on": "known", "seen_exact": exact, "seen_near": near}
    said = signs._seen(found | {"test_images": 8}, None)
    words = f"{exact} of 8 test images were pretrained on, and {near} that look nearly the same"
    assert said == (words if exact + near else "")
    assert signs._not_known(found, None) == ""


def test_a_probe_of_what_was_seen_stops_unless_it_is_allowed(place):
    with pytest.raises(ValueError, match="^encoder: it was pretrained on 8 of the 8 test images of .* set allow_seen"):
        compare(place, "most run")
    assert compare(place, "most run", allow_seen=True)["seen_exact"] == 8
    assert "allow_seen" not in ProbeSettings().name()
    assert ProbeSettings(allow_seen=True).name() != ProbeSettings().name()


@pytest.mark.parametrize("format", ["geofm", "timm", "vit"])
def test_it_travels_with_an_export(place, tmp_path, format):
    export.convert(place / "same run", tmp_path / "out", format)
    assert compare(place, tmp_path / "out") == {"pretrained_on": "known", "seen_exact": 1, "seen_near": 0}
    assert locate.TRAINED_ON in (tmp_path / "out" / "SHA256SUMS").read_text()


def test_what_is_not_known_is_said(place, tmp_path):
    state = vit.build("ViT-Atto", image_size=32, seed=7).state_dict()
    encoders.write(tmp_path / "old", state, CONFIG)
    found = compare(place, tmp_path / "old")
    assert found == {"pretrained_on": "not known"}
    assert signs._not_known(found, None) == "which images the encoder was pretrained on is not known"
    assert signs._not_known({}, None) == "", "an older probe did not ask"
    assert probe_seen.compare(ProbeSettings(encoder="random"), {}) == {}


def test_weights_that_began_from_others_have_seen_those_images_too(place, tmp_path):
    file = tmp_path / locate.TRAINED_ON
    trained_on.write(file, place / "clean set", [place / "same run" / "encoder" / file.name])
    arrays, whole = trained_on.read(file)
    assert (len(arrays["digest"]), whole) == (25, True)
    trained_on.write(file, place / "clean set", [tmp_path / "foreign" / file.name])
    assert trained_on.told(file)["trained_on"]["whole"] is False


def test_a_file_of_other_weights_is_refused(place, tmp_path):
    shutil.copytree(place / "clean run" / "encoder", tmp_path / "encoder")
    shutil.copyfile(place / "most run" / locate.TRAINED_ON, tmp_path / "encoder" / locate.TRAINED_ON)
    with pytest.raises(ValueError, match="trained_on.npz is not what was written: its digest"):
        trained_on.read(tmp_path / "encoder" / locate.TRAINED_ON)
    (tmp_path / "encoder" / files.SUMS).unlink()
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    with pytest.raises(ValueError, match="trained_on.npz is not what was written beside these weights"):
        trained_on.read(tmp_path / "encoder" / locate.TRAINED_ON, config)
    (tmp_path / "encoder" / locate.TRAINED_ON).unlink()
    assert trained_on.read(tmp_path / "encoder" / locate.TRAINED_ON, config) is None, "who copies the weights alone"


def test_a_neighbouring_place_is_found(tmp_path):
    """Other pictures of ground 55 m away count as neighbours, those 2 km away do not; splits never test them."""
    for folder, shift, first in (("tested", 0.0, 0), ("trained", 0.0005, 200)):
        for number in range(12):
            side = ("train" if number % 2 else "test") if folder == "tested" else "all"
            place = tmp_path / folder / side / ("forest", "lake")[number % 4 // 2]
            place.mkdir(parents=True, exist_ok=True)
            far = 0.02 * number + (shift if number < 4 else 1.0 * bool(shift))
            soft(first + number).save(place / f"{10 + far:.4f}_0.png")
        asked = {"pattern": "{side}/{label}/{lon}_{lat}.png"}
        ratio = {} if folder == "tested" else {"train_ratio": 1.0}
        prepared(tmp_path / f"{folder} set", tmp_path / folder, workers=1, **ratio)
        files.write_json(tmp_path / f"{folder} set" / "settings.json", {"job": "prepare", "asked": asked})
    run = tmp_path / "run"
    run.mkdir()
    trained_on.write(run / locate.TRAINED_ON, tmp_path / "trained set")
    config = CONFIG | trained_on.told(run / locate.TRAINED_ON)
    encoder = encoders.write(run / "encoder", vit.build("ViT-Atto", image_size=32, seed=7).state_dict(), config)
    files.seal(encoder, {*files.sums(encoder), *folders.carry(run, encoder, locate.TRAINED_ON)})
    asked = ProbeSettings(data=str(tmp_path / "tested set"), encoder=str(run), image_size=32)
    found = probe_seen.compare(asked, formats.read(locate.find(asked.encoder)).config)
    assert found == {"pretrained_on": "known", "seen_exact": 0, "seen_near": 0, "seen_place": 2}
    said = signs._neighbours(found | {"test_images": 6}, None)
    assert said == "2 of 6 test images lie within 100 m of ground that was pretrained on"
    names = shards.Shards(asked.data).names
    images, _ = probe_splits.read(Path(asked.data), names, 6)
    seen = probe_seen.which(asked, config, images.fingerprints, images.ground)
    assert sorted(name.rpartition("/")[2] for name in np.array(names)[seen]) == [
        "10.0000_0.png", "10.0200_0.png", "10.0400_0.png", "10.0600_0.png"
    ]  # fmt: skip
