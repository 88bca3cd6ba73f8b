"""Heads on frozen features: the linear probe of the MAE papers, and nearest neighbours beside it.

Shapes: N images, D feature width, K classes.
"""

import torch
from timm.optim import Lars
from torch import nn
from torch.nn import functional as F

PROTOCOL = 2  # another number where the same features would give other heads: what an older version kept is not used
CONSTANT = 1e-6  # of its mean: a feature that varies less is told apart by rounding alone
STANDARDISED, CENTRED, PLAIN = "standardised", "centred", "as they are"
PAPER_RATE, MOST_RATE, RATE_STEPS = 0.1, 30.0, 10_000
SCALINGS = (STANDARDISED, CENTRED, PLAIN)  # of features before their cosine


def base_rate(steps: int) -> float:
    """The learning rate per 256 images for a head that takes so many steps in all.

    LARS moves weights by a share of themselves, so what counts is rate times steps. MAE's 0.1 is for the 450,000 steps
    of a million images and 90 epochs; below 100,000 steps the product stays 10,000, up to a rate of 30, above which no
    set gained (reports/LOG.md).

    >>> base_rate(450_000), base_rate(4000), base_rate(360)
    (0.1, 2.5, 27.77777777777778)
    """
    return min(MOST_RATE, max(PAPER_RATE, RATE_STEPS / steps))


class ProbeHead(nn.Module):
    """Batch normalisation without scale and shift, then one linear layer: [N, D] -> logits [N, K].

    The normalisation makes the learning rate independent of the features' scale (MAE, arXiv 2111.06377,
    appendix A.1), so one rate suits the pretrained and the random encoder. Weight and bias are one matrix
    [K, D + 1], whose last column is the bias: of a feature that is 1 for every image.
    """

    def __init__(self, width: int, classes: int, seed: int = 0):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.Linear(width + 1, classes, bias=False)
        with torch.no_grad():
            weight = torch.empty(classes, width)
            nn.init.normal_(weight, std=0.01, generator=torch.Generator().manual_seed(seed))
            self.linear.weight.copy_(F.pad(weight, (0, 1)))

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        return self.linear(F.pad(self.norm(features_ND), (0, 1), value=1.0))


def lars(head: ProbeHead, weight_decay: float = 0.0) -> Lars:
    """timm's LARS with momentum 0.9 (You et al., arXiv 1708.03888), trust coefficient 0.001, for the head.

    timm's scales by the trust ratio only where there is weight decay, unless ``always_adapt``: with the protocol's
    decay of 0 it would be plain SGD. The bias is a column of the matrix, so it steps with the matrix's ratio. In
    MAE's code it takes a plain step: at the rate of 30 that small sets need, it overshoots until the head is worse than
    none. A ratio of its own would be 1, a plain step again, as long as it is 0 (reports/LOG.md).
    """
    return Lars(head.parameters(), lr=0.0, momentum=0.9, weight_decay=weight_decay, always_adapt=True)


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
    scaling: str = STANDARDISED,
) -> torch.Tensor:
    """The share [N, K] of its votes that the ``k`` nearest training images give to each class.

    Nearness is the cosine of features that are standardised by the training images' mean and spread, or one of
    SCALINGS; features of a network share a large mean. A neighbour's vote weighs exp(cosine / temperature) (Wu et al.,
    arXiv 1805.01978). truth: of the training images, as for `train_step`; one with several labels votes for each.
    ``k`` is cut to the number of training images. ``chunk`` test images are compared at once.
    """
    k = min(k, len(train_ND))
    spread, mean = torch.std_mean(train_ND.float(), dim=0, correction=0)
    varied = spread > CONSTANT * mean.abs()
    if scaling != STANDARDISED:
        spread = torch.ones_like(spread)
    if scaling == PLAIN:
        mean, varied = torch.zeros_like(mean), torch.ones_like(varied)

    def standardised(features: torch.Tensor) -> torch.Tensor:
        return F.normalize((features.float() - mean)[:, varied] / spread[varied], dim=1)

    known, found = standardised(train_ND), []
    for part in standardised(test_ND).split(chunk):
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
