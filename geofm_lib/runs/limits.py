"""What a machine gives a job: nodes, time, memory. A ValueError says what is asked beyond that, and what to do."""

import re

from geofm_lib.catalog.machines import Machine
from geofm_lib.advice import memory
from geofm_lib.settings import JobSettings

TIME = re.compile(r"(?:(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d))|(?P<minutes>\d+)")


def count(cell: str, most: int | None) -> int:
    """A number of nodes, or of tasks a node; `most` is the machine's."""
    if not cell.isdecimal() or int(cell) < 1:
        raise ValueError(f"'{cell}' is no whole number from 1 on")
    if most and int(cell) > most:
        raise ValueError(f"{cell} are more than the machine's {most}")
    return int(cell)


def seconds(walltime: str) -> int:
    """Slurm's time: minutes, hours:minutes:seconds or days-hours:minutes:seconds.

    Slurm's other forms are refused: it takes 2:00 for two minutes and 1-12 for a day and a half.

    >>> seconds("30"), seconds("2:00:00"), seconds("1-00:00:00")
    (1800, 7200, 86400)
    """
    found = TIME.fullmatch(walltime)
    if not found:
        raise ValueError(f"'{walltime}' is no clear time; write hours:minutes:seconds, such as 2:00:00")
    days, hours, minutes, rest = (int(found[part] or 0) for part in "dhms")
    return ((days * 24 + hours) * 60 + minutes + int(found["minutes"] or 0)) * 60 + rest


def check_walltime(walltime: str, nodes: int, machine: Machine | None) -> None:
    """Refuse a time that cannot be read, or that the machine gives to no job of so many nodes."""
    asked = seconds(walltime)
    if asked < 60:
        raise ValueError(f"'{walltime}' is less than a minute, Slurm's smallest time limit")
    if machine and machine.hours:
        hours = next(limit for most, limit in machine.hours.items() if nodes <= most)
        if asked > hours * 3600:
            longer = "a pretraining that needs longer goes on by itself in the next job"
            raise ValueError(f"{machine.name} gives {nodes} nodes {hours:g} h at most; {longer}")


def check_memory(settings: JobSettings, ranks: int, machine: Machine | None) -> None:
    """Refuse a model that cannot fit its strategy, with the prediction and what would fit."""
    if machine is None or machine.memory_gib is None or not isinstance(settings, memory.KNOWN):
        return
    need, limit = memory.peak_gib(settings, ranks), machine.memory_gib
    if need <= limit:
        return
    fitting = memory.strategies_that_fit(settings, ranks, limit)
    listed = ", ".join(f"{name} ({held:.1f})" for name, held in fitting.items())
    advice = f"on {ranks} ranks these fit: {listed}" if fitting else (
        f"no strategy fits on {ranks} ranks: take more than {ranks // machine.devices_per_node} nodes, a smaller batch "
        "or activation_checkpointing"
    )  # fmt: skip
    what = f"{settings.model} under {settings.strategy}"
    raise ValueError(f"{what} needs {need:.1f} GiB a device of {limit:.1f}; {advice}")
