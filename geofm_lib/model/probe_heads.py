"""Heads on frozen features: the linear probe of the MAE papers, and nearest neighbours beside it.

Shapes: N images, D feature width, K classes.
"""

import torch
from timm.optim import Lars
from torch import nn
from torch.nn import functional as F


class ProbeHead(nn.Module):
    """Batch normalisation without scale and shift, then one linear layer: [N, D] -> logits [N, K].

    The normalisation makes the learning rate independent of the features' scale (MAE, arXiv 2111.06377,
    appendix A.1), so one rate suits the pretrained and the random encoder.
    """

    def __init__(self, width: int, classes: int, seed: int = 0):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(features_ND))


def lars(head: ProbeHead, weight_decay: float = 0.0) -> Lars:
    """LARS with momentum 0.9 (You et al., arXiv 1708.03888), trust coefficient 0.001, for the head.

    timm's LARS scales by the trust ratio only where there is weight decay, unless ``always_adapt``: with the
    protocol's decay of 0 it would be plain SGD. The bias takes the plain step, as in the MAE papers.
    """
    groups = [
        {"params": [head.linear.weight], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [head.linear.bias], "weight_decay": 0.0, "always_adapt": False},
    ]
    return Lars(groups, lr=0.0, momentum=0.9, trust_coeff=0.001)


def train_step(head: ProbeHead, optimiser: Lars, features_ND: torch.Tensor, truth: torch.Tensor, rate: float) -> float:
    """One step at the learning rate ``rate``; returns the mean loss.

    truth: labels int64 [N], for the cross-entropy of one class; or targets float32 [N, K] of images with several, for
    the binary cross-entropy of each class.
    """
    head.train()
    for group in optimiser.param_groups:
        group["lr"] = rate
    logits_NK = head(features_ND)
    several = truth.dim() == 2
    loss = F.binary_cross_entropy_with_logits(logits_NK, truth) if several else F.cross_entropy(logits_NK, truth)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def is_finite(head: ProbeHead) -> bool:
    """Are its logits finite for finite features? They are when its weights are and its running statistics."""
    return all(bool(each.isfinite().all()) for each in (*head.parameters(), *head.buffers()))


@torch.no_grad()
def scores(head: ProbeHead, features_ND: torch.Tensor) -> torch.Tensor:
    """Logits [N, K] of the trained head."""
    head.eval()
    return head(features_ND)


@torch.no_grad()
def knn_scores(
    train_ND: torch.Tensor,
    truth: torch.Tensor,
    test_ND: torch.Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> torch.Tensor:
    """The share [N, K] of its votes that the ``k`` nearest training images give to each class.

    Nearness is the cosine; a neighbour's vote weighs exp(cosine / temperature) (Wu et al., arXiv 1805.01978). truth: of
    the training images, as for `train_step`; one with several labels votes for each. ``k`` is cut to the number of
    training images. ``chunk`` test images are compared at once.
    """
    k = min(k, len(train_ND))
    known = F.normalize(train_ND.float(), dim=1)
    found = []
    for part in F.normalize(test_ND.float(), dim=1).split(chunk):
        cosine, index = (part @ known.T).topk(k, dim=1)
        # less 1 (the largest cosine) in the exponent: the same shares, and no overflow at low temperature
        weights = ((cosine - 1) / temperature).exp()
        votes = torch.zeros(len(part), classes, device=part.device)
        if truth.dim() == 1:
            votes.scatter_add_(1, truth[index], weights)
        else:
            votes = torch.einsum("nk,nkc->nc", weights, truth[index])
        found.append(votes / weights.sum(dim=1, keepdim=True))
    return torch.cat(found)
