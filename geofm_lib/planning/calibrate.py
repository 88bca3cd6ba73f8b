"""Fit the planner's speeds of Frontier to the published throughput: `geofm calibrate`.

Reads the weak-scaling figures of all six models, and writes the ``fitted`` rows of ``catalog/speeds.csv``. Prints how
far the predictions are: over all points, with each model left out in turn, and by ranking.

The fit is least squares of log step times with a soft loss, since single runs on a shared network have outliers. Each
parameter is held loosely by the prior value stated here.
"""

import csv
import math
from statistics import median

import numpy as np
from scipy.optimize import least_squares

from geofm_lib.catalog import published, speeds
from geofm_lib.planning import steps
from geofm_lib.planning.conditions import ALIKE, BATCH, Conditions
from geofm_lib.planning.conditions import FRONTIER as MACHINE
from geofm_lib.planning.planner import CLOSE, choice

OF_FIT = "fit to the published weak-scaling figures; prior {}, {}"

WIDTHS = (768, 1280, 2816)
"""Equivalent widths at which the achieved share of the peak is written: a power of the width, up to the last."""

# name, at (width), prior value, prior spread (log), unit, meaning, where the prior comes from
_SHARE = "achieved share of the {} peak by blocks of this equivalent width"
PARAMETERS = [
    ("share_bf16", WIDTHS[-1], 0.36, 0.5, "of peak", _SHARE.format("bf16"), "a guess"),
    ("share_fp32", WIDTHS[-1], 0.5, 0.5, "of peak", _SHARE.format("fp32"), "a guess"),
    ("growth_bf16", None, 0.5, 0.5, "power of width", "", "a guess"),
    ("growth_fp32", None, 0.1, 1.0, "power of width", "", "a guess"),
    ("memory_share", None, 0.6, 0.3, "of peak", "achieved share of the memory's bandwidth in the update", "a guess"),
    ("hop_s", None, 20e-6, 1.0, "s", "one hop of a collective across the network", "usual for RCCL"),
    ("group_share", None, 0.15, 1.0, "of peak", "share of a node's network that one group alone achieves", "a guess"),
    ("contention_nodes", None, 100, 1.0, "nodes", "nodes of a job at which one ring has half of its speed", "a guess"),
    ("link_share", None, 0.6, 0.3, "of peak", "achieved share of the links inside a node", "usual for RCCL"),
    ("overlap", None, 0.95, 1.0, "of what could be", "communication that one group over all ranks hides", "a guess"),
    ("overlap_grouped", None, 0.8, 1.0, "of what could be", "the same with replicas or shard groups", "a guess"),
    ("start_up_s", None, 2.2, 0.3, "s", "start-up inside the paper's window of 30 steps",
     "the authors' log: 30 steps of the first epoch took 2.2 s longer than of the third"),
]  # fmt: skip
STEP = 1e-4  # of a parameter, for slopes
BOUNDED = {name for name, _, _, _, unit, *_ in PARAMETERS if unit.startswith("of ")} | {"overlap_late"}


def points() -> list[dict]:
    """The published weak-scaling rows, each with its key, its ``Demand`` and its step time in seconds."""
    found = [row for row in published.rows(metric="throughput") if row["figure"].startswith("weak scaling")]
    for row in found:
        key = (row["model"], row["strategy"], row["nodes"])
        row.update(key=key, demand=_demand(row), step_s=row["gpus"] * BATCH / row["value"])
    return found


def _demand(row: dict, **more: int) -> steps.Demand:
    how = Conditions.of(row, **more)
    return steps.demand(row["model"], row["strategy"], row["gpus"], MACHINE.devices_per_node, BATCH, how)


def predicted(row: dict, values: speeds.Speeds) -> steps.Step:
    """The step that the planner predicts under a published row's own conditions."""
    return steps.seconds(row["demand"], MACHINE, values)


def errors(table: list[dict], values: speeds.Speeds) -> dict[tuple[str, str, int], float]:
    """(model, strategy, nodes) -> predicted throughput over published, less one."""
    return {row["key"]: row["step_s"] / predicted(row, values).total - 1 for row in table}


