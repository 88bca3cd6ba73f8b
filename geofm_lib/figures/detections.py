"""08's pictures of a detection: true boxes, and those that a network says. No torch."""

import matplotlib.figure
import numpy as np
from matplotlib.patches import Rectangle

from geofm_lib.catalog import metrics, transfer
from geofm_lib.figures._axes import DOZEN, DOZEN_WORDS
from geofm_lib.figures.display import NARROW_IN, WIDTH_IN, Figure, sheet
from geofm_lib.runs.run import Run

PICTURES = "detections.npz"
LEAST = 0.3  # score of a box that is drawn
WIDE, NARROW = 4, 2  # images side by side, that small boxes can be seen; on a phone


def pictures(run: Run, arm: str) -> Figure:
    """Test images with their true boxes, and below with what an arm says."""
    with np.load(run.proved(PICTURES)) as saved:
        image, truth, said, names = (saved[key] for key in ("image", "truth", "said", "classes"))
    image, truth, said = (each[:WIDE] for each in (image, truth, said))
    rows = [each[each[:, 4] >= 0][:, :5] for each in truth]
    found = [each[(each[:, 5] >= 0) & (each[:, 4] >= LEAST)][:, [0, 1, 2, 3, 5]] for each in said]
    words = ["truth", transfer.words(arm)]
    key = ", ".join(f"{name} {DOZEN_WORDS[k % len(DOZEN_WORDS)]}" for k, name in enumerate(names))
    counts = [metrics.counted(sum(map(len, each)), "box", "boxes") for each in (rows, found)]
    alt = f"{len(image)} test images in columns. Above with their true boxes ({counts[0]}), below with those that the "
    alt += f"{words[1]} network says with a score of {LEAST} or more ({counts[1]}). {key}."
    narrow = _drawn(image[:NARROW], rows, found, words, NARROW_IN)
    return Figure(_drawn(image, rows, found, words, WIDTH_IN), alt, photo=True, narrow=narrow)


def _drawn(
    image: np.ndarray, truth: list[np.ndarray], said: list[np.ndarray], words: list[str], width: float
) -> matplotlib.figure.Figure:
    figure = sheet([image, image], names=words, width=width)
    for ax, boxes in zip(figure.axes, [*truth[: len(image)], *said[: len(image)]], strict=True):
        for x1, y1, x2, y2, kind in boxes.tolist():
            colour = DOZEN[int(kind) % len(DOZEN)]
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.1))
    return figure
