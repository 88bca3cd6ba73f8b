"""bf16 blocks with fp32 weights where `fully_shard` does not cast them: under DDP, and on a rank alone."""

from collections.abc import Iterable
from functools import wraps
from typing import Any

import torch
from torch import nn

HELD = "_geofm_casts"  # the attribute of a module that computes in another type: its `_Casts`


class _Casts:
    """The fp32 parameters of some modules, with their casts in their places while it is entered."""

    def __init__(self, owners: list[nn.Module], dtype: torch.dtype, may_share: bool) -> None:
        self.owners, self.dtype, self.may_share, self.share = owners, dtype, may_share, False
        self.shared: dict[nn.Parameter, torch.Tensor] = {}
        self.held: list[tuple[nn.Module, str, nn.Parameter]] = []

    def __enter__(self) -> None:
        for owner in self.owners:
            for name, parameter in owner._parameters.items():
                if parameter is not None and parameter.is_floating_point():
                    self.held.append((owner, name, parameter))
                    lowered: Any = self._of(parameter)  # no parameter, and in the place of one
                    owner._parameters[name] = lowered

    def _of(self, parameter: nn.Parameter) -> torch.Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return parameter.to(self.dtype)
        cast = self.shared.pop(parameter, None)
        if cast is None:
            cast = parameter.to(self.dtype)
        if self.share:
            self.shared[parameter] = cast
        return cast

    def __exit__(self, *_: Any) -> None:
        while self.held:
            owner, name, parameter = self.held.pop()
            owner._parameters[name] = parameter


def compute_in(
    module: nn.Module, dtype: torch.dtype, cast_inputs: bool, skip: Iterable[nn.Module] = (), may_share: bool = True
) -> None:
    """Let a module compute with its fp32 parameters cast to `dtype`, as fully_shard's policy does.

    The casts are part of the graph, so gradients come back in fp32; on recomputation they are simply made again.
    `may_share`: a step's micro-batches may have them in common, see `micro_batch`.
    """
    skipped = {id(inner) for outer in skip for inner in outer.modules()}
    casts = _Casts([m for m in module.modules() if id(m) not in skipped and m._parameters], dtype, may_share)

    def lower(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        casts.__enter__()

        def down(value: Any) -> Any:
            return value.to(dtype) if cast_inputs and torch.is_tensor(value) and value.is_floating_point() else value

        return tuple(down(a) for a in args), {k: down(v) for k, v in kwargs.items()}

    module.register_forward_pre_hook(lower, with_kwargs=True)
    module.register_forward_hook(casts.__exit__, always_call=True)
    setattr(module, HELD, casts)


def micro_batch(model: nn.Module, part: int, parts: int) -> None:
    """Before each of a step's micro-batches: they share their casts, which the first of them makes.

    A cast saves nothing for its backward pass, so several graphs may end in it.
    """
    for module in model.modules():
        casts = getattr(module, HELD, None)
        if casts is not None:
            casts.share = casts.may_share and part < parts - 1  # the last one's graph alone holds them
            if part == 0:
                casts.shared = {}


def forward_method(module: nn.Module, name: str) -> None:
    """Let a method compute as the forward pass does, if that was told to `compute_in` another type."""
    casts, usual = getattr(module, HELD, None), getattr(module, name)
    if casts is None:
        return

    @wraps(usual)
    def lowered(*args: Any, **kwargs: Any) -> Any:
        with casts:
            return usual(*args, **kwargs)

    setattr(module, name, lowered)
