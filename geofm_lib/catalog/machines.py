"""The machines, one row each: what one device and one node can do, with the source of every fact.

Figures are the makers' peaks, but for the laptop's, which are what a small machine was measured at; what share of
them is achieved stands in ``speeds``. Bandwidths are in GB/s (10^9 bytes) and in one
direction; memory is in GiB.
"""

from dataclasses import dataclass, field

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
    links_gb_s: dict[int, float]  # shard groups of up to this many consecutive devices talk at this rate
    network_gb_s: float | None  # per node, all its network cards together; None: no network, or unknown
    nodes: int
    source: str
    hours: dict[int, float] = field(default_factory=dict)  # jobs of up to this many nodes may take so long
    queued: int | None = None  # jobs of one user that may be in the queue
    device_name: str = ""  # what torch calls one device


_ROWS = [
    Machine(
        name="frontier",
        title="Frontier (OLCF): 4 AMD MI250X, seen as 8 GPUs (GCDs), and one 64-core EPYC per node",
        device="cuda",
        devices_per_node=8,
        memory_gib=63.98,
        peak_bf16_tflops=191.5,
        peak_fp32_tflops=47.9,
        memory_gb_s=1600.0,
        # two GCDs of one MI250X: 200; between MI250X 50 to 100, the slowest link sets the pace
        links_gb_s={2: 200.0, 8: 50.0},
        network_gb_s=100.0,
        nodes=9408,
        source="OLCF user documentation (olcf/olcf-user-docs); peaks: AMD's MI250X data sheet (383 TFLOP/s bf16, "
        "95.7 fp32 matrix) halved per GCD; usable memory: a log of the paper's benchmark code",
        hours={91: 2.0, 183: 6.0, 1881: 12.0, 5644: 12.0, 9408: 12.0},
        queued=100,
        device_name="AMD Instinct MI250X",
    ),
    Machine(
        name="laptop",
        title="A laptop or small virtual machine: no GPU, 2 cores",
        device="cpu",
        devices_per_node=1,
        memory_gib=8.0,
        peak_bf16_tflops=0.025,
        peak_fp32_tflops=0.067,
        memory_gb_s=16.0,
        links_gb_s={},
        network_gb_s=None,
        nodes=1,
        source="an example, since laptops differ: matrix products of 1024 x 1024 and copies of 128 MiB by torch 2.14 "
        "in two threads of an Intel Xeon at 2.8 GHz; `make doctor` measures yours",
    ),
    Machine(
        name="8xA100",
        title="A cluster of DGX A100: 8 NVIDIA A100 SXM 80 GB per node",
        device="cuda",
        devices_per_node=8,
        memory_gib=79.1,
        peak_bf16_tflops=312.0,
        peak_fp32_tflops=19.5,
        memory_gb_s=2039.0,
        links_gb_s={8: 300.0},
        network_gb_s=200.0,
        nodes=560,
        source="NVIDIA A100 and DGX A100 data sheets (NVLink 600 GB/s both ways, 8 x 200 Gbit/s InfiniBand); "
        "nodes: as in NVIDIA's Selene",
        device_name="NVIDIA A100-SXM4-80GB",
    ),
    Machine(
        name="8xH100",
        title="A cluster of DGX H100: 8 NVIDIA H100 SXM 80 GB per node",
        device="cuda",
        devices_per_node=8,
        memory_gib=79.1,
        peak_bf16_tflops=989.4,
        peak_fp32_tflops=66.9,
        memory_gb_s=3350.0,
        links_gb_s={8: 450.0},
        network_gb_s=400.0,
        nodes=576,
        source="NVIDIA H100 and DGX H100 data sheets (NVLink 900 GB/s both ways, 8 x 400 Gbit/s InfiniBand); "
        "nodes: as in NVIDIA's Eos",
        device_name="NVIDIA H100 80GB HBM3",
    ),
]

MACHINES: dict[str, Machine] = {row.name: row for row in _ROWS}


def lookup(name: str) -> Machine:
    """The row called ``name``; ValueError in one sentence when there is none."""
    if name not in MACHINES:
        hint = did_you_mean(name, MACHINES) or "."
        raise ValueError(f"There is no machine '{name}'{hint} Known are {', '.join(MACHINES)}.")
    return MACHINES[name]


def of_device(name: str) -> Machine | None:
    """The row whose devices torch calls ``name``, None when no row has such a device."""
    return next((row for row in MACHINES.values() if row.device_name and row.device_name == name), None)
