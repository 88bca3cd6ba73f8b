"""08: what pretraining adds to a task, with the encoder frozen and fine-tuned. No torch."""

import numpy as np
import pandas as pd

from geofm_lib.catalog import metrics, transfer
from geofm_lib.catalog.readouts import GAIN
from geofm_lib.figures import detections, series
from geofm_lib.figures._axes import DOZEN, DOZEN_WORDS, GREY, INK, RED, TRAINING_LOSS, legend_below, own_look
from geofm_lib.figures.display import NARROW_IN, Answer, Figure, Note, Table, axes, sheet, styled
from geofm_lib.figures.pretrain import WITHHELD, withheld
from geofm_lib.runs.run import Run

SEGMENTS, SERIES, NO_CLASS = "segments.npz", "series.npz", 255
LAST, STILL = 1 / 3, 0.05  # an arm whose loss falls by more than this over the last share of the epochs has not ended
FOUND, NAMED = 0.5, 6  # percent of a class from which on some of it is found; classes that are named at most
NONE = "The run holds no result yet: an arm is judged when all of its seeds are trained."
COLOURS = {
    name: own_look("pretrained" if arm.pretrained else "untrained")["color"] for name, arm in transfer.ARMS.items()
}
NUMBERS = (
    "value",
    "gain",
    "train_",
    "test_",
    "classes",
    "chance",
    "metric",
    "map_",
    "steps",
    "seen",
    "pretrained_on",
    "peak",
)


def verdict(run: Run) -> Answer | Note:
    """What the fine-tuned network reaches, and by how much it is above the others; the rest of what its run says."""
    summary, told = run.summary, run.read_csv("differences.csv")
    if not summary.get("answer"):
        return Note(NONE)
    first, _, rest = summary["answer"].partition(". ")
    more = [f"{rest}."] if rest else []
    if run.settings.get("seeds") == 1:
        first += " (one seed of each)"
        more.insert(0, "With one seed the intervals hold nothing of how seeds differ.")
    if transfer.unlearnt(_values(run)):
        ends = f"{summary['value_scratch']:.1f} against {summary['value_untrained']:.1f} %"
        more.insert(0, f"From scratch ends below the same network untrained and frozen ({ends}): "
                       f"{summary['steps']:,} steps are too few for it, and what is above it is no measure of "
                       "pretraining.")  # fmt: skip
    if missed := _missed(run.read_csv("classes.csv")):
        more.append(missed)
    what = ("series", "series") if summary.get("dates") else ("image", "images")
    one, many = (f"labelled {each}" for each in what)
    drawn = f"{run.dataset}, which are drawn" if run.dataset in ("scenes", "seasons") else run.dataset
    more.append(f"{summary['model']} on {metrics.counted(summary['train_images'], one, many)} of {drawn}, ")
    one, many = (f"test {each}" for each in what)
    more[-1] += f"judged on {metrics.counted(summary['test_images'], one, many)}."
    if 2 * summary.get("seen_train_images", 0) > summary.get("train_side", 0):
        own = metrics.counted(summary["train_side"], *what)
        more.append(f"The encoder was pretrained on {summary['seen_train_images']:,} of the {own} of this train side, "
                    "without labels: this asks what it adds where labels are few, not on others.")  # fmt: skip
    if falling := _still_falling(run.metrics):
        more.append(f"Not trained to the end: the loss of the last third of the epochs is more than "
                    f"{100 * STILL:.0f} % below that of the third before ({'; '.join(map(transfer.words, falling))}). "
                    "More epochs would change these numbers.")  # fmt: skip
    if len(told):
        over = str(told["interval_kind"].iloc[0]).removeprefix("95 %, ")
        more.append(f"One pretraining: each interval is 95 % of a {over}; it holds nothing of other pretrainings.")
    return Answer(f"{first}.", " ".join(more))


def _still_falling(frame: pd.DataFrame) -> list[str]:
    """The arms whose mean loss in the last third of the epochs is below that of the third before by more than STILL."""
    if "arm" not in frame:
        return []
    found, end = [], frame["epoch"].max()
    for name, own in frame.groupby("arm", sort=False):
        before, last = (own.loc[own["epoch"].between(a * end, b * end, inclusive="right"), "loss"].mean()
                        for a, b in ((1 - 2 * LAST, 1 - LAST), (1 - LAST, 1)))  # fmt: skip
        found += [str(name)] if last < (1 - STILL) * before else []
    return found


