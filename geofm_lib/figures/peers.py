"""11: how fast ours is beside the libraries that one would use instead, from a run of the job `peers`. No torch."""

from typing import Any

import pandas as pd

from geofm_lib.catalog.metrics import number
from geofm_lib.catalog.peers import CONFIGS, FAST, OURS, PEERS
from geofm_lib.figures._axes import IDEAL, LOOKS, SKY, TIMES, own_look
from geofm_lib.figures.display import Answer, Figure, Note, Table, axes, styled
from geofm_lib.runs.run import Run

RATIO = ("ratio_to_best_peer", "low", "high")
FROM_FP32 = "from its own in fp32, relative"
EQUAL = 1e-4  # in fp32, as the job checks it
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
}
KERNELS = {  # parts of operators' names -> what they compute, the kernel that may be taken for it, and that in words
    ("scaled_dot_product", "bmm", "softmax"): ("attention", "plain", "plain softmax(q k) v"),
    ("convolution", "addmm", "aten::mm"): ("linear layers", "convolution", "a convolution by oneDNN"),
}
NOT_NOTED_CPU = "The processor's model number and instruction sets were not recorded"
DONE = {  # of other operators -> what was done about them
    "copy_": "casts and copies: fewer, since one rank has no wrapper, and in bf16 weights are cast once a step",
    "gelu": "nothing: torch has no faster one on a CPU that is exact",
    "layer_norm": "sums in fp32, added piece by piece in the cache (model/norm)",
    "fused_adamw": "fused: one pass over weights, gradients and moments",
}


def answer(run: Run) -> Answer:
    """How many times the best peer's images/s ours takes, with interval and conditions; who was left out."""
    frame, summary, where = _rows(run), run.summary, run.environment
    own = frame[frame["implementation"] == OURS]
    left_out = [PEERS[name] for name in summary["left_out"]]
    compared = len(left_out) < len(PEERS)
    said = [_said(row, _best(frame, row)) if compared else _alone(row) for row in own.to_dict("records")]
    makes = "makes these multiples of the best peer's images/s:" if compared else "makes"
    words = f"This is on {summary['device']}, one process of {summary['threads']} threads"
    words += (f", torch {summary['torch']}: medians of {summary['measured_steps']} rounds after "
              f"{summary['warmup_steps']} of warm-up.")  # fmt: skip
    if compared and "bf16" in set(frame["precision"]):
        words += " In bf16 the peers run under autocast; ours casts its weights once a step."
    words += f" {NOT_NOTED_CPU}." if where.get("device_type", "cpu") == "cpu" and "cpu_flags" not in where else ""
    if compared and (gains := _causes(frame, run)):
        words += f" Where it comes from, by how ours computes: {'; '.join(gains)}."
    fast = frame[frame["implementation"] == FAST].to_dict("records") if compared else []
    if fast:
        words += (
            f" With recipe=fast, a decoder of one block: {', '.join(_said(row, _best(frame, row)) for row in fast)}."
        )
    words += f" In brackets: 95 % of the ratios when the {summary['measured_steps']} rounds are drawn anew; so few "
    words += "give a rough interval." if compared else f" {ALONE}."
    if compared and left_out:
        words += f" {' and '.join(left_out)} {'is' if len(left_out) == 1 else 'are'} not installed here and left out"
        words += f" ({INSTALL})."
    return Answer(f"{OURS} {makes} {', '.join(said)}.", words)


def _rows(run: Run) -> pd.DataFrame:
    frame = run.read_csv("peers.csv")
    frame[list(RATIO)] = frame[list(RATIO)].apply(pd.to_numeric)  # empty where nothing is compared
    return frame


def _said(row: dict[str, Any], best: str) -> str:
    ratio = f"{row['ratio_to_best_peer']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return f"{ratio} on {_what(row)} ({PEERS[best]})"


def _alone(row: dict[str, Any]) -> str:
    return f"{number(row['images_per_s'])} images/s on {_what(row)}"


def _what(row: dict[str, Any]) -> str:
    return f"{CONFIGS[row['config']].model} ({row['config']}) in {row['precision']}"


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
    lines = [len(rows) for _, rows in cells]
    how: dict[str, Any] = {"squeeze": False, "sharex": True, "height_ratios": lines}
    figure, panels = axes(1.1 + 0.7 * len(cells) + 0.22 * sum(lines), len(cells), **how)
    for ax, ((config, precision), rows) in zip(panels[:, 0], cells, strict=True):
        names = list(rows["implementation"])
        for row in rows.to_dict("records"):
            name, ratio = row["implementation"], row["ratio_to_best_peer"]
            own = own_look(name, label="") if name in LOOKS else own_look(OURS, color=SKY, label="")
            spread = [[ratio - row["low"]], [row["high"] - ratio]]
            ax.errorbar(ratio, names.index(name), xerr=spread, capsize=3, **own)
        ax.axvline(1, **IDEAL)
        ax.set_yticks(range(len(names)), names)
        ax.set(title=f"{config}, {precision}", ylim=(len(names) - 0.5, -0.5))
    panels[-1, 0].set(xlabel=f"{TIMES} the best peer's")
    own = frame[frame["implementation"] == OURS].to_dict("records")
    found = "; ".join(_said(row, _best(frame, row)) for row in own)
    return Figure(figure, f"Dots with intervals: images/s over the best peer's. {OURS}: {found}.", frame)


