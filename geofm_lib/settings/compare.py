"""Settings of 10_compare, which reads runs of one kind and starts none."""

from typing import Literal

from geofm_lib.settings import base
from geofm_lib.settings.base import setting

COMPARED = "what is compared"


class CompareSettings(base.Settings):
    """10_compare: any number of runs of one kind, or the rows of a grid."""

    runs: str = setting("", "runs or grids, with commas (empty: all in the runs folder of the kind below)", COMPARED)
    kind: Literal["auto", "pretrain", "probe", "transfer", "throughput", "simulate"] = setting(
        "auto", "auto (the runs' own; of all: throughput) | pretrain | probe | throughput | simulate", COMPARED
    )
    site: str = setting("slurm", "the machine that a grid's rows are for, as in geofm submit --site", COMPARED)

    def named(self) -> list[str]:
        """The runs and grids that are named, each once."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.runs.split(",")))))

    def given(self) -> dict[str, str]:
        """What differs from the defaults, as the notebook is given it."""
        return {name: str(value) for name, value in self.model_dump(exclude_defaults=True).items()}
