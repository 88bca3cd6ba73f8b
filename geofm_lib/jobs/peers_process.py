"""One implementation of the job `peers` in a process of its own: a step, or a profile, whenever it is asked for one.

So its peak of memory is its own, and what it sets of its process (kernels, allocator) harms no other.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.profiler import ProfilerActivity, profile

from geofm_lib import files
from geofm_lib.catalog.peers import CONFIGS, MASK_RATIO, PEERS, Config
from geofm_lib.data.transforms import mask_noise
from geofm_lib.distributed import sharding, training
from geofm_lib.distributed.context import Context
from geofm_lib.jobs import kernels
from geofm_lib.jobs.run_folder import KERNELS, Folder
from geofm_lib.model import mae
from geofm_lib.model.interop import peers
from geofm_lib.profiling import meters

# The same for all, of 02's defaults; a small rate, since none of it is about the result.
RATE, WEIGHT_DECAY, CLIP = 1e-4, 0.05, 1.0
OPERATORS = 5  # of a profile, the largest


class Asked(NamedTuple):
    """What a process measures. `how`: of ours, which optimisations are on (`catalog.peers.STAGES`)."""

    implementation: str
    how: dict[str, Any]
    config: str
    precision: str
    device: str
    threads: int
    seed: int


class Trained:
    """A model with its optimiser, and steps of it that are timed."""

    def __init__(self, asked: Asked):
        self.asked, self.device = asked, torch.device(asked.device)
        self.config = CONFIGS[asked.config].under(asked.how.get("recipe", "standard"))
        self.number = 0

    def build(self) -> str:
        """Make the model, its optimiser and the images: the first word. Says which kernels ours computes with."""
        asked, chosen = self.asked, ""
        side, batch = self.config.image_size, self.config.batch
        generator = torch.Generator().manual_seed(asked.seed)
        self.images = torch.randn((batch, 3, side, side), generator=generator).to(self.device)
        if asked.implementation in PEERS:
            self.model, self._step = _peer(asked, self.device), self._of_peer
        else:
            (self.model, chosen), self._step = _ours(asked, self.config, self.device), self._of_ours
        self.optimiser = training.optimiser(self.model, WEIGHT_DECAY)
        return chosen

    def step(self) -> dict[str, float]:
        """Seconds of the next step, the device waited for at both ends, and its loss before the update."""
        noise = mask_noise(self.asked.seed, self.number, range(self.config.batch), self.config.patches).to(self.device)
        self.number += 1
        meters.synchronise(self.device)
        began = time.perf_counter()
        loss = self._step(noise)
        meters.synchronise(self.device)
        return {"step_s": time.perf_counter() - began, "loss": loss}

    def profile(self) -> list[dict[str, Any]]:
        """The operators that take most of one step, the largest first: name, calls, seconds and share of the step."""
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
            self.step()
        name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        found = {each.key: (getattr(each, name) / 1e6, each.count) for each in profiler.key_averages()}
        whole = sum(seconds for seconds, _ in found.values())
        largest = sorted(found.items(), key=lambda item: -item[1][0])[:OPERATORS]
        return [{"operator": key, "calls": calls, "seconds": s, "share": s / whole} for key, (s, calls) in largest]

    def memory(self) -> float:
        """GiB at most so far: of the process, or of the GPU's allocator."""
        return meters.peak_memory_gib(self.device)

    def _of_ours(self, noise: torch.Tensor) -> float:
        losses = [lambda: self.model(self.images, noise)]
        return training.step(self.model, self.optimiser, losses, parts=1, rate=RATE, clip=CLIP).loss

    def _of_peer(self, noise: torch.Tensor) -> float:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.asked.precision == "bf16"):
            loss = self.model(self.images, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()


def _peer(asked: Asked, device: torch.device) -> nn.Module:
    return peers.build(asked.implementation, CONFIGS[asked.config], asked.seed).to(device).train()


def _ours(asked: Asked, config: Config, device: torch.device) -> tuple[nn.Module, str]:
    """As 02 trains it on one rank, and the kernels of its stacks in words."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    how = {name: value for name, value in asked.how.items() if name != "recipe"}
    model = mae.build(config.model, channels=3, device="meta", mask_ratio=MASK_RATIO, **config.sizes)
    wanted = {kind: how.pop(kind) for kind in kernels.KINDS}
    settings = SimpleNamespace(precision=asked.precision, compile=False, **wanted)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(0, 1, device, dist.HashStore())
        kernels.choose(model, settings, config.batch, context, Folder(folder))
        found = files.read_json(Path(folder) / KERNELS)["stacks"]
    how |= {"precision": asked.precision, "seed": asked.seed, "world_size": 1, "device": device}
    return sharding.apply(model, "FULL_SHARD", **how), ", ".join(
        f"{row['stack']} {row['attention']} and {row['linear']}" for row in found
    )


WORDS: dict[str, Callable[[Trained], Any]] = {
    "build": Trained.build, "step": Trained.step, "profile": Trained.profile, "memory": Trained.memory
}  # fmt: skip


def serve(pipe: Connection, asked: Asked) -> None:
    """Answer words with (what came of it, "") or (None, what went wrong), until the other end is closed."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    try:
        trained = Trained(asked)
        pipe.send((None, ""))
        while True:
            pipe.send((WORDS[pipe.recv()](trained), ""))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # a library of others: whatever it is, it is told
        pipe.send((None, f"{type(error).__name__}: {error}"))


class Process:
    """The other end: a process that waits for words."""

    def __init__(self, asked: Asked):
        spawn = multiprocessing.get_context("spawn")  # nothing of this process is in its memory
        self.name, (self.pipe, theirs) = asked.implementation, spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, asked), daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> "Process":
        """Itself, once it has imported what it needs, which all do at once; then each builds its model alone."""
        self._answer()
        return self

    def ask(self, word: str) -> Any:
        """What came of a word of `peers_process.WORDS`."""
        self.pipe.send(word)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, fault = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise ValueError(
                f"the process of {self.name} ended with code {code} and said nothing; where memory is short (code -9) "
                "take a smaller config, or fewer stages"
            ) from None
        if fault:
            raise ValueError(
                f"{self.name} cannot be measured here ({fault}); uninstall it, or install constraints.txt's version"
            )
        return answer


@contextmanager
def started(asked: Asked) -> Iterator[Process]:
    """A process that ends with this block."""
    process = Process(asked)
    try:
        yield process
    finally:
        process.pipe.close()
        process.process.join(30)
        process.process.kill()
