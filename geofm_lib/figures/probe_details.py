"""05: what the fast protocol says beside its answer: labels, blocks, classes, neighbours, a map. No torch."""

from collections import Counter

import matplotlib.figure
import numpy as np
import pandas as pd

from geofm_lib.catalog import metrics
from geofm_lib.catalog.readouts import ANSWERS, PRETRAINED, UNTRAINED
from geofm_lib.figures._axes import FAINT, GREY, MARKERS, PALETTE, legend_below
from geofm_lib.figures.display import NARROW_IN, WIDTH_IN, Figure, Note, Table, axes, cut, styled
from geofm_lib.figures.pretrain import WITHHELD, withheld
from geofm_lib.figures.probe import COLOURS, NONE, rows
from geofm_lib.runs.run import Run

MOST = 40  # classes in a figure
MAPPED = 400  # images in the map, drawn at random


@styled
def labels(run: Run) -> Figure | Note:
    """The metric against how many training images there are, of the pretrained and of untrained encoders."""
    frame = rows(run)
    found = frame[frame["shot"].notna() & ~frame["gain"]] if len(frame) else frame
    if found.empty:
        return Note(NONE if frame.empty else "The run asked for no smaller train sides (details=False).")
    same = frame["protocol"].isin(ANSWERS) & ~frame["gain"] & frame["shot"].isna() & frame["layer"].eq("last")
    like = found.iloc[0]
    same &= (frame["pooling"] == like["pooling"]) & (frame["normalisation"] == like["normalisation"])
    found = pd.concat([found, frame[same]])
    mean = found.groupby(["kind", "n_train"], sort=True)[["value", "low", "high"]].mean().reset_index()
    figure, ax = axes(height=2.9)
    for kind, each in mean.groupby("kind"):
        ax.plot(each["n_train"], each["value"], marker="o", color=COLOURS.get(kind, GREY), label=kind)
        ax.fill_between(each["n_train"], each["low"], each["high"], color=COLOURS.get(kind, GREY), alpha=0.15)
    ax.set(xscale="log", xlabel="training images", ylabel=_label(run))
    ax.legend()
    ends = [f"{k} from {e['value'].iloc[0]:.1f} with {e['n_train'].iloc[0]:,.0f} to {e['value'].iloc[-1]:.1f} with "
            f"{e['n_train'].iloc[-1]:,.0f}" for k, e in mean.groupby("kind")]  # fmt: skip
    alt = f"Lines of {_label(run)} against training images (logistic regression, all splits), bands are 95 % over test "
    alt += f"images: {'; '.join(ends)}."
    return Figure(figure, alt, mean)


@styled
def blocks(run: Run) -> Figure | Note:
    """The metric behind each block on the set's own split, of the mean of the patch tokens and of the class token."""
    frame = rows(run)
    if frame.empty:
        return Note(NONE)
    plain = frame[frame["protocol"].isin(ANSWERS) & ~frame["gain"] & frame["shot"].isna()]
    plain = plain[plain["pooling"].isin(["mean", "class"]) & (plain["normalisation"] == plain["normalisation"].iloc[0])]
    inner = plain[plain["layer"].str.startswith("block", na=False)].copy()
    if inner.empty:
        return Note("The run asked for the last block alone (details=False).")
    inner["block"] = inner["layer"].str.removeprefix("block ").astype(int)
    mean = inner.groupby(["kind", "pooling", "block"])["value"].mean().reset_index()
    figure, ax = axes(height=2.9)
    for (kind, pooling), each in mean.groupby(["kind", "pooling"]):
        style = "-" if pooling == "mean" else "--"
        ax.plot(
            each["block"], each["value"], style, marker="o", color=COLOURS.get(kind, GREY), label=f"{kind}, {pooling}"
        )
    ax.set(xlabel="behind block", ylabel=_label(run), xticks=sorted(mean["block"].unique()))
    ax.legend()
    best = mean.loc[mean.groupby(["kind", "pooling"])["value"].idxmax()]
    words = [f"{r.kind}, {r.pooling}: best {r.value:.1f} behind block {r.block}" for r in best.itertuples()]
    how = "logistic regression on the set's own split alone, so not the means over splits of Figure 1; of untrained "
    how += "the first draw alone"
    return Figure(figure, f"Lines of {_label(run)} behind each block ({how}): {'; '.join(words)}.", mean)


