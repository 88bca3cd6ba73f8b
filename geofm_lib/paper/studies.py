"""Studies whose rows stay in reports/, a CSV file each; one that was stopped goes on from its finished runs."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.catalog import published
from geofm_lib.catalog.readouts import CONTROLS, FAST
from geofm_lib.catalog.strategies import lookup
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.files import read_csv, write_text
from geofm_lib.paper import accuracy, accuracy_study, ledger, objectives_study
from geofm_lib.paper.accuracy_cost import predicted_accuracy
from geofm_lib.paper.claims import answers, gathered
from geofm_lib.paper.elsewhere import predictions_h100
from geofm_lib.paper.verdicts import of_counts
from geofm_lib.planning.conditions import BATCH, TABLE_I, conditions, gib
from geofm_lib.planning.memory import STACKS, rank_memory
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import grid, results
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run, find_runs, run_table
from geofm_lib.settings import SimulateSettings, objectives, runs_root

Rows = list[dict[str, Any]]

SIMULATED_NODES = (None, 8, 128)  # of the published peaks that are; None is a bar said to hold for any number
ANY = 64  # ranks that are simulated for such a bar
UNMARKED = ("peers", "predictions_h100")  # whose columns others agreed on
GRIDS = ("experiments", "prefetch_small", "scaling_small")
CONDITIONS = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing",
              "forward_prefetch", "backward_prefetch", "seed", "warmup_steps", "steps")  # fmt: skip
NUMBERS = ("step_s", "images_per_s", "peak_memory_gib", "model_tflops_per_rank")
TRACED = ("model", "workload", "strategy", "batch_per_gpu", "image_size", "precision", "activation_checkpointing")
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")  # of README's table
SPEED = ("model", "workload", "strategy", "ranks", "batch_per_gpu", "image_size", "precision", "device")
TRANSFER = ("image_size", "head", "seeds", "epochs", "mixup", "balance")  # settings of a row of 08
DRIFT = [f"{kind}_group_{group}_gradient_difference" for kind in ("fsdp1", "ours") for group in (1, 2)]
LOSSES = ("loss", "loss_steps", "held_out_loss", "held_out_interval", "held_out_side", "patch_mean_loss")
KEPT = {  # job -> settings, then headline numbers, of a row of measured.csv
    "throughput": (*SPEED, "window", "step_s", "images_per_s", "paper_30_steps_images_per_s", "peak_memory_gib"),
    "pretrain": ("model", "strategy", "ranks", "epochs", "global_batch", "image_size", *LOSSES, "images_per_s"),
    "probe": ("encoder", "probe_seeds", "classes", "test_images", "top1_pretrained_mean", "top1_pretrained_interval",
              "top1_random_mean", "top1_random_interval", "histograms_top1", "histograms_interval",
              "knn_pretrained", "base_learning_rate", "splits", "readout", "fast_value", "fast_histograms", "gain",
              "gain_low", "gain_high"),
    "findings": ("model", "larger_model", "ranks", "device", "fsdp1", *DRIFT, "DDP_fp32_step_s", "NO_SHARD_fp32_step_s",
                 "DDP_bf16_step_s", "NO_SHARD_bf16_step_s", "small_window_over_steady", "larger_window_over_steady"),
}  # fmt: skip
PEERS = ("config", "precision", "implementation", "images_per_s", "ratio_to_best_peer", "low", "high",
         "peak_memory_gib")  # fmt: skip
PROBED = {"pretrained": ("top1_pretrained_mean", "top1_pretrained_interval"),
          "untrained": ("top1_random_mean", "top1_random_interval"),
          "histograms": ("histograms_top1", "histograms_interval")}  # fmt: skip


def unseen() -> Rows:
    """Every published throughput, predicted by a fit to the other models, since the planner is fitted to all."""
    from geofm_lib.planning import calibrate  # loads scipy

    table = calibrate.points()
    errors, _ = calibrate.left_out(table)
    return [
        {"model": row["model"], "strategy": row["strategy"], "nodes": row["nodes"],
         "published_images_per_s": row["value"],
         "predicted_images_per_s": round(row["value"] * (1 + errors[row["key"]]), 1)} for row in table
    ]  # fmt: skip


def simulated() -> Rows:
    """A simulation of each published peak active memory, under its own conditions; DDP's cannot be traced.

    `libraries_gib` is what the libraries of 2023 took beside tensors, `fsdp1_gib` the arithmetic of the paper's FSDP1.
    """
    rows, libraries = [], gib(STACKS["fsdp1"].libraries)
    for row in simulated_points():
        gpus, printed = row["gpus"] or ANY, row["value"]
        same = {name: row[name] for name in ("model", "strategy", "workload", "precision")}
        traced = launch(SimulateSettings(**same, gpus=gpus, batch_per_gpu=BATCH)).summary
        peak, arithmetic = traced["peak_memory_gib"], traced["predicted_peak_gib"]
        job = (row["model"], row["strategy"], gpus, BATCH, conditions(row["strategy"]))
        fsdp1 = gib(rank_memory(*job, stack="fsdp1").peak)
        found = {
            "published_gib": printed, "simulated_gib": peak, "libraries_gib": libraries,
            "with_libraries_over_published": (peak + libraries) / printed, "arithmetic_gib": arithmetic,
            "arithmetic_over_simulated": arithmetic / peak, "fsdp1_gib": fsdp1, "fsdp1_over_published": fsdp1 / printed,
        }  # fmt: skip
        rows.append(same | {"gpus": gpus} | {name: round(value, 4) for name, value in found.items()})
    return rows


def simulated_points() -> Rows:
    """The published rows that are simulated: on 8 and 128 nodes, where memory depends on them."""
    return [row for row in published.peaks() if row["nodes"] in SIMULATED_NODES and not lookup(row["strategy"]).ddp]


def accuracy_rates() -> Rows:
    """The sweep of learning rates of the scaling study: held-out loss by model, rule and rate."""
    rows = []
    for row in grid.read(results.ROOT / "batch" / "grids" / f"{accuracy_study.RATES}.csv")[0]:
        run = Run(row.folder)
        if run.job == "pretrain" and run.finished:
            asked, own = run.settings, {"loss": "held_out_loss", "interval": "held_out_interval"}
            rule = "share of base_width" if asked["base_width"] else "one rate"
            numbers = {name: f"{run.summary[key]:.5g}" for name, key in own.items()}
            rows.append({"model": asked["model"], "rule": rule, "rate": asked["base_learning_rate"], **numbers})
    if not rows:
        raise ValueError(f"No row of batch/grids/{accuracy_study.RATES}.csv has finished here; run it by geofm submit.")
    return rows


def objectives_rates() -> Rows:
    """The sweep of learning rates of the study of objectives: each objective's own held-out loss by rate."""
    rows = []
    for row in grid.read(results.ROOT / "batch" / "grids" / f"{objectives_study.RATES}.csv")[0]:
        run = Run(row.folder)
        if run.job == "pretrain" and run.finished:
            asked, told = run.settings, run.summary
            about = {
                "model": asked["model"],
                "objective": objectives.words(asked["objective"], asked["positives"]),
                "rate": asked["base_learning_rate"],
            }
            rows += [
                about | {"of": metric, "loss": f"{told[name]:.5g}", "interval": f"{told[f'{before}_interval']:.5g}"}
                for metric, name, before, _ in accuracy_study.HELD_OUT
                if told.get(name) is not None
            ]
    if not rows:
        raise ValueError(
            f"No row of batch/grids/{objectives_study.RATES}.csv has finished here; run it by geofm submit."
        )
    return rows


