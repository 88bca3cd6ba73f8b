"""The machines, one row each: what one device and one node can do, with the source of every fact.

The rows stand in ``machines.toml``; what share of the peaks is achieved stands in ``speeds``. Bandwidths are in GB/s
(10^9 bytes) and in one direction; memory is in GiB.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from geofm_lib.catalog.suggest import did_you_mean


@dataclass(frozen=True)
class Machine:
    """One kind of node, in its maker's figures."""

    name: str
    title: str
    device: str  # "cuda" (NVIDIA and AMD alike) or "cpu"
    devices_per_node: int
    memory_gib: float  # usable by torch, per device
    peak_bf16_tflops: float  # dense, per device
    peak_fp32_tflops: float  # dense matrix units without reduced precision, per device
    memory_gb_s: float  # the device's own memory
    nodes: int
    source: str
    links_gb_s: dict[int, float] = field(default_factory=dict)  # shard groups of up to so many consecutive devices
    network_gb_s: float | None = None  # per node, all its network cards together; None: no network, or unknown
    hours: dict[int, float] = field(default_factory=dict)  # jobs of up to this many nodes may take so long
    queued: int | None = None  # jobs of one user that may be in the queue
    device_name: str = ""  # what torch calls one device


def _numbered(row: dict, name: str) -> dict[int, float]:
    return {int(most): value for most, value in row.get(name, {}).items()}


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MACHINES: dict[str, Machine] = {
    name: Machine(name, **row | {each: _numbered(row, each) for each in ("links_gb_s", "hours")})
    for name, row in _TABLES.items()
}


def lookup(name: str) -> Machine:
    """The row called ``name``; ValueError in one sentence when there is none."""
    if name not in MACHINES:
        hint = did_you_mean(name, MACHINES) or "."
        raise ValueError(f"There is no machine '{name}'{hint} Known are {', '.join(MACHINES)}.")
    return MACHINES[name]


def of_device(name: str) -> Machine | None:
    """The row whose devices torch calls ``name``, None when no row has such a device."""
    return next((row for row in MACHINES.values() if row.device_name and row.device_name == name), None)
