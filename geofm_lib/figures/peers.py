"""11: how fast ours is beside the libraries that one would use instead, from a run of the job `peers`. No torch."""

from typing import Any

import pandas as pd

from geofm_lib.catalog.peers import CONFIGS, OURS, PEERS
from geofm_lib.figures._axes import BLUE, GREY, IDEAL, ORANGE
from geofm_lib.figures.display import Figure, Note, Table, axes, styled
from geofm_lib.runs.run import Run

RATIO = ("ratio_to_best_peer", "low", "high")
INSTALL = "pip install -e '.[peers]' -c constraints.txt"
ALONE = f"No other library is installed here, so there is nothing to compare with: {INSTALL}"
SHOWN = {
    "config": "config",
    "precision": "precision",
    "implementation": "implementation",
    "images_per_s": "images/s",
    "ratio_to_best_peer": "of the best peer's",
    "low": "low",
    "high": "high",
    "mfu_of_measured_peak": "MFU, of the measured peak",
    "peak_memory_gib": "peak GiB",
    "kernels": "kernels (attention and linear layers)",
}
DONE = {  # a part of an operator's name -> what was done about it
    "scaled_dot_product": "plain softmax(q k) v where that is measured to be faster (bf16 on a CPU)",
    "bmm": "is attention's plain softmax(q k) v, taken where it is measured to be faster",
    "softmax": "is attention's plain softmax(q k) v, taken where it is measured to be faster",
    "convolution": "is a linear layer by oneDNN, taken where it is measured to be faster than torch's own product",
    "addmm": "linear layers: as a convolution by oneDNN where that is measured to be faster",
    "aten::mm": "linear layers: as a convolution by oneDNN where that is measured to be faster",
    "copy_": "bf16 weights are cast once a step, without a wrapper's copies on one rank",
    "gelu": "nothing yet",
    "native_layer_norm": "sums in fp32, added piece by piece in the cache (model/norm)",
    "fused_adamw": "fused: one pass over weights, gradients and moments",
}


def answer(run: Run) -> Note:
    """How many times the best peer's images/s ours takes, with interval and conditions; who was left out."""
    frame, summary = _rows(run), run.summary
    own = frame[frame["implementation"] == OURS]
    left_out = [PEERS[name] for name in summary["left_out"]]
    compared = len(left_out) < len(PEERS)
    said = [_said(row, _best(frame, row)) if compared else _alone(row) for row in own.to_dict("records")]
    where = (f"{summary['device']}, {summary['threads']} threads, torch {summary['torch']}, medians of "
             f"{summary['measured_steps']} rounds after {summary['warmup_steps']} of warm-up")  # fmt: skip
    spread = ", in brackets 95 % of the ratios of rounds drawn anew" if compared else ""
    words = f"{OURS} makes {'; '.join(said)}; on {where}{spread}."
    if not compared:
        words += f" {ALONE}."
    elif left_out:
        words += f" {' and '.join(left_out)} {'is' if len(left_out) == 1 else 'are'} not installed here and left out"
        words += f" ({INSTALL})."
    return Note(words)


def _rows(run: Run) -> pd.DataFrame:
    frame = run.read_csv("peers.csv")
    frame[list(RATIO)] = frame[list(RATIO)].apply(pd.to_numeric)  # empty where nothing is compared
    return frame


def _said(row: dict[str, Any], best: str) -> str:
    return (f"{row['ratio_to_best_peer']:.2f} times ({row['low']:.2f} to {row['high']:.2f}) the images/s of "
            f"{PEERS[best]}, the best peer, on {_what(row)}")  # fmt: skip


def _alone(row: dict[str, Any]) -> str:
    return f"{row['images_per_s']:.3g} images/s on {_what(row)}"


def _what(row: dict[str, Any]) -> str:
    config = CONFIGS[row["config"]]
    return (f"{row['config']} in {row['precision']} ({config.model}, {config.image_size} px, {config.batch} images a "
            "step)")  # fmt: skip


