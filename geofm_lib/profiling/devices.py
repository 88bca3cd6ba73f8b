"""What torch sees on this machine, and the measured peak of a device: its fastest square matrix product.

    python -m geofm_lib.profiling.devices            {"kind": "cpu", "count": 0, ...}
    python -m geofm_lib.profiling.devices packages   the packages that must fit torch, and peaks in TFLOP/s, beside it

The notebook's side never imports torch, since a process that has touched a GPU must not start ranks. So it asks this
one: the launcher how many ranks there can be, `geofm doctor` all of it.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from geofm_lib.model.convolved import convolved

MEASURE_S = 0.5  # seconds of repeated products for each precision
SIZES = {"cpu": 1024, "cuda": 8192}  # side of the square matrices: large enough to be compute-bound


PRODUCTS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...]] = {
    "cpu": (torch.matmul, convolved),
    "cuda": (torch.matmul,),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def survey() -> dict[str, Any]:
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
        "backends": [name for name in ("gloo", "nccl") if getattr(torch.distributed, f"is_{name}_available", bool)()],
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


def matmul_peak(precision: str, device: torch.device, seconds: float = MEASURE_S) -> float:
    """Highest TFLOP/s of a square matrix product on the device, over `seconds` of trying every library in turn.

    So it is a peak that the step can reach, whichever kernels it computes with.

    Counts 2 n^3 operations a product. fp32 is true fp32: torch's default keeps TF32 off for matrix products.
    """
    size, dtype = SIZES[device.type], PRECISIONS[precision]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for product in PRODUCTS[device.type]:
        product(a, b).sum().item()  # the first one also loads and tunes the library
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for product in PRODUCTS[device.type]:
            began = time.perf_counter()
            found = product(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
            del found
    return 2 * size**3 / best / 1e12


def main() -> None:
    found = survey()
    if sys.argv[1:] == ["packages"]:
        device = torch.device("cuda" if found["count"] else "cpu")  # ROCm answers to cuda
        found["packages"] = packages()
        found["peak_tflops"] = {name: round(matmul_peak(name, device), 3) for name in PRECISIONS}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
