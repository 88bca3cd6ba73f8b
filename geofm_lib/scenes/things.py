"""What can be counted in a built-in scene, as boxes for detection: buildings, tanks, planes and roundabouts.

A scene is drawn once more on a canvas that numbers what `Canvas.mark` is told of. Its random numbers are the picture's,
so boxes and picture agree (but for the sensor's blur). What is later painted over something hides it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from geofm_lib.data import sampler
from geofm_lib.scenes.canvas import SUPER, Canvas
from geofm_lib.scenes.classes import CLASSES
from geofm_lib.scenes.ids import Both

KINDS = ("building", "storage tank", "plane", "roundabout")
LEAST = 1 / 16  # of the picture's side: what has a smaller side cannot be counted
SEEN = 0.5  # of an object's area within the picture must not be hidden
INSIDE = 0.3  # of its box must lie in the picture
Thing = tuple[float, float, float, float, int]  # left, top, right, bottom in pixels; the number of its kind


class Numbered(Canvas):
    """A canvas that knows which of the things that were marked is seen where: `numbers`, 0 for none."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.numbers = Image.new("I", self.image.size, 0)
        self.marked: list[tuple[int, np.ndarray]] = []  # kind, outline in pixels as drawn
        both = Both(self._draw, self.numbers)
        both.kind = 0  # whatever is painted hides what is below
        self._draw: Any = both

    def mark(self, kind: str, outlines: ArrayLike) -> None:
        """See `Canvas`."""
        draw = ImageDraw.Draw(self.numbers)
        for outline in self._to_pixels(outlines):
            self.marked.append((KINDS.index(kind), outline))
            draw.polygon(outline.ravel().tolist(), fill=len(self.marked))

    def things(self) -> list[Thing]:
        """What is seen well enough to be counted."""
        shown = np.bincount(np.asarray(self.numbers).ravel(), minlength=len(self.marked) + 1)[1:]
        found: list[Thing] = []
        for (kind, outline), pixels in zip(self.marked, shown.tolist(), strict=True):
            (left, top), (right, bottom) = outline.min(0), outline.max(0)
            x1, y1, x2, y2 = (float(min(max(each, 0), self.pixels)) for each in (left, top, right, bottom))
            inside = (x2 - x1) * (y2 - y1) / ((right - left) * (bottom - top))
            large = min(x2 - x1, y2 - y1) >= LEAST * self.pixels
            if large and inside >= INSIDE and pixels >= SEEN * inside * _area(outline):
                found.append((x1 / SUPER, y1 / SUPER, x2 / SUPER, y2 / SUPER, kind))
        return found


def _area(outline: np.ndarray) -> float:
    """Of a polygon [n, 2], by the shoelace formula."""
    x, y = outline.T
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def draw(seed: int, label: str, index: int, size: int = 96) -> list[Thing]:
    """The things in the picture of `generate.draw` with the same arguments."""
    canvas = Numbered(size, sampler.generator(seed, list(CLASSES).index(label), index, "scene"))
    CLASSES[label](canvas)
    return canvas.things()


def boxes(images_per_class: int, size: int = 96, seed: int = 0) -> Iterator[tuple[str, list[Thing]]]:
    """(name of an image of `generate.items`, the things in it), in their order."""
    for label in CLASSES:
        for index in range(images_per_class):
            yield f"scenes/{label}/{label}_{index:05d}.jpg", draw(seed, label, index, size)
