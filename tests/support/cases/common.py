"""Small deterministic pictures that the cases share. Classes differ in level and texture, so that a probe can tell them."""

import numpy as np

CLASSES = ("crop", "forest", "water")


def soft(seed, side=32, bands=1, cells=4):
    """Smooth random fields of about N(0, 1): float64 [side, side, bands]."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((cells, cells, bands))
    grown = np.kron(coarse, np.ones((side // cells, side // cells, 1)))
    return 0.8 * grown + 0.6 * random.standard_normal((side, side, bands))


def reflectance(seed, label, side=32, bands=4):
    """uint16-like reflectances x 10000 [side, side, bands] with a class-dependent level (near infrared is the last)."""
    level = {"crop": 2600, "forest": 3600, "water": 300}[label]
    base = np.linspace(400, 1200, bands)
    base[-1] = level
    return (base + soft(seed, side, bands) * base * 0.15).clip(1, 12000)
