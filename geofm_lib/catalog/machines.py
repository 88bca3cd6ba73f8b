"""The machines, one row each: what one device and one node can do, with the source of every fact.

The rows stand in ``machines.toml``; what share of the peaks is achieved stands in ``speeds``. A user's own rows, which
``geofm calibrate`` writes, are files of the folder ``own_folder``: row and speeds in one. Bandwidths are in GB/s (10^9
bytes) and in one direction; memory is in GiB.
"""

import os
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from geofm_lib.catalog.suggest import did_you_mean

KINDS = ("measured", "fitted", "stated", "assumed")  # how a number behind a plan was obtained


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
    watts: float | None = None  # most power of one device, of the data sheet
    shared: bool = False  # ranks of a node share one processor, so fewer of them are faster each
    measured: tuple[str, ...] = ()  # which of these numbers were measured; the others are stated by their source

    def with_ranks(self, ranks: int | None) -> Self:
        """This machine with so many ranks on a node (None: as many as there are devices)."""
        if ranks in (None, self.devices_per_node):
            return self
        more = self.devices_per_node / ranks if self.shared else 1.0
        scaled = {name: more * getattr(self, name) for name in ("peak_bf16_tflops", "peak_fp32_tflops", "memory_gb_s")}
        links = {most: more * rate for most, rate in self.links_gb_s.items()}
        return replace(self, devices_per_node=ranks, links_gb_s=links, **scaled)


def _numbered(row: dict, name: str) -> dict[int, float]:
    return {int(most): value for most, value in row.get(name, {}).items()}


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MACHINES: dict[str, Machine] = {
    name: Machine(name, **row | {each: _numbered(row, each) for each in ("links_gb_s", "hours")})
    for name, row in _TABLES.items()
}


def own_folder() -> Path:
    """Where rows of users' own machines lie: GEOFM_MACHINES, else ``machines/`` of the clone."""
    return Path(os.environ.get("GEOFM_MACHINES") or Path(__file__).parents[2] / "machines")


def own(name: str) -> dict[str, Any] | None:
    """The tables ``machine`` and ``speeds`` of a user's row, None if there is none; ValueError where it is broken."""
    file = own_folder() / f"{name}.toml"
    if "/" in name or not file.is_file():
        return None
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found["machine"], dict) or not isinstance(found["speeds"], list):
            raise ValueError("[machine] must be a table and [[speeds]] rows")
        for row in found["speeds"]:
            numbers = [row["value"], row["spread"], row.get("at", 1.0), *row.get("loads", {}).values()]
            if row["kind"] not in KINDS or not all(isinstance(each, int | float) for each in numbers):
                raise ValueError(f"the speed {row['name']} must have numbers and a kind, one of {', '.join(KINDS)}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} is no machine's row ({said}); make it again by geofm calibrate.") from None
    return found


def known() -> list[str]:
    """Names of all rows, those of users last."""
    return [*MACHINES, *sorted(file.stem for file in own_folder().glob("*.toml") if file.stem not in MACHINES)]


def lookup(name: str) -> Machine:
    """The row called ``name``; ValueError in one sentence when there is none, or it is broken."""
    if name in MACHINES:
        return MACHINES[name]
    if found := own(name):
        row = found["machine"] | {each: _numbered(found["machine"], each) for each in ("links_gb_s", "hours")}
        try:
            return Machine(name, **row | {"measured": tuple(row.get("measured", ()))})
        except TypeError as error:
            file = own_folder() / f"{name}.toml"
            raise ValueError(f"{file} is no machine's row ({error}); make it again by geofm calibrate.") from None
    hint = did_you_mean(name, known()) or "."
    raise ValueError(f"There is no machine '{name}'{hint} Known are {', '.join(known())}.")


def of_device(name: str) -> Machine | None:
    """The row whose devices torch calls ``name``, None when no row has such a device."""
    return next((row for row in MACHINES.values() if row.device_name and row.device_name == name), None)