def _missed(classes: pd.DataFrame) -> str:
    """In a sentence, the classes of which the first arm finds nothing; "" where it finds some of each."""
    arm = next((name for name in classes.columns if name in transfer.ARMS), "")
    names = [str(name) for name in classes["class"][classes[arm] < FOUND]] if arm else []
    if not names:
        return ""
    left = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    said = transfer.words(arm)
    told = f"finds nothing of {len(names)} of {len(classes)} classes: {', '.join(names[:NAMED])}{left}"
    return f"{said[0].upper()}{said[1:]} {told}."


def rows(run: Run) -> pd.DataFrame:
    """A row an arm or control with its interval; name, and seeds: the values of its seeds."""
    frame = run.read_csv("accuracy.csv")
    if frame.empty:
        return frame
    frame = frame[~frame["metric"].str.endswith(GAIN)].reset_index(drop=True)
    whole = frame["interval_kind"].fillna("") != ""
    values = _values(run)
    found = frame[whole].reset_index(drop=True).assign(name=list(values))
    same = ["protocol", "objective", "model", "pooling"]
    keys = [tuple(map(str, each)) for each in frame[same].to_numpy()]
    own = [[v for v, key, w in zip(frame["value"], keys, whole, strict=True) if not w and key == mine]
           for mine, w in zip(keys, whole, strict=True) if w]  # fmt: skip
    number = dict.fromkeys(("value", "low", "high"), float)
    return found.assign(seeds=own).astype(number)


def _values(run: Run) -> dict[str, float]:
    """The mean of each arm and control, in the order of the run."""
    return {key.removeprefix("value_"): value for key, value in run.summary.items() if key.startswith("value_")}