def transfer_differences() -> Rows:
    """Of every finished row of 08: by how much one arm or control is above another, with its interval, in points.

    accuracy.csv has the values themselves.
    """
    rows: Rows = []
    for name, row, run in accuracy_study.finished():
        if run.job == "transfer":
            asked, told = run.settings, run.summary
            about = {"grid": name, "row": row, "dataset": run.dataset, "metric": told["metric"]}
            about |= {"model": told["model"], "pretraining_run": told["encoder"], "n_train": told["train_images"]}
            about |= {"n_test": told["test_images"]} | {each: asked.get(each) for each in TRANSFER}
            rows += [about | each for each in run.read_csv("differences.csv").to_dict("records")]
    if not rows:
        raise ValueError("No row of 08 has finished here; run batch/grids/transfer.csv or series.csv by geofm submit.")
    return rows


def experiments() -> Rows:
    """Every finished run of the small grids (ValueError if none); on several nodes only the peak, simulated."""
    rows = [(name, row) for name in GRIDS for row in grid.read(results.ROOT / "batch" / "grids" / f"{name}.csv")[0]]
    found = [_experiment(name, row) for name, row in rows if row.nodes > 1 or Run(row.folder).finished]
    if not found:
        raise ValueError("No row of the small grids has finished here; `make experiments` runs them.")
    return found