def _best(frame: pd.DataFrame, row: dict[str, Any]) -> str:
    cell = frame[(frame["config"] == row["config"]) & (frame["precision"] == row["precision"])]
    peers = cell[cell["implementation"].isin(list(PEERS))]
    return str(peers.loc[peers["images_per_s"].idxmax(), "implementation"])


def configs(run: Run) -> Table:
    """What was trained: sizes of the models and batches."""
    asked = _rows(run)["config"].unique()
    rows = [
        {"config": name, "encoder": row.model, "image, px": row.image_size, "patch, px": row.patch_size,
         "images a step": row.batch, "decoder (width, blocks, heads)": ", ".join(map(str, row.decoder))}
        for name, row in CONFIGS.items() if name in asked
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in run.summary["versions"].items())
    return Table(pd.DataFrame(rows), f"Beside {versions}" if versions else "")


@styled
def ratios(run: Run) -> Figure | Note:
    """Images/s over the best peer's, a dot an implementation with its interval, a panel a config and precision."""
    frame = _rows(run)
    if frame["ratio_to_best_peer"].isna().all():
        return Note(ALONE)
    cells = list(frame.groupby(["config", "precision"], sort=False))
    names = list(frame["implementation"].unique())
    figure, panels = axes(1.1 + 0.26 * len(names) * len(cells), len(cells), squeeze=False, sharex=True)
    for ax, ((config, precision), rows) in zip(panels[:, 0], cells, strict=True):
        for row in rows.to_dict("records"):
            name, ratio = row["implementation"], row["ratio_to_best_peer"]
            colour = GREY if name in PEERS else BLUE if name == OURS else ORANGE
            spread = [[ratio - row["low"]], [row["high"] - ratio]]
            ax.errorbar(ratio, names.index(name), xerr=spread, fmt="o", color=colour, capsize=3)
        ax.axvline(1, **IDEAL)
        ax.set_yticks(range(len(names)), names)
        ax.set(title=f"{config}, {precision}", ylim=(len(names) - 0.5, -0.5))
    panels[-1, 0].set(xlabel="images/s, as a multiple of the best peer's")
    own = frame[frame["implementation"] == OURS].to_dict("records")
    found = "; ".join(_said(row, _best(frame, row)) for row in own)
    return Figure(figure, f"Dots with intervals: images/s over the best peer's. {OURS}: {found}.", frame)


def table(run: Run) -> Table:
    """Images/s, ratios, share of the measured peak and memory of every implementation."""
    frame = _rows(run)
    peaks = [f"{row.matmul_tflops:.3g} TFLOP/s in {row.precision}" for row in
             frame.drop_duplicates("precision").itertuples()]  # fmt: skip
    caption = f"The measured peak is a matrix product's: {', '.join(peaks)}"
    return Table(frame[list(SHOWN)].rename(columns=SHOWN), caption, formats={"MFU, of the measured peak": ".2f"})


def losses(run: Run) -> Table:
    """The loss of the first step of everyone, and how far it is from ours."""
    frame = _rows(run)
    keys = ["config", "precision"]
    own = frame[frame["implementation"] == OURS].set_index(keys)["loss"]
    away = frame["loss"] / own.loc[list(frame[keys].itertuples(index=False, name=None))].to_numpy() - 1
    shown = frame[[*keys, "implementation", "loss"]].assign(**{f"from that of {OURS}, relative": away.abs()})
    return Table(shown, formats={"loss": ".7f", f"from that of {OURS}, relative": ".1e"})


def profile(run: Run) -> Table | Note:
    """The operators that take most of one step of ours, without and with its optimisations, and what was done."""
    frame = run.read_csv("profile.csv")
    frame["what was done"] = [_done(name) for name in frame["operator"]]
    frame["share"] *= 100
    return Table(
        frame.rename(columns={"share": "% of the step"}), "Time in the operator itself; the profiler slows a step"
    )


def _done(operator: str) -> str:
    return next((words for part, words in DONE.items() if part in operator), "")
