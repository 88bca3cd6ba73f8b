"""Segmentation sets in 01: whose each mask is, what is refused, what stays as it was; then segmented in 08."""

import csv
import tarfile

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional

from geofm_lib import files
from geofm_lib.data import loader, transforms
from geofm_lib.data.masks import NONE, Masks
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import mask_pairs, prepared
from geofm_lib.jobs import segment_metric, transfer_segment
from geofm_lib.model import decoders, init, vit
from geofm_lib.settings import PrepareSettings, SettingsError, TransferSettings
from tests.support.preparations import prepared as prepare
from tests.support.preparations import refused
from tests.support.segments import png, scene, segmented


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    segmented(root / "files")
    asked = {"labels": "masks", "pattern": "images/{scene}_*.png", "workers": 1}
    found, _, packed = prepare(root / "set", root / "files", **asked)
    files.write_json(root / "set" / "summary.json", found)
    return root, found, packed


def test_masks_lie_beside_their_images(place):
    root, found, packed = place
    assert (found["images"], found["masks"], found["mask_classes"], found["split_by"]) == (
        16,
        16,
        ["water", "land"],
        "scene",
    )
    beside, images = Masks(root / "set"), Shards(root / "set")
    assert beside.classes == ["water", "land"]
    for name in images.names:
        _, ids = scene(int(name.split("_")[1].split(".")[0]))
        truth = ids.astype(int)
        truth[0, 0] = NONE
        assert np.array_equal(beside.of(name)[0].numpy(), truth), name
    with open(root / "set" / "split.csv", encoding="utf-8", newline="") as file:
        sides = {row["name"]: row["split"] for row in csv.DictReader(file)}
    areas = {
        side: {name.split("/")[1].split("_")[0] for name, each in sides.items() if each == side}
        for side in ("train", "test")
    }
    assert areas["train"] and areas["test"] and not areas["train"] & areas["test"], "an area has one side"


