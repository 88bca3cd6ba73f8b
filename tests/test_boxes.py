"""Detection sets in 01: what is wrong with an entry is told, the rest goes on; boxes that move with their pixels."""

import json

import numpy as np
import pytest
import torch

from geofm_lib.data import boxes, loader, transforms
from geofm_lib.data.boxes import Boxes
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import coco, listing, prepared
from geofm_lib.scenes import generate, things
from tests.support.objects import KINDS, detected, picture, written
from tests.support.preparations import prepared as prepare
from tests.support.preparations import refused


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    detected(root / "files")
    found, _, packed = prepare(root / "set", root / "files", labels="boxes", pattern="images/{scene}_*.png", workers=1)
    return root, found, packed


def test_boxes_lie_beside_their_images(place):
    root, found, packed = place
    assert (found["images"], found["boxes"], found["box_classes"], found["background_images"]) == (16, 26, [*KINDS], 3)
    assert found["split_by"] == "scene" and not found["warnings"]
    assert found["classes"] == {"bright": 13, "dark": 13} and found["unlabelled"] == 0
    beside = Boxes(root / "set")
    assert beside.classes == [*KINDS]
    for name in Shards(root / "set").names:
        known = beside.of(name)
        truth = picture(int(name.split("_")[1].split(".")[0]))[1]
        assert known.boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h, _ in truth]
        assert known.classes.tolist() == [kind for *_, kind in truth]
    assert prepared.fingerprint(root / "set") == found["fingerprint"]
    with pytest.raises(ValueError, match="has no boxes, so nothing can be detected; prepare it with labels=boxes"):
        prepared.refuse_without("boxes", root / "files")


def box(image, corner, category=7, **more):
    return {"id": 99, "image_id": image, "category_id": category, "bbox": corner, **more}


def bad():
    """A COCO file with a fault of each kind; picture 4 has no box of its own."""
    content = written()
    content["annotations"] += [
        box(4, [25, 2, 20, 5]), box(4, [40, 40, 5, 5]), box(4, [3, 3, 0, 5]), box(4, [3, 3, 5, 5], 55),
        box(4, [3, 3, 5]), box(4, [3, 3, None, 5]), box(400, [3, 3, 5, 5]), box(4, [1, 1, 6, 6]), box(4, [1, 1, 6, 6]),
        "nothing", {"image_id": 4},
    ]  # fmt: skip
    content["images"] += [{"id": 77, "file_name": "gone.png"}, {"file_name": "x.png"}]
    content["images"][9]["width"] = 64
    content["images"][10]["id"] = 11  # so the boxes of 10 are of nothing, and those of 11 of two
    del content["images"][12]
    return content


TOLD = (
    '5 entries of \'annotations.json\' cannot be read, such as {"file_name": "x.png"} without a good id: they',
    "'annotations.json' names an image that is not there, 'gone.png'",
    "5 boxes are of images that are not there, such as of id 10",
    "1 box has a category id that 'annotations.json' does not name, 55: it is left out",
    "1 box of 'images/t0_4.png' stands there twice: it counts once",
    "1 box of 'images/t0_4.png' reaches beyond its image: it is cut at the edge",
    "2 boxes, such as of 'images/t0_4.png', lie outside of their image or have no area: they are left out",
)
LEFT = {
    "images/t1_9.png": "'annotations.json' says that it has 64 x 32 pixels, and it has 32 x 32",
    "images/t2_10.png": "'annotations.json' has 2 images of the id 11",
    "images/t3_11.png": "'annotations.json' has 2 images of the id 11",
    "images/t0_12.png": "'annotations.json' does not name it",
}


def test_each_fault_is_a_sentence_and_the_rest_goes_on(tmp_path):
    detected(tmp_path / "files", content=bad())
    found, why, _ = prepare(tmp_path / "set", tmp_path / "files", labels="boxes:annotations.json", workers=1)
    assert why == LEFT and found["images"] == 12
    told = [each for each in found["warnings"] if "box" in each or "annotations.json" in each]
    assert [each[: len(words)] for each, words in zip(told, TOLD, strict=True)] == [*TOLD]
    assert Boxes(tmp_path / "set").of("images/t0_4.png").boxes.tolist() == [[25, 2, 32, 7], [1, 1, 7, 7]]
    again, _, _ = prepare(tmp_path / "set", tmp_path / "files", labels="boxes:annotations.json", workers=1)
    assert again["fingerprint"] == found["fingerprint"] and refused(tmp_path / "set") == LEFT


