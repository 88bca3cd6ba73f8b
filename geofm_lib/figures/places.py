"""01: where the images lie, and on which side of the split. No torch."""

import math

import numpy as np
import pandas as pd
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from geofm_lib.figures._axes import own_look
from geofm_lib.figures.display import Figure, Note, axes, styled
from geofm_lib.runs.run import Run

SIDES = {side: own_look(side)["color"] for side in ("train", "val", "test")}
MOST_PANELS = 6
COLUMNS = 3
LEAST = 0.004  # of the map's width: a smaller image is drawn as a point
NO_PLACES = "These images do not say where they lie: GeoTIFFs, tiles and names with {lon} and {lat} do."


@styled
def places(run: Run) -> Figure | Note:
    """A map of the images, coloured by side: one panel a scene (or reference system), the largest six."""
    frame, split = run.read_csv("places.csv"), run.read_csv("split.csv")
    if frame.empty:
        return Note(NO_PLACES)
    frame = frame.merge(split, on="name", how="left").fillna({"crs": "", "scene": "", "split": ""})
    frame["panel"] = _panels(frame)
    sizes = frame["panel"].value_counts()
    shown = sorted(sizes.index[:MOST_PANELS])
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, grid = axes(
        0.5 + rows * (4.6 if columns == 1 else 3.2 if columns == 2 else 2.6), rows, columns, squeeze=False
    )
    for ax in grid.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, panel in zip(grid.flat, shown, strict=False):
        _map(ax, frame[frame["panel"] == panel], panel)
    counts = {side: int((frame["split"] == side).sum()) for side in SIDES}
    marks = [Rectangle((0, 0), 1, 1, color=SIDES[side], label=f"{side} ({n})") for side, n in counts.items() if n]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return Figure(figure, _alt(frame, sizes, counts), _numbers(frame))


def _panels(frame: pd.DataFrame) -> pd.Series:
    """What is drawn together: images of a reference system, or of a scene that has none; few scenes one by one."""
    together = frame["crs"].where(frame["crs"] != "", frame["scene"])
    scenes = frame["scene"].where(frame["scene"] != "", together)
    return scenes if scenes.nunique() <= MOST_PANELS else together


def _map(ax, some: pd.DataFrame, name: str) -> None:
    """The images of a panel as rectangles, or as points where they would be too small to see."""
    low = np.minimum(some[["west", "south"]].to_numpy(float), some[["east", "north"]].to_numpy(float))
    high = np.maximum(some[["west", "south"]].to_numpy(float), some[["east", "north"]].to_numpy(float))
    span = float((high.max(0) - low.min(0)).max()) or 1.0
    colours = some["split"].map(SIDES).fillna("white").to_numpy()
    if np.median(high - low) < LEAST * span:
        ax.scatter(*((low + high) / 2).T, s=3, c=colours, linewidths=0)
    else:
        boxes = [Rectangle(corner, *size) for corner, size in zip(low, high - low, strict=True)]
        ax.add_collection(PatchCollection(boxes, facecolors=colours, edgecolors="white", linewidths=0.3))
    margin = 0.02 * span
    crs = some["crs"].iloc[0]
    ax.set(xlim=(low[:, 0].min() - margin, high[:, 0].max() + margin))
    ax.set(ylim=(low[:, 1].min() - margin, high[:, 1].max() + margin), aspect="equal")
    if not crs:
        ax.invert_yaxis()  # pixels count down
    ax.set_title(_short(name) if name != crs else "", fontsize=8)
    ax.set_xlabel(_short(crs) if crs else "pixels of the scene", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.locator_params(nbins=3)
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.grid(False)


def _short(text: str) -> str:
    """The end of a long name, or the name inside a reference system's description."""
    text = text.split('"')[1] if '"' in text else text
    return text if len(text) <= 28 else "..." + text[-26:]


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """How many images of each panel are on which side."""
    table = frame.groupby(["panel", "split"]).size().unstack(fill_value=0)
    return table[[side for side in SIDES if side in table]].rename_axis("scene or system").reset_index()


def _alt(frame: pd.DataFrame, sizes: pd.Series, counts: dict[str, int]) -> str:
    sides = ", ".join(f"{n} {side}" for side, n in counts.items() if n)
    rest = f"; the {MOST_PANELS} largest are drawn" if len(sizes) > MOST_PANELS else ""
    what = "scene" if frame["scene"].ne("").any() else "area"
    return f"Map of {len(frame)} images in {len(sizes)} {what}{'s' * (len(sizes) != 1)}{rest}, by side: {sides}."
