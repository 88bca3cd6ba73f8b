"""COCO's metric for any draw of images, and a detector that ranks and micro-batches do not change."""

import contextlib
import io

import numpy as np
import pytest
import torch

from geofm_lib.jobs import detect_metric
from geofm_lib.model import detector, init, vit
from geofm_lib.model.transfer import Network


def guesses(random, images=30, kinds=4, most=6):
    """(said, truth): boxes of which some are found, some twice, some nowhere; some are crowds."""
    said, truth = np.full((images, 20, 6), -1.0), np.full((images, most, 6), -1.0)
    for i in range(images):
        count, rows = random.integers(0, most + 1), []
        corner, sides = random.uniform(0, 80, (count, 2)), random.uniform(5, 30, (count, 2))
        crowd = random.random(count) < 0.1
        truth[i, :count] = np.c_[corner, corner + sides, random.integers(0, kinds, count), crowd]
        for row in truth[i, :count]:
            for _ in range(random.integers(0, 3)):
                kind = row[4] if random.random() < 0.8 else random.integers(0, kinds)
                rows.append([*(row[:4] + random.normal(0, 2, 4)), random.random(), kind])
        rows += [[*row, *(row + 9), random.random(), 0] for row in random.uniform(0, 80, (2, 2))]
        said[i, : len(rows)] = rows
    return said, truth


def test_the_metric_is_that_of_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(5):
        said, truth = guesses(random)
        theirs = detect_metric.evaluated(said, truth)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.accumulate()
        precision = theirs.eval["precision"][..., 0, 0]  # [IoUs, recalls, classes]
        wanted = 100 * precision[0].mean(), 100 * precision.mean()
        assert detect_metric.measure(said, truth) == pytest.approx(wanted, abs=1e-6)
        weights = random.integers(0, 3, (4, len(said)))
        drawn = [np.repeat(np.arange(len(said)), each) for each in weights]
        wanted = [detect_metric.measure(said[each], truth[each])[0] for each in drawn]
        assert detect_metric.weighted(said, truth, weights) == pytest.approx(wanted, abs=1e-6)
    perfect = np.concatenate([truth[..., :4], np.ones_like(truth[..., :1]), truth[..., 4:5]], 2)
    assert detect_metric.measure(perfect, truth * [1, 1, 1, 1, 1, 0]) == pytest.approx((100, 100))
    assert detect_metric.measure(np.full_like(perfect, -1), truth) == (0, 0)


def network(size=32, classes=2):
    encoder = vit.build("ViT-Atto", image_size=size, device="meta")
    return init.materialise(Network(encoder, detector.Detector(encoder, classes), whole=True), "cpu", 0)


@pytest.mark.parametrize("size", [32, 40])
def test_a_detector_uses_every_weight_and_parts_change_nothing(size):
    """Also where a part has no box at all: its images count, and every weight gets a gradient."""
    made = network(size)
    assert not [*made.named_buffers()]
    random, images = torch.Generator().manual_seed(0), torch.randn(4, 3, size, size)
    corner = torch.rand(4, 3, 2, generator=random) * size / 2
    kinds = torch.tensor([[0, 1, -1], [-1, -1, -1], [1, 1, 0], [0, -1, -1]])[..., None]
    truth = torch.cat([corner, corner + 9, kinds], 2)

    def gradients(parts):
        made.zero_grad()
        losses = []
        for part in torch.arange(4).split(parts):
            losses.append(made.head.loss(made(images[part]), truth[part]) * len(part) / 4)
            losses[-1].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters() if p.requires_grad)
        return float(sum(losses).detach()), torch.cat([p.grad.flatten() for p in made.parameters() if p.requires_grad])

    whole, single = gradients([4]), gradients([1, 1, 1, 1])
    assert whole[0] == pytest.approx(single[0], rel=1e-6)
    assert torch.allclose(whole[1], single[1], atol=1e-6 + 1e-5 * float(whole[1].abs().max()))
    said = made.head.detections(made(images))
    assert said.shape == (4, detector.MOST, 6) and said[..., 4].max() < 0.15, "no class is likely yet"
    assert (said[..., :4] >= 0).all() and (said[..., :4] <= size).all()


def test_points_lie_in_the_middle_of_their_cells():
    made = network(32).head
    assert made.backbone.strides == [4, 8, 16, 32]
    points = made.points(torch.device("cpu"))
    assert [len(each) for each in points] == [64, 16, 4, 1]
    assert points[0][:2].tolist() == [[0, 0, 4, 4], [4, 0, 8, 4]] and points[-1].tolist() == [[0, 0, 32, 32]]


def test_an_encoder_of_groups_of_bands_gives_one_map():
    encoder = vit.build("ViT-Atto", "pretrain", 32, 3, "meta", 8, groups=((0, 1), (2,)))
    network = init.materialise(Network(encoder, detector.Detector(encoder, 2), whole=True), "cpu", 0)
    found = network(torch.zeros(2, 3, 32, 32))
    assert found["cls_logits"].shape[1] == sum(map(len, network.head.points(torch.device("cpu"))))
