"""What a device says of its power and use while steps run: NVML or AMD SMI for a GPU, RAPL for a CPU's packages.

Many machines say nothing (no pynvml, a virtual machine, counters that only root may read): then values are None.
"""

import time
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
SAMPLE_S = 0.5  # GPUs average over about as long
NOTHING = "not available"


class Power:
    """Mean watts and percent busy from its making to `mean`; call `sample` between steps.

    A GPU gives its own watts, RAPL those of all packages of the node; on an MI250X both halves share one sensor.
    """

    def __init__(self, device: torch.device, rapl: Path = RAPL):
        self.device, self.rapl = device, rapl
        self._samples: list[tuple[float, float]] = []
        self._due = self._began = time.perf_counter()
        self._cpu_s, self._joules = time.process_time(), counters(rapl)

    def sample(self) -> None:
        """Ask a GPU, if it was not asked just now."""
        if self.device.type == "cuda" and time.perf_counter() >= self._due:
            self._due = time.perf_counter() + SAMPLE_S
            try:
                self._samples.append((torch.cuda.power_draw() / 1e3, torch.cuda.utilization()))
            except Exception:  # no pynvml or amdsmi, no driver, no permission: each library raises its own
                self._due = float("inf")

    def mean(self) -> dict[str, float | str | None]:
        """power_w and busy_percent (None if unknown), and power_source in words."""
        window = time.perf_counter() - self._began
        if self.device.type == "cuda":
            watts, busy = (sum(x) / len(x) for x in zip(*self._samples, strict=True)) if self._samples else (None, None)
            source = ("AMD SMI" if torch.version.hip else "NVML") if self._samples else NOTHING
            return {"power_w": watts, "busy_percent": busy, "power_source": source}
        busy = 100 * (time.process_time() - self._cpu_s) / window / torch.get_num_threads()
        used = spent(self._joules, counters(self.rapl))
        watts, source = (None, NOTHING) if used is None else (used / window, "RAPL, all packages of the node")
        return {"power_w": watts, "busy_percent": busy, "power_source": source}


def counters(rapl: Path) -> dict[str, tuple[int, int]]:
    """Package -> (microjoules, the number at which it begins again); {} where none can be read."""
    found = {}
    for package in sorted(rapl.glob("intel-rapl:*")):  # AMD's processors have that name too
        if package.name.count(":") > 1:
            continue  # intel-rapl:0:0 is a part of intel-rapl:0
        try:
            now, last = ((package / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
            found[package.name] = int(now), int(last)
        except (OSError, ValueError):
            continue
    return found


def spent(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Joules between two readings of `counters`, None where there are none.

    A counter that began again counts on; one that did so twice (20 minutes at 200 W) goes unnoticed.
    """
    both = before.keys() & after.keys()
    if not both:
        return None
    return sum((after[name][0] - before[name][0]) % (after[name][1] + 1) for name in both) / 1e6
