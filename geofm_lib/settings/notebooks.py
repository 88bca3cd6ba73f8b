"""Settings of the notebooks that read finished runs: 04_scaling and 06_paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from geofm_lib.catalog import machines, models
from geofm_lib.settings.base import Settings, naming, runs_root, setting
from geofm_lib.settings.findings import FindingsSettings
from geofm_lib.settings.throughput import SimulateSettings


class _ReadingSettings(Settings):
    """Of a notebook that reads finished runs, and starts at most a short job of its own."""

    if TYPE_CHECKING:
        runs_dir: str

    def runs(self) -> Path:
        """The folder of run folders."""
        return Path(self.runs_dir) if self.runs_dir else runs_root()


PLANNED = "what is planned and simulated"


class ScalingSettings(_ReadingSettings):
    """04_scaling reads finished runs, plans, and simulates; it trains nothing."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    model: str = setting("ViT-3B", "a row of catalog/models.py", PLANNED)
    workload: Literal["mae", "classify"] = setting("mae", "mae | classify (the paper's all-token benchmark)", PLANNED)
    machine: str = setting("frontier", "a row of catalog/machines.py", PLANNED)
    nodes: int = setting(8, "nodes of that machine", PLANNED, ge=1)
    batch_per_gpu: int = setting(32, "images a GPU takes a step", PLANNED, ge=1)
    images: int = setting(990_848, "of the data set, for node-hours (the paper's: 990848)", PLANNED, ge=1)
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


class PaperSettings(_ReadingSettings):
    """06_paper reads finished runs and the published figures, and starts one short job: the findings."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    ranks: int = setting(4, "processes that gather the evidence: an even number from 4 on", "what is run", ge=0)
    device: Literal["auto", "cpu", "cuda"] = setting("cpu", "where they do: auto | cpu | cuda", "what is run")

    @model_validator(mode="after")
    def _can_be_gathered(self):
        self.findings()
        return self

    def findings(self) -> FindingsSettings:
        """The job that gathers the evidence."""
        return FindingsSettings(ranks=self.ranks, device=self.device)
