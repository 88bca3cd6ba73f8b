"""model/probe_heads.py: the head, LARS and nearest neighbours, and their metrics, against hand values."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from timm.optim import Lars
from torch import nn
from torch.nn import functional as F

from geofm_lib.distributed.training import learning_rate
from geofm_lib.jobs import probe_metrics
from geofm_lib.model import probe_heads


def test_the_head_learns_what_is_linear_whatever_the_scale():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = (F.one_hot(labels, 3).float() + 0.2 * torch.randn(300, 3)) * torch.tensor([1e-4, 1.0, 1e4])
    head = probe_heads.ProbeHead(3, 3)
    optimiser = probe_heads.lars(head)
    losses = [probe_heads.train_step(head, optimiser, features, labels, 5.0) for _ in range(300)]
    assert losses[-1] < 0.5 * losses[0]
    assert probe_metrics.top(probe_heads.scores(head, features).numpy(), labels.numpy())[0] > 98
    assert not list(head.norm.parameters())
    assert head.norm.eps == 1e-6


def test_lars_scales_weight_and_bias_by_one_trust_ratio_even_without_decay():
    head, features = probe_heads.ProbeHead(4, 3), torch.randn(8, 4)
    matrix = head.linear.weight.detach().clone()
    assert not matrix[:, -1].any(), "the bias begins at 0"
    probe_heads.train_step(head, probe_heads.lars(head), features, torch.arange(8) % 3, rate=0.5)
    gradient = head.linear.weight.grad
    share = F.softmax(F.linear(head.norm(features), matrix[:, :-1]), dim=1) - F.one_hot(torch.arange(8) % 3)
    torch.testing.assert_close(gradient[:, -1], share.mean(dim=0))
    step = 0.5 * 0.001 * matrix.norm() / gradient.norm() * gradient
    torch.testing.assert_close(head.linear.weight.detach(), matrix - step)


def classes_of(sizes, width=48):
    """Features and labels of classes of these sizes, half told apart by their means."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    means = torch.randn(len(sizes), width, generator=random)
    return 0.35 * means[labels] + torch.randn(len(labels), width, generator=random), labels


def curve(layers, optimiser, features, labels, warmup, epochs=60, batch=64):
    """(loss, top-1 of the training images) of each epoch, at the protocol's schedule and a rate of 30."""
    found, steps = [], len(labels) // batch
    for epoch in range(epochs):
        order, losses = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch)), []
        for step, chosen in enumerate(order.split(batch)[:steps], epoch * steps):
            rate = learning_rate(step, peak=30.0, warmup_steps=warmup * steps, total_steps=epochs * steps)
            losses.append(probe_heads.train_step(layers, optimiser, features[chosen], labels[chosen], rate))
        top = probe_metrics.top(probe_heads.scores(layers, features).numpy(), labels.numpy())[0]
        found.append((np.mean(losses), top))
    return np.array(found).T


class Apart(nn.Module):
    """The head with a bias of its own."""

    def __init__(self, width, classes):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.linear.bias)

    def forward(self, features_ND):
        return self.linear(self.norm(features_ND))


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("sizes", [[40] * 12, [300, *[10] * 15], [300, 150, 2, 2, 1]])
def test_at_a_rate_of_30_the_loss_stays_smooth_and_no_epoch_is_chance(sizes, warmup):
    """Also where one class has most images, and without warm-up. A bias with a plain step, as MAE's, fails in each."""
    features, labels = classes_of(sizes)
    chance, guess = 100 / len(sizes), np.log(len(sizes))
    head = probe_heads.ProbeHead(48, len(sizes))
    loss, top = curve(head, probe_heads.lars(head), features, labels, warmup)
    assert loss.max() < 1.1 * guess
    assert np.diff(loss).max() < 0.2 * guess, "no epoch throws it back"
    assert top[3:].min() > 3 * chance
    for adapts in (False, True) if len(sizes) == 16 and not warmup else (False,):  # True: timm's ratio of a bias of 0
        apart = Apart(48, len(sizes))
        groups = [{"params": [apart.linear.weight], "always_adapt": True},
                  {"params": [apart.linear.bias], "always_adapt": adapts}]  # fmt: skip
        fault, _ = curve(apart, Lars(groups, lr=0.0, momentum=0.9), features, labels, warmup)
        assert fault.max() > 1.5 * guess