def ranks(run: Run) -> Table:
    """How many dimensions the features of each encoder fill."""
    frame = run.read_csv("features.csv")
    if frame.empty:
        return Table(frame, empty=NONE)
    frame = frame[~frame["layer"].astype(str).str.startswith("block")]
    found = frame.groupby(["kind", "pooling"], sort=False)[["width", "effective_rank"]].mean().reset_index()
    return Table(found, "Effective rank: the exponential of the entropy of the singular values")


@styled
def classes(run: Run) -> Figure | Note:
    """Accuracy of each class, of the pretrained encoder and of the first untrained one, on the set's own split."""
    said = run.read_csv("predictions.csv")
    if said.empty:
        return Note("There are no predictions of single classes: the run has none, or its images have several labels.")
    kinds = [kind for kind in (PRETRAINED, UNTRAINED) if kind in said]
    right = pd.DataFrame({kind: said[kind] == said["class"] for kind in kinds}).groupby(said["class"]).mean() * 100
    right = right.sort_values(kinds[0])
    shown = pd.concat([right.head(MOST // 2), right.tail(MOST - MOST // 2)]) if len(right) > MOST else right
    figure, ax = axes(height=0.8 + 0.19 * len(shown))
    for kind in kinds:
        ax.plot(shown[kind], shown.index, "o", color=COLOURS[kind], label=kind)
    ax.set(xlabel="right of the class's test images, %", xlim=(-3, 103))
    ax.legend()
    low, high = right.iloc[0], right.iloc[-1]
    alt = f"Share of test images that come out right, for each of {len(right)} classes, {kinds[0]}: "
    alt += f"least {low.name} {low[kinds[0]]:.0f} %, "
    alt += f"most {high.name} {high[kinds[0]]:.0f} %; all in predictions.csv."
    return Figure(figure, alt, right.reset_index())


def confusion(run: Run) -> Table:
    """The pairs of classes that are confused most, of the set's own split."""
    said = run.read_csv("predictions.csv")
    if said.empty:
        return Table(said, empty="No class is taken for another in this run's predictions.")
    kind = next(name for name in (PRETRAINED, UNTRAINED) if name in said)
    wrong = Counter(
        zip(said.loc[said[kind] != said["class"], "class"], said.loc[said[kind] != said["class"], kind], strict=True)
    )
    total = said["class"].value_counts()
    found = [(a, b, n, 100 * n / total[a]) for (a, b), n in wrong.most_common(8)]
    frame = pd.DataFrame(found, columns=["class", "taken for", "test images", "of the class, %"])
    return Table(frame, f"Most confused, {kind}", "No class is taken for another.")


def confused(run: Run) -> Figure | Note:
    """Test images of the most confused pairs."""
    found = _pictures(run, "confused.npz")
    if isinstance(found, Note):
        return found
    titles = [f"{a[0]}\ntaken for\n{b}" for a, b in zip(found["labels"], found["taken_for"], strict=True)]
    words = [title.replace("\n", " ") for title in titles]
    return _sheet(found["pictures"], titles, None, f"Test images that are confused, a row a pair: {'; '.join(words)}.")


def retrieval(run: Run) -> Figure | Note:
    """Test images and the training images whose features are nearest."""
    found = _pictures(run, "retrieval.npz")
    if isinstance(found, Note):
        return found
    names = found["labels"]
    same = float((names[:, 1:] == names[:, :1]).mean() * 100)
    alt = f"In each row a test image, then its {names.shape[1] - 1} nearest training images. Of these {same:.0f} % "
    alt += f"are of their test image's class: {'; '.join(row[0] for row in names)}."
    return _sheet(found["pictures"], [row[0] for row in names], names[:, 1:], alt)


@styled
def features_map(run: Run) -> Figure | Note:
    """Test images at the first two principal components of their features."""
    frame = run.read_csv("map.csv")
    if frame.empty:
        return Note("The run holds no map of its features.")
    tested = run.summary.get("test_images", len(frame))
    frame = frame.sample(min(len(frame), MAPPED), random_state=0).sort_index()
    figure, ax = axes(height=3.6)
    named = _far_apart(frame.groupby("class")[["x", "y"]].mean())
    others = frame[~frame["class"].isin(named)]
    if len(others):
        label = f"{others['class'].nunique()} other classes"
        ax.plot(others["x"], others["y"], ".", color=FAINT, alpha=0.5, markersize=3, label=label)
    for name, colour, marker in zip(named, PALETTE, MARKERS, strict=False):
        part = frame[frame["class"] == name]
        ax.plot(part["x"], part["y"], marker, color=colour, markersize=4, label=name)
    legend_below(figure, [ax], 4)
    first = frame.iloc[0]
    ax.set(xlabel=f"first component, {100 * first['x_share']:.0f} % of the variance",
           ylabel=f"second, {100 * first['y_share']:.0f} %")  # fmt: skip
    alt = f"{len(frame)} of {tested:,} test images of {frame['class'].nunique()} classes at the first two principal "
    alt += (
        f"components of their features, which hold {100 * (first['x_share'] + first['y_share']):.0f} % of the variance."
    )
    if len(others):
        alt += f" Named are the {len(named)} classes whose means lie farthest from each other; the others are grey."
    return Figure(figure, alt, frame.groupby("class")[["x", "y"]].mean().reset_index())


def _far_apart(means: pd.DataFrame, most: int = 6) -> list[str]:
    """The classes that can be told apart by colour and marker: each in turn the farthest from those before it."""
    places = means.to_numpy()
    chosen = [int(((places - places.mean(0)) ** 2).sum(1).argmax())]
    while len(chosen) < min(most, len(places)):
        near = ((places[:, None] - places[chosen]) ** 2).sum(2).min(1)
        near[chosen] = -1  # classes in one place stay classes
        chosen.append(int(near.argmax()))
    return [str(means.index[k]) for k in chosen]


def _label(run: Run) -> str:
    return f"{metrics.LONG[metrics.of(run.summary)]}, %"


def _pictures(run: Run, name: str) -> dict[str, np.ndarray] | Note:
    if withheld(run):
        return Note(WITHHELD.format(name=name))
    if not (run.folder / name).is_file():
        return Note(f"The run holds no {name}.")
    with np.load(run.proved(name)) as saved:
        return {key: saved[key] for key in saved.files}


@styled
def _sheet(pictures: np.ndarray, titles: list[str], names: np.ndarray | None, alt: str) -> Figure:
    narrow = _drawn(pictures[:, :3], titles, names, NARROW_IN)
    return Figure(_drawn(pictures, titles, names, WIDTH_IN), alt, photo=True, narrow=narrow)


def _drawn(pictures: np.ndarray, titles: list[str], names: np.ndarray | None, width: float) -> matplotlib.figure.Figure:
    count, columns = pictures.shape[:2]
    figure, panels = axes(1.25 * count, count, columns, width, squeeze=False)
    for (row, column), ax in np.ndenumerate(panels):
        ax.imshow(pictures[row, column])
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        if column and names is not None:
            ax.set_title(cut(names[row, column - 1], 13), fontsize=8)
        if not column:
            ax.set_ylabel(titles[row], fontsize=8, rotation=0, ha="right", va="center")
    return figure
