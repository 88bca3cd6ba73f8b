"""01: what a preparation found in a data set, what it refused, and how fast it packed. No torch."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns

from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.catalog.metrics import counted, number
from geofm_lib.figures._axes import BLUE, PALETTE, TIMES, WORDS, whiskers
from geofm_lib.figures.display import Figure, Note, Table, axes, facts, styled
from geofm_lib.runs import results
from geofm_lib.runs.run import Run

LOADER = results.file("loader")
MOST_ROWS = 80  # of a list on a page; the run folder has it whole
NO_CARD = "These class folders match no data set that has a card here, so nothing says how many images are complete."


@styled
def classes(run: Run) -> Figure | Note:
    """Images per class, as the preparation counted them."""
    counts = run.summary.get("classes") or {}
    if not counts:
        return Note("These images have no labels, so there are no classes to count.")
    table = pd.DataFrame({"class": list(counts), "images": list(counts.values())})
    shown = table.nlargest(MOST_ROWS, "images", keep="first").sort_index()
    figure, ax = axes(height=0.8 + 0.19 * len(shown))
    sns.barplot(shown, x="images", y="class", color=BLUE, saturation=1, ax=ax, width=0.7)
    ax.set(xlabel="images", ylabel="")
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(False, axis="y")
    low, high = table["images"].min(), table["images"].max()
    spread = f"{low:,} images in each" if low == high else f"from {low:,} to {high:,} images"
    sides = " and ".join(f"{run.summary[side]:,} {side}" for side in ("train", "val", "test") if run.summary.get(side))
    alt = f"Bar chart of {len(table)} classes, {spread}."
    return Figure(figure, alt + (f" Sides of the split: {sides} images." if sides else ""), table)


def card(run: Run) -> Table | Note:
    """What is known of the data set whose classes these are, and beside it what can be compared with it here."""
    row, found = DATASETS.get(run.summary.get("card", "")), run.summary
    if row is None:
        return Note(NO_CARD)
    about = [("data set", row.title), ("terms", row.terms), ("cite", row.citation), ("where", row.where)]
    if row.name == "scenes":
        return facts(dict(about), "Drawn as the settings ask, so there is nothing to compare with")
    sides = [found.get(side, 0) for side in ("train", "val", "test")]
    official = f"{row.images:,}" + (f", {row.unlabelled:,} of them unlabelled" if row.unlabelled else "")
    as_files = not run.settings.get("tile")  # tiles of scenes are not the images that the card counts
    compared: list[tuple[str, object, object]] = [
        ("classes", row.classes, len(found.get("classes") or {}) or ""),
        ("images", official, f"{found['images']:,}" if as_files and found.get("images") else ""),
        ("pixels a side", row.size, _pixels(run) if as_files and not run.settings.get("short_side") else ""),
        # a share says something of a split that was drawn; one that came with the images has its own
        (
            "share for training",
            row.train or "",
            f"{sides[0] / sum(sides):.2g}" if found.get("split_by") == "random" else "",
        ),
    ]
    more = [*about[1:], ("files", row.layout), ("complete if", row.complete)]
    rows = [(*about[0], ""), *compared, *((name, text, "") for name, text in more)]
    frame = pd.DataFrame(rows, columns=["fact", "official set", "here"]).astype(str)
    return Table(frame, "Compared where both are known and mean the same")


def _pixels(run: Run) -> str:
    """The shorter sides of the packed images, from and to."""
    index = run.read_csv("index.csv")
    if index.empty:
        return ""
    short = index[["width", "height"]].min(axis=1)
    return f"{short.min():,}" + (f" to {short.max():,}" if short.nunique() > 1 else "")


def card_counts(run: Run) -> Table | Note:
    """Images of each class beside the card's, the incomplete ones first."""
    frame = run.read_csv("card.csv")
    if frame.empty:
        drawn = "The built-in scenes are drawn, as many of each class as asked for."
        return Note(drawn if run.summary.get("card") == "scenes" else NO_CARD)
    missing, single = pd.to_numeric(frame["missing"]), ~frame["class"].isin(["all", "(no label)"])
    incomplete, whole = frame[missing > 0], frame[missing == 0]
    lacking, classes = (single & (missing > 0)).sum(), single.sum()
    if pd.to_numeric(frame.loc[single, "card"], errors="coerce").isna().all():
        caption = f"The card says no number for a class; {classes - lacking} of its {classes} classes are here"
    elif lacking or (missing > 0).any():
        caption = f"{lacking} of {classes} classes have fewer images than the official set"
    else:
        caption = "Complete: every class has what the card says"
    return Table(pd.concat([incomplete, whole]), caption)