def fit(table: list[dict]) -> tuple[list[dict], np.ndarray]:
    """(rows as in speeds.csv, their standard errors as factors)."""
    fixed = _fixed()
    start = np.array([_inner(name, prior) for name, _, prior, *_ in PARAMETERS])
    loose = np.array([spread for _, _, _, spread, *_ in PARAMETERS])

    def residuals(inner):
        now = speeds.of([*_rows(inner), *fixed])
        apart = [math.log(predicted(row, now).total / row["step_s"]) / 0.03 for row in table]
        return np.concatenate([apart, (inner - start) / loose])

    found = least_squares(residuals, start, loss="soft_l1")
    rows = _rows(found.x)
    ahead = [[row["value"] for row in _rows(found.x + step)] for step in STEP * np.eye(len(found.x))]
    slope = (np.log(ahead) - np.log([row["value"] for row in rows])).T / STEP  # of each row's log by each parameter
    covariance = slope @ np.linalg.inv(found.jac.T @ found.jac) @ slope.T
    return rows, np.sqrt(np.diag(covariance))


def _rows(inner: np.ndarray) -> list[dict]:
    """The fitted numbers as rows of speeds.csv: a share at each of WIDTHS, each other number as it is."""
    value = {name: _outer(name, x) for (name, *_), x in zip(PARAMETERS, inner, strict=True)}
    rows = []
    for name, widest, prior, _, unit, meaning, source in PARAMETERS:
        if name.startswith("growth"):
            continue
        parts: dict[int | None, float] = {None: 1.0}
        if widest:
            parts = {at: (at / widest) ** value[name.replace("share", "growth")] for at in WIDTHS}
        rows += [
            {"machine": MACHINE.name, "name": name, "at": at, "value": value[name] * part, "unit": unit,
             "kind": "fitted", "meaning": meaning, "source": OF_FIT.format(prior, source)}
            for at, part in parts.items()
        ]  # fmt: skip
    return rows


def _fixed() -> list[dict]:
    """The machine's speeds that no fit changes."""
    return [row for row in speeds.rows(MACHINE.name) if row["kind"] != "fitted"]


def _inner(name: str, value: float) -> float:
    """The number that is fitted: a logarithm, and for a share between 0 and 1 that of the odds."""
    return math.log(value / (1 - value)) if name in BOUNDED else math.log(value)


def _outer(name: str, inner: float) -> float:
    return 1 / (1 + math.exp(-inner)) if name in BOUNDED else math.exp(inner)


def late(values: speeds.Speeds) -> dict:
    """The row ``overlap_late``: how much of a gather that was not asked for ahead is hidden all the same.

    From one figure, ViT-5B on 8 nodes: three strategies without prefetching over the same with BACKWARD_PRE, both with
    limit_all_gathers (FSDP2 has no other). Least squares of the log ratios; the rest of the fit cancels out of them.
    """
    pairs = []
    for bars in published.prefetch().values():
        asked = [_demand(bars[depth], backward_prefetch=depth) for depth in (0, 1)]
        pairs.append((asked, bars[1]["value"] / bars[0]["value"]))

    def off(inner, pairs=pairs) -> list[float]:
        now = speeds.Speeds(values.value | {"overlap_late": _outer("overlap_late", float(inner[0]))}, values.curve)
        steps_of = ([steps.seconds(each, MACHINE, now).total for each in asked] for asked, _ in pairs)
        return [math.log(none / ahead / slower) for (none, ahead), (_, slower) in zip(steps_of, pairs, strict=True)]

    found = least_squares(off, [0.0])
    spread = float(np.sqrt(np.mean(np.square(found.fun)) / (found.jac.T @ found.jac)[0, 0]))
    value = _outer("overlap_late", float(found.x[0]))
    return {"machine": MACHINE.name, "name": "overlap_late", "at": None, "value": value, "spread": spread * (1 - value),
            "unit": "of what could be", "kind": "fitted",
            "meaning": "communication that is hidden though it was not asked for ahead",
            "source": "published prefetch figure, none against BACKWARD_PRE"}  # fmt: skip