def _experiment(name: str, row: grid.Row) -> dict[str, Any]:
    settings = {each: getattr(row.settings, each) for each in CONDITIONS}
    if row.nodes > 1:
        traced = launch(SimulateSettings(**{each: settings[each] for each in TRACED}, gpus=row.ranks)).summary
        how, threads, found = "simulated", None, dict.fromkeys(NUMBERS)
        found["peak_memory_gib"] = round(traced["peak_memory_gib"], 4)
    else:
        run = Run(row.folder)
        how, threads = "measured", run.environment["threads_per_rank"]
        found = {each: round(run.summary[each], 4) for each in NUMBERS}
    return {"grid": name, "name": row.name, "how": how, **settings, "ranks": row.ranks, **found, "threads": threads}


def recorded(name: str) -> pd.DataFrame:
    """The recorded rows of one of GRIDS; none when it was not run."""
    if not results.file("experiments").is_file():
        return pd.DataFrame(columns=["grid", "name", "how", *CONDITIONS, "ranks", *NUMBERS])
    frame = pd.read_csv(results.file("experiments"))
    return frame[frame["grid"] == name].reset_index(drop=True)


def origin(frame: pd.DataFrame) -> str:
    """Where recorded rows come from, in words: 'measured on x86_64, 2 cores, torch 2.14.1, 2026-11-23, commit ...'."""
    marks = [", ".join(frame[each].astype(str).unique()) for each in ("machine", "torch", "date", "commit")]
    return "measured on {}, torch {}, {}, commit {}".format(*marks)


def _finished(root: Path) -> list[dict[Hashable, Any]]:
    """Settings and headline numbers of every finished run in a folder of run folders."""
    table = run_table(root)
    return table[table["status"] == "finished"].to_dict("records") if len(table) else []


def _controls(run: Run) -> dict[str, float]:
    """Accuracy of what no encoder has to do with, under the fast protocol and all labels."""
    found: dict[str, float] = {}
    for row in run.read_csv("accuracy.csv").to_dict("records"):
        if row["model"] in CONTROLS and row["interval_kind"] and row["protocol"] == FAST and not row["shot"]:
            found.setdefault(str(row["model"]), float(row["value"]))
    return found


def measured_rows(root: Path) -> Rows:
    """(run, number, value) of every finished recorded run: one long table, since jobs have other numbers."""
    return [
        {"job": run["job"], "run": Path(run["folder"]).name, "name": name, "value": run[name]}
        for run in _finished(root) for name in KEPT.get(run["job"], ()) if pd.notna(run.get(name))
    ]  # fmt: skip