def table(run: Run) -> Table:
    """Images/s, ratios, share of the measured peak and memory of every implementation."""
    frame = _rows(run)
    peaks = [f"{number(row.matmul_tflops)} TFLOP/s in {row.precision}" for row in
             frame.drop_duplicates("precision").itertuples()]  # fmt: skip
    own = [f"{row.config}, {row.precision}: {row.kernels}" for row in frame.itertuples()
           if row.implementation == OURS and isinstance(row.kernels, str) and row.kernels]  # fmt: skip
    caption = f"The measured peak is a matrix product's, of one process with all threads: {', '.join(peaks)}"
    caption += f". Kernels of attention and linear layers in {OURS}: {'; '.join(own)}" if own else ""
    return Table(frame[list(SHOWN)].rename(columns=SHOWN), caption, formats={"MFU, of the measured peak": ".2f"})


def losses(run: Run) -> Table:
    """The loss of the first step of everyone, and how far it is from ours."""
    frame = _rows(run)
    frame = frame[frame["implementation"] != FAST]  # another model, whose loss means something else
    keys = ["config", "precision"]
    own = frame[frame["implementation"] == OURS].set_index(keys)["loss"]
    away = frame["loss"] / own.loc[list(frame[keys].itertuples(index=False, name=None))].to_numpy() - 1
    shown = frame[[*keys, "implementation", "loss"]].assign(**{f"from that of {OURS}, relative": away.abs()})
    exact = frame[frame["precision"] == "fp32"].set_index(["config", "implementation"])["loss"]
    caption = f"The loss of the first step. In fp32 all may differ by {EQUAL:.0e} at most"
    if "bf16" in set(frame["precision"]) and len(exact):
        known = [exact.get((row.config, row.implementation)) for row in frame.itertuples()]
        shown[FROM_FP32] = (frame["loss"] / pd.Series(known, frame.index, dtype=float) - 1).abs()
        caption += "; in bf16 each differs from its own loss in fp32 by the last column"
    formats = {"loss": ".7f", f"from that of {OURS}, relative": ".1e", FROM_FP32: ".1e"}
    return Table(shown, caption, formats=formats)


def _causes(frame: pd.DataFrame, run: Run) -> list[str]:
    """By which kernels each of ours differs from itself with all off, as far as the run noted them: a part a cell."""
    found = []
    for (config, precision), rows in frame.groupby(["config", "precision"], sort=False):
        named = rows.set_index("implementation")
        if not {OURS, f"{OURS}: all off"} <= set(named.index) or not isinstance(named.loc[OURS, "kernels"], str):
            continue
        taken = named.loc[OURS, "kernels"]
        what = [words for _, kernel, words in KERNELS.values() if kernel in taken]
        base = named.loc[f"{OURS}: all off"]
        gain = named.loc[OURS, "images_per_s"] / base["images_per_s"]
        found.append(f"{config} in {precision} {gain:.2f} times itself with all off, with "
                     f"{' and '.join(what) or 'no other kernel'}")  # fmt: skip
    return found


def profile(run: Run) -> Table | Note:
    """The operators that take most of one step of ours, without and with its optimisations, and what was done."""
    frame = run.read_csv("profile.csv")
    found = _rows(run)
    own = found[found["implementation"] == OURS].set_index(["config", "precision"])["kernels"]
    measured = run.summary.get("device_type", "cpu") == "cpu"
    frame["what was done"] = [
        _done(row.operator, own[row.config, row.precision] if measured else "") for row in frame.itertuples()
    ]
    frame["share"] *= 100
    frame["operator"] = frame["operator"].map(_short)
    return Table(
        frame.rename(columns={"share": "% of the step"}), "Time in the operator itself; the profiler slows a step"
    )


def _short(operator: str) -> str:
    """An operator's name without what every one has in it.

    >>> _short("aten::_scaled_dot_product_flash_attention_for_cpu_backward")
    'attention, fused (backward)'
    """
    name = operator.removeprefix("aten::").strip("_")
    if name.startswith("scaled_dot_product"):
        return "attention, fused" + (" (backward)" if name.endswith("backward") else "")
    return name


def _done(operator: str, kernels: str) -> str:
    """What was done about an operator. kernels: of ours ("encoder plain and ..., ..."), "" where none was measured."""
    for parts, (what, kernel, words) in KERNELS.items():
        if any(part in operator for part in parts):
            stacks = kernels.split(", ")
            taken = [each.split()[0] for each in stacks if kernel in each.split()]
            if not taken:
                return f"{what}: {words} was not faster" if kernels else f"{what}: torch's own kernels, unmeasured"
            where = "" if len(taken) == len(stacks) else f" in the {taken[0]}"
            return f"{what}: computed as {words}{where}, which was faster"
    return next((words for part, words in DONE.items() if part in operator), "")
