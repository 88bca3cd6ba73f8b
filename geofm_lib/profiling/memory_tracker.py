"""The memory of a rank's tensors at the peak of a step, by kind: for real tensors and for fake ones alike.

torch's own trackers (torch.distributed._tools) follow either plain modules or FSDP, and name kinds differently in
each. One table of storages does for every strategy, and is the same code in a simulation and in a real run.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = ("parameters", "gradients", "optimiser", "inputs", "unsharded", "activations")
"""`unsharded`: buffers of collectives, gathered weights and gradients on their way. `activations`: all the rest."""

WHOLE = ("parameters", "gradients", "optimiser")
COLLECTIVES = ("c10d", "_c10d_functional", "fsdp")  # namespaces of operators whose tensors are buffers
FINE = 1.002  # a new peak is written down when it is this much higher than the last


class StepMemory(NamedTuple):
    """Bytes of a rank's tensors in one step."""

    peak: int
    at_peak: dict[str, int]  # of each of KINDS at the peak; they add up to it
    whole: dict[str, int]  # of each of WHOLE: gradients are not all there yet at the peak


class MemoryTracker(TorchDispatchMode):
    """Follows every storage that is made, resized or freed inside it.

    `held` is what is held now and `peak` the most that was, in bytes. Whose tensors they are is asked afterwards, so
    that gradients are known whenever they were made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._number = 0  # serial number of the next storage; addresses are used again
        self._live: dict[int, int] = {}  # serial number -> bytes
        self._serial: dict[int, int] = {}  # address -> serial number
        self._buffers: set[int] = set()
        self._at_peak: dict[int, int] = {}
        self._written = 0

    def __enter__(self) -> "MemoryTracker":
        self._resize: Callable[..., Any] = torch.UntypedStorage.resize_
        ours = self

        def resize_(storage: torch.UntypedStorage, size: int) -> None:
            ours._resize(storage, size)
            ours._put(storage)

        # FSDP frees and takes gathered weights this way, past every dispatcher.
        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *fault: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*fault)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [self._put(t.untyped_storage()) for t in _plain(out)]
        if func._schema.name.partition("::")[0] in COLLECTIVES:
            self._buffers.update(made, (self._put(t.untyped_storage()) for t in _plain((args, kwargs))))
        return out

    def of_step(
        self,
        step: Callable[[], object],
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        inputs: Iterable[torch.Tensor],
    ) -> StepMemory:
        """What `step` holds, which is a step of this model and optimiser on these inputs."""
        known: dict[str, set[int]] = {}  # serial numbers of the storages of each kind
        whole: dict[str, int] = {}

        def follow(kind: str, tensors: Iterable[torch.Tensor | None]) -> None:
            known[kind] = {self._put(t.untyped_storage()) for t in _plain(list(tensors))}
            whole[kind] = sum(self._live.get(serial, 0) for serial in known[kind])

        follow("parameters", model.parameters())
        follow("inputs", inputs)
        follow("optimiser", moments(optimiser))
        self.peak, self._written, self._at_peak = self.held, 0, {}  # begin again from what is held now
        self._note()
        # All gradients are there when the optimiser begins.
        hook = optimiser.register_step_pre_hook(lambda *_: follow("gradients", (p.grad for p in model.parameters())))
        step()
        hook.remove()
        kind_of = dict.fromkeys(self._buffers, "unsharded")
        kind_of |= {serial: kind for kind, serials in known.items() for serial in serials}
        at_peak = dict.fromkeys(KINDS, 0)
        for serial, size in self._at_peak.items():
            at_peak[kind_of.get(serial, "activations")] += size
        return StepMemory(self.peak, at_peak, {kind: whole[kind] for kind in WHOLE})

    def _put(self, storage: torch.UntypedStorage) -> int:
        address = storage._cdata
        serial = self._serial.get(address)
        if serial is None:
            serial = self._serial[address] = self._number = self._number + 1
            self._live[serial] = 0
            weakref.finalize(storage, self._drop, address, serial)
        size = storage.size()
        if size != self._live[serial]:
            self.held += size - self._live[serial]
            self._live[serial] = size
            self._note()
        return serial

    def _drop(self, address: int, serial: int) -> None:
        self.held -= self._live.pop(serial)
        del self._serial[address]

    def _note(self) -> None:
        self.peak = max(self.peak, self.held)
        if self.held > FINE * self._written:
            self._written, self._at_peak = self.held, dict(self._live)


def moments(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of an optimiser's state."""
    return [value for state in optimiser.state.values() for value in state.values() if torch.is_tensor(value)]


def _plain(values: object) -> Iterable[torch.Tensor]:
    """The tensors among nested values; a DTensor's local part, and no tensor on the meta device."""
    for value in tree_leaves(values):
        if torch.is_tensor(value):
            value = getattr(value, "_local_tensor", value)
            if value.device.type != "meta":
                yield value
