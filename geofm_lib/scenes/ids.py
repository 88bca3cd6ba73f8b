"""What the pixels of a built-in scene are: the class of whatever is drawn on top, for segmentation.

A scene is drawn once more on a canvas that keeps, beside every colour, what is painted there. Its random numbers are
the picture's, so mask and picture agree to the pixel (but for shadows and the sensor's blur).
"""

import functools
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageDraw

from geofm_lib.data import sampler
from geofm_lib.scenes.canvas import Canvas
from geofm_lib.scenes.classes import CLASSES

KINDS = ("ground", "water", "trees", "buildings")  # by their ids
GROUND, WATER, TREES, BUILDINGS = range(len(KINDS))
NOTHING = -1  # what stands on something, such as a car: the class stays what is below


class Both:
    """Draws shapes in a picture, and their class in another image. kind: of all that comes; None: by its colour."""

    def __init__(self, draw: ImageDraw.ImageDraw, ids: Image.Image) -> None:
        self.draw, self.ids = draw, ImageDraw.Draw(ids)
        self.water: set[tuple[int, ...]] = set()
        self.kind: int | None = None

    def __getattr__(self, shape: str) -> Any:  # polygon, line, ellipse
        return functools.partial(self._both, shape)

    def _both(self, shape: str, points: Any, fill: Any, **how: Any) -> None:
        getattr(self.draw, shape)(points, fill=fill, **how)
        kind = self.kind if self.kind is not None else WATER if fill in self.water else GROUND
        if kind != NOTHING:
            how.pop("outline", None)
            getattr(self.ids, shape)(points, fill=kind, **({} if shape == "ellipse" else how))


class Labelled(Canvas):
    """A canvas that knows what is where: `ids`, an image of its size."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ids = Image.new("L", self.image.size, GROUND)
        self._both: Any = Both(self._draw, self.ids)
        self._draw: Any = self._both

    def vary(self, colour: Any, amount: float = 10.0) -> tuple[int, ...]:
        """See `Canvas`; remembers which colours are water."""
        found = super().vary(colour, amount)
        (self._both.water.add if colour == "water" else self._both.water.discard)(found)
        return found

    def ground(self, first: str, second: str) -> None:
        """See `Canvas`."""
        super().ground(first, second)
        self.ids.paste(WATER if first == "water" else GROUND, (0, 0, *self.ids.size))

    def boxes(self, at: Any, sizes: Any, angles: Any, colours: Any, height: float, roof: str = "flat") -> None:
        """See `Canvas`: a box with a roof is a building, others stand on what is there."""
        self._both.kind = NOTHING if roof == "plain" else BUILDINGS
        super().boxes(at, sizes, angles, colours, height, roof)
        self._both.kind = None

    def trees(self, *arguments: Any, **how: Any) -> None:
        """See `Canvas`."""
        self._both.kind = TREES
        super().trees(*arguments, **how)
        self._both.kind = None


def draw(seed: int, label: str, index: int, size: int = 96) -> bytes:
    """The mask of `generate.draw` with the same arguments, as a PNG of ids."""
    canvas = Labelled(size, sampler.generator(seed, list(CLASSES).index(label), index, "scene"))
    CLASSES[label](canvas)
    stream = io.BytesIO()
    canvas.ids.resize((size, size), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def masks(images_per_class: int, size: int = 96, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """(name of an image of `generate.items`, a function that draws its mask), in their order."""
    for label in CLASSES:
        for index in range(images_per_class):
            yield f"scenes/{label}/{label}_{index:05d}.jpg", functools.partial(draw, seed, label, index, size)
