"""05: how the encoder stands beside what nobody pretrained, of how many features, and on which splits. No torch."""

import re
from collections.abc import Mapping

import pandas as pd

from geofm_lib.catalog.readouts import ANSWERS, CONVOLUTIONS, EQUAL, EQUALLY, PRETRAINED, UNTRAINED
from geofm_lib.figures.pretrain import drawn_by_us
from geofm_lib.runs.run import Run

SAME = ("metric", "model", "objective", "pretraining_run", "protocol", "pooling", "normalisation")
NO_TRAINING = (
    "filters cut from train images, which nobody trained, tell these classes apart as well: pretrain for longer, a "
    "larger model or on more images, or use them"
)


def images(run: Run) -> str:
    """What was probed, by name; of the built-in scenes that they are drawn."""
    return "drawn (synthetic) scenes" if drawn_by_us(run.settings) else run.dataset or "images of its own"


def widths(run: Run) -> dict[tuple[str, str], int]:
    """(kind, readout) -> how many features it has; {} of a run that did not note them."""
    frame = run.read_csv("features.csv")
    return {} if frame.empty else {(row.kind, row.pooling): int(row.width) for row in frame.itertuples()}


def features(table: pd.DataFrame, known: Mapping[tuple[str, str], int]) -> list[int | None]:
    """How many features each row of Figure 1's numbers is of; None where the run did not note it."""
    counts = [known.get((kind if (kind, pooling) in known else PRETRAINED, pooling))
              for kind, pooling in zip(table["kind"], table["pooling"], strict=True)]  # fmt: skip
    return [EQUAL if name == EQUALLY else count for name, count in zip(table["normalisation"], counts, strict=True)]


def usual(frame: pd.DataFrame, normalisation: str | None = None) -> pd.DataFrame:
    """Of the fast protocol's rows over all splits (`probe.rows`) those of all labels, of the last block, no gains."""
    inner = frame["layer"].str.startswith("block", na=False)
    found = frame[frame["protocol"].isin(ANSWERS) & frame["shot"].isna() & ~inner & ~frame["gain"]]
    return found if found.empty else found[found["normalisation"] == (normalisation or found["normalisation"].iloc[0])]


def worded(answer: str, known: Mapping[tuple[str, str], int], clause: str) -> str:
    """A run's answer with the size of each readout, and what it is no better than."""

    def sized(found: re.Match[str]) -> str:
        count = known.get((PRETRAINED, found[1])) or known.get((UNTRAINED, found[1]))
        return f" with the readout {found[1]}{f' ({count:,} features)' if count else ''}:"

    told = re.sub(r" under ([a-z+]+):", sized, answer.replace("adds +", "adds "))
    return re.sub(r"( \(\d+ splits?\b.*\))$", lambda found: f"; {clause}{found[1]}", told) if clause else told


def beside(frame: pd.DataFrame, known: Mapping[tuple[str, str], int]) -> tuple[str, str]:
    """(a clause, its evidence) on the encoder beside random convolutions; ("", "") where it is above, or without them.

    Its readouts are held against them each: their own intervals over test images, since no paired one was kept.
    """
    own, other = _both(frame)
    if own.empty or other is None or (own["low"] > other["value"]).all():
        return "", ""
    best = own.loc[own["value"].idxmax()]
    clause = "no better than" if best["high"] >= other["low"] else "worse than"
    if best["low"] > other["value"]:
        clause = f"under {own.iloc[0]['pooling']} no better than"
    parts = [
        f"{row.pooling} {_told(row, known)}, {abs(row.value - other['value']):.1f} points "
        f"{'above' if row.value > other['value'] else 'below'} ({_apart(row, other)})"
        for row in own.itertuples()
    ]
    told = f"{CONVOLUTIONS} {_told(other, known)}; {'; '.join(parts)}"
    equal, control = _both(frame, EQUALLY)
    if len(equal) and control is not None:
        each = " and ".join(f"{row.pooling} {row.value:.1f} %" for row in equal.itertuples())
        told += f". With 64 features each (PCA): {CONVOLUTIONS} {control['value']:.1f} %, {each}"
    about = f"{clause} {CONVOLUTIONS}, which train nothing ({other['value']:.1f} %{_count(CONVOLUTIONS, known)})"
    return about, f"{told}. The run kept no paired interval of the two"


def splits(run: Run, frame: pd.DataFrame) -> str:
    """Which splits there are, on what they test, and what the encoder adds on each; "" of a single one."""
    every = run.read_csv("accuracy.csv")
    own = usual(frame)
    own = own[own["kind"] == PRETRAINED]
    if own.empty or "difference_to_untrained" not in every:
        return ""
    same = {name: own.iloc[0][name] for name in SAME}
    each = every[(every[["interval_kind", "shot"]].fillna("") == "").all(axis=1) & (every["layer"] == "last")]
    for name, value in same.items():
        each = each[each[name] == value]
    gained = pd.to_numeric(each["difference_to_untrained"], errors="coerce")
    if len(each) < 2 or gained.isna().any():
        return ""
    tested, drawn = each["n_test"].astype(int), each.iloc[1:]["n_test"].astype(int)
    values = ", ".join(f"{value:.1f}" for value in gained)
    said = f"Points added on the set's own split and {len(drawn)} drawn ones: {values}. "
    said += f"The own split tests {tested.iloc[0]:,} images"
    if "seen_exact" in run.summary:
        said += f", {run.summary['seen_exact'] + run.summary.get('seen_near', 0):,} of them pretrained on"
    low, high = int(drawn.min()), int(drawn.max())
    said += f"; the drawn ones divide the images of both sides anew and test {low:,}" + (f" to {high:,}" * (high > low))
    known = run.summary.get("pretrained_on", "not known")
    if known == "not known":
        return f"{said}; which of these the encoder was pretrained on is not known."
    none = "none that it was pretrained on" if known == "known" else "none that it is known to have been pretrained on"
    return f"{said}, {none}; their train sides may hold such images."


def _both(frame: pd.DataFrame, normalisation: str | None = None) -> tuple[pd.DataFrame, pd.Series | None]:
    """The pretrained encoder's rows, one a readout, and that of random convolutions."""
    found = usual(frame, normalisation)
    other = found[found["kind"] == CONVOLUTIONS]
    return found[found["kind"] == PRETRAINED], None if other.empty else other.iloc[0]


def _told(row: pd.Series, known: Mapping[tuple[str, str], int]) -> str:
    count = known.get((row.kind, row.pooling))
    return f"{f'({count:,} features) ' if count else ''}{row.value:.1f} % ({row.low:.1f} to {row.high:.1f})"


def _count(kind: str, known: Mapping[tuple[str, str], int]) -> str:
    return f", {known[kind, kind]:,} features" if (kind, kind) in known else ""


def _apart(row: pd.Series, other: pd.Series) -> str:
    return "intervals overlap" if row.low <= other.high and other.low <= row.high else "intervals do not overlap"
