"""model/probe_heads.py: the head, LARS and nearest neighbours, against hand values."""

import torch
from torch.nn import functional as F

from geofm_lib.model import probe_heads


def test_the_head_learns_what_is_linear_whatever_the_scale():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = (F.one_hot(labels, 3).float() + 0.2 * torch.randn(300, 3)) * torch.tensor([1e-4, 1.0, 1e4])
    head = probe_heads.ProbeHead(3, 3)
    optimiser = probe_heads.lars(head)
    losses = [probe_heads.train_step(head, optimiser, features, labels, 5.0) for _ in range(300)]
    assert losses[-1] < 0.5 * losses[0]
    assert probe_heads.accuracy(head, features, labels)[0] > 98
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
    head = torch.nn.Identity()
    assert probe_heads.accuracy(head, logits, torch.tensor([0, 1, 0, 5])) == (50.0, 75.0)
    corners = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels, asked = torch.tensor([4, 4, 2]), torch.tensor([[30.0, 1.0], [0.0, 0.1]])
    assert probe_heads.knn_predict(corners, labels, asked, k=20, chunk=1).tolist() == [4, 2]