REFUSED = {
    "no file": (None, {}, "labels: there is no JSON file in 'files'; name its COCO file, as in labels='boxes:annot"),
    "another name": ("{}", {"labels": "boxes:coco.json"}, "labels: 'coco.json' is not in 'files'"),
    "broken": ('{"images": [', {}, "labels: 'annotations.json' is no JSON that can be read .*; fetch or write it"),
    "a list": ("[]", {}, "labels: 'annotations.json' is no COCO file with boxes: it has no list 'images'"),
    "no annotations": ('{"images": []}', {}, "is no COCO file with boxes: it has no list 'annotations'"),
    "other images": (json.dumps(written() | {"images": []}), {}, "names none of the images of 'files'; use the"),
    "no class": (json.dumps(written() | {"categories": []}), {}, "'annotations.json' names no category"),
    "two names": (json.dumps(written() | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}), {},
                  "calls category 1 both 'a' and 'b'"),
    "no box": (json.dumps(written() | {"annotations": []}), {}, "has no box in any of the 16 images"),
    "another size": (json.dumps(written()), {"short_side": 16}, "short_side: it changes the size of images, and boxes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(tmp_path, case):
    text, more, words = REFUSED[case]
    folder = detected(tmp_path / "files")
    (folder / "annotations.json").unlink() if text is None else (folder / "annotations.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        prepare(tmp_path / "set", folder, workers=1, **{"labels": "boxes"} | more)


def test_two_files_are_asked_about(tmp_path):
    folder = detected(tmp_path / "files")
    (folder / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="2 files of 'files' could be meant, 'annotations.json' and 'other.json'"):
        coco.locate(listing.find(folder), "boxes")


def test_boxes_move_with_their_pixels():
    """A white rectangle on black: its box is where the white pixels of the view are."""
    random = np.random.default_rng(0)
    for _ in range(60):
        height, width = (int(each) for each in random.integers(60, 120, 2))
        x, y = int(random.integers(0, width - 30)), int(random.integers(0, height - 30))
        w, h = (int(each) for each in random.integers(12, 30, 2))
        image = torch.zeros(1, height, width)
        image[:, y : y + h, x : x + w] = 1
        view = transforms.drawn(random, height, width, (0.3, 1.0), turn=True)
        moved, shown = boxes.move(torch.tensor([[x, y, x + w, y + h]]).float(), view, height, width, 96)
        if not shown[0]:
            continue
        white = (transforms.take(image, view, 96)[0] > 0.5).nonzero()
        found = [*white.amin(0).flip(0).tolist(), *(white.amax(0).flip(0) + 1).tolist()]
        assert np.allclose(moved[0].tolist(), found, atol=1.01), view


def test_a_batch_brings_the_boxes_that_its_images_show(place):
    images, beside = Shards(place[0] / "set", split="train"), Boxes(place[0] / "set")
    how = {"seed": 1, "global_batch": 4, "epochs": 1, "image_size": 32, "rotations": True, "crop_scale": (0.5, 1.0)}
    plain = [batch for *_, (batch,) in loader.stream(images, **how)]
    for (pixels, indices, seen), (before, _) in zip(
        (batch for *_, (batch,) in loader.stream(images, beside=beside, **how)), plain, strict=True
    ):
        assert torch.equal(pixels, before)
        for image, i, rows in zip(pixels, indices.tolist(), seen, strict=True):
            rows = rows[rows[:, 4] >= 0]
            assert len(rows) <= len(beside.of(images.names[i]).boxes)
            for x1, y1, x2, y2, kind in rows.tolist():
                middle = image[:, int((y1 + y2) / 2), int((x1 + x2) / 2)].float().mean()
                assert middle > 200 if kind == 0 else middle < 60


def test_scenes_keep_their_pixels_and_get_boxes():
    """A canvas that numbers things draws the picture of one that does not."""
    canvas = things.Numbered(96, np.random.default_rng(3))
    plain = generate.Canvas(96, np.random.default_rng(3))
    for each in (canvas, plain):
        generate.CLASSES["storage_tanks"](each)
    assert canvas.image.tobytes() == plain.image.tobytes() and canvas.jpeg() == plain.jpeg()
    found = canvas.things()
    assert found and {things.KINDS[kind] for *_, kind in found} == {"storage tank"}
    assert all(0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96 and min(x2 - x1, y2 - y1) >= 6 for x1, y1, x2, y2, _ in found)