@styled
def arms(run: Run) -> Figure | Note:
    """Every arm and control on the test side, with its interval and the value of each seed."""
    found = rows(run)
    if found.empty:
        return Note(NONE)
    names = [transfer.words(name) for name in found["name"]]
    figure, ax = axes(height=1.0 + 0.32 * len(found))
    errors = [found["value"] - found["low"], found["high"] - found["value"]]
    colours = [COLOURS.get(name, GREY) for name in found["name"]]
    ax.barh(names, found["value"], color=colours, height=0.62, xerr=errors, capsize=3)
    for y, row in enumerate(found.itertuples()):
        ax.plot(row.seeds, [y] * len(row.seeds), "o", color=INK, markersize=3, label="" if y else "each seed")
        ax.annotate(f"{row.value:.1f}", (row.high, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.invert_yaxis()
    long = metrics.LONG[metrics.of(run.summary)]
    ax.set(xlabel=f"{long} on the test side, %", xlim=(0, 1.12 * found["high"].max()))
    ax.grid(False, axis="y")
    legend_below(figure, [ax]) if any(map(len, found["seeds"])) else None
    told = [
        f"{transfer.words(r.name)} {r.value:.1f} ({r.low:.1f} to {r.high:.1f})" for r in found.itertuples(index=False)
    ]
    over = str(found["interval_kind"].iloc[0]).removeprefix("95 %, ")
    alt = f"{long[0].upper()}{long[1:]} in percent, with 95 % intervals ({over}): "
    table = found.assign(arm=names)[["arm", "value", "low", "high", "interval_kind", "protocol", "n_train", "n_test"]]
    return Figure(figure, f"{alt}{'; '.join(told)}.", table)


def differences(run: Run) -> Table:
    """Each pair that counts, in points, with its interval, and whether that leaves out 0."""
    found = run.read_csv("differences.csv")
    if found.empty:
        return Table(found, empty=NONE)
    words = [
        f"{transfer.words(a)} above {transfer.words(b)}" for a, b in zip(found["first"], found["second"], strict=True)
    ]
    yes = "for this seed" if run.settings.get("seeds") == 1 else "yes"
    clear = [yes if low > 0 or high < 0 else "no" for low, high in zip(found["low"], found["high"], strict=True)]
    shown = found[["value", "low", "high"]].assign(clear=clear, interval_kind=found["interval_kind"])
    shown.insert(0, "difference", words)
    return Table(shown.rename(columns={"value": "points"}), "Differences, in points")


@styled
def curves(run: Run) -> Figure | Note:
    """The training loss of each arm, a line a seed."""
    frame = run.metrics
    if frame.empty or "arm" not in frame:
        return Note(NONE)
    figure, ax = axes(height=2.9)
    styles = {name: "-" if arm.whole else "--" for name, arm in transfer.ARMS.items()}
    ends = []
    for name, own in frame.groupby("arm", sort=False):
        for k, (_, each) in enumerate(own.groupby("seed")):
            mean = each.groupby(each["epoch"].map(_up))["loss"].mean()
            ax.plot(mean, styles[name], color=COLOURS[name], label="" if k else transfer.words(name), linewidth=1.2)
        last = own[own["epoch"].map(_up) == own["epoch"].map(_up).max()]["loss"].mean()
        ends.append(f"{transfer.words(name)} {metrics.number(last)}")
    ax.set(xlabel="epoch", ylabel=TRAINING_LOSS)
    legend_below(figure, [ax])
    alt = f"Lines of the training loss over the epochs, a line a seed. Mean of the last epoch: {'; '.join(ends)}."
    return Figure(figure, alt)


def _up(epoch: float) -> int:
    return int(-(-epoch // 1))


def classes(run: Run) -> Table:
    """Each class of the test side, under every arm and control."""
    found = run.read_csv("classes.csv")
    names = {name: transfer.words(name).replace("_", " ") for name in found.columns}
    caption = "Each class, in percent, over all seeds"
    return Table(found.rename(columns=names), caption, empty=NONE)


def pictures(run: Run) -> Figure | Note:
    """Test images with their true classes or boxes (or series), and what the first arm says."""
    name = next((name for name in PICTURES if (run.folder / name).is_file()), "")
    if not name:
        return Note("This task shows no pictures.")
    if withheld(run):
        return Note(WITHHELD.format(name=name))
    return PICTURES[name](run, next(iter(_values(run)), ""))


def _segments(run: Run, arm: str) -> Figure:
    with np.load(run.proved(SEGMENTS)) as saved:
        image, truth, said, names = (saved[key] for key in ("image", "truth", "said", "classes"))
    colours = np.array([[int(each[k : k + 2], 16) for k in (1, 3, 5)] for each in DOZEN], np.uint8)

    def painted(classes: np.ndarray) -> np.ndarray:
        return np.where(classes[..., None] == NO_CLASS, np.uint8(255), colours[classes % len(colours)])

    wrong = (said != truth) & (truth != NO_CLASS)
    error = np.where(wrong[..., None], colours[DOZEN.index(RED)], image // 2 + 96)
    arm = transfer.words(arm)
    words = ["image", "truth", arm, "wrong"]
    rows = [image, painted(truth), painted(said), error]
    key = ", ".join(f"{name} {DOZEN_WORDS[k % len(DOZEN_WORDS)]}" for k, name in enumerate(names))
    known = truth[truth != NO_CLASS]
    right = 100 * float(1 - wrong.sum() / max(len(known), 1))
    most = 100 * float(np.bincount(known, minlength=1).max() / max(len(known), 1))
    alt = f"{len(image)} test images in columns. Rows: the image, its true classes ({key}; white has none), what the "
    alt += (
        f"{arm} network says, and in red where that is wrong. {right:.0f} % of these pixels are right; the commonest "
    )
    alt += f"class alone has {most:.0f} %."
    narrow = sheet([row[:3] for row in rows], names=words, width=NARROW_IN)
    return Figure(sheet(rows, names=words), alt, photo=True, narrow=narrow)


def _series(run: Run, arm: str) -> Figure:
    with np.load(run.proved(SERIES)) as saved:
        return series.said(dict(saved), transfer.words(arm))


PICTURES = {SEGMENTS: _segments, SERIES: _series, detections.PICTURES: detections.pictures}


def controls(run: Run) -> Table:
    """What each control is."""
    found = [(name, transfer.CONTROLS[name]) for name in _values(run) if name in transfer.CONTROLS]
    return Table(
        pd.DataFrame(found, columns=["control", "what it is"]), empty="The run has no control beside its arms."
    )


def numbers(run: Run) -> Table:
    """Every number of the run's summary."""
    found = [(name.replace("_", " "), value) for name, value in run.summary.items() if name.startswith(NUMBERS)]
    return Table(pd.DataFrame(found, columns=["number", "value"]), empty=NONE)