def test_the_fingerprint_is_of_masks_too_and_a_set_without_them_is_as_it_was(place, tmp_path):
    root, _, _ = place
    plain, _, packed = prepare(tmp_path / "plain", root / "files", pattern="images/{scene}_*.png", workers=1)
    assert packed == place[2] and not (tmp_path / "plain" / "masks").exists()
    assert "masks" not in plain and plain["fingerprint"] != place[1]["fingerprint"]
    for name in ("index.csv", "split.csv", "statistics.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (root / "set" / name).read_bytes()
    assert prepared.fingerprint(root / "set") == place[1]["fingerprint"]
    with pytest.raises(ValueError, match="has no masks, so nothing can be segmented; prepare it with labels=masks"):
        prepared.refuse_without("masks", tmp_path / "plain")
    asked = PrepareSettings(dataset="a", labels="masks")
    assert asked.name() != PrepareSettings(dataset="a").name()


BROKEN = {
    "1.png": (lambda ids: b"", "its mask is empty (0 bytes)"),
    "2.png": (lambda ids: png(ids)[:60], "its mask is damaged: "),
    "3.png": (lambda ids: png(ids[:12]), "its mask has 24 x 12 pixels, the image 24 x 24"),
    "4.png": (lambda ids: png(ids + 7), "its mask has the unknown class id 7; known are 0, 1, 2"),
    "5.png": (lambda ids: png(ids * 0 + 2), "its mask has no labelled pixel"),
    "6.png": (None, "it has no mask"),
    "7.png": (lambda ids: b"no picture", "its mask is no image in a format that can be read"),
    "8.png": (
        lambda ids: png(np.stack([ids * 90, ids, ids], -1), "RGB"),
        "its mask has 3 bands of colours; one band of",
    ),
}


@pytest.mark.parametrize("packed_as", ["folder", "tar"])
def test_each_broken_mask_refuses_its_image_alone(tmp_path, packed_as):
    folder = segmented(tmp_path / "files", 12)
    for file, (make, _) in BROKEN.items():
        (name,) = (folder / "masks").glob(f"t?_{file}")
        name.unlink() if make is None else name.write_bytes(make(scene(int(file[0]))[1]))
    (folder / "masks" / "lone.png").write_bytes(png(scene(1)[1]))
    dataset = folder
    if packed_as == "tar":
        dataset = tmp_path / "set.tar"
        with tarfile.open(dataset, "w") as archive:
            archive.add(folder, "set")
    found, _, packed = prepare(tmp_path / "set", dataset, labels="masks", workers=1)
    told = {name.rpartition("_")[2]: reason for name, reason in refused(tmp_path / "set").items()}
    assert set(told) == set(BROKEN)
    for file, (_, words) in BROKEN.items():
        assert told[file].startswith(words), file
    assert (found["images"], found["masks"], len(Masks(tmp_path / "set").names)) == (4, 4, 4)
    assert "1 mask, such as" in " ".join(found["warnings"])
    again, _, same = prepare(tmp_path / "set", dataset, labels="masks", workers=1)
    assert (again["fingerprint"], same) == (found["fingerprint"], packed), "what is finished stays"


REFUSED = {
    "no masks": ({"labels": "masks"}, ("images",), "labels: no masks are found in 'files'; name them, as in"),
    "another size": ({"labels": "masks", "short_side": 8}, ("images", "masks"), "short_side: it changes the size of"),
    "a pattern of nothing": ({"labels": "masks:gt/*.png"}, ("images", "masks"), "pattern: .*gt"),
    "no partner": ({"labels": "masks"}, ("images", "masks_of_others"), "labels: no mask has the name of an image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence(tmp_path, case):
    more, folders, words = REFUSED[case]
    for folder in folders:
        (tmp_path / "files" / folder).mkdir(parents=True)
        for number in range(4):
            name = f"x{number}" if folder == "masks_of_others" else number
            (tmp_path / "files" / folder / f"{name}.png").write_bytes(png(scene(number)[1]))
    with pytest.raises(ValueError, match=words):
        prepare(tmp_path / "set", tmp_path / "files", workers=1, **more)


def test_the_built_in_scenes_have_masks_and_keep_their_labels(tmp_path):
    how = {"images_per_class": 2, "scene_size": 32, "workers": 1}
    found, _, packed = prepare(tmp_path / "masked", "scenes", labels="masks", **how)
    plain, _, same = prepare(tmp_path / "plain", "scenes", **how)
    assert (packed, found["classes"]) == (same, plain["classes"])
    assert (tmp_path / "masked" / "split.csv").read_bytes() == (tmp_path / "plain" / "split.csv").read_bytes()
    assert found["masks"] == found["images"] and found["mask_classes"] == ["ground", "water", "trees", "buildings"]
    beside = Masks(tmp_path / "masked")
    assert (beside.of("scenes/harbour/harbour_00000.jpg") == 1).float().mean() > 0.2, "water"


def test_the_sentence_about_masks_names_the_way_to_take_them(tmp_path):
    segmented(tmp_path / "files", 4)
    with pytest.raises(ValueError, match="labels=masks takes both for 08"):
        prepare(tmp_path / "set", tmp_path / "files", workers=1)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (["train/image/1.jpg", "val/image/1.jpg"], ["train/label/1.png", "val/label/1.png"]),
        (["1_sat.jpg", "2_sat.jpg"], ["1_mask.png", "2_mask.png"]),
        (["a/top_potsdam_2_10_RGB.tif"], ["a/top_potsdam_2_10_label.tif"]),
    ],
)
def test_pairs_of_usual_sets(images, found):
    paired, lone = mask_pairs.pairs(images, found)
    assert [each for (each,) in paired.values()] == found
    assert not lone
    double, _ = mask_pairs.pairs(["images/1.png"], ["masks/1_mask.png", "masks/1.png"])
    assert double == {"images/1.png": ["masks/1_mask.png", "masks/1.png"]}


def test_masks_move_with_their_images(place):
    """A pixel's class is that of its colour, whatever crop, flip and turn; a mask is never blended."""
    root = place[0]
    images, beside = Shards(root / "set"), Masks(root / "set")
    stream = loader.stream(images, seed=3, global_batch=8, epochs=2, image_size=16, rotations=True, masks=beside)
    for _, _, ((pixels, _),) in stream:
        assert pixels.shape == (8, 4, 16, 16)
        classes, grey = pixels[:, 3].long(), pixels[:, :3].float().mean(1)
        assert set(classes.unique().tolist()) <= {0, 1, NONE}
        inner = functional.max_pool2d(-(classes == 0).float()[:, None], 5, 1, 2)[:, 0].neg() > 0  # far from the border
        inner |= functional.max_pool2d(-(classes == 1).float()[:, None], 5, 1, 2)[:, 0].neg() > 0
        assert ((grey > 90) == (classes == 1))[inner].float().mean() > 0.97
    ids = torch.arange(36).view(1, 6, 6)
    assert transforms.resize(ids, 3, 3)[0].tolist() == [[7, 9, 11], [19, 21, 23], [31, 33, 35]]
    assert transforms.resize(ids, 12, 12)[0, ::2, ::2].equal(ids[0])


def test_iou_is_scikit_learns():
    """On random maps with classes that are missing, and pixels without a class; also of drawn images."""
    random = torch.Generator().manual_seed(0)

    def theirs(said, truth, classes):
        counted = truth != NONE
        found, there = np.full(classes, np.nan), torch.cat([truth[counted], said[counted]]).unique()
        found[there] = jaccard_score(truth[counted], said[counted], average=None, labels=there)
        return found

    for classes in (2, 5, 7):
        said = torch.randint(0, classes - 1, (6, 20, 20), generator=random)  # the last one is never said
        truth = torch.randint(0, classes, (6, 20, 20), generator=random)
        truth[torch.rand(truth.shape, generator=random) < 0.2] = NONE
        if classes == 7:
            truth[truth == 6] = 0  # and here neither said nor there
        each = torch.stack([segment_metric.confusion(*pair, classes) for pair in zip(said, truth, strict=True)]).numpy()
        own, accuracy = segment_metric.measure(each, np.zeros(6))
        np.testing.assert_allclose(segment_metric.ious(each.sum(0)), theirs(said, truth, classes), atol=1e-6)
        assert own / 100 == pytest.approx(np.nanmean(theirs(said, truth, classes)), abs=1e-6)
        assert accuracy / 100 == pytest.approx(float((said == truth)[truth != NONE].float().mean()), abs=1e-6)
        drawn = np.random.default_rng(1).integers(0, 6, 6)
        weights = np.bincount(drawn, minlength=6)[None]
        same = np.nanmean(theirs(said[drawn], truth[drawn], classes))
        assert segment_metric.weighted(each, np.zeros(6), weights)[0] / 100 == pytest.approx(same, abs=1e-6)


def test_the_loss_leaves_out_what_has_no_class():
    logits, classes = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 4).long()
    classes[0, :2] = NONE
    classes[1] = NONE
    usual = functional.cross_entropy(logits[:1], classes[:1], ignore_index=NONE)
    assert transfer_segment.cross_entropy(logits, classes) == pytest.approx(float(usual) / 2), (
        "an image without counts 0"
    )


