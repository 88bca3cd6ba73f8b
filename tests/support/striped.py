"""A labelled data set that is drawn in a second: stripes of a direction and a colour in noise."""

import itertools
import math
from pathlib import Path

import numpy as np
from PIL import Image

from geofm_lib.data.sample import Sample
from tests.support import packed

CLASSES = 6


def write(folder: Path, each: int = 20) -> Path:
    """A prepared folder: `each` images of 32 pixels of each of 6 classes; half of them are the test side."""
    random, samples, sides = np.random.default_rng(0), [], []
    for kind, number in itertools.product(range(CLASSES), range(each)):
        angle, phase = math.pi * (kind % 3) / 3, random.uniform(0, 6)
        y, x = np.mgrid[:32, :32]
        wave = np.sin(0.8 * (x * math.cos(angle) + y * math.sin(angle)) + phase)[..., None]
        pixels = 128 + 50 * wave * [1, kind // 3, 1] + random.normal(0, 20, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "one.png")
        sample = Sample(f"{kind}/{number:02d}.png", f"class {kind}", width=32, height=32, channels=3)
        sample.data = (folder / "one.png").read_bytes()
        samples.append(sample)
        sides.append(("train", "test")[number % 2])
    return packed.write(folder, samples, sides)