@styled
def sizes(run: Run) -> Figure | Table | Note:
    """How many images have which short side; a table where all have the same."""
    index = run.read_csv("index.csv")
    if index.empty:
        return Note("The run has packed no image yet.")
    if dates := run.summary.get("dates"):
        bands = counted(run.summary["channels"], "band")
        return Note(f"Each of the {len(index):,} series has {dates} dates of {bands}.")
    short = index[["width", "height"]].min(axis=1)
    common = (index["width"].astype(str) + " x " + index["height"].astype(str)).value_counts()
    table = common.head(10).rename_axis("width x height").reset_index(name="images")
    if short.nunique() == 1:
        return Table(table, f"All {len(index):,} images have a short side of {short.iloc[0]} pixels")
    figure, ax = axes(height=2.4)
    wide_range = bool(short.max() > 8 * short.min())
    sns.histplot(x=short, bins=min(40, short.nunique()), color=BLUE, ax=ax, log_scale=wide_range)
    ax.set(xlabel="short side, pixels", ylabel="images")
    alt = f"Histogram of the short side of {len(index):,} images, from {short.min()} to {short.max()} pixels, "
    alt += f"median {int(np.median(short))}; {len(common)} different sizes."
    return Figure(figure, alt, table)


def refused(run: Run) -> Table:
    """Every file the preparation refused, with its reason."""
    frame = run.read_csv("refused.csv")
    return _first(frame, f"{len(frame)} files refused", "refused.csv", "No file was refused.")


def duplicates(run: Run) -> Table:
    """Every image that is there twice or nearly, exact ones first."""
    frame = run.read_csv("duplicates.csv")
    if len(frame):
        frame = frame.sort_values(["distance", "kind"], kind="stable").rename(columns={"distance": "bits"})
    kinds = frame["kind"].value_counts() if len(frame) else {}
    caption = f"{kinds.get('exact', 0)} with the same pixels, {kinds.get('near', 0)} nearly the same"
    return _first(frame, caption, "duplicates.csv", "No image is there twice, nor nearly.")


def statistics(run: Run) -> Table:
    """Mean and standard deviation of each band, which normalise the pixels."""
    copied = dict.fromkeys(("mean", "std"), ".4f")  # into settings of other tools
    return Table(run.read_csv("statistics.csv"), empty="The run has not finished packing.", formats=copied)


def packing(run: Run) -> Table | Note:
    """Data shards, their bytes, and the speed."""
    summary = run.summary
    if "shards" not in summary:
        return Note("The run has not finished packing.")
    packed = summary.get("packed_images_per_s")
    speed = "nothing is packed: the images stay where they are" if packed is None else f"{packed:,.0f}"
    size, each = summary["bytes"] / 2**20, summary["bytes"] / 2**10 / summary["images"]
    return facts({"data shards": summary["shards"], "MiB of images": f"{size:.1f}", "KiB an image": f"{each:.1f}",
                  "images/s": speed, "fingerprint of index and split": summary["fingerprint"]})  # fmt: skip


@styled
def loader_speed(file: Path = LOADER) -> Figure | Note:
    """How fast images come, ours beside two others, as `make loader` measured it on its machine."""
    if not file.is_file():
        return Note("reports/loader.csv is not there: `make loader` measures and writes it.")
    table = pd.read_csv(file)
    table["workers"] = table["workers"].map({0: "no worker process"}).fillna(table["workers"].astype(str) + " workers")
    kinds = table["workers"].nunique()
    figure, ax = axes(height=3.0)
    sns.barplot(
        table, x="ratio_to_imagefolder", y="pipeline", hue="workers", palette=PALETTE[:kinds], saturation=1, ax=ax
    )
    ax.axvline(1, color=WORDS, linewidth=1)
    ax.set(xlabel=f"{TIMES} ImageFolder's with as many workers", ylabel="")
    for bars, (_, part) in zip(list(ax.containers), table.groupby("workers", sort=False), strict=True):
        middles = [bar.get_y() + bar.get_height() / 2 for bar in bars]
        whiskers(ax, part["ratio_to_imagefolder"], middles, part, "" if len(ax.containers) > kinds else "all rounds")
    ax.legend()
    found = [f"{row.pipeline} {row.ratio_to_imagefolder:.2g} ({row.workers})" for row in table.itertuples()]
    alt = f"Images/s as a multiple of torchvision's ImageFolder: {'; '.join(found)}. Whiskers: all rounds."
    ours = table[(table["pipeline"] == "geofm") & (table["workers"] == "no worker process")]
    if len(ours):
        alt += (
            f" Ours brings {number(ours['images_per_s'].iloc[0])} images/s there with one process; a rank that trains "
        )
        alt += "fewer need not wait for images."
    return Figure(figure, alt, table)


def _first(frame: pd.DataFrame, caption: str, file: str, empty: str) -> Table:
    """The first rows of a list, and where all of them are."""
    rest = f"; the first {MOST_ROWS} here, all in {file}" if len(frame) > MOST_ROWS else ""
    return Table(frame.head(MOST_ROWS), caption + rest, empty)
