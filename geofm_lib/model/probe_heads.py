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


def train_step(
    head: ProbeHead, optimiser: Lars, features_ND: torch.Tensor, labels_N: torch.Tensor, rate: float
) -> float:
    """One step at the learning rate ``rate``; returns the mean cross-entropy."""
    head.train()
    for group in optimiser.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(head(features_ND), labels_N)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


@torch.no_grad()
def accuracy(head: ProbeHead, features_ND: torch.Tensor, labels_N: torch.Tensor) -> tuple[float, float]:
    """(top-1, top-5) in percent; with fewer than five classes top-5 is 100."""
    head.eval()
    logits_NK = head(features_ND)
    best = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
    hits = best == labels_N[:, None]
    return 100 * hits[:, 0].float().mean().item(), 100 * hits.any(dim=1).float().mean().item()


@torch.no_grad()
def knn_predict(
    train_ND: torch.Tensor,
    train_labels_N: torch.Tensor,
    test_ND: torch.Tensor,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> torch.Tensor:
    """The label [N] that the ``k`` nearest training images vote for.

    Nearness is the cosine; a neighbour's vote weighs exp(cosine / temperature) (Wu et al., arXiv 1805.01978).
    ``k`` is cut to the number of training images. ``chunk`` test images are compared at once.
    """
    k, classes = min(k, len(train_ND)), int(train_labels_N.max()) + 1
    known = F.normalize(train_ND.float(), dim=1)
    predicted = []
    for part in F.normalize(test_ND.float(), dim=1).split(chunk):
        cosine, index = (part @ known.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes, device=part.device)
        # less 1 (the largest cosine) in the exponent: the same winner, and no overflow at low temperature
        votes.scatter_add_(1, train_labels_N[index], ((cosine - 1) / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)
