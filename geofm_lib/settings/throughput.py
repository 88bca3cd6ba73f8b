"""Settings of 03_throughput, the simulation of one rank, 04_scaling that plans both, and what 06, 07 and 09 read."""

from typing import ClassVar, Literal

from pydantic import model_validator

from geofm_lib.catalog import machines, models, strategies
from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.settings import base
from geofm_lib.settings.base import DATA, IMAGES_PER_CLASS, MEASURED, RUN_DIR, WHERE, ReadingSettings, naming, setting
from geofm_lib.settings.data import ImageSettings


class ThroughputSettings(ImageSettings):
    """03_throughput: steady-state step time, memory and communication of one model, strategy and size."""

    job: ClassVar[str] = "throughput"
    model: str = setting("ViT-Femto", "a row of catalog/models.py", MEASURED)
    workload: base.Workload = setting("mae", "mae | classify (the paper's all-token benchmark)", MEASURED)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_kGPUs or DDP", MEASURED)
    ranks: int = setting(0, "processes (0: the Slurm tasks, else the GPUs, else 1)", MEASURED, ge=0, le=100_000)
    device: base.Device = setting("auto", "auto | cpu | cuda", MEASURED)
    batch_per_gpu: int = setting(32, "images a rank takes a step (weak scaling)", MEASURED, ge=1)
    image_size: int = setting(64, "pixels a side", MEASURED, ge=8, le=2048)
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", MEASURED, ge=0, le=64)
    precision: base.Precision = setting("fp32", "fp32 | bf16 (bf16 compute, fp32 weights)", MEASURED)
    reduce_dtype: base.Precision = setting("bf16", base.REDUCE, MEASURED)
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass", MEASURED)
    compile: bool = setting(False, "torch.compile each block", MEASURED)
    attention: base.Attention = setting("auto", base.ATTENTION, MEASURED, later=True)
    linear: base.Linear = setting("auto", base.LINEAR, MEASURED, later=True)
    forward_prefetch: int = setting(1, "blocks gathered ahead in the forward pass", MEASURED, ge=0, le=8)
    backward_prefetch: int = setting(1, "blocks gathered ahead in the backward pass", MEASURED, ge=0, le=8)
    input: Literal["synthetic", "real"] = setting("synthetic", "synthetic | real (from the data set below)", MEASURED)
    communication: Literal["on", "off"] = setting(
        "on", "on | off (a no-communication run: same work, nothing is sent)", MEASURED
    )
    dataset: str = setting("scenes", "built-in 'scenes', or a path; used when input is real", "data")
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    warmup_steps: int = setting(5, "steps before the steady window", "window", ge=1)
    steps: int = setting(30, "steps of the steady window", "window", ge=2)
    workers: int = setting(0, "loader processes a rank (0: none)", "window", ge=0, le=128)
    seed: int = setting(0, "of weights and images", "window", ge=0)
    profile_steps: int = setting(
        20, "steps after the window that are profiled (0: none)", "step breakdown", ge=0, le=1000
    )
    compare: bool = setting(
        False,
        "as many with real and synthetic images, and without communication (memory of a second model)",
        "step breakdown",
    )
    trace: bool = setting(False, "keep each rank's last profiled step as trace-<rank>.json", "step breakdown")
    run_dir: str = RUN_DIR

    @model_validator(mode="after")
    def _can_be_compared(self):
        if (self.compare or self.trace) and not self.profile_steps:
            raise ValueError("profile_steps: 0 leaves nothing to compare or to trace; 20 gives a steady median")
        if self.compare and self.communication == "off":
            raise ValueError(
                "compare: it measures steps without communication beside those with it; leave communication on"
            )
        return self

    def check_ranks(self, ranks: int) -> None:
        base.check_strategy(self.strategy, ranks)


class SimulateSettings(ImageSettings):
    """What one rank of many would hold and send: a step of the same code, traced on fake ranks without memory."""

    job: ClassVar[str] = "simulate"
    model: str = setting("ViT-3B", "a row of catalog/models.py", MEASURED)
    workload: base.Workload = setting("mae", "mae | classify (the paper's all-token benchmark)", MEASURED)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD or HYBRID_kGPUs", MEASURED)
    gpus: int = setting(64, "ranks of the simulated job", MEASURED, ge=1, le=16384)
    batch_per_gpu: int = setting(32, "images a rank takes a step", MEASURED, ge=1)
    image_size: int = setting(224, "pixels a side", MEASURED, ge=8, le=2048)
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", MEASURED, ge=0, le=64)
    precision: base.Precision = setting("bf16", "fp32 | bf16", MEASURED)
    reduce_dtype: base.Precision = setting("bf16", base.REDUCE, MEASURED)
    activation_checkpointing: bool = setting(True, "recompute activations in the backward pass", MEASURED)
    ranks: int = setting(1, "a simulation is one process", WHERE, True, ge=1, le=1)
    device: Literal["cpu"] = setting("cpu", "a simulation needs no GPU", WHERE, True)
    run_dir: str = RUN_DIR

    @model_validator(mode="after")
    def _can_be_traced(self):
        row = strategies.lookup(self.strategy)
        strategies.resolve(row, self.gpus)
        if row.ddp:
            raise ValueError("strategy: DDP's buckets are not Python and cannot be traced; simulate NO_SHARD instead")
        return self


