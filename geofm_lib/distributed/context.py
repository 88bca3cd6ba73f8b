"""A rank's context: its number, the world size, its device, and how it meets the other ranks of its run.

A rank is a plain process. It learns its number from the environment: RANK and WORLD_SIZE, or Slurm's own variables.
It finds the others through one small file in the run folder. Rank 0 opens a TCP store on a free port and writes its
address there, so no port is guessed and none can collide.
"""

import json
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from geofm_lib import files

RENDEZVOUS_S = 300  # ranks of a large job start minutes apart
COLLECTIVE_S = 600  # a collective that waits longer than this has lost a rank
LEAVING_S = 30 * 86400  # at the end one rank may write or fit for hours: by then only heartbeats say who is lost


@dataclass
class Context:
    """This process among the ranks of a run."""

    rank: int
    world_size: int
    device: torch.device
    store: dist.Store  # small messages between ranks go through it, so they need no communication backend
    _calls: dict[str, int] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here (through the store: works without any communication backend)."""
        self.gather(None)
        self.broadcast(None)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (JSON), in rank order, on rank 0; [] elsewhere."""
        key = self._key("gather")
        self._put(f"{key}/{self.rank}", value)
        return [self._take(f"{key}/{r}") for r in range(self.world_size)] if self.is_main else []

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (JSON) on every rank."""
        key = self._key("broadcast")
        if self.is_main:
            self._put(key, value)
            return value
        return self._take(key)

    def _key(self, kind: str) -> str:
        self._calls[kind] = self._calls.get(kind, 0) + 1
        return f"geofm/{kind}/{self._calls[kind]}"

    def _put(self, key: str, value: Any) -> None:
        self.store.set(key, json.dumps(value))

    def _take(self, key: str) -> Any:
        return json.loads(self.store.get(key))


def from_environment() -> tuple[int, int, int]:
    """(rank, world size, ranks on this node) from the launcher's variables, else Slurm's, else a single process."""
    env = os.environ
    if "RANK" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:
        world_size, nodes = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NNODES", 1))
        return int(env["SLURM_PROCID"]), world_size, int(env.get("SLURM_NTASKS_PER_NODE", -(-world_size // nodes)))
    return 0, 1, 1


def join_fake_group(rank: int, world_size: int) -> None:
    """Make torch's fake process group the default: collectives have their calls and shapes, and send nothing."""
    # Private to torch, so it is imported only where it is used.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


def fake_group() -> dist.ProcessGroup:
    """All ranks again, beside their real group, in one that sends nothing; every rank calls this."""
    import torch.testing._internal.distributed.fake_pg  # noqa: F401  makes the backend "fake" known

    return cast(dist.ProcessGroup, dist.new_group(backend="fake"))  # every rank is in it


def join(run_dir: Path, device: str = "auto", communication: str = "on") -> Context:
    """Join the run's ranks; every rank calls this once.

    Args:
        run_dir: the run folder, visible to every rank.
        device: auto, cpu or cuda (ROCm answers to cuda).
        communication: `off` gives torch's fake process group: the same calls and shapes, nothing is sent.
    """
    rank, world_size, local_world_size = from_environment()
    where = _device(device, local_world_size)
    store = _store(run_dir, rank, world_size)
    context = Context(rank, world_size, where, store)
    if communication == "off":
        join_fake_group(rank, world_size)
        return context
    backend = "nccl" if where.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("torch", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=COLLECTIVE_S),
        device_id=where if where.type == "cuda" else None,
    )
    return context


def leave(context: Context) -> None:
    """Leave the others when all have come to their end; rank 0 last, since the store lives in its process."""
    context.store.set_timeout(timedelta(seconds=LEAVING_S))
    context.barrier()
    if dist.is_initialized():
        dist.destroy_process_group()
    if not context.is_main:
        context.store.set(f"geofm/left/{context.rank}", "")
        return
    for rank in range(1, context.world_size):
        context.store.get(f"geofm/left/{rank}")


def _device(device: str, local_world_size: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device: this machine shows no GPU to torch; use device='cpu' or 'auto'")
    # The launcher (or srun's --gpus-per-task) shows each rank exactly its own GPU, so the index is always 0.
    if torch.cuda.device_count() > 1 and local_world_size > 1:
        raise ValueError("each rank must see one GPU; start it through the launcher or `srun --gpus-per-task=1`")
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)


def _store(run_dir: Path, rank: int, world_size: int) -> dist.Store:
    launch = os.environ.get("GEOFM_LAUNCH") or "{SLURM_JOB_ID}.{SLURM_STEP_ID}".format_map(_Absent(os.environ))
    meeting = Path(run_dir) / f".rendezvous-{launch}.json"
    timeout = timedelta(seconds=RENDEZVOUS_S)
    if rank == 0:
        store = dist.TCPStore("0.0.0.0", 0, world_size, True, timeout, wait_for_workers=False)
        files.write_json(meeting, {"host": _address(), "port": store.port})
        return store
    until = time.monotonic() + RENDEZVOUS_S
    while not meeting.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"rank {rank} found no rank 0 within {RENDEZVOUS_S} s ({meeting} never appeared)")
        time.sleep(0.05)
    there = json.loads(meeting.read_text())
    return dist.TCPStore(there["host"], there["port"], world_size, False, timeout)


def _address() -> str:
    """Where the other ranks find rank 0: loopback on one machine, this host's address in a Slurm step."""
    if "SLURM_PROCID" not in os.environ or int(os.environ.get("SLURM_NNODES", 1)) == 1:
        return "127.0.0.1"
    return socket.gethostbyname(socket.gethostname())


class _Absent(dict):
    def __missing__(self, key):
        return "local"
