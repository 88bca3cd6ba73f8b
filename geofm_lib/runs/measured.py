"""What `geofm calibrate` is given, as points of one machine: runs of notebook 03, a grid of them, or a table (CSV)."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from geofm_lib.catalog import machines, speeds
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.metrics import counted
from geofm_lib.catalog.models import MODELS, Model
from geofm_lib.planning import point_table, points
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.points import Point
from geofm_lib.runs import architecture, grid
from geofm_lib.runs.run import Run
from geofm_lib.settings import expanded
from geofm_lib.settings.places import unset

ALIKE = ("device", "device_type", "cores")  # of environment.json: what must be one machine's
FULLEST = "8xA100"  # a row that has every speed, from which others take what theirs lacks
NETWORK = 1.25  # GB/s of a node without a row: 10 Gbit/s Ethernet
# On a CPU those threads send that compute, so nothing hides; and processes take turns, so a message waits for one.
OWN_PROCESSOR = {"overlap": 0.0, "overlap_grouped": 0.0, "overlap_late": 0.0, "link_hop_s": 2e-4, "hop_s": 2e-4}
MAY_HIDE = 0.3  # of a message, after all: how far "nothing" may be off


@dataclass(frozen=True)
class Found:
    """Points of one machine, the row that a fit begins from, the rows left out with why, and what was assumed."""

    points: list[Point]
    machine: Machine
    left: list[str]
    notes: list[str]


def read(sources: Iterable[str], like: str = "", given: Iterable[tuple[str, str]] = ()) -> Found:
    """The points of run folders and grids, or of tables; ``given`` is what a table has no column for.

    ValueError, one sentence: what is no such thing, runs that did not finish, runs of unlike machines.
    """
    files: list[Path] = []
    runs: dict[str, Path] = {}
    left: list[str] = []
    for source in dict.fromkeys(sources):
        path = expanded(source)
        if path.is_dir():
            runs[str(path) if path.name in runs else path.name] = path
        elif not path.is_file():
            raise ValueError(f"There is no run folder, grid or table '{source}'{unset(source)}.")
        elif _is_grid(path):
            found, others = _of_grid(path)
            runs, left = runs | found, left + others
        else:
            files.append(path)
    stated = point_table.stated(given)
    if files and runs:
        raise ValueError("Runs and tables cannot be mixed: a table says nothing of the machine that runs know.")
    if runs and stated:
        raise ValueError(f"-p {next(iter(stated))}: runs say how they were run; -p is for a table without that column.")
    return _of_runs(runs, like, left) if runs else _of_tables(files, like, stated)


def before(machine: Machine, like: str) -> list[dict[str, Any]]:
    """The speeds that a fit begins from: those of ``like``, and of FULLEST where it lacks one."""
    rows = speeds.table(like)
    names = {row["name"] for row in rows}
    others = [dict(row, kind="assumed", source=f"a guess: as of {FULLEST}") for row in speeds.table(FULLEST)]
    rows = [*rows, *(row for row in others if row["name"] not in names)]
    if machine.device == "cpu":
        rows = [row | {"value": OWN_PROCESSOR.get(row["name"], row["value"])} for row in rows]
        rows = [row | {"spread": MAY_HIDE} if row["name"].startswith("overlap") else row for row in rows]
    bare = [{name: value for name, value in row.items() if name != "loads"} for row in rows]
    return [row | {"kind": "stated" if row["kind"] == "stated" else "assumed"} for row in bare]


def _is_grid(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip() and not line.startswith("#")), "")
    return "notebook" in header.replace('"', "").strip().split(",")


def _of_grid(path: Path) -> tuple[dict[str, Path], list[str]]:
    """(name -> folder of the rows of notebook 03, why others are left out)."""
    rows, faults = grid.read(path)
    if faults:
        raise ValueError(f"{path.name}: {faults[0]}")
    left = [f"'{row.name}' is no run of notebook 03 but of {row.settings.job}" for row in rows
            if row.settings.job != "throughput"]  # fmt: skip
    rows = [row for row in rows if row.settings.job == "throughput"]
    if not rows:
        raise ValueError(f"{path.name} has no row of notebook 03, whose runs a fit takes.")
    if late := [row.name for row in rows if not (row.folder / "settings.json").exists()]:
        raise ValueError(
            f"{path.name}: {counted(len(late), 'row')} of {len(rows)} {'has' if len(late) == 1 else 'have'} not run "
            f"({', '.join(late[:5])}{' ...' * (len(late) > 5)}); geofm submit {path} --here runs them."
        )
    return {row.name: row.folder for row in rows}, left


def _of_runs(folders: dict[str, Path], like: str, left: list[str]) -> Found:
    runs = {name: Run(folder) for name, folder in folders.items()}
    for name, run in runs.items():
        if run.job != "throughput":
            raise ValueError(f"'{name}' is no run of notebook 03" + (f" but of {run.job}." if run.job else "."))
        if not run.finished:
            raise ValueError(f"'{name}' has not finished ({run.status}); a fit needs finished runs.")
        for setting, value in (("input", "synthetic"), ("communication", "on")):
            if run.settings.get(setting, value) != value:
                raise ValueError(f"'{name}' has {setting}={run.settings[setting]}; a fit takes {value} ones alone.")
        for file, found, needed in (
            ("environment.json", run.environment, (*ALIKE, "nodes")),
            ("summary.json", run.summary, ("ranks", "images_per_s", "matmul_tflops", "synchronised")),
            ("settings.json", run.settings, ("model", "strategy", "batch_per_gpu", "image_size", "precision")),
        ):
            if lost := next((each for each in needed if found.get(each) is None), None):
                raise ValueError(f"'{name}' does not say its {lost} ({file}); measure it again.")
        if not run.summary["images_per_s"] > 0:
            raise ValueError(f"'{name}' made {run.summary['images_per_s']} images/s, which is no speed.")
    (first, one), *others = runs.items()
    for name, run in others:
        for what in ALIKE:
            if run.environment[what] != one.environment[what]:
                raise ValueError(
                    f"'{first}' and '{name}' are of unlike machines: {what} {one.environment[what]} and "
                    f"{run.environment[what]}; calibrate each apart."
                )
    machine, note = _machine(list(runs.values()), like)
    return Found([_point(name, run) for name, run in runs.items()], machine, left, [note] if note else [])


def _machine(runs: list[Run], like: str) -> tuple[Machine, str]:
    """(the row that runs are of, what of it is somebody else's); ``like`` must be of the same kind of device."""
    where = runs[0].environment
    nodes = {id(run): len(run.environment["nodes"]) for run in runs}
    most = max(run.summary["ranks"] // nodes[id(run)] for run in runs)
    cpu = where["device_type"] == "cpu"
    own = machines.lookup("laptop") if cpu else machines.of_device(where["device"])
    found = machines.lookup(like) if like else own
    if found is None:
        raise ValueError(
            f"No row of catalog/machines.toml has the device '{where['device']}'; name the nearest: --like."
        )
    if (found.device == "cpu") != cpu:
        raise ValueError(
            f"--like {like}: these runs are of {'a CPU' if cpu else 'a GPU'} ({where['device']}), and that is a row of "
            f"{'GPUs' if cpu else 'a CPU'}; leave --like out, or name a row of their kind."
        )
    if most > found.devices_per_node and not cpu:
        raise ValueError(f"These runs have {most} ranks on a node, and {found.name} {found.devices_per_node} devices.")
    if not cpu:
        other = own is not None and own.name != found.name
        return found, f"The runs' device is that of {own.name}; the peaks are those of {like}." if own and other else ""
    peaks = {}
    for precision in {run.settings["precision"] for run in runs}:
        alike = [run for run in runs if run.settings["precision"] == precision]
        shares = [run.summary["matmul_tflops"] * run.summary["ranks"] / nodes[id(run)] / most for run in alike]
        peaks[f"peak_{precision}_tflops"] = median(shares)
    several, whole = max(nodes.values()) > 1, found.memory_gb_s * found.devices_per_node
    shared = replace(found, shared=True, links_gb_s={}).with_ranks(most)  # a processor's ranks have it in parts
    row = replace(
        shared, **peaks, title=f"{where['device']}, {where['cores']} cores", shared=most > 1,
        device_name=where["device"], memory_gib=found.memory_gib * found.devices_per_node / most,
        links_gb_s={most: whole} if most > 1 else {}, measured=tuple(peaks),
        network_gb_s=found.network_gb_s or (NETWORK if several else None), nodes=max(found.nodes, *nodes.values()),
        source=f"peaks as measured by {len(runs)} runs of notebook 03; bandwidths and memory as of {found.name}",
    )  # fmt: skip
    return row, ""


def _point(name: str, run: Run) -> Point:
    asked, found = run.settings, run.summary
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    cells = {key: str(value) for key, value in asked.items()} | {"name": name, "ranks": str(found["ranks"])}
    nodes = len(run.environment["nodes"])
    how = Conditions.of(asked, synchronised=found["synchronised"])
    return Point(name, architecture.model(asked["model"]), asked["strategy"], nodes, found["ranks"],
                 asked["batch_per_gpu"], found["images_per_s"], how, size, cells | {"nodes": str(nodes)})  # fmt: skip


def _of_tables(files: list[Path], like: str, given: dict[str, str]) -> Found:
    rows = [row for file in files for row in point_table.read(file, given)]
    if not like and (named := {row.get("machine", "") for row in rows}) and len(named) == 1:
        like = named.pop()  # the table says so
    if not like:
        raise ValueError("A table of points does not say of which machine it is: name the nearest row by --like.")
    machine = machines.lookup(like)
    if other := next((row for row in rows if row.get("machine", like) != like), None):
        raise ValueError(
            f"{other['where']} is of the machine {other['machine']}, not {like}; choose by --on machine={like}."
        )
    for row in rows:
        points.check(row, machine)
    _say_what_is_built({row["model"] for row in rows})
    models: dict[tuple[str, str], Model | str] = {}
    for size in dict.fromkeys(row.get("image_size", "0") for row in rows):
        names = [row.get("model", "") for row in rows if row.get("image_size", "0") == size]
        pixels = int(float(size)) if size.replace(".", "").isdigit() else 0
        models |= {(name, size): found for name, found in architecture.described(names, pixels).items()}
    found, left = [], []
    for row in rows:
        model = models[row.get("model", ""), row.get("image_size", "0")]
        if isinstance(model, str):
            left.append(f"{row['where']}: {model}")
        else:
            found.append(points.point(row, model, machine))
    if not found:
        raise ValueError(f"No row can be used; {left[0]}")
    notes = [point_table.assumed(rows)]
    if names := point_table.unread(rows):
        notes.append(f"Not read: {', '.join(names)}.")
    return Found(found, machine, left, [each for each in notes if each])


def _say_what_is_built(models: Iterable[str]) -> None:
    """On standard error, where several networks are built, which may take minutes."""
    others = [name for name in models if name not in MODELS]
    if len(others) > 1:
        print(f"Building {len(others)} networks for their shapes, without weights (a second each) ...", file=sys.stderr)
