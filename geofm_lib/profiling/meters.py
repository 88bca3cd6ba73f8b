"""What a rank measures of itself: time, memory and bytes sent. Every number names its unit."""

import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode

from geofm_lib.planning.conditions import GIB

MARK = "geofm:"  # before a phase's name in a profiler's trace
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "broadcast")


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards covers its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Phases:
    """Seconds spent in named phases of a step, the device waited for at each end; a profiler sees them as ranges."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        synchronise(self.device)
        start = time.perf_counter()
        with record_function(MARK + name):
            yield
            synchronise(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds so far, and start again."""
        taken, self.seconds = self.seconds, {}
        return taken


def peak_memory_gib(device: torch.device) -> float:
    """Peak since the start: allocated on the GPU, or resident of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


class CollectiveBytes(TorchDispatchMode):
    """Counts calls and payload bytes of each collective that runs inside it.

    The payload is the larger of what goes in and what comes out. That is the gathered whole of an all-gather, the
    whole that a reduce-scatter reduces, and an all-reduce's tensor itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, _, rest = func._schema.name.partition("::")
        name = collective(rest) if namespace in ("c10d", "_c10d_functional") else ""
        if name:
            listed = [arg if isinstance(arg, list | tuple) else [arg] for arg in args]
            payload = max((sum(t.nbytes for t in each if torch.is_tensor(t)) for each in listed), default=0)
            self.calls[name] = self.calls.get(name, 0) + 1
            self.bytes[name] = self.bytes.get(name, 0) + payload
        return out


def collective(name: str) -> str:
    """The paper's name of the collective that torch, gloo or NCCL call by `name`; '' of anything else.

    >>> collective("_allgather_base_"), collective("ncclDevKernel_AllReduce_Sum_f32"), collective("barrier")
    ('all_gather', 'all_reduce', '')
    """
    plain = name.lower().replace("_", "")
    return next((each for each in COLLECTIVES if each.replace("_", "") in plain), "")


def pending_collective() -> str:
    """The collective this rank waits in, such as 'gloo:all_reduce', by torch's flight recorder; '' if none is known."""
    # Private to torch, so it is looked up, and a torch without it only says less.
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        dump = getattr(torch._C._distributed_c10d, name, None)
        entries = json.loads(dump()).get("entries", []) if dump else []
        pending = [entry["profiling_name"] for entry in entries if not entry.get("retired", True)]
        if pending:
            return pending[0]
    return ""


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, object]:
    """Where a run ran: host, device, torch build, threads."""
    builds = {"ROCm": torch.version.hip, "CUDA": torch.version.cuda}
    return {
        "host": socket.gethostname(),
        "device": device_name(device),
        "device_type": device.type,
        "torch": torch.__version__,
        "torch_build": next((f"{name} {version}" for name, version in builds.items() if version), "CPU"),
        "threads_per_rank": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }
