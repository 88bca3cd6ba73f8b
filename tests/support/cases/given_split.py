"""The data set brings its split: folders/ = train/, val/, test/ with classes in each (12, 2 and 4 images a class).

long_names/: training/, validation/, testing/ of the same, each flat (no classes). lists/: class folders and train.txt,
test.txt at the top (RVSA, MTP, torchgeo's EuroSAT, UC Merced and RESISC45 have such lists).
"""

import numpy as np
from PIL import Image

from tests.support.cases.common import CLASSES, soft

COUNTS = {"train": 12, "val": 2, "test": 4}


def picture(seed):
    return Image.fromarray((128 + 40 * soft(seed, 32, 3)).clip(0, 255).astype(np.uint8))


def make(out):
    lists = {"train": [], "val": [], "test": []}
    for k, label in enumerate(CLASSES):
        number = 0
        for side, count in COUNTS.items():
            for _ in range(count):
                image = picture(1000 * k + number)
                for folder in (out / "folders" / side / label, out / "lists" / label):
                    folder.mkdir(parents=True, exist_ok=True)
                    image.save(folder / f"{label}_{number}.png")
                lists[side].append(f"{label}/{label}_{number}.png {k}")
                long = {"train": "training", "val": "validation", "test": "testing"}[side]
                (out / "long_names" / long).mkdir(parents=True, exist_ok=True)
                image.save(out / "long_names" / long / f"{label}_{number}.png")
                number += 1
    for side, names in lists.items():
        (out / "lists" / f"{side}.txt").write_text("\n".join(names) + "\n")
