"""The one writer of `reports/accuracy.csv`: every accuracy of this repository, with its controls and interval kind.

A row says what was measured in all columns but MEASURED, so the same thing measured again replaces its row. A row
without an interval (of one split among several) stays in the run folder.
"""

import csv
import fcntl
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.catalog import bands
from geofm_lib.catalog.readouts import ACCURACY, GAIN, MEASURED
from geofm_lib.files import read_csv, whole
from geofm_lib.planning.flops import training_flops
from geofm_lib.runs import results
from geofm_lib.runs.run import Run
from geofm_lib.settings import objectives

NAME = "accuracy"
ROWS = "accuracy.csv"  # in a probe's run folder
WHAT = tuple(name for name in ACCURACY if name not in MEASURED)
Row = dict[str, Any]


def of_run(run: Run, **more: Any) -> list[Row]:
    """A finished probe's rows, with where it ran, and of its encoder how it was pretrained; `more` overrules columns.

    ValueError, one sentence, for a run without rows.
    """
    file = run.folder / ROWS
    if not file.is_file():
        raise ValueError(f"{run.folder} holds no {ROWS}: probe with protocol=fast or both, to the end")
    where = run.environment
    marks = {
        "commit": where.get("commit", ""),
        "date": str(where.get("launched", ""))[:10],
        "machine": f"{platform.machine()}, {where.get('cores', '')} cores, {where.get('device', '')}".strip(", "),
    }
    encoder, trained = _pretraining(run)
    rows = []
    for row in read_csv(file):
        own = more if row["pretraining_run"] else {}
        rows.append(row | (trained if encoder and row["pretraining_run"] == encoder else {}) | own | marks)
    return rows


def add(rows: Iterable[Row], file: Path | None = None) -> Path:
    """Put rows into reports/accuracy.csv, in place of those that say the same was measured; others stay.

    ValueError, one sentence, for a column that is none, or a row without interval kind.
    """
    file = file or results.file(NAME)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.parent / f".{file.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {_what(row): row for row in (read_csv(file) if file.is_file() else [])}
        for row in rows:
            if odd := set(row) - set(ACCURACY):
                raise ValueError(f"{file.name} has no column '{min(odd)}'; they are {', '.join(ACCURACY)}")
            text = {name: _text(row.get(name, "")) for name in ACCURACY}
            if text["interval_kind"]:
                found[_what(text)] = text
        _write(file, ACCURACY, [found[key] for key in sorted(found)])
    return file


def read(file: Path | None = None) -> pd.DataFrame:
    """All rows, numbers as numbers; empty where there is no file."""
    file = file or results.file(NAME)
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=list(ACCURACY))


def export_torchgeo_bench(file: Path, rows: Iterable[Row]) -> Path:
    """The same accuracies in torchgeo-bench's columns; gains, which it does not know, are left out."""
    table = [{name: take(row) for name, take in BENCH.items()} for row in rows if not str(row["metric"]).endswith(GAIN)]
    _write(file, tuple(BENCH), table)
    return file


def _pretraining(run: Run) -> tuple[str, Row]:
    """(the run of a probe's encoder, columns on how it was pretrained), as far as its folder is there and says so."""
    folder = Path(str(run.resolved.get("encoder", "")))
    trained = Run(folder.parent if folder.name == "encoder" else folder)
    if trained.job != "pretrain" or "steps" not in trained.summary:
        return "", {}
    return trained.folder.name, pretrained(trained)


def pretrained(trained: Run) -> Row:
    """Columns on a pretraining: its objective, images, compute and seed."""
    asked = trained.settings | {"channels": trained.read_json("encoder/config.json").get("channels", 3)}
    images = trained.summary["steps"] * trained.summary["global_batch"]
    return {
        "objective": objectives.words(asked.get("objective", "mae"), asked.get("positives", "views")),
        "images_seen": images,
        "flops": f"{of_image(asked) * images:.4g}",
        "pretraining_seed": asked["seed"],
    }


def of_image(asked: Row) -> int:
    """Operations of a pretraining's step for one image, of both its views where they are compared.

    The head in which they are is not counted: it sees one vector a view.
    """
    objective = asked.get("objective", "mae")
    names = ("image_size", "patch_size", *["mask_ratio"] * objectives.rebuilds(objective))
    size = {name: asked[name] for name in names} | {"channels": asked.get("channels", 3)}
    size["groups"] = bands.parse(asked.get("band_groups", ""))
    if objectives.rebuilds(objective):
        size["decoder"] = tuple(asked[f"decoder_{name}"] for name in ("width", "depth", "heads"))
    workload = "mae" if objectives.rebuilds(objective) else "encoder"
    return training_flops(asked["model"], workload, **size) * (2 if objectives.contrasts(objective) else 1)


def _what(row: Row) -> tuple[str, ...]:
    return tuple(_text(row.get(name, "")) for name in WHAT)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _write(file: Path, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as fresh, open(fresh, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _share(name: str) -> Callable[[Row], Any]:
    """A percentage as a share of 1, as torchgeo-bench has it."""
    return lambda row: round(float(row[name]) / 100, 6) if row[name] not in ("", None) else ""


def _as(value: Any) -> Callable[[Row], Any]:
    return lambda row: value


def _same(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


BENCH: dict[str, Callable[[Row], Any]] = {  # torchgeo-bench 0.4's columns, of which we measure these
    "dataset": _same("dataset"),
    "method": lambda row: row["protocol"] if "knn" in row["protocol"] else "linear",
    "metric_name": lambda row: {"top1": "accuracy", "map": "macro_mAP"}.get(row["metric"], row["metric"]),
    "metric_value": _share("value"),
    "ci_lower": _share("low"),
    "ci_upper": _share("high"),
    "n_train": _same("n_train"),
    "n_test": _same("n_test"),
    "seed": _same("probe_seed"),
    "model": lambda row: f"{row['model']} ({row['objective']})",
    "name": _same("pretraining_run"),
    "normalization": _same("normalisation"),
    "partition": _same("split"),
}