def readme_block(root: Path) -> str:
    """README's table: what the paper says, what these runs say, and a verdict of the fixed vocabulary."""
    ours = {name: parameters(name, "classify") / 1e6 for name in TABLE_I}
    lines = [
        "| | published | here | verdict |",
        "|---|---|---|---|",
        f"| Table I, parameters (M) | {', '.join(f'{n:.0f}' for n in TABLE_I.values())} | "
        f"{', '.join(f'{n:.2f}' for n in ours.values())} | {of_counts(TABLE_I, ours)} |",
    ]
    done = _finished(root)
    for run in (run for run in done if run["job"] == "probe"):
        known = [(label, run[name], run[spread]) for label, (name, spread) in PROBED.items() if pd.notna(run.get(name))]
        shown = ", ".join(
            f"{label} {top1:.1f}" + (f" ± {half:.1f}" if pd.notna(half) else "") for label, top1, half in known
        )
        if pd.notna(run.get("gain")):
            beside = [f"pretrained {run['fast_value']:.1f}", f"untrained {run['fast_value'] - run['gain']:.1f}"]
            beside += [f"{name} {value:.1f}" for name, value in _controls(Run(Path(run["folder"]))).items()]
            shown = f"under the paper's protocol {shown}; by logistic regression {', '.join(beside)}: "
            shown += f"{run['gain']:+.1f} points ({run['gain_low']:+.1f} to {run['gain_high']:+.1f}, "
            shown += "over test images and untrained draws, of one pretraining)"
        images = f"`{run['dataset']}`" + " (drawn)" * (run["dataset"] == "scenes")
        what = f"Linear probe, top-1 %, {run['classes']:.0f} classes of {images}, {run['model']}"
        asked = "larger models probe better (one size here, so nothing is said of that)"
        lines.append(f"| {what} | {asked} | {shown} | not comparable (other images and size) |")
    if speeds := [run for run in done if run["job"] == "throughput"]:
        fastest = sorted(speeds, key=lambda run: -run["images_per_s"])
        ordered = ", ".join(f"{run['strategy']} {run['images_per_s']:.0f}" for run in fastest)
        what = f"Strategies, images/s, {speeds[0]['model']} on {speeds[0]['ranks']:.0f} CPU ranks"
        lines.append(f"| {what} | on 8 to 1024 GPUs, see 06 | {ordered} | not comparable (no GPU) |")
    evidence = next((run for run in find_runs(root, "findings") if run.finished), None)
    items = answers(gathered(evidence), "table", "figure", "claim")
    by_how = {word: counts for word, counts in ledger.split(items).items() if counts.total()}
    said = ", ".join(f"{counts.total()} {word}{ledger.obtained(word, counts)}" for word, counts in by_how.items())
    lines.append(f"| All {len(items)} items | [06](reports/recorded/06_paper.html) | | {said} |")
    return "\n".join(lines)


def measured() -> Rows:
    """The numbers behind README's table, which is rewritten from the same runs; ValueError if it lacks its marks."""
    root, readme = runs_root(), results.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"{readme} must hold the marks {' and '.join(MARKS)} once each.")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    write_text(readme, f"{before}{MARKS[0]}\n{readme_block(root)}\n{MARKS[1]}{after}")
    return measured_rows(root)


def peers() -> Rows:
    """The newest finished run of 11_peers, in the columns that others agreed on; its page has its conditions."""
    found = max((run for run in find_runs(runs_root(), "peers") if run.finished), key=lambda run: run.summary["ended"],
                default=None)  # fmt: skip
    if found is None:
        raise ValueError(f"There is no finished run of 11_peers in {runs_root()}; `make peers` makes one.")
    return [{name: _short(row[name]) for name in PEERS} for row in read_csv(found.proved("peers.csv"))]


def _short(value: str) -> str:
    """A number as text with four digits; anything else as it is."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


_ALL: tuple[Callable[[], Rows], ...] = (
    unseen, simulated, accuracy_rates, objectives_rates, transfer_differences, predicted_accuracy, experiments,
    measured, peers, predictions_h100,
)  # fmt: skip
STUDIES = {study.__name__: study for study in _ALL}  # the name is also that of the CSV file under reports/


def study(name: str) -> Path:
    """Do a study and write its CSV file; ValueError for a name that is none, and where there is nothing to write."""
    if name == accuracy.NAME:  # others write into that file too
        return accuracy_study.collect()
    if name not in STUDIES:
        known = (*STUDIES, accuracy.NAME)
        raise ValueError(f"There is no study '{name}'{did_you_mean(name, known) or '.'} They are {', '.join(known)}.")
    return results.write(name, STUDIES[name](), marked=name not in UNMARKED)
