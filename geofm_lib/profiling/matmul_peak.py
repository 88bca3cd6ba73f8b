"""The measured peak of a device: the fastest square matrix product, in TFLOP/s.

    python -m geofm_lib.profiling.matmul_peak    what torch sees here, the packages that must fit it, and peaks, as JSON

`geofm doctor` asks this short process, because the notebook's side never imports torch.
"""

import json
import time

import torch

from geofm_lib.distributed import devices

MEASURE_S = 0.5  # seconds of repeated products for each precision
SIZES = {"cpu": 1024, "cuda": 8192}  # side of the square matrices: large enough to be compute-bound
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_peak(precision: str, device: torch.device, seconds: float = MEASURE_S) -> float:
    """Highest TFLOP/s of a square matrix product on the device, over `seconds` of trying.

    Counts 2 n^3 operations a product. fp32 is true fp32: torch's default keeps TF32 off for matrix products.
    """
    size, dtype = SIZES[device.type], PRECISIONS[precision]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    (a @ b).sum().item()  # the first product also loads and tunes the library
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        del product
    return 2 * size**3 / best / 1e12


def main() -> None:
    found = devices.survey()
    device = torch.device("cuda" if found["count"] else "cpu")  # ROCm answers to cuda
    peaks = {name: round(matmul_peak(name, device), 3) for name in PRECISIONS}
    print(json.dumps({**found, "packages": devices.packages(), "peak_tflops": peaks}))


if __name__ == "__main__":
    main()