def left_out(table: list[dict]) -> tuple[dict, list[np.ndarray]]:
    """Errors of each model under a fit to the others, and the fitted values of each of those fits."""
    found: dict[tuple[str, str, int], float] = {}
    fits = []
    for model in dict.fromkeys(row["model"] for row in table):
        rows, _ = fit([row for row in table if row["model"] != model])
        found |= errors([row for row in table if row["model"] == model], speeds.of([*rows, *_fixed()]))
        fits.append(np.array([row["value"] for row in rows]))
    return found, fits


def ranking(table: list[dict], values: speeds.Speeds) -> list[dict]:
    """For each (model, nodes): the strategy predicted first among the published, and what it is worth."""
    cells: dict[tuple[str, int], tuple[list[dict], dict[str, float]]] = {}
    for row in table:
        if (name := row["strategy"]) in ALIKE:
            own, seen = cells.setdefault((row["model"], row["nodes"]), ([], {}))
            own.append({"strategy": name, "fits": True, "images_per_s": 1 / predicted(row, values).total})
            seen[name] = row["value"]
    return [{"model": model, "nodes": nodes, **choice(*cell)} for (model, nodes), cell in cells.items()]


def scatter(table: list[dict], values: speeds.Speeds) -> tuple[float, float]:
    """(run, network): spreads of log step times where little communication is exposed, and of what is exposed."""
    quiet, loud = [], []
    for row in table:
        step = predicted(row, values)
        off, exposed = math.log(row["step_s"] / step.total), step.exposed / step.total
        if exposed < 0.1:
            quiet.append(off)
        elif exposed > 0.3:
            loud.append(off / exposed)
    run, network = (float(np.quantile(np.abs(each), 0.9) / 1.645) for each in (quiet, loud))
    return run, network


def main() -> None:
    table = points()
    rows, error = fit(table)
    fixed = _fixed()
    others = [row for row in speeds.rows() if row["machine"] != MACHINE.name]
    values = speeds.of([*rows, *fixed])
    unseen, fits = left_out(table)
    between = np.std(np.log(fits), axis=0)  # how much a parameter moves when a model is left out
    run, network = scatter(table, values)
    for row, own, moved in zip(rows, error, between, strict=True):
        row["spread"] = max(own, moved, network if row["name"] == "group_share" else 0)
    rows.append({"machine": MACHINE.name, "name": "run", "at": None, "value": run, "spread": 0.0, "unit": "log",
                 "kind": "fitted", "meaning": "spread of one run's step time where little communication is exposed",
                 "source": "residuals of the fit"})  # fmt: skip
    rows.append(late(values))
    _write([*rows, *fixed, *others])
    for row in rows:
        at = f" at {row['at']}" if row["at"] else ""
        print(f"{row['name'] + at:28}{row['value']:12.4g} x/÷ {1 + row['spread']:.2f} {row['unit']}")
    for title, found in (("all points", errors(table, values)), ("left out in turn", unseen)):
        _print(title, found)
    cells = ranking(table, values)
    right = [cell for cell in cells if cell["of_best"] >= 1 - CLOSE]
    print(f"\nfirst choice within {CLOSE:.0%} of the best published: {len(right)} of {len(cells)} cells; not in")
    for cell in cells:
        if cell not in right:
            print("  {model} on {nodes} nodes: {chosen} has {of_best:.3f} of {best}".format(**cell))


def _print(title: str, found: dict[tuple[str, str, int], float]) -> None:
    print(f"\n{title}: error of throughput, %")
    off = sorted(abs(each) for each in found.values())
    print(f"  median {100 * median(off):.1f}, 90th percentile {100 * off[int(0.9 * len(off))]:.1f}, n {len(off)}")
    for model, strategy in dict.fromkeys(key[:2] for key in found):
        own = {key[2]: each for key, each in found.items() if key[:2] == (model, strategy)}
        print(f"  {model:9}{strategy:14}" + " ".join(f"{n}:{100 * each:+.1f}" for n, each in own.items()))


def _write(rows: list[dict]) -> None:
    with open(speeds.FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, speeds.COLUMNS)
        writer.writeheader()
        for row in rows:
            short = {name: f"{row[name]:.4g}" for name in ("value", "spread")}
            writer.writerow(row | short | {"at": "" if row["at"] is None else f"{row['at']:g}"})
