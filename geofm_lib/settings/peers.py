"""Settings of 11_peers, which measures the libraries that one would use instead beside ours."""

from typing import ClassVar, get_args

from pydantic import field_validator

from geofm_lib.catalog.peers import CONFIGS
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.settings import base
from geofm_lib.settings.base import MEASURED, RUN_DIR, JobSettings, setting


class PeersSettings(JobSettings):
    """11_peers: images/s of MAE pretraining by other libraries and by ours, step by step in turn."""

    job: ClassVar[str] = "peers"
    configs: str = setting("small", "rows of catalog/peers.py, with commas: base, small, tiny", MEASURED)
    precisions: str = setting("bf16,fp32", "fp32, bf16 or both, with commas", MEASURED)
    stages: str = setting(
        "small", "configs in which ours has each optimisation switched on in turn (others: all off, all on)", MEASURED
    )
    device: base.Device = setting("auto", "auto | cpu | cuda", MEASURED)
    threads: int = setting(0, "of each process (0: all processors)", MEASURED, ge=0, le=1024)
    warmup_steps: int = setting(2, "rounds that are not counted", "window", ge=1)
    steps: int = setting(9, "rounds that are; in each, every implementation takes one step", "window", ge=2)
    seed: int = setting(0, "of weights, images and masks", "window", ge=0)
    ranks: int = setting(1, "it starts the processes that it measures itself", "window", ge=1, le=1)
    run_dir: str = RUN_DIR

    @field_validator("configs", "precisions", "stages")
    @classmethod
    def _are_known(cls, value, info):
        known = get_args(base.Precision) if info.field_name == "precisions" else CONFIGS
        for name in listed(value):
            if name not in known:
                near = did_you_mean(name, known) or f"; use one of {', '.join(known)}"
                raise ValueError(f"there is no '{name}'{near}")
        if not listed(value) and info.field_name != "stages":
            raise ValueError(f"nothing is named; use one of {', '.join(known)}")
        return value

    def cells(self) -> list[tuple[str, str]]:
        """(config, precision) of everything that is measured."""
        return [(config, precision) for config in listed(self.configs) for precision in listed(self.precisions)]


def listed(value: str) -> list[str]:
    """The names in a list with commas, each once."""
    return list(dict.fromkeys(filter(None, (each.strip() for each in value.split(",")))))
