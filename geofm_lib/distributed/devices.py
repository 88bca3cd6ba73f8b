"""What torch sees on this machine, as JSON, for the launcher: how many ranks?

    python -m geofm_lib.distributed.devices    {"kind": "cpu", "count": 0, ...}

The notebook's side never imports torch (a process that has touched a GPU must not start ranks), so it asks this one.
"""

import json
import os
from importlib import metadata

import torch


def survey() -> dict:
    """Kind of build and device, how many devices, their names and memory (GiB)."""
    build = "rocm" if torch.version.hip else "cuda" if torch.version.cuda else "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return {
        "torch": torch.__version__,
        "build": build,
        "build_version": torch.version.hip or torch.version.cuda or "",
        "kind": build if count else "cpu",
        "count": count,
        "names": [each.name for each in properties],
        "memory_gib": [round(each.total_memory / 2**30, 1) for each in properties],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backends": [name for name in ("gloo", "nccl") if _has(name)],
    }


def packages(names: tuple[str, ...] = ("torchvision", "timm")) -> dict[str, str]:
    """Import each package that must fit this torch: its version, or `error: ...` when it does not load.

    A torchvision built for another torch installs without complaint and fails only here.
    """
    found = {}
    for name in names:
        try:
            __import__(name)
            found[name] = metadata.version(name)
        except Exception as error:  # whatever it is, it is the answer
            found[name] = f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return found


def _has(backend: str) -> bool:
    check = getattr(torch.distributed, f"is_{backend}_available", lambda: False)
    return torch.distributed.is_available() and check()


if __name__ == "__main__":
    print(json.dumps(survey()))
