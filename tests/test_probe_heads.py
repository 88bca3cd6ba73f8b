"""model/probe_heads.py: the head, LARS and nearest neighbours, and their metrics, against hand values."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

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


def test_lars_scales_the_matrix_by_the_trust_ratio_even_without_decay():
    head = probe_heads.ProbeHead(4, 3)
    weight, bias = head.linear.weight.detach().clone(), head.linear.bias.detach().clone()
    probe_heads.train_step(head, probe_heads.lars(head), torch.randn(8, 4), torch.arange(8) % 3, rate=0.5)
    gradient = head.linear.weight.grad
    step = 0.5 * 0.001 * weight.norm() / gradient.norm() * gradient
    torch.testing.assert_close(head.linear.weight.detach(), weight - step)
    torch.testing.assert_close(head.linear.bias.detach(), bias - 0.5 * head.linear.bias.grad)


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
