"""Near duplicates in reflectance x 10000: every chip twice, the second with a little noise. u16/: as stored; u8/: stretched to 8 bits."""

import numpy as np
import tifffile

from tests.support.cases.common import CLASSES, reflectance


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(5):
            clean = reflectance(100 * k + i, label, 64, 3)
            noise = np.random.default_rng(i).normal(0, 5, clean.shape)
            for form in ("u16", "u8"):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                for j, pixels in enumerate((clean, clean + noise)):
                    stored = (
                        pixels.clip(0, 65535).astype(np.uint16)
                        if form == "u16"
                        else (pixels / 16).clip(0, 255).astype(np.uint8)
                    )
                    tifffile.imwrite(folder / f"{i}{'ab'[j]}.tif", stored, photometric="rgb", metadata=None)