def test_accuracy_and_neighbours():
    logits = torch.eye(6)[[0, 1, 2, 3]] + torch.linspace(0.6, 0.1, 6)
    assert probe_metrics.top(logits.numpy(), np.array([0, 1, 0, 5])) == (50.0, 75.0)
    corners = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels, asked = torch.tensor([4, 4, 2]), torch.tensor([[30.0, 1.0], [0.0, 0.1]])
    votes = probe_heads.knn_scores(corners, labels, asked, 5, k=20, chunk=1)
    assert votes.argmax(dim=1).tolist() == [4, 2]
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(2))
    both = F.one_hot(labels, 5).float()
    torch.testing.assert_close(probe_heads.knn_scores(corners, both, asked, 5), votes)
    both[:, 0] = 1  # a second label that all have gets all votes
    torch.testing.assert_close(probe_heads.knn_scores(corners, both, asked, 5)[:, 0], torch.ones(2))


def test_neighbours_are_near_by_what_differs_not_by_what_all_share():
    """A mean that all features share, scales that differ, and a feature that never varies change no vote."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    plain = torch.cat([F.one_hot(labels, 3), torch.zeros(60, 1)], 1) + 0.2 * torch.randn(60, 4, generator=random)
    moved = plain * torch.tensor([1.0, 3.0, 0.2, 30.0]) + torch.tensor([500.0, 20.0, -7.0, 100.0])
    moved = torch.cat([moved, torch.full((60, 1), 0.1)], 1)
    votes = [probe_heads.knn_scores(each[:40], labels[:40], each[40:], 3, k=5) for each in (plain, moved)]
    torch.testing.assert_close(*votes, atol=0.02, rtol=0)
    assert (votes[1].argmax(1) == labels[40:]).float().mean() > 0.9
    cosine = F.normalize(moved[40:]) @ F.normalize(moved[:40]).T
    assert (labels[cosine.argmax(1)] == labels[40:]).float().mean() < 0.8, "without their mean they are all alike"
    lone = probe_heads.knn_scores(moved[:1], labels[:1], moved[40:], 3)
    assert lone.argmax(1).tolist() == [0] * 20, "one training image has no spread"


def test_a_share_has_the_binomial_interval():
    right = np.eye(2)[[0, 0, 0, 0]]
    found = probe_metrics.binomial(right, np.array([0, 1, 0, 0]))
    assert found == pytest.approx(100 * 1.96 * np.sqrt(0.75 * 0.25 / 4))


def test_several_labels_are_learned_and_measured():
    """Each class a yes or no of its own, by the protocol's optimiser; the measure is scikit-learn's."""
    random = np.random.default_rng(0)
    targets = (random.random((400, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(np.float32)
    features = torch.from_numpy(targets @ random.normal(size=(4, 8)).astype(np.float32))
    head = probe_heads.ProbeHead(8, 4)
    optimiser, truth = probe_heads.lars(head), torch.from_numpy(targets)
    first = probe_heads.train_step(head, optimiser, features, truth, 0.0)
    assert first == pytest.approx(np.log(2), abs=0.02)
    for _ in range(300):
        probe_heads.train_step(head, optimiser, features, truth, 20.0)
    scores = probe_heads.scores(head, features).numpy()
    (found,) = probe_metrics.mean_average_precision(scores, targets)
    assert found > 99
    noise = random.normal(size=scores.shape)
    (poor,) = probe_metrics.mean_average_precision(noise, targets)
    each = [average_precision_score(targets[:, k], noise[:, k]) for k in range(3)]
    assert poor == pytest.approx(100 * np.mean(each)), "the fourth class has no image and is left out"
    assert 0 < probe_metrics.bootstrap(noise, targets) < 10
    by_hand = probe_metrics.mean_average_precision(
        np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2]]), np.array([[1, 0], [0, 1], [1, 0]])
    )
    assert by_hand == pytest.approx((100 * ((1 + 2 / 3) / 2 + 1) / 2,))
