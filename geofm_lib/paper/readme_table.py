"""The numbers behind README's table: `geofm study measured`, after `make recorded`.

They come from the same run folders as the recorded pages, so that neither is ever typed.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from geofm_lib.files import write_text
from geofm_lib.paper.claims import answers
from geofm_lib.paper.verdicts import VERDICTS, of_counts
from geofm_lib.planning.conditions import TABLE_I
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import results
from geofm_lib.runs.run import find_runs, run_table
from geofm_lib.settings import runs_root

MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
SPEED = ("model", "workload", "strategy", "ranks", "batch_per_gpu", "image_size", "precision", "device")
DRIFT = [f"{kind}_group_{group}_gradient_difference" for kind in ("fsdp1", "ours") for group in (1, 2)]
KEPT = {  # job -> settings, then headline numbers, of a row of measured.csv
    "throughput": (*SPEED, "window", "step_s", "images_per_s", "paper_30_steps_images_per_s", "peak_memory_gib"),
    "pretrain": ("model", "strategy", "ranks", "epochs", "global_batch", "image_size", "loss", "images_per_s"),
    "probe": ("encoder", "probe_seeds", "classes", "test_images", "top1_pretrained_mean", "top1_pretrained_interval",
              "top1_random_mean", "top1_random_interval", "histograms_top1", "histograms_interval",
              "knn_pretrained", "base_learning_rate"),
    "findings": ("model", "larger_model", "ranks", "device", "fsdp1", *DRIFT, "DDP_fp32_step_s", "NO_SHARD_fp32_step_s",
                 "DDP_bf16_step_s", "NO_SHARD_bf16_step_s", "small_window_over_steady", "larger_window_over_steady"),
}  # fmt: skip
PROBED = (
    ("pretrained", "top1_pretrained_mean", "top1_pretrained_interval"),
    ("random weights", "top1_random_mean", "top1_random_interval"),
    ("histograms", "histograms_top1", "histograms_interval"),
)


def rows(root: Path) -> list[dict[str, Any]]:
    """(run, number, value) of every finished recorded run: one long table, since jobs have other numbers."""
    table = run_table(root)
    if not len(table):
        return []
    found = []
    for _, run in table[table["status"] == "finished"].iterrows():
        for name in KEPT.get(run["job"], ()):
            if name in run and pd.notna(run[name]):
                found.append({"job": run["job"], "run": Path(run["folder"]).name, "name": name, "value": run[name]})
    return found


def block(root: Path) -> str:
    """README's table: what the paper says, what these runs say, and a verdict of the fixed vocabulary."""
    ours = {name: parameters(name, "classify") / 1e6 for name in TABLE_I}
    lines = [
        "| | published | here | verdict |",
        "|---|---|---|---|",
        f"| Table I, parameters (M) | {', '.join(f'{n:.0f}' for n in TABLE_I.values())} | "
        f"{', '.join(f'{n:.2f}' for n in ours.values())} | {of_counts(TABLE_I, ours)} |",
    ]
    table = run_table(root)
    done = table[table["status"] == "finished"] if len(table) else table
    for _, run in done[done["job"] == "probe"].iterrows() if len(done) else ():
        shown = ", ".join(
            f"{label} {run[name]:.1f} ± {run[spread]:.1f}" for label, name, spread in PROBED if pd.notna(run.get(name))
        )
        what = f"Linear probe, top-1 %, {run['classes']:.0f} classes of `{run['dataset']}`, {run['model']}"
        lines.append(f"| {what} | larger models probe better | {shown} | not comparable (other images and size) |")
    speeds = done[done["job"] == "throughput"] if len(done) else done
    if len(speeds):
        fastest = speeds.sort_values("images_per_s", ascending=False)
        ordered = ", ".join(f"{run['strategy']} {run['images_per_s']:.0f}" for _, run in fastest.iterrows())
        what = f"Strategies, images/s, {speeds.iloc[0]['model']} on {speeds.iloc[0]['ranks']:.0f} CPU ranks"
        lines.append(f"| {what} | on 8 to 1024 GPUs, see 06 | {ordered} | not comparable (no GPU) |")
    evidence = next((run.summary for run in find_runs(root, "findings") if run.status == "finished"), {})
    words = Counter(each.verdict for _, each in answers(evidence, "table", "figure", "claim"))
    said = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    lines.append(f"| All {words.total()} items | [06](reports/recorded/06_paper.html) | | {said} |")
    return "\n".join(lines)


def measured() -> list[dict[str, Any]]:
    """The rows of the runs in the usual place; README's block is rewritten from the same ones."""
    root, readme = runs_root(), results.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"{readme} must hold the marks {' and '.join(MARKS)} once each.")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    write_text(readme, f"{before}{MARKS[0]}\n{block(root)}\n{MARKS[1]}{after}")
    return rows(root)
