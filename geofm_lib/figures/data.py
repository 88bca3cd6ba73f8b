"""Figures of a preparation: its card, sizes, duplicates, shards. No torch."""

import numpy as np
import pandas as pd
import seaborn as sns

from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.figures.display import Figure, Note, Table, axes, styled

BLUE = "#0072B2"
MOST_ROWS = 80  # of a list on a page; the run folder has it whole
NO_CARD = "These class folders are those of no data set that has a card here, so nothing says how many there should be."


def data_card(run) -> Table | Note:
    """What is known of the data set whose classes these are: size, terms, citation, where to get it."""
    card = DATASETS.get(run.summary.get("card", ""))
    if card is None:
        return Note(NO_CARD)
    rows = [
        ("data set", card.title),
        ("classes", str(card.classes)),
        ("images", f"{card.images:,}" + (f", {card.unlabelled:,} of them unlabelled" if card.unlabelled else "")),
        ("pixels a side", card.size),
        ("share for training", f"{run.summary.get('train_ratio', 0):g} here; {card.train or 'none'} on the card"),
        ("terms", card.terms),
        ("cite", card.citation),
        ("where", card.where),
        ("files", card.layout),
        ("complete if", card.complete),
    ]
    return Table(pd.DataFrame(rows, columns=["", "card"]), head=False)


def card_counts(run) -> Table | Note:
    """Images of each class beside the card's, the incomplete ones first."""
    frame = run.read_csv("card.csv")
    if frame.empty:
        drawn = "The built-in scenes are drawn, as many of each class as asked for."
        return Note(drawn if run.summary.get("card") == "scenes" else NO_CARD)
    missing = pd.to_numeric(frame["missing"])
    incomplete, whole = frame[missing > 0], frame[missing == 0]
    lacking = len(incomplete[incomplete["class"] != "all"])
    caption = f"{lacking} of {len(frame) - 1} classes have fewer images than the official set" if lacking else ""
    return Table(pd.concat([incomplete, whole]), caption or "Complete: every class has what the card says")


@styled
def image_sizes(run) -> Figure | Note:
    """How many images have which short side."""
    index = run.read_csv("index.csv")
    if index.empty:
        return Note("The run has packed no image yet.")
    short = index[["width", "height"]].min(axis=1)
    common = (index["width"].astype(str) + " x " + index["height"].astype(str)).value_counts()
    table = common.head(10).rename_axis("width x height").reset_index(name="images")
    if short.nunique() == 1:
        return Table(table, f"All {len(index)} images have a short side of {short.iloc[0]} pixels")
    figure, ax = axes(height=2.4)
    sns.histplot(
        x=short, bins=min(40, short.nunique()), color=BLUE, ax=ax, log_scale=bool(short.max() > 8 * short.min())
    )
    ax.set(xlabel="short side, pixels", ylabel="images")
    alt = f"Histogram of the short side of {len(index)} images, from {short.min()} to {short.max()} pixels, "
    alt += f"median {int(np.median(short))}; {len(common)} different sizes."
    return Figure(figure, alt, table)


def duplicates(run) -> Table:
    """Every image that is there twice or nearly, exact ones first."""
    frame = run.read_csv("duplicates.csv")
    if frame.empty:
        return Table(frame, empty="No image is there twice, nor nearly.")
    frame = frame.sort_values(["distance", "kind"], kind="stable").rename(columns={"distance": "bits"})
    kinds = frame["kind"].value_counts()
    caption = f"{kinds.get('exact', 0)} with the same pixels, {kinds.get('near', 0)} nearly the same"
    rest = f"; the first {MOST_ROWS} here, all in duplicates.csv" if len(frame) > MOST_ROWS else ""
    return Table(frame.head(MOST_ROWS), caption + rest)


def packing(run) -> Table | Note:
    """Data shards, their bytes, and the speed."""
    summary = run.summary
    if "shards" not in summary:
        return Note("The run has not finished packing.")
    rows = [
        ("data shards", f"{summary['shards']}"),
        ("MiB of images", f"{summary['bytes'] / 2**20:.1f}"),
        ("KiB an image", f"{summary['bytes'] / 2**10 / summary['images']:.1f}"),
        ("images/s", f"{summary['images_per_s']:.0f}"),
        ("fingerprint of index and split", summary["fingerprint"]),
    ]
    return Table(pd.DataFrame(rows, columns=["", "value"]), head=False)
