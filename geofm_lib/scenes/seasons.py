"""The built-in series: a year of a vegetation index over one pixel of some land cover, drawn by our own code.

Each rise and fall of green is a double logistic (Beck et al. 2006, doi 10.1016/j.rse.2005.10.021). Covers differ in
when and how often that happens. Level, height, dates and noise of a pixel are its own, and clouds leave dates
unmeasured. A series is a pure function of (seed, cover, index); whoever changes a value raises GENERATOR_VERSION.
"""

import functools
from collections.abc import Iterator

import numpy as np

from geofm_lib.data import sampler
from geofm_lib.data.sources.item import Item, Raster

GENERATOR_VERSION = 1
DATES = 64  # of a year, one in six days
CLOUDY = 0.1  # share of the dates
NOISE = 0.03  # of the index
# cover -> (level of the bare ground, rises of green: height, days of greening and of ripening, days that these take).
CLASSES: dict[str, tuple[float, list[tuple[float, float, float, float]]]] = {
    "bare ground": (0.12, [(0.06, 80, 160, 20)]),
    "winter cereal": (0.18, [(0.60, 85, 175, 10)]),
    "rapeseed": (0.20, [(0.55, 70, 165, 8), (0.15, 270, 350, 14)]),
    "maize": (0.16, [(0.65, 165, 265, 9)]),
    "two crops": (0.17, [(0.50, 75, 150, 9), (0.45, 200, 275, 9)]),
    "meadow": (0.40, [(0.25, 80, 150, 10), (0.22, 175, 225, 8), (0.20, 245, 310, 10)]),
    "broadleaved forest": (0.35, [(0.45, 110, 290, 9)]),
    "needle forest": (0.62, [(0.14, 100, 280, 30)]),
}
SHIFT, STRETCH = 16.0, 0.2  # standard deviations: of a pixel's days, and of its heights as a share


def draw(seed: int, label: str, index: int) -> Raster:
    """One series, float32 [1, DATES, 1]: a pure function of its arguments.

    >>> draw(0, "maize", 3).values.shape
    (1, 64, 1)
    """
    random = sampler.generator(seed, list(CLASSES).index(label), index, "season")
    level, rises = CLASSES[label]
    day, late = np.arange(DATES) * 365 / DATES, SHIFT * random.standard_normal()
    found = np.full(DATES, level + 0.05 * random.standard_normal())
    for height, green, ripe, slow in rises:
        green, ripe = (each + late + SHIFT / 2 * random.standard_normal() for each in (green, ripe))
        rise, fall = (1 / (1 + np.exp((each - day) / slow)) for each in (green, ripe))
        found += height * (1 + STRETCH * random.standard_normal()) * (rise - fall)
    found += NOISE * random.standard_normal(DATES)
    clear = random.random(DATES) >= CLOUDY
    return Raster(found.astype(np.float32)[None, :, None], clear[None], series=True)


def items(per_class: int, seed: int = 0) -> Iterator[Item]:
    """Each series with a function that draws it."""
    for label in CLASSES:
        for index in range(per_class):
            yield Item(f"seasons/{label}/{index:05d}", functools.partial(draw, seed, label, index), label)
