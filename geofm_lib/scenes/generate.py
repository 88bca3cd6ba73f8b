"""The built-in data set: land use from above, drawn by our own code, so that everything runs without a download.

An image is a pure function of (seed, class, index). Classes differ in what stands where (classes). Season, palette,
light, scale, rotation, sharpness and noise are shared by all (canvas), so colour statistics alone do not tell them
apart. The generator was tuned by its look and by the histogram baseline only, never by a learned feature. It is frozen:
whoever changes a pixel raises GENERATOR_VERSION and measures everything again.
"""

import functools
from collections.abc import Iterator

from geofm_lib.data import sampler
from geofm_lib.data.sources.item import Item
from geofm_lib.scenes.canvas import Canvas
from geofm_lib.scenes.classes import CLASSES

GENERATOR_VERSION = 1


def draw(seed: int, label: str, index: int, size: int = 96) -> bytes:
    """One image as JPEG bytes (quality 95): a pure function of its arguments.

    >>> len(draw(0, "harbour", 3)) > 1000
    True
    """
    canvas = Canvas(size, sampler.generator(seed, list(CLASSES).index(label), index, "scene"))
    CLASSES[label](canvas)
    return canvas.jpeg()


def items(images_per_class: int, size: int = 96, seed: int = 0) -> Iterator[Item]:
    """Each image with a function that draws it: drawing is left to whichever process calls it."""
    for label in CLASSES:
        for index in range(images_per_class):
            name = f"scenes/{label}/{label}_{index:05d}.jpg"
            yield Item(name, functools.partial(draw, seed, label, index, size))