def test_rare_classes_can_weigh_more():
    logits, classes = torch.randn(1, 3, 8, 8), torch.zeros(1, 8, 8).long()
    classes[0, 0] = 1
    weights = transfer_segment.weights(np.array([56, 8, 0]), 1.0)
    assert weights.tolist() == pytest.approx([64 / 112, 64 / 16, 0]), "both weigh as much as the other in all"
    usual = functional.cross_entropy(logits, classes, weights, reduction="sum") / 64
    assert transfer_segment.cross_entropy(logits, classes, weights) == pytest.approx(float(usual), abs=1e-6)
    with pytest.raises(SettingsError, match="balance: only pixels are weighed by their class"):
        TransferSettings(task="classify", balance=0.5)


@pytest.mark.parametrize("head", ["light", "pyramid"])
@pytest.mark.parametrize("size", [16, 40])
def test_a_decoder_gives_the_image_its_classes(head, size):
    from geofm_lib.model.transfer import Network

    encoder = vit.build("ViT-Atto", image_size=size, device="meta")
    made = decoders.Light(encoder, 3) if head == "light" else decoders.Pyramid(encoder, 3)
    network = init.materialise(Network(encoder, made, whole=True), "cpu", 0)
    said = network(torch.randn(2, 3, size, size))
    assert said.shape == (2, 3, size, size)
    assert not said.any(), "it says nothing yet"
    said.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