PLANNED = "what is planned and simulated"


class ScalingSettings(ReadingSettings):
    """04_scaling reads finished runs, plans, and simulates; it trains nothing."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    model: str = setting("ViT-3B", "a row of catalog/models.py", PLANNED)
    workload: base.Workload = setting("mae", "mae | classify (the paper's all-token benchmark)", PLANNED)
    machine: str = setting("frontier", "a row of catalog/machines.toml", PLANNED)
    nodes: int = setting(8, "nodes of that machine", PLANNED, ge=1)
    batch_per_gpu: int = setting(32, "images a GPU takes a step", PLANNED, ge=1)
    images: int = setting(
        DATASETS["millionaid"].unlabelled, "of the data set, for node-hours (the paper's: 990848)", PLANNED, ge=1
    )
    epochs: float = setting(100.0, "passes over it, for node-hours", PLANNED, gt=0)
    strategy: str = setting("FULL_SHARD", "what is simulated (not DDP)", PLANNED)

    @model_validator(mode="after")
    def _can_be_planned(self):
        with naming("model"):
            models.lookup(self.model)
        with naming("machine"):
            machines.lookup(self.machine)
        self.simulation()
        return self

    def simulation(self) -> SimulateSettings:
        """The simulation of one rank of that job."""
        gpus = self.nodes * machines.lookup(self.machine).devices_per_node
        same = {name: getattr(self, name) for name in ("model", "workload", "strategy", "batch_per_gpu")}
        return SimulateSettings(**same, gpus=gpus)


class FindingsSettings(ImageSettings):
    """06_paper: evidence for four findings about the paper's numbers, gathered on a few ranks in about a minute."""

    job: ClassVar[str] = "findings"
    model: str = setting("ViT-Atto", "the small model: replicas, and start-up in a short step", MEASURED)
    larger_model: str = setting("ViT-Pico", "the larger one: precision, and start-up in a longer step", MEASURED)
    image_size: int = setting(64, "pixels a side", MEASURED, ge=8, le=2048)
    batch_per_gpu: int = setting(2, "images a rank takes a step", MEASURED, ge=1)
    steps: int = setting(5, "timed steps of each precision; steps after which weights are compared", MEASURED, ge=2)
    ranks: int = setting(4, "processes: an even number from 4 on", MEASURED, ge=0, le=100_000)
    device: base.Device = setting("cpu", "auto | cpu | cuda", MEASURED)
    seed: int = setting(0, "of weights and images", MEASURED, ge=0)
    run_dir: str = RUN_DIR

    @model_validator(mode="after")
    def _larger_fits(self):
        with naming("larger_model"):
            models.grid(self.image_size, models.lookup(self.larger_model).patch_size)
        return self

    def check_ranks(self, ranks: int) -> None:
        if ranks and (ranks < 4 or ranks % 2):
            raise ValueError(
                f"ranks: {ranks} cannot show whether replicas agree, which takes two shard groups of two ranks; use 4 "
                "or another even number above it"
            )


class PaperSettings(ReadingSettings):
    """06_paper reads finished runs and the published figures, and starts one short job: the findings."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    ranks: int = setting(4, "processes that gather the evidence: an even number from 4 on", "what is run", ge=0)
    device: base.Device = setting("cpu", "where they do: auto | cpu | cuda", "what is run")

    @model_validator(mode="after")
    def _can_be_gathered(self):
        self.findings()
        return self

    def findings(self) -> FindingsSettings:
        """The job that gathers the evidence."""
        return FindingsSettings(ranks=self.ranks, device=self.device)


class ObjectivesSettings(base.Settings):
    """09_objectives reads rows of accuracies, and nothing else."""

    table: str = setting("", "CSV file of accuracies (empty: reports/accuracy.csv)", "what is read")


class AccuracySettings(ObjectivesSettings):
    """07_accuracy reads the same file."""

    dataset: str = setting("ucm", "data set that encoders are probed on, as its rows call it", "what is read")
    pooling: str = setting("mean", "readout: mean | mean+spread+max+class", "what is read")
