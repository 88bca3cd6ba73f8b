"""What `geofm calibrate` is given, as points of one machine: runs of notebook 03, a grid of them, or a table (CSV)."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from geofm_lib.catalog import machines, speeds
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.models import Model
from geofm_lib.planning import points
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.points import Point
from geofm_lib.runs import architecture, grid
from geofm_lib.runs.run import Run
from geofm_lib.settings import expanded

ALIKE = ("device", "device_type", "cores")  # of environment.json: what must be one machine's
FULLEST = "8xA100"  # a row that has every speed, from which others take what theirs lacks
NETWORK = 1.25  # GB/s of a node without a row: 10 Gbit/s Ethernet
# On a CPU those threads send that compute, so nothing hides; and processes take turns, so a message waits for one.
OWN_PROCESSOR = {"overlap": 0.0, "overlap_grouped": 0.0, "overlap_late": 0.0, "link_hop_s": 2e-4, "hop_s": 2e-4}
MAY_HIDE = 0.3  # of a message, after all: how far "nothing" may be off


def read(
    sources: Iterable[str], like: str = "", given: dict[str, str] | None = None
) -> tuple[list[Point], Machine, list[str]]:
    """(points, the row that a fit begins from, what was left out) of run folders and grids, or of tables.

    ValueError, one sentence: what is no such thing, runs that did not finish, runs of unlike machines.
    """
    files: list[Path] = []
    runs: list[tuple[str, Path]] = []
    for source in sources:
        path = expanded(source)
        if path.is_dir():
            runs.append((str(path) if path.name in dict(runs) else path.name, path))
        elif not path.is_file():
            raise ValueError(f"There is no run folder, grid or table '{source}'.")
        elif _is_grid(path):
            runs += _of_grid(path)
        else:
            files.append(path)
    if files and runs:
        raise ValueError("Runs and tables cannot be mixed: a table says nothing of the machine that runs know.")
    return _of_runs(runs, like) if runs else _of_tables(files, like, given or {})


def before(machine: Machine, like: str) -> list[dict[str, Any]]:
    """The speeds that a fit begins from: those of ``like``, and of FULLEST where it lacks one."""
    rows = speeds.table(like)
    names = {row["name"] for row in rows}
    others = [dict(row, kind="assumed", source=f"a guess: as of {FULLEST}") for row in speeds.table(FULLEST)]
    rows = [*rows, *(row for row in others if row["name"] not in names)]
    if machine.device == "cpu":
        rows = [row | {"value": OWN_PROCESSOR.get(row["name"], row["value"])} for row in rows]
        rows = [row | {"spread": MAY_HIDE} if row["name"].startswith("overlap") else row for row in rows]
    return [row | {"kind": "stated" if row["kind"] == "stated" else "assumed"} for row in rows]


def _is_grid(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip() and not line.startswith("#")), "")
    return "notebook" in next(csv.reader([header]), [])


def _of_grid(path: Path) -> list[tuple[str, Path]]:
    rows, faults = grid.read(path)
    if faults:
        raise ValueError(f"{path.name}: {faults[0]}")
    return [(row.name, row.folder) for row in rows]


def _of_runs(folders: list[tuple[str, Path]], like: str) -> tuple[list[Point], Machine, list[str]]:
    runs = {name: Run(folder) for name, folder in folders}
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
    machine = _machine(list(runs.values()), like)
    return [_point(name, run) for name, run in runs.items()], machine, []


def _machine(runs: list[Run], like: str) -> Machine:
    where = runs[0].environment
    nodes = {id(run): len(run.environment["nodes"]) for run in runs}
    most = max(run.summary["ranks"] // nodes[id(run)] for run in runs)
    cpu = where["device_type"] == "cpu"
    found = machines.lookup(like) if like else machines.lookup("laptop") if cpu else machines.of_device(where["device"])
    if found is None:
        raise ValueError(
            f"No row of catalog/machines.toml has the device '{where['device']}'; name the nearest: --like."
        )
    if not cpu:
        return found
    peaks = {}
    for precision in {run.settings["precision"] for run in runs}:
        alike = [run for run in runs if run.settings["precision"] == precision]
        shares = [run.summary["matmul_tflops"] * run.summary["ranks"] / nodes[id(run)] / most for run in alike]
        peaks[f"peak_{precision}_tflops"] = median(shares)
    several = max(nodes.values()) > 1
    return replace(
        found, **peaks, title=f"{where['device']}, {where['cores']} cores", devices_per_node=most, shared=most > 1,
        memory_gb_s=found.memory_gb_s / most, memory_gib=found.memory_gib / most, device_name=where["device"],
        links_gb_s={most: found.memory_gb_s} if most > 1 else {}, measured=tuple(peaks),
        network_gb_s=found.network_gb_s or (NETWORK if several else None), nodes=max(found.nodes, *nodes.values()),
        source=f"peaks as measured by {len(runs)} runs of notebook 03; bandwidths and memory as of {found.name}",
    )  # fmt: skip


def _point(name: str, run: Run) -> Point:
    asked, found = run.settings, run.summary
    size = {name: asked[name] for name in ("image_size", "patch_size") if asked.get(name)}
    cells = {key: str(value) for key, value in asked.items()} | {"name": name, "ranks": str(found["ranks"])}
    nodes = len(run.environment["nodes"])
    how = Conditions.of(asked, synchronised=found["synchronised"])
    return Point(name, architecture.model(asked["model"]), asked["strategy"], nodes, found["ranks"],
                 asked["batch_per_gpu"], found["images_per_s"], how, size, cells | {"nodes": str(nodes)})  # fmt: skip


def _of_tables(files: list[Path], like: str, given: dict[str, str]) -> tuple[list[Point], Machine, list[str]]:
    if unknown := [name for name in given if name not in points.COLUMNS]:
        raise ValueError(f"A table of points has no column {unknown[0]}; it may have {', '.join(points.COLUMNS)}.")
    rows = [row for file in files for row in points.table(file, given)]
    if not like and (named := {row.get("machine", "") for row in rows}) and len(named) == 1:
        like = named.pop()  # the table says so
    if not like:
        raise ValueError("A table of points does not say of which machine it is: name the nearest row by --like.")
    machine = machines.lookup(like)
    if other := next((row for row in rows if row.get("machine", like) != like), None):
        raise ValueError(
            f"{other['where']} is of the machine {other['machine']}, not {like}; choose by --on machine={like}."
        )
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
    return found, machine, left


def text(machine: Machine, rows: list[dict[str, Any]], title: str) -> str:
    """The file of a machine's row: TOML, the row and its speeds, as ``catalog.machines`` reads it."""
    row = {name: value for name, value in asdict(machine).items() if value not in (None, "", {}, ())}
    del row["name"]
    lines = [f"# {title}", "", "[machine]", *(f"{name} = {_toml(value)}" for name, value in row.items())]
    for each in rows:
        known = {name: each[name] for name in (*speeds.COLUMNS[1:], "loads") if each.get(name) is not None}
        lines += ["", "[[speeds]]", *(f"{name} = {_toml(value)}" for name, value in known.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:.6g}" if "e" in f"{value:.6g}" or "." in f"{value:.6g}" else f"{value:.6g}.0"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
