"""Signed 16 bits: HLS / Theia L3A reflectance x 10000 with -9999 nodata and small negatives. bands/: 6 bands; single/: one band."""

import numpy as np
import tifffile

from tests.support.cases.common import CLASSES, reflectance


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(6):
            pixels = reflectance(100 * k + i, label, 32, 6).astype(np.int16)
            pixels[:3] = -9999
            pixels[5, 5] = -12
            for form in ("bands", "single"):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                array = pixels if form == "bands" else pixels[..., 3]
                tifffile.imwrite(
                    folder / f"{i}.tif",
                    array,
                    photometric="minisblack",
                    planarconfig="contig" if form == "bands" else None,
                    extratags=[(42113, "s", 0, "-9999", True)],
                    metadata=None,
                )
