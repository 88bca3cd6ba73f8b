"""One optimiser step on any number of ranks: micro-batches, clipping, AdamW, and MAE's learning rate."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from geofm_lib.distributed import sharding
from geofm_lib.model.init import plain_name

SHARE = "share_of_rate"  # of a group of parameters


class NotFinite(RuntimeError):
    """The loss or the gradient norm is infinite or not a number; raised on every rank, before anything is updated.

    `loss` is the global batch's, `own_loss` this rank's, `norm` the gradient norm.
    """

    def __init__(self, loss: float, own_loss: float, norm: float):
        super().__init__(f"the loss is {loss} and the gradient norm {norm}")
        self.loss, self.own_loss, self.norm = loss, own_loss, norm


class StepResult(NamedTuple):
    """What a step came to, the same on every rank."""

    loss: float  # mean over the global batch, before the update
    norm: float  # of the global batch's gradient, before clipping
    stop: bool  # did any rank ask for a stop?
    also: tuple[float, ...] = ()  # what was to be shared beside the loss, each its mean over the ranks


def optimiser(model: nn.Module, weight_decay: float, share: float = 0.0) -> torch.optim.AdamW:
    """AdamW with MAE's betas (0.9, 0.95); decay on matrices only (norms, biases and tokens are left alone).

    share: of the rate, for matrices whose fan-in grows with the encoder's width; 0: one rate for all. Their decay is
    divided by it, so that a step shrinks every matrix alike.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [(n, p) for n, p in trained if _is_matrix(n, p)]
    others = [p for n, p in trained if not _is_matrix(n, p)]
    scaled = [p for n, p in decayed if share and _grows(n)]
    same = [p for n, p in decayed if not (share and _grows(n))]
    # The decayed one first, and the scaled one last: checkpoints hold the groups by number.
    groups: list[dict[str, Any]] = [
        {"params": same, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if share:
        groups.append({"params": scaled, "weight_decay": weight_decay / share, SHARE: share})
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def layered(model: nn.Module, weight_decay: float, share_of: Callable[[str], float]) -> torch.optim.AdamW:
    """The same optimiser, with a share of the rate for each parameter by its plain name: layer-wise rate decay."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share, decayed = share_of(plain_name(name)), _is_matrix(name, parameter)
            group = {"params": [], "weight_decay": weight_decay if decayed else 0.0, SHARE: share}
            groups.setdefault((share, decayed), group)["params"].append(parameter)
    return torch.optim.AdamW([groups[key] for key in sorted(groups)], lr=0.0, betas=(0.9, 0.999), fused=True)


def learning_rate(
    step: int, *, peak: float, warmup_steps: float, total_steps: int, cooldown_steps: float | None = None
) -> float:
    """Linear warm-up to `peak`, then half a cosine to zero (MAE, arXiv 2111.06377, appendix A.1).

    With `cooldown_steps` the rate is constant instead, and falls in a line to zero over the last of them. `step` counts
    from 0; step 0 takes peak / warmup_steps, so no step is wasted at a rate of 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / max(1.0, warmup_steps)
    if cooldown_steps is not None:
        return peak * min(1.0, max(0.0, (total_steps - step) / max(1.0, cooldown_steps)))
    share = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Iterable[Callable[[], torch.Tensor]],
    *,
    parts: int,
    rate: float,
    clip: float,
    stop: bool = False,
    also: Callable[[], torch.Tensor] | None = None,
    phases: Callable[[str], AbstractContextManager] = nullcontext,
    group: dist.ProcessGroup | None = None,
) -> StepResult:
    """One optimiser step; every rank calls this. Raises NotFinite, with the gradients still there.

    Args:
        losses: one function a micro-batch, giving its mean loss; micro-batches are equally large on all ranks.
        parts: how many there are. The gradient is that of the global batch for any `parts` and number of ranks.
        rate: learning rate of this step.
        clip: largest gradient norm, 0 for none.
        stop: this rank asks all to stop; it rides on the reduction of the loss.
        also: gives further numbers of this rank [any], once all micro-batches are through; they ride there too.
        phases: a `meters.Phases` that times forward, backward and optimiser.
        group: the ranks that agree on the step (None: all of them).
    """
    own_losses = []
    for part, loss_of in enumerate(losses):
        sharding.micro_batch(model, part, parts)
        with phases("forward"):
            loss = loss_of()
        with phases("backward"):
            (loss / parts).backward()
        own_losses.append(loss.detach() / parts)
    with phases("optimiser"):
        own = sum(own_losses[1:], start=own_losses[0])
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # One small reduction tells every rank the same, so that all of them go on or none does.
        ranks = dist.get_world_size(group)
        more = list(also().to(own.device).double().view(-1) / ranks) if also else []
        shared = torch.stack([own.double() / ranks, own.new_tensor(float(stop)).double(), *more])
        dist.all_reduce(shared, group=group)
        share = clip / (norm + 1e-6)  # as clip_grads_with_norm_ has it
        mean, stops, *others, length, left = torch.cat([shared, torch.stack([norm, share]).double()]).tolist()
        if not math.isfinite(mean) or not math.isfinite(length):
            raise NotFinite(mean, float(own), length)
        if clip and left < 1.0:  # else it would take all gradients times 1
            nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
        for parameter_group in optimiser.param_groups:
            parameter_group["lr"] = rate * parameter_group.get(SHARE, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return StepResult(mean, length, stops > 0, tuple(others))


def not_finite(model: nn.Module) -> list[str]:
    """Names of the weights whose gradient, in the part that this rank holds, is infinite or not a number."""
    held = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    local = [(n, g.to_local() if hasattr(g, "to_local") else g) for n, g in held]
    return [plain_name(n) for n, g in local if not torch.isfinite(g).all()]


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith(("token", "pos_embed"))


def _grows(name: str) -> bool:
    """Is a matrix's fan-in as wide as the encoder? The patch embedding's is not, nor is the decoder's."""
    return plain_name(name).startswith(("encoder.blocks.", "decoder_embed.", "projector."))
